"""A lock file, which keeps a second sync away from a table of a local file."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from bulkpull.disk import disk_errors
from bulkpull.errors import OutputError


class LockFile:
    """A file that is locked as long as its holder lives, and names it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def claim(self, name: str) -> None:
        """Lock the file. `name` is what it protects. Raises OutputError if another process, or this one, holds it."""
        with disk_errors(f"lock {name}"):
            while True:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.read(file, 200).decode(errors="replace").strip()
                    os.close(file)
                    raise OutputError(
                        f"another sync holds {name}{f': {holder}' if holder else ''}: wait until it has ended"
                    ) from None
                except BaseException:
                    os.close(file)
                    raise
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file), self._path.stat()):
                        break
                os.close(file)  # its holder has removed it meanwhile
            os.truncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self._file = file

    def release(self) -> None:
        """Unlock and remove the file. A no-op if it is not locked."""
        if self._file is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
