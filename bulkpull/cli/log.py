"""The log of the command line: records of `bulkpull.logs` as text or JSON, in a file or on standard error."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click

from bulkpull.errors import OutputError
from bulkpull.logs import FIELDS_KEY, LOGGER

FORMATS = ("text", "json")
_FILE_MODE = 0o600


class TextFormatter(logging.Formatter):
    """One line of text: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{utc(record.created)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        if record.exc_info:
            text += f": {self.formatException(record.exc_info)}"
        return text.replace("\r", "\\r").replace("\n", "\\n")


class JsonFormatter(logging.Formatter):
    """One JSON object on one line: `time`, `level`, `logger`, `message`, and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        import orjson

        values: dict[str, Any] = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(values | getattr(record, FIELDS_KEY, {}), default=str).decode()


def utc(timestamp: float) -> str:
    """Return a POSIX time as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _RotatingFile(RotatingFileHandler):
    """A log file that only its owner can read, and that rotates. It is never a link, which others may have made, nor a
    pipe; a disk that fails is told once, and ends nothing."""

    _failed = False

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.baseFilename, flags, _FILE_MODE)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError("it is not a regular file")
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._failed:
            self._failed = True
            click.echo(f"bulkpull: the log file {self.baseFilename} is incomplete: {sys.exception()}", err=True)


class _Queue(QueueHandler):
    """Hands records over to the thread that writes them: a slow disk must not hold up the event loop."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # formatted in that thread, with its fields


@contextmanager
def logging_to(file: Path | None, format: str, *, is_verbose: bool, max_bytes: int, kept_files: int) -> Iterator[None]:
    """Log to a file, or to standard error if it is None.

    Args:
        file: The log file.
        format: One of FORMATS.
        is_verbose: Whether records for debugging are logged, too.
        max_bytes: The size at which the file is renamed and a new one is begun.
        kept_files: How many renamed files are kept.

    Raises:
        OutputError: The file cannot be written.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = _RotatingFile(file, maxBytes=max_bytes, backupCount=kept_files, encoding="utf-8")
        except OSError as error:
            reason = "it is a symbolic link" if file.is_symlink() else error.strerror or error
            raise OutputError(f"cannot write the log file {file}: {reason}") from error
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logger = logging.getLogger(LOGGER)
    former = logger.level
    logger.setLevel(logging.DEBUG if is_verbose else logging.INFO)
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    queue, writer = _Queue(records), QueueListener(records, handler)
    writer.start()
    logger.addHandler(queue)
    try:
        yield
    finally:
        logger.removeHandler(queue)
        logger.setLevel(former)
        writer.stop()
        handler.close()
