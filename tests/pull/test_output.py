"""The output appears whole or not at all, and nothing else stays behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulkpull import OutputError
from bulkpull.pull.output import Output


def claim(output: Output) -> None:
    output.claim()
    try:
        output.check()
    except OutputError:
        output.release(remove=True)
        raise


def publish(output: Output, rows: bytes = b"id\n") -> None:
    claim(output)
    output.partial.write_bytes(rows)
    output.publish(output.partial)
    output.release(remove=True)


def test_rows_appear_at_the_path_and_nothing_else_stays(tmp_path: Path) -> None:
    publish(Output(tmp_path / "a.csv", overwrite=False), b"id\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == b"id\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_directory_is_private_and_beside_the_output(tmp_path: Path) -> None:
    output = Output(tmp_path / "a.csv", overwrite=False)
    claim(output)
    assert output.partial.parent == tmp_path / "a.csv.bulkpull"
    assert output.partial.parent.stat().st_mode & 0o777 == 0o700
    output.release(remove=True)
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_not_overwritten_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        claim(Output(path, overwrite=False))
    assert path.read_bytes() == b"precious"
    publish(Output(path, overwrite=True), b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False])
def test_an_output_that_came_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def no_links(*_: object, **__: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", no_links)
    output = Output(tmp_path / "a.csv", overwrite=False)
    claim(output)
    output.partial.write_bytes(b"ours")
    output.path.write_bytes(b"theirs")
    with pytest.raises(OutputError, match="exists"):
        output.publish(output.partial)
    output.release(remove=True)
    assert output.path.read_bytes() == b"theirs"


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    publish(Output(tmp_path / "a.csv", overwrite=False), b"id\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == b"id\n1\n"


def test_two_pulls_do_not_share_an_output(tmp_path: Path) -> None:
    first, second = (Output(tmp_path / "a.csv", overwrite=False) for _ in range(2))
    claim(first)
    first.partial.write_bytes(b"half")
    with pytest.raises(OutputError, match="another pull"):
        claim(second)
    second.release(remove=True)
    assert first.partial.read_bytes() == b"half"
    first.release(remove=True)
    claim(second)
    second.release(remove=True)


def test_what_a_killed_pull_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "a.csv.bulkpull"
    left.mkdir()
    (left / "window-000001-part-0001.csv").write_bytes(b"x" * 1000)
    publish(Output(tmp_path / "a.csv", overwrite=False))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_symbolic_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "a.csv").symlink_to(tmp_path / "real" / "b.csv")
    publish(Output(tmp_path / "a.csv", overwrite=False), b"new")
    assert (tmp_path / "a.csv").is_symlink()
    assert (tmp_path / "real" / "b.csv").read_bytes() == b"new"


def test_a_directory_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    (tmp_path / "a.csv.bulkpull").symlink_to(precious)
    with pytest.raises(OutputError, match="beside"):
        claim(Output(tmp_path / "a.csv", overwrite=False))
    assert (precious / "file").exists()


@pytest.mark.parametrize("name", ["", "missing/a.csv", "a" * 300, "nul\0", "file/a.csv"])
def test_paths_that_cannot_be_written_are_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"write|directory"):
        claim(Output(f"{tmp_path}/{name}", overwrite=True))


def test_a_device_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="device"):
        claim(Output(tmp_path / "pipe", overwrite=True))
    with pytest.raises(OutputError, match="directory"):
        Output("/", overwrite=True)
