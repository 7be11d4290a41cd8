"""Finished exports to one deduplicated file: bulkpull compared with combinations of common tools.

    python benchmarks/transfer.py [--size small|medium|large] [--runs 5] [--only NAME,NAME]

The files are generated once in benchmarks/data, and served by nginx on loopback; bulkpull gets their links from a mock
API whose exports finish at once. Runs are interleaved (A B C A B C), each in separate processes. All outputs must have
the same ids. Needs nginx (apt-get install nginx-light) and, for the methods named after them, aria2, curl,
polars and duckdb; methods with missing tools are skipped. `small` only compares the ids, without timing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import aiohttp
from aiohttp import web
from measure import Run, machine, run, run_command, table
from peers import with_duckdb, with_polars, write_first_rows

DATA = Path(__file__).parent / "data"
SIZES = {  # files, rows of each
    "small": (4, 5_000),
    "medium": (20, 100_000),
    "large": (200, 100_000),
    "single": (1, 4_700_000),
}
START = datetime(2014, 1, 1, tzinfo=UTC)
SECONDS = 3  # between two rows
REPEATS = 50  # one of so many rows is repeated
TOKEN = "a-token"  # noqa: S105 - of a mock API
PARALLEL = 8
HEADER = (
    "id,signer_id,created_time,event_type,connection_data.remote_address,connection_data.page_title,"
    "connection_data.user_agent,custom_data.vip"
)
FIELDS = ",".join(HEADER.split(",")[3:])
AGENTS = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML; like Gecko) Version/17.4 Safari",
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML; like Gecko) Chrome/126.0.0.0 Safari/537.36",
)


def make(size: str) -> Path:
    """Return the directory with the files of a size; generate them if they are missing."""
    if not (DATA / size / "done").exists():
        run([__file__, "--make", size])  # a separate process, since children inherit its peak memory
    return DATA / size


def write(size: str) -> None:
    """Generate the files."""
    directory = DATA / size
    files, rows = SIZES[size]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    draw = random.Random(1)
    number = 0
    for file in range(files):
        lines = []
        for _ in range(rows):
            at = START + timedelta(seconds=number * SECONDS)
            id = f"{int(at.timestamp()):08x}{draw.getrandbits(40):010x}{number & 0xFFFFFF:06x}"
            address = f"10.{number >> 6 & 255}.{number & 63}.{number % 251}"
            lines.append(
                f"{id},{draw.getrandbits(96):024x},{at:%Y-%m-%dT%H:%M:%S}.{number % 1000:03d}Z,agreed,{address},"
                f"Terms of Service {number % 40},{AGENTS[number % 3]},FALSE\n"
            )
            number += 1
        lines += [lines[draw.randrange(rows)] for _ in range(rows // REPEATS)]
        (directory / f"{file:04d}.csv").write_text(f"{HEADER}\n{''.join(lines)}")
    (directory / "done").touch()


@contextmanager
def serving(directory: Path, rows: int, *, tls: bool = False, rate: str = "0") -> Iterator[tuple[str, str]]:
    """Run nginx, which serves the directory, and the mock API; yield their URLs.

    With `tls`, SSL_CERT_FILE is set to nginx's certificate. Each connection is limited to `rate` bytes per second.
    """
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
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if nginx:
            serve = [nginx, "-p", str(home), "-c", str(home / "nginx.conf")]
        elif directory == DATA / "small":  # not timed
            serve = [sys.executable, __file__, "--files", str(port), str(directory)]
        else:
            raise SystemExit("nginx is missing: apt-get install nginx-light")
        commands = (
            serve,
            [sys.executable, __file__, "--api", str(api_port), f"{scheme}://127.0.0.1:{port}", str(rows)],
        )
        running = [subprocess.Popen(command) for command in commands]  # noqa: S603
        try:
            await_answer(port)
            await_answer(api_port)
            yield f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{api_port}"
        finally:
            os.environ.pop("SSL_CERT_FILE", None)
            for process in running:
                process.terminate()
                process.wait()


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


# The methods: each writes OUT from the files at URL, which are named 0000.csv and so on.


def aria2(url: str, count: int, parts: Path) -> str:
    (parts / "list").write_text("".join(f"{url}/{number:04d}.csv\n" for number in range(count)))
    trust = f"--ca-certificate={os.environ['SSL_CERT_FILE']}" if url.startswith("https") else ""
    return f"aria2c --quiet --no-conf {trust} -j {PARALLEL} -x 4 --file-allocation=none -d {parts} -i {parts}/list"


def curl(url: str, count: int, parts: Path) -> str:
    last = f"{count - 1:04d}"
    trust = f"--cacert {os.environ['SSL_CERT_FILE']}" if url.startswith("https") else ""
    return f"curl -sS {trust} --parallel --parallel-max {PARALLEL} -o '{parts}/#1.csv' '{url}/[0000-{last}].csv'"


def cat(parts: Path, out: Path) -> str:
    return f"cat {parts}/*.csv > {out}"


def python(way: str, parts: Path, out: Path) -> str:
    return f"{sys.executable} {__file__} --way {way} {parts} {out}"


def command(way: str, url: str, api: str, count: int, rows: int, parts: Path, out: Path) -> list[str]:
    """Return the command of a method."""
    if way.startswith("bulkpull"):
        end = START + timedelta(seconds=count * rows * SECONDS)
        return [
            *(sys.executable, "-m", "bulkpull", "pull", "--start", f"{START:%Y-%m-%d}", "--end", end.isoformat()),
            *("--window", f"{rows * SECONDS // 60}min", "--out", str(out), "--fields", FIELDS, "--base-url", api, "-q"),
        ]
    if way == "script":
        return ["sh", "-ec", f"{sys.executable} {__file__} --way script {url} {out} {count}"]
    download, _, merge = way.partition(" + ")
    merge = merge.replace(" to ", "-")
    first = (aria2 if download == "aria2" else curl)(url, count, parts)
    return ["sh", "-ec", f"{first}; {cat(parts, out) if merge == 'cat' else python(merge, parts, out)}"]


def with_polars_to_parquet(parts: Path, out: Path) -> None:
    """Merge without deduplication."""
    import polars

    polars.scan_csv(parts / "*.csv", infer_schema=False).sink_parquet(out)


async def by_hand(url: str, out: Path, count: int) -> None:
    """A typical script: gather for the downloads, the csv module and a set."""
    limit = asyncio.Semaphore(PARALLEL)

    async def fetch(session: aiohttp.ClientSession, number: int) -> str:
        async with limit, session.get(f"{url}/{number:04d}.csv") as response:
            return await response.text()

    async with aiohttp.ClientSession() as session:
        texts = await asyncio.gather(*(fetch(session, number) for number in range(count)))
    write_first_rows((text.splitlines() for text in texts), out)


def print_ids(out: Path) -> None:
    """Print the number of distinct ids in a file, and a hash of them."""
    if out.suffix == ".parquet":
        import polars

        ids = set(polars.read_parquet(out, columns=["id"])["id"])
    else:
        with out.open("rb") as lines:
            ids = {line[:24] for line in lines if not line.startswith(b"id,")}
    print(len(ids), sum(int(id, 16) for id in ids) % (1 << 61))


WAYS = (
    "bulkpull",
    *("aria2 + cat", "curl + cat", "aria2 + polars", "aria2 + duckdb", "script"),
    *("bulkpull to parquet", "aria2 + polars to parquet"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tls", action="store_true", help="serve files over https")
    parser.add_argument("--only", help="methods, separated by commas")
    parser.add_argument("--make", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--api", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        write(options.make)
    elif options.files:
        serve_files(options.files, options.rest[0])
    elif options.api:
        serve_api(options.api, options.rest[0], int(options.rest[1]))
    elif options.way == "script":
        asyncio.run(by_hand(options.rest[0], Path(options.rest[1]), int(options.rest[2])))
    elif options.way:
        ways: dict[str, Callable[..., None]] = {
            "polars": lambda parts, out: with_polars(sorted(parts.glob("*.csv")), out),
            "polars-parquet": with_polars_to_parquet,
            "duckdb": lambda parts, out: with_duckdb(sorted(parts.glob("*.csv")), out),
            "ids": print_ids,
        }
        ways[options.way](*map(Path, options.rest))
    else:
        compare(options.size, options.runs, options.only.split(",") if options.only else WAYS, tls=options.tls)


def can_run(way: str) -> bool:
    """Return whether the tools of a method are installed."""
    if way in ("bulkpull", "script"):
        return True
    if way == "bulkpull to parquet":
        return find_spec("pyarrow") is not None and find_spec("polars") is not None  # polars reads the ids
    download, _, merge = way.partition(" + ")
    merge = merge.partition(" ")[0]
    return shutil.which({"aria2": "aria2c"}.get(download, download)) is not None and (
        merge == "cat" or find_spec(merge) is not None
    )


def compare(size: str, runs: int, ways: tuple[str, ...] | list[str], *, tls: bool) -> None:
    files, rows = SIZES[size]
    ways = [way for way in ways if can_run(way)]
    results: dict[str, list[Run]] = {way: [] for way in ways}
    directory = make(size)
    found = {}
    with serving(directory, rows, tls=tls) as (url, api), tempfile.TemporaryDirectory(dir=DATA) as made:
        for _ in range(1 if size == "small" else runs):
            for way in ways:
                work = Path(made) / "work"
                (work / "parts").mkdir(parents=True)
                out = work / ("out.parquet" if way.endswith("parquet") else "out.csv")
                steps = command(way, url, api, files, rows, work / "parts", out)
                results[way].append(run_command(steps, BULKPULL_TOKEN=TOKEN))
                if way not in found:
                    found[way] = run([__file__, "--way", "ids", str(out)]).stdout
                shutil.rmtree(work)
    if len(set(found.values())) > 1:
        raise SystemExit(f"the ids differ: {found}")
    megabytes = sum(path.stat().st_size for path in directory.glob("*.csv")) / 1e6
    count = int(found[ways[0]].split()[0])
    if size == "small":
        print(f"{', '.join(found)}: all agree on the {count:,} ids")
        return
    over = " over TLS" if tls else ""
    print(f"{machine()}; {files} files, {megabytes:,.0f} MB, {count:,} ids{over}; median of {runs} interleaved runs\n")
    median = {way: statistics.median(one.wall for one in results[way]) for way in ways}
    print(
        table(
            ("method", "wall s", "min - max", "CPU s", "peak MB", "bulkpull / method"),
            [
                (
                    way,
                    f"{median[way]:.2f}",
                    f"{min(one.wall for one in results[way]):.2f} - {max(one.wall for one in results[way]):.2f}",
                    f"{statistics.median(one.cpu for one in results[way]):.2f}",
                    f"{max(one.peak for one in results[way]):.0f}",
                    f"{median[ways[0]] / median[way]:.2f}",
                )
                for way in ways
            ],
        )
    )


if __name__ == "__main__":
    main()
