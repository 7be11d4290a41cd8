"""Third-party file servers, each in a separate process on the loopback interface."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

READY_WITHIN = 60.0  # seconds: a busy machine starts programs slowly
STARTS = 3  # attempts: another program may take a chosen port before it is used
KEY, SECRET = "sandbox", "no-secret"


@dataclass(frozen=True, slots=True)
class FileServer:
    """A running server. `store` returns the sandbox option for it, with links to another address."""

    port: int
    store: Callable[[str], str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def moto() -> Iterator[FileServer]:
    """The S3 of moto."""
    with _running(lambda ports, _: [sys.executable, "-m", "moto.server", "-p", str(ports[0])], 1) as [port]:
        yield _s3(port)


@contextmanager
def seaweedfs(volumes: int = 50) -> Iterator[FileServer]:
    """The S3 of SeaweedFS, with its master, volume server and filer in one process; a volume holds 64 MB."""

    def command(ports: Sequence[int], home: Path) -> list[str]:
        keys = {"name": "sandbox", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (home / "s3.json").write_text(json.dumps({"identities": [keys]}))
        (home / "data").mkdir(exist_ok=True)
        names = ("s3", "master", "volume", "filer")
        listen = [f"-{name}.port={port}" for name, port in zip(names, ports[:4], strict=True)]
        grpc = [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
        return [
            *(_program("weed"), "server", "-s3", "-filer", f"-dir={home}/data", f"-s3.config={home}/s3.json"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", *listen, *grpc, "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-master.volumeSizeLimitMB=64", f"-volume.max={volumes}", "-master.telemetry=false"),
        ]

    with _running(command, 8) as ports:
        yield _s3(ports[0])


@contextmanager
def running_nginx(servers: Callable[[list[int]], str], ports: int = 1) -> Iterator[list[int]]:
    """nginx, with the server blocks that `servers` returns for its ports."""

    def command(free: Sequence[int], home: Path) -> list[str]:
        temporary = "".join(
            f"{name}_temp_path {home}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (home / "nginx.conf").write_text(f"""
            daemon off; master_process off; pid {home}/pid; error_log stderr crit;
            events {{ worker_connections 256; }}
            http {{ access_log off; {temporary} {servers(list(free))} }}
        """)
        return [_program("nginx"), "-p", str(home), "-c", f"{home}/nginx.conf"]

    with _running(command, ports) as free:
        yield free


@contextmanager
def nginx() -> Iterator[FileServer]:
    """nginx, with links that expire by its secure_link module."""
    with tempfile.TemporaryDirectory(prefix="bulkpull-nginx-") as files:

        def server(ports: list[int]) -> str:
            return f"""
                server {{
                    listen 127.0.0.1:{ports[0]};
                    root {files};
                    secure_link $arg_md5,$arg_expires;
                    secure_link_md5 "$secure_link_expires$uri {SECRET}";
                    location / {{
                        if ($secure_link = "") {{ return 403; }}
                        if ($secure_link = "0") {{ return 410; }}
                    }}
                }}
            """

        with running_nginx(server) as [port]:
            yield FileServer(port, lambda public: f"file://{files}?url={public}&secret={SECRET}")


SERVERS: dict[str, Callable[[], AbstractContextManager[FileServer]]] = {
    "moto": moto,
    "SeaweedFS": seaweedfs,
    "nginx": nginx,
}


def installed(name: str) -> str | None:
    """Return the path of a program: next to Python, on the PATH, or in Debian's directories for servers."""
    beside = Path(sys.executable).parent
    return shutil.which(name, path=beside) or shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _program(name: str) -> str:
    path = installed(name)
    assert path, f"{name} is missing: pip install '.[test]'"
    return path


def _s3(port: int) -> FileServer:
    endpoint = f"http://127.0.0.1:{port}"
    return FileServer(port, lambda public: f"s3://{KEY}:{SECRET}@exports?endpoint={endpoint}&public={public}")


@contextmanager
def _running(command: Callable[[Sequence[int], Path], list[str]], ports: int) -> Iterator[list[int]]:
    """Run a server in a temporary directory, with `ports` free ports, of which it listens on the first."""
    for attempt in range(1, STARTS + 1):
        with ExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bulkpull-server-")))
            free = _free_ports(ports)
            log = stack.enter_context((home / "log").open("wb"))
            process = subprocess.Popen(  # noqa: S603
                command(free, home), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home
            )
            stack.callback(_end, process)
            if _listens(free[0], process):
                yield free
                return
            told = (home / "log").read_text(errors="replace")[-2000:]
            assert attempt < STARTS, f"{process.args!r} did not start: {told}"


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.05)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # its files are temporary, and some servers stop slowly
    process.wait()
