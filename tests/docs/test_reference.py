"""What the reference lists by hand is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import bulkpull
import bulkpull.cli
from bulkpull import errors
from bulkpull.cli import cli
from bulkpull.cli.settings import settings_of_all
from tests.docs.examples import ROOT

REFERENCE = ROOT / "docs" / "reference"
ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, bulkpull.BulkpullError)
]

MADE_FROM_MORE: dict[type[bulkpull.BulkpullError], bulkpull.BulkpullError] = {
    errors.FormatError: errors.FormatError(1, "an-id", "a reason"),
    errors.LinkExpiredError: errors.LinkExpiredError("a reason", status=403),
    errors.ShrinkError: errors.ShrinkError("a reason", gone=500, held=1_000),
}


def exit_codes() -> dict[str, int]:
    """The exit code of each error, as the page has it."""
    page = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    return {name: int(code) for name, code in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)}


@pytest.mark.parametrize("error", ERRORS)
def test_each_error_ends_with_its_documented_exit_code(
    error: type[bulkpull.BulkpullError], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    raised = error("a reason") if error not in MADE_FROM_MORE else MADE_FROM_MORE[error]

    def fail(**_options: object) -> int:
        raise raised

    monkeypatch.setattr(bulkpull.cli, "cli", fail)
    with pytest.raises(SystemExit) as ended:
        bulkpull.cli.main()
    assert ended.value.code == exit_codes()[error.__name__]
    is_told = error is not errors.ReaderGoneError
    assert ("a reason" in capfd.readouterr().err) is is_told


def test_no_error_is_documented_that_does_not_exist() -> None:
    assert exit_codes().keys() == {error.__name__ for error in ERRORS}


def test_each_environment_variable_is_documented() -> None:
    page = (REFERENCE / "environment.md").read_text(encoding="utf-8")
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "bulkpull").rglob("*.py"))
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    read = set(re.findall(r"\bBULKPULL_[A-Z_]+\b", code))
    of_options = {setting.envvar for setting in settings_of_all(click.Context(cli))}  # one sentence tells their names
    assert "BULKPULL_EXPORTS" in of_options
    assert {name for name in documented if name.startswith("BULKPULL")} == read - (of_options - documented)


def test_each_error_has_a_remedy() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert [error.__name__ for error in ERRORS if f"`{error.__name__}`" not in page] == []


def test_pages_of_the_site_exist() -> None:
    listed = re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8"))
    pages = {str(page.relative_to(ROOT / "docs")) for page in Path(ROOT / "docs").rglob("*.md")}
    assert pages - set(listed) == set()
