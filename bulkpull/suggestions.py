"""Suggestions for mistyped words."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(words: str | Iterable[str], known: Iterable[str]) -> str:
    """Return ` Did you mean X or Y?`, with the known words that are close to one of `words`; empty if none is."""
    from difflib import get_close_matches  # only an error needs it

    candidates = list(known)
    words = (words,) if isinstance(words, str) else words
    close = sorted({near for word in words for near in get_close_matches(word, candidates, n=2, cutoff=0.7)})
    return f" Did you mean {' or '.join(close)}?" if close else ""
