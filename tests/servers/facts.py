"""How third-party servers respond to the requests that bulkpull makes: `python -m tests.servers.facts`."""

from __future__ import annotations

import http.client
import re
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from bulkpull.sandbox.storage import open_storage
from tests.servers.running import SERVERS, FileServer

SIZE = 100_000
LINK_SECONDS = 2


def facts(server: FileServer) -> dict[str, str]:
    """Return a short description of each of the server's responses."""
    with tempfile.TemporaryDirectory() as made, open_storage(server.store(server.url), LINK_SECONDS) as storage:
        file = Path(made) / "a.csv"
        file.write_bytes(b"x" * SIZE)
        storage.put(file)

        def get(link: str, **headers: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            url = urlsplit(link)
            asked = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET", f"{url.path}?{url.query}", headers={"Accept-Encoding": "identity"} | asked)
            response = connection.getresponse()
            kept[response] = connection.sock is not None
            response.read()
            return response

        kept: dict[http.client.HTTPResponse, bool] = {}
        old = storage.link(file)
        whole = get(old)
        etag = whole.headers.get("ETag", "none")
        behind = get(storage.link(file), Range=f"bytes={SIZE}-", If_Range=etag)
        told: dict[str, str] = {
            "version": f"HTTP/1.{whole.version % 10}",
            "keep-alive": "yes" if kept[whole] else "no",
            "ETag": etag,
            "Content-Length, Content-Encoding, Accept-Ranges": ", ".join(
                whole.headers.get(name, "none") for name in ("Content-Length", "Content-Encoding", "Accept-Ranges")
            ),
            "Accept-Encoding: gzip": get(storage.link(file), Accept_Encoding="gzip").headers.get(
                "Content-Encoding", "not encoded"
            ),
            "Range": _range(get(storage.link(file), Range="bytes=500-")),
            "Range, If-Range with its ETag": _range(get(storage.link(file), Range="bytes=500-", If_Range=etag)),
            "Range, If-Range with another ETag": _range(get(storage.link(file), Range="bytes=500-", If_Range='"b"')),
            "Range behind the end": _range(behind),
            "ETag of that answer": behind.headers.get("ETag", "none"),
            "link with Authorization": str(get(storage.link(file), Authorization="Bearer a").status),
            "link to no file": str(get(storage.link(file.with_name("b.csv"))).status),
            "link with another signature": str(get(_forged(storage.link(file))).status),
        }
        time.sleep(LINK_SECONDS + 2)
        return told | {"expired link": str(get(old).status)}


def _range(response: http.client.HTTPResponse) -> str:
    return f"{response.status}, {response.headers.get('Content-Range', 'no Content-Range')}"


def _forged(link: str) -> str:
    return re.sub(r"((?:Signature|md5)=)(.)", lambda found: found[1] + ("1" if found[2] == "0" else "0"), link)


def main() -> None:
    """Prints the table."""
    told = {}
    for name, start in SERVERS.items():
        with start() as server:
            told[name] = facts(server)
    print("| |", " | ".join(told), "|")
    print("|---" * (len(told) + 1) + "|")
    for fact in told["nginx"]:
        print(f"| {fact} |", " | ".join(server[fact] for server in told.values()), "|")


if __name__ == "__main__":
    main()
