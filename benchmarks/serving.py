"""Servers for the benchmarks: nginx, which serves the files, and a mock API whose exports finish at once.

python serving.py files PORT DIRECTORY
python serving.py api PORT FILES_URL ROWS_OF_A_FILE
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from aiohttp import web
from data_set import DATA, SECONDS, SIZES, START, make

TOKEN = "a-token"  # noqa: S105 - of a mock API
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def serving(size: str, *, tls: bool = False, rate: str = "0") -> Iterator[tuple[str, str]]:
    """Serve the files of a size, and the mock API; yield their URLs.

    With `tls`, SSL_CERT_FILE is set to nginx's certificate. Each connection is limited to `rate` bytes per second.
    """
    directory = make(size)
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        port, api_port = free_port(), free_port()
        scheme, listen = "http", f"127.0.0.1:{port}"
        if tls:
            request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
            names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{home}/key", "-out", f"{home}/certificate"]
            subprocess.run([*request.split(), *names], check=True, capture_output=True)  # noqa: S603
            os.environ["SSL_CERT_FILE"] = f"{home}/certificate"
            scheme = "https"
            listen += f" ssl; ssl_certificate {home}/certificate; ssl_certificate_key {home}/key"
        (home / "nginx.conf").write_text(
            f"daemon off; pid {home}/pid; error_log stderr crit; worker_processes 1;\n"
            + ("user root;\n" if os.geteuid() == 0 else "")
            + "events { worker_connections 512; }\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {home}; "
            f"proxy_temp_path {home}; fastcgi_temp_path {home}; uwsgi_temp_path {home}; scgi_temp_path {home};\n"
            f"server {{ listen {listen}; root {directory}; limit_rate {rate}; }} }}\n"
        )
        if NGINX:
            serve = [NGINX, "-p", str(home), "-c", str(home / "nginx.conf")]
        elif directory == DATA / "small":  # not timed
            serve = [sys.executable, __file__, "files", str(port), str(directory)]
        else:
            raise SystemExit("nginx is missing: apt-get install nginx-light")
        url = f"{scheme}://127.0.0.1:{port}"
        api = [sys.executable, __file__, "api", str(api_port), url, str(SIZES[size].rows)]
        running = [subprocess.Popen(command) for command in (serve, api)]  # noqa: S603
        try:
            await_answer(port)
            await_answer(api_port)
            yield url, f"http://127.0.0.1:{api_port}"
        finally:
            os.environ.pop("SSL_CERT_FILE", None)
            for process in running:
                process.terminate()
                process.wait()


def span(size: str) -> tuple[datetime, str]:
    """Return the end of a size's range, and its windows' length: one window for each file."""
    files, rows, _ = SIZES[size]
    return START + timedelta(seconds=files * rows * SECONDS), f"{rows * SECONDS // 60}min"


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])


def await_answer(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nothing listens on port {port}")


def serve_api(port: int, files: str, rows: int) -> None:
    """Run the mock API: the export of the window that starts with a file's first row has that file."""

    async def export(request: web.Request) -> web.Response:
        id = request.match_info.get("id")
        if id is None:
            begin = datetime.fromisoformat(request.query["filter"].removeprefix("created_time>=").split(" ")[0])
            id = str(int((begin - START).total_seconds()) // (SECONDS * rows))
        link = f"{files}/{int(id):04d}.csv?signature=x"
        return web.json_response({"data": {"id": id, "status": "success", "links": [link]}})

    app = web.Application()
    app.router.add_post("/tasks/export/activity", export)
    app.router.add_get("/tasks/export/{id}", export)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def serve_files(port: int, directory: str) -> None:
    """Serve the files without nginx, if nothing is timed."""
    app = web.Application()
    app.router.add_static("/", directory)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    if sys.argv[1] == "api":
        serve_api(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        serve_files(int(sys.argv[2]), sys.argv[3])
