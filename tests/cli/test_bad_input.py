"""The table of bad input in docs/reliability.md, line by line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import orjson
import pytest

from bulkpull.cli import main
from bulkpull.sandbox.process import SandboxProcess
from tests.commands import sandbox_process

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BASE = ["pull", "--start", "2024-01-01", "--end", "2024-07-01", "--out", "activity.csv"]
LINES = re.findall(r"^\| `(.+?)` \| (\d) \| `(.+?)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with sandbox_process("--rows", "500", "--end", "2024-07-01", "--export-seconds", "0") as running:
        yield running


def exports_made(sandbox: SandboxProcess) -> int:
    with urlopen(sandbox.url.replace("/v1.1", "/sandbox")) as answer:  # noqa: S310
        return int(orjson.loads(answer.read())["exports"])


def test_the_table_is_there() -> None:
    assert len(LINES) > 40


@pytest.mark.parametrize(("options", "code", "message"), LINES)
def test_bad_input(
    sandbox: SandboxProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: str,
    code: str,
    message: str,
) -> None:
    environment = {"BULKPULL_TOKEN": sandbox.token, "BULKPULL_BASE_URL": sandbox.url}
    arguments = shlex.split(options)
    while arguments and arguments[0].startswith("BULKPULL_"):
        name, _, value = arguments.pop(0).partition("=")
        environment[name] = orjson.loads(f'"{value}"')  # for its escapes
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    Path("exists.csv").write_bytes(b"precious")
    before = exports_made(sandbox)
    monkeypatch.setattr("sys.argv", ["bulkpull", *BASE, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    assert (ended.value.code, said.out) == (int(code), ""), said.err
    assert message in said.err
    assert "Traceback" not in said.err
    assert environment["BULKPULL_TOKEN"] not in said.err or not environment["BULKPULL_TOKEN"]
    assert code == "0" or exports_made(sandbox) == before
    left = {path.name for path in tmp_path.iterdir()} - {"exists.csv"}
    assert left == ({"activity.csv", "activity.csv.manifest.json"} if code == "0" else set())
    assert Path("exists.csv").read_bytes() == b"precious"
