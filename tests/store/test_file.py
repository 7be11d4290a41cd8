"""The output appears whole or not at all, and nothing else stays behind."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from bulkpull import OutputError
from bulkpull.store.file import Output


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
    with pytest.raises(OutputError, match=r"beside.* is a symbolic link"):
        claim(Output(tmp_path / "a.csv", overwrite=False))
    assert (precious / "file").exists()


PLANTED = ["journal.sqlite", "journal.sqlite-wal", "output", "output.wide", "rendered", "window-000001-part-0001.csv"]


@pytest.mark.parametrize("name", [*PLANTED, "rendered/month=2024-01", "rendered/month=2024-01/activity.parquet"])
@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_in_the_directory_is_not_followed(tmp_path: Path, name: str, dangling: bool) -> None:
    output = Output(tmp_path / "a.csv")
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_bytes(b"precious")
    link = output.directory / name
    link.parent.mkdir(parents=True)
    output.directory.chmod(0o700)
    link.symlink_to(victim)
    with pytest.raises(OutputError, match=r"symbolic link.*Remove .*a\.csv\.bulkpull"):
        output.claim()
    output.release(remove=True)  # as a pull does that failed
    assert link.is_symlink()
    assert victim.exists() != dangling


def test_a_pipe_in_the_directory_is_not_waited_for(tmp_path: Path) -> None:
    output = Output(tmp_path / "a.csv")
    output.directory.mkdir()
    os.mkfifo(output.partial)
    with pytest.raises(OutputError, match="output is not a file"):
        output.claim()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o755])
def test_a_directory_that_is_ours_becomes_private(tmp_path: Path, mode: int) -> None:
    output = Output(tmp_path / "a.csv")
    output.directory.mkdir()
    output.partial.write_bytes(b"kept")
    output.directory.chmod(mode)
    output.claim()
    assert output.directory.stat().st_mode & 0o777 == 0o700
    assert output.partial.read_bytes() == b"kept"
    output.release(remove=True)


@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_a_file_with_a_second_name_is_refused_where_others_could_have_put_it(tmp_path: Path, mode: int) -> None:
    """A killed pull may have left its output under both names; that directory was private all the time."""
    output = Output(tmp_path / "a.csv")
    output.directory.mkdir()
    output.partial.write_bytes(b"rows")
    (tmp_path / "second").hardlink_to(output.partial)
    output.directory.chmod(mode)
    if mode == 0o700:
        output.claim()
        output.release(remove=False)
    else:
        with pytest.raises(OutputError, match="has a second name"):
            output.claim()
    assert (tmp_path / "second").read_bytes() == b"rows"


def test_a_file_system_without_modes_that_lets_others_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    output = Output(tmp_path / "a.csv")
    output.directory.mkdir()
    output.directory.chmod(0o777)
    with pytest.raises(OutputError, match=r"written by other users.*another file system"):
        output.claim()


@pytest.mark.parametrize("name", ["", *PLANTED])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    output = Output(tmp_path / "a.csv")
    output.directory.mkdir(0o777)
    theirs = output.directory / name
    if name:
        theirs.write_bytes(b"theirs")
    if os.geteuid() == 0:
        os.chown(theirs, 65534, 65534)
    else:  # we are another user than the one who made it
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        monkeypatch.setattr(Output, "_uid_here", 65534)
    with pytest.raises(OutputError, match=r"another user \(uid \d+\)"):
        output.claim()
    output.release(remove=True)
    assert theirs.exists()


def test_a_network_file_system_that_calls_us_somebody_else_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)  # whatever we make belongs to another user id than ours
    publish(Output(tmp_path / "a.csv"), b"id\n1\n")
    assert (tmp_path / "a.csv").read_bytes() == b"id\n1\n"


def test_a_claim_can_be_seen_without_being_disturbed(tmp_path: Path) -> None:
    output, seen_from = Output(tmp_path / "a.csv"), Output(tmp_path / "a.csv")
    claim(output)
    for _ in range(3):
        assert seen_from.is_claimed() is True  # and the look itself lets go of nothing
    with pytest.raises(OutputError, match="another pull"):
        claim(seen_from)
    output.release(remove=False)
    assert seen_from.is_claimed() is False


def test_a_look_holds_no_lock_that_a_claim_could_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, looking = Output(tmp_path / "a.csv"), Output(tmp_path / "a.csv")
    output.directory.mkdir()
    ask = fcntl.fcntl

    def claim_meanwhile(file: int, command: int, argument: bytes) -> bytes:
        answer = ask(file, command, argument)
        if command == fcntl.F_OFD_GETLK:
            output.claim()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", claim_meanwhile)
        assert looking.is_claimed() is False
    assert looking.is_claimed() is True
    output.release(remove=True)


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
