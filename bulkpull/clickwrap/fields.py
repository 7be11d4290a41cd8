"""Field names of an export."""

from __future__ import annotations

from collections.abc import Sequence

from bulkpull.errors import UsageError

REQUIRED_FIELDS = ("id", "signer_id", "created_time")  # the API's documentation requires them in every export


def with_required(fields: Sequence[str]) -> tuple[str, ...]:
    """Return the fields an export asks for: those required, then the others, each once.

    Raises UsageError for a string instead of names, and for what cannot be a name.
    """
    if isinstance(fields, str):
        raise UsageError(f"fields is a string, {fields!r}: pass a list of names")
    for name in fields:
        if not name.strip() or any(character in name for character in ', "\r\n\t'):
            raise UsageError(
                f"{name!r} is not a field name: names are not blank, and hold no commas, quotes or whitespace"
            )
    return tuple(dict.fromkeys((*REQUIRED_FIELDS, *fields)))
