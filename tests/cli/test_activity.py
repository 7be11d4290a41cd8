"""What `bulkpull activity` prints of what the API answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bulkpull.cli import main


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """An API that answers everything with `body`; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1.1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def activity(monkeypatch: pytest.MonkeyPatch, body: bytes) -> int | str | None:
    """Runs the command against an API that answers with `body`; the exit code."""
    monkeypatch.setenv("BULKPULL_TOKEN", "a-token")
    with answering(body) as url, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr("sys.argv", ["bulkpull", "activity", "--base-url", url, "--retry-for", "1"])
        main()
    return ended.value.code


def test_numbers_are_printed_with_the_digits_that_came(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    entry = '{"long":123456789012345678901234567890,"id":-18446744073709551617,"é":{"half":0.5,"deep":[1e400,"x"]}}'
    assert not activity(monkeypatch, f'{{"data": [{entry}], "has_more": false}}'.encode())
    assert capfdbinary.readouterr().out == entry.replace("1e400", '"1e400"').encode() + b"\n"


@pytest.mark.parametrize("levels", [300, 900, 990])
def test_objects_in_many_levels_are_printed_or_end_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], levels: int
) -> None:
    entry = '{"v":' * levels + "18446744073709551617" + "}" * levels
    code = activity(monkeypatch, f'{{"data":[{entry}],"has_more":false}}'.encode())
    output, errors = capfd.readouterr()
    assert "Traceback" not in errors
    if code:
        assert (code, errors.count("\n")) == (4, 1)
    else:
        assert output == entry + "\n"
