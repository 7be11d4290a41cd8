"""What the command line takes from the client without importing it: the API's URL, and how a token's file is read."""

from __future__ import annotations

import os
from pathlib import Path

from bulkpull.errors import UsageError

BASE_URL = "https://api.pactsafe.com/v1.1"


def read_token_file(path: str | os.PathLike[str]) -> str:
    """Return the token that a file contains, without surrounding whitespace. Raises UsageError."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the token file {path} cannot be read: {error}") from None
