"""A work directory belongs to one pull at a time, and to one user."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from bulkpull import OutputError
from bulkpull.store import WorkDirectory


def test_the_directory_is_private_and_beside_the_output(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.claim()
    assert work.merged.parent == tmp_path / "a.csv.bulkpull"
    assert work.merged.parent.stat().st_mode & 0o777 == 0o700
    work.release(remove=True)
    assert not list(tmp_path.iterdir())


def test_two_pulls_do_not_share_an_output(tmp_path: Path) -> None:
    first, second = (WorkDirectory.beside(tmp_path / "a.csv") for _ in range(2))
    first.claim()
    first.merged.write_bytes(b"half")
    with pytest.raises(OutputError, match="another pull"):
        second.claim()
    second.release(remove=True)
    assert first.merged.read_bytes() == b"half"
    first.release(remove=True)
    second.claim()
    second.release(remove=True)


def test_a_directory_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    (tmp_path / "a.csv.bulkpull").symlink_to(precious)
    with pytest.raises(OutputError, match=r"a.csv.bulkpull is a symbolic link"):
        WorkDirectory.beside(tmp_path / "a.csv").claim()
    assert (precious / "file").exists()


PLANTED = ["journal.sqlite", "journal.sqlite-wal", "output", "output.wide", "rendered", "window-000001-part-0001.csv"]


@pytest.mark.parametrize("name", [*PLANTED, "rendered/month=2024-01", "rendered/month=2024-01/activity.parquet"])
@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_in_the_directory_is_not_followed(tmp_path: Path, name: str, dangling: bool) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_bytes(b"precious")
    link = work.path / name
    link.parent.mkdir(parents=True)
    work.path.chmod(0o700)
    link.symlink_to(victim)
    with pytest.raises(OutputError, match=r"symbolic link.*Remove .*a\.csv\.bulkpull"):
        work.claim()
    work.release(remove=True)  # as a pull does that failed
    assert link.is_symlink()
    assert victim.exists() != dangling


def test_a_pipe_in_the_directory_is_not_waited_for(tmp_path: Path) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir()
    os.mkfifo(work.merged)
    with pytest.raises(OutputError, match="output is not a file"):
        work.claim()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o755])
def test_a_directory_that_is_ours_becomes_private(tmp_path: Path, mode: int) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir()
    work.merged.write_bytes(b"kept")
    work.path.chmod(mode)
    work.claim()
    assert work.path.stat().st_mode & 0o777 == 0o700
    assert work.merged.read_bytes() == b"kept"
    work.release(remove=True)


@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_a_file_with_a_second_hard_link_is_refused_where_others_could_have_put_it(tmp_path: Path, mode: int) -> None:
    """A killed pull may have left its output under both names; that directory was private all the time."""
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir()
    work.merged.write_bytes(b"rows")
    (tmp_path / "second").hardlink_to(work.merged)
    work.path.chmod(mode)
    if mode == 0o700:
        work.claim()
        work.release(remove=False)
    else:
        with pytest.raises(OutputError, match="has a second hard link"):
            work.claim()
    assert (tmp_path / "second").read_bytes() == b"rows"


def test_a_file_system_without_modes_that_lets_others_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir()
    work.path.chmod(0o777)
    with pytest.raises(OutputError, match=r"written by other users.*another file system"):
        work.claim()


@pytest.mark.parametrize("name", ["", *PLANTED])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    work = WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir(0o777)
    theirs = work.path / name
    if name:
        theirs.write_bytes(b"theirs")
    if os.geteuid() == 0:
        os.chown(theirs, 65534, 65534)
    else:  # we are another user than the one who made it
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        monkeypatch.setattr(WorkDirectory, "_uid_here", 65534)
    with pytest.raises(OutputError, match=r"another user \(uid \d+\)"):
        work.claim()
    work.release(remove=True)
    assert theirs.exists()


def test_a_claim_can_be_seen_without_being_disturbed(tmp_path: Path) -> None:
    work, seen_from = WorkDirectory.beside(tmp_path / "a.csv"), WorkDirectory.beside(tmp_path / "a.csv")
    work.claim()
    for _ in range(3):
        assert seen_from.is_claimed() is True  # and looking releases nothing
    with pytest.raises(OutputError, match="another pull"):
        seen_from.claim()
    work.release(remove=False)
    assert seen_from.is_claimed() is False


def test_a_look_holds_no_lock_that_a_claim_could_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, looking = WorkDirectory.beside(tmp_path / "a.csv"), WorkDirectory.beside(tmp_path / "a.csv")
    work.path.mkdir()
    ask = fcntl.fcntl

    def claim_meanwhile(file: int, command: int, argument: bytes) -> bytes:
        answer = ask(file, command, argument)
        if command == fcntl.F_OFD_GETLK:
            work.claim()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", claim_meanwhile)
        assert looking.is_claimed() is False
    assert looking.is_claimed() is True
    work.release(remove=True)
