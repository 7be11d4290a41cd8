"""Filter expressions: comparisons joined by ` and `."""

from __future__ import annotations

import re

from bulkpull.errors import UsageError
from bulkpull.window import Window, instant

_OR = re.compile(r"(?:^|\s)or(?:\s|$)|\|\|", re.IGNORECASE)
_COMPARISON = re.compile(r"[^\s=!<>]+\s*(?:==|!=|>=|<=|>|<)\s*[^\s=].*", re.DOTALL)
_DANGLING_AND = re.compile(r"\sand$", re.IGNORECASE)
# Quotes delimit a value only at its start and end: the apostrophe of an unquoted value such as Men's is literal.
_QUOTED = re.compile(r"""(?<=[=<>])(\s*)("(?:[^"\\]|\\.|"")*"|'(?:[^'\\]|\\.|'')*')(?=\s|$)""", re.DOTALL)


def check_filter(filter: str | None) -> str | None:
    """Check a filter expression before it is combined with a window's bounds.

    Only the form is checked; the rest is left to the API. Quoted values may use single or double quotes, which are
    escaped by a backslash or doubled.

    Args:
        filter: The user's filter expression, or None.

    Returns:
        The filter without surrounding whitespace, or None if it is empty.

    Raises:
        UsageError: The filter contains ` or ` outside a quoted value (its precedence next to a window's bounds is
            undocumented), or does not consist of comparisons.
    """
    text = (filter or "").strip()
    if not text:
        return None
    bare = _QUOTED.sub(lambda quoted: quoted[1] + "q" * len(quoted[2]), text)
    if _OR.search(bare):
        raise UsageError(
            f"the filter {text!r} contains 'or': the API supports only comparisons joined by ' and '. "
            "Run one pull for each alternative; put a value that contains the word in quotes."
        )
    if not _COMPARISON.fullmatch(bare) or _DANGLING_AND.search(bare):
        raise UsageError(
            f"the filter {text!r} must consist of comparisons such as event_type==agreed, joined by ' and ' "
            "(operators: == != >= <= > <)"
        )
    return text


def window_filter(window: Window, filter: str | None) -> str:
    """Combine a window's bounds with a filter.

    Args:
        window: The window.
        filter: A filter checked by `check_filter`, or None.

    Returns:
        A filter expression for the activities in `window` that match `filter`.
    """
    bounds = f"created_time>={instant(window.start)} and created_time<{instant(window.end)}"
    return f"{bounds} and {filter}" if filter else bounds
