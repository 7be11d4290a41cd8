"""A local output is published whole or not at all, and nothing else stays behind."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from bulkpull import Clickwrap, OutputError
from bulkpull.rows.format import Format
from bulkpull.store import WorkDirectory, destination_for, resolved
from bulkpull.store.local import LocalFile


def local_file(path: Path | str, *, overwrite: bool = False) -> LocalFile:
    """A claimed destination for plain CSV, which may be written."""
    work = WorkDirectory.beside(path)
    destination = destination_for(
        resolved(path), work, Format(), overwrite=overwrite, columns=Clickwrap.columns, provenance=dict
    )
    assert isinstance(destination, LocalFile)
    work.claim()
    try:
        destination.check()
    except OutputError:
        work.release(remove=True)
        raise
    return destination


def publish(destination: LocalFile, rows: bytes = b"id\n") -> str:
    destination.work.merged.write_bytes(rows)
    receipt = destination.finish(destination.work.merged)
    destination.publish()
    destination.work.release(remove=True)
    return receipt


def test_rows_appear_at_the_path_and_nothing_else_stays(tmp_path: Path) -> None:
    publish(local_file(tmp_path / "a.csv"), b"id\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == b"id\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_an_existing_output_is_not_overwritten_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        local_file(path, overwrite=False)
    assert path.read_bytes() == b"precious"
    publish(local_file(path, overwrite=True), b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False])
def test_an_output_that_came_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def no_links(*_: object, **__: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", no_links)
    destination = local_file(tmp_path / "a.csv")
    destination.path.write_bytes(b"theirs")
    with pytest.raises(OutputError, match="exists"):
        publish(destination, b"ours")
    destination.work.release(remove=True)
    assert destination.path.read_bytes() == b"theirs"


def test_the_published_output_is_recognised_by_its_receipt(tmp_path: Path) -> None:
    destination = local_file(tmp_path / "a.csv")
    assert not destination.holds("")
    receipt = publish(destination)
    again = local_file(tmp_path / "a.csv", overwrite=True)
    assert again.holds(receipt)
    assert not again.holds("")
    compressed = dataclasses.replace(again.renderer, format=Format(compression="gz"))
    assert not LocalFile(again.path, again.work, compressed, overwrite=True).holds(receipt)
    publish(again)
    assert not again.holds(receipt)


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    publish(local_file(tmp_path / "a.csv"), b"id\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == b"id\n1\n"


def test_what_a_killed_pull_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "a.csv.bulkpull"
    left.mkdir()
    (left / "window-000001-part-0001.csv").write_bytes(b"x" * 1000)
    publish(local_file(tmp_path / "a.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_symbolic_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a.csv").symlink_to(tmp_path / "real" / "b.csv")
    publish(local_file(tmp_path / "a.csv"), b"new")
    assert (tmp_path / "a.csv").is_symlink()
    assert (tmp_path / "real" / "b.csv").read_bytes() == b"new"


def test_a_network_file_system_that_calls_us_somebody_else_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)  # whatever we make belongs to another user id than ours
    publish(local_file(tmp_path / "a.csv"), b"id\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == b"id\n1\n"


@pytest.mark.parametrize("name", ["", "missing/a.csv", "a" * 300, "nul\0", "file/a.csv"])
def test_paths_that_cannot_be_written_are_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"write|directory"):
        local_file(f"{tmp_path}/{name}", overwrite=True)


def test_a_device_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="device"):
        local_file(tmp_path / "pipe", overwrite=True)
    with pytest.raises(OutputError, match="directory"):
        local_file("/", overwrite=True)
