"""Messages to systemd, where it runs the command as a unit: see sd_notify(3)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class ServiceManager:
    """The socket of systemd.

    Args:
        address: The value of NOTIFY_SOCKET: a path, or `@` and an abstract name.
        watchdog_s: Seconds within which systemd expects to hear of the command; None if it does not.
    """

    def __init__(self, address: str, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # systemd may be busy; the next message tells it the same

    @classmethod
    def of_environment(cls) -> ServiceManager | None:
        """Return the manager that the environment names; None if there is none."""
        address = os.environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return None
        watchdog, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        is_watched = watchdog.isdecimal() and int(watchdog) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(watchdog) / 1e6 if is_watched else None)

    def notify(self, *assignments: str) -> None:
        """Send assignments such as `READY=1`. A manager that does not listen is ignored."""
        text = "\n".join(one.replace("\n", " ") for one in assignments)
        with suppress(OSError):
            self._socket.sendto(text.encode(), self._address)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
