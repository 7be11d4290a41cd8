"""`bulkpull verify`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkpull.sandbox.process import SandboxProcess
from tests import commands
from tests.commands import sandbox_process

PULL = ("pull", "--start", "2024-01-01", "--end", "2024-04-01", "--window", "1mo", "-q")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with sandbox_process("--rows", "1000", "--end", "2024-04-01", "--export-seconds", "0.1") as running:
        yield running


def bulkpull(sandbox: SandboxProcess | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BULKPULL")}
    if sandbox:
        environment |= {"BULKPULL_TOKEN": sandbox.token, "BULKPULL_BASE_URL": sandbox.url}
    return commands.run(*arguments, environment=environment)


@pytest.fixture(scope="module")
def pulled(sandbox: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pulled")
    months = ("--out", str(directory / "a"), "--format", "parquet", "--partition-by", "month")
    for out in (("--out", str(directory / "a.csv")), months):
        done = bulkpull(sandbox, *PULL, *out)
        assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def outputs(pulled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pulled, tmp_path / "outputs"))


@pytest.mark.parametrize(("name", "files"), [("a.csv", "1 file"), ("a", "3 files")])
def test_an_unchanged_output_is_code_0_without_a_token(outputs: Path, name: str, files: str) -> None:
    done = bulkpull(None, "verify", str(outputs / name))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{outputs / name} matches its manifest: 1,000 rows in {files}, each id once\n"


def test_a_difference_is_code_6_and_named(outputs: Path) -> None:
    (outputs / "a" / "month=2024-02" / "activity.parquet").unlink()
    (outputs / "a" / "notes.txt").touch()
    done = bulkpull(None, "verify", str(outputs / "a"))
    assert (done.returncode, done.stderr) == (6, "")
    assert done.stdout.splitlines() == [
        "a/month=2024-02/activity.parquet: is missing",
        "a/notes.txt: is not in the manifest",
        f"{outputs / 'a'} differs from its manifest",
    ]


def test_the_same_as_json(outputs: Path) -> None:
    out = outputs / "a.csv"
    size = out.stat().st_size
    os.truncate(out, size - 1)
    done = bulkpull(None, "verify", str(out), "--json")
    assert done.returncode == 6
    assert json.loads(done.stdout) == {
        "output": str(out),
        "manifest": f"{out}.manifest.json",
        "matches": False,
        "files": 1,
        "rows": 1000,
        "differences": [{"path": "a.csv", "problem": f"has {size - 1:,} bytes instead of {size:,}"}],
        "windows": None,
    }


def test_what_cannot_be_read_is_code_5(outputs: Path) -> None:
    done = bulkpull(None, "verify", str(outputs / "b.csv"))
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == f"bulkpull: there is no manifest {outputs / 'b.csv.manifest.json'}\n"


def test_the_api_is_asked_with_a_token_only(sandbox: SandboxProcess, outputs: Path) -> None:
    done = bulkpull(None, "verify", str(outputs / "a.csv"), "--against-api")
    assert done.returncode == 2
    assert "no token" in done.stderr
    done = bulkpull(sandbox, "verify", str(outputs / "a.csv"), "--against-api", "--base-url", "https://api.example")
    assert done.returncode == 2
    assert "was pulled from" in done.stderr


def test_windows_that_have_changed_at_the_api_are_code_6(sandbox: SandboxProcess, outputs: Path) -> None:
    command = ("verify", str(outputs / "a.csv"), "--against-api")
    done = bulkpull(sandbox, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "0 of 3 windows have another number of activities at the API now than they delivered"
    ]
    path = outputs / "a.csv.manifest.json"
    manifest = json.loads(path.read_text())
    window = manifest["windows"][1]
    now = window["delivered"]
    window |= {"counted": 7, "delivered": 8}
    path.write_text(json.dumps(manifest))
    done = bulkpull(sandbox, *command)
    assert (done.returncode, done.stderr) == (6, "")
    assert done.stdout.splitlines() == [
        f"window 2 [2024-02-01, 2024-03-01): 7 counted then, 8 delivered; {now:,} counted now",
        f"{outputs / 'a.csv'} matches its manifest: 1,000 rows in 1 file, each id once",
        "1 of 3 windows have another number of activities at the API now than they delivered",
    ]
    found = json.loads(bulkpull(sandbox, *command, "--json").stdout)
    assert (found["matches"], found["differences"]) == (False, [])
    assert found["windows"][1] == {
        "start": "2024-02-01T00:00:00.000Z",
        "end": "2024-03-01T00:00:00.000Z",
        "counted": 7,
        "delivered": 8,
        "counted_now": now,
        "differs": True,
    }
    assert [one["differs"] for one in found["windows"]] == [False, True, False]
