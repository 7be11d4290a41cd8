"""Filter expressions: comparisons joined by ` and `."""

from __future__ import annotations

import re

from bulkpull.errors import UsageError
from bulkpull.window import Window, instant

_OR = re.compile(r"(?:^|\s)or(?:\s|$)|\|\|", re.IGNORECASE)
_COMPARISON = re.compile(r"[^\s=!<>]+\s*(?:==|!=|>=|<=|>|<)\s*[^\s=].*", re.DOTALL)
_DANGLING_AND = re.compile(r"\sand$", re.IGNORECASE)
# A quote counts only where a value begins and ends: the apostrophe of a bare value such as Men's is a letter.
_QUOTED = re.compile(r"""(?<=[=<>])(\s*)("(?:[^"\\]|\\.|"")*"|'(?:[^'\\]|\\.|'')*')(?=\s|$)""", re.DOTALL)


def check_filter(filter: str | None) -> str | None:
    """The user's filter without surrounding blanks, or None where it is empty.

    Raises UsageError for ` or ` outside a quoted value, since its precedence beside a window's bounds is undocumented,
    and for what does not begin with a comparison. Quotes are single or double, escaped by a backslash or doubled. The
    rest is left to the API: how a value may hold ` and ` is undocumented too, and so are quotes.
    """
    text = (filter or "").strip()
    if not text:
        return None
    bare = _QUOTED.sub(lambda quoted: quoted[1] + "q" * len(quoted[2]), text)
    if _OR.search(bare):
        raise UsageError(
            f"the filter {text!r} holds 'or': the API documents only comparisons joined by ' and '; "
            "make one pull for each alternative, or put a value that holds the word in quotes"
        )
    if not _COMPARISON.fullmatch(bare) or _DANGLING_AND.search(bare):
        raise UsageError(
            f"the filter {text!r} is not made of comparisons such as event_type==agreed joined by ' and ' "
            "(operators: == != >= <= > <)"
        )
    return text


def window_filter(window: Window, filter: str | None) -> str:
    """One expression for the activities of `window` that also match `filter`."""
    bounds = f"created_time>={instant(window.start)} and created_time<{instant(window.end)}"
    return f"{bounds} and {filter}" if filter else bounds
