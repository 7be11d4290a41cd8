"""Seeded schedules of faults, kills, or both, which a pull must survive. Tests run a few, the soak test many."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from bulkpull import BulkpullError, Clickwrap, RetryPolicy, Window, patience, pull
from bulkpull.clickwrap.filters import window_filter
from bulkpull.journal.journal import Journal
from bulkpull.planning.length import by_length
from bulkpull.planning.range import span
from bulkpull.sandbox import Sandbox, SandboxConfig
from tests.flows import victim

CONFIG = SandboxConfig(
    rows=6000,
    start=datetime(2024, 1, 1, tzinfo=UTC),
    end=datetime(2024, 7, 1, tzinfo=UTC),
    export_seconds=0.1,
    rows_per_file=250,
    fault_seconds=0.6,
)
OPTIONS: dict[str, Any] = {
    "start": "2024-01-01",
    "end": "2024-07-01",
    "window": "2w",
    "exports": 5,
    "fields": ["connection_data.page_title", "custom_data.vip"],
    "export_timeout": 3.0,
}
# Where every export ends, a slow machine must not make a pull give one up.
PATIENT = OPTIONS | {"export_timeout": 120.0}
WINDOWS = by_length(*span(OPTIONS["start"], OPTIONS["end"]), OPTIONS["window"], 100)
RETRY = RetryPolicy(base=0.02, cap=0.2, seconds=60.0)
TIMEOUTS: dict[str, Any] = {"request_timeout": 0.5, "stall_timeout": 0.5}
MAX_RUNS = 40
MOST_ANSWERS = 30  # that a run which is killed may have had from the sandbox: an undisturbed pull has some 80
RUN_TIMEOUT = 120.0  # seconds for a run to get its answers


@dataclass(slots=True)
class Survival:
    """The outcome of a schedule: `failed` runs ended with an error; `impossible` says that no run can succeed."""

    seed: int
    kills: int = 0
    failed: int = 0
    impossible: bool = False
    exports: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)


async def undisturbed(out: Path) -> bytes:
    """Return the output of an undisturbed pull."""
    async with Sandbox(CONFIG) as sandbox, Clickwrap(CONFIG.token, base_url=sandbox.url) as clickwrap:
        result = await pull(clickwrap, out=out, **PATIENT)
    assert (result.rows, result.windows, result.exports) == (CONFIG.rows, len(WINDOWS), len(WINDOWS))
    return out.read_bytes()


async def survive_faults(seed: int, out: Path, expected: bytes) -> Survival:
    """Pull under the profile `everything`, repeatedly after errors, until the pull succeeds."""
    survival = Survival(seed)
    began = anyio.current_time()
    async with Sandbox(replace(CONFIG, faults=f"everything:{seed}")) as sandbox:
        while not survival.impossible:
            assert survival.failed < MAX_RUNS
            try:
                async with Clickwrap(CONFIG.token, base_url=sandbox.url, retry=RETRY, **TIMEOUTS) as clickwrap:
                    with anyio.fail_after(120):
                        await pull(clickwrap, out=out, **OPTIONS)
                break
            except BulkpullError as error:
                assert not out.exists()
                survival.failed += 1
                survival.impossible = accounted(sandbox, str(error))
        settle(survival, sandbox)
    survival.seconds = anyio.current_time() - began
    if not survival.impossible:
        assert out.read_bytes() == expected
        assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f"{out.name}.manifest.json"]
    return survival


def accounted(sandbox: Sandbox, message: str) -> bool:
    """Return whether the window named in an error can never be exported.

    Asserts that an export of that window had a fault.
    """
    tasks = [task for task in sandbox.exports.tasks.values() if named(task.filter) in message]
    disturbed = [task.fault for task in tasks if task.fault]
    assert disturbed, message
    return "export-always-fails" in disturbed


def named(filter: str) -> str:
    """Return the name, without its number, of the window whose export has this filter."""
    start, end = (datetime.fromisoformat(bound) for bound in re.findall(r"created_time[<>]=?(\S+)", filter))
    return str(Window(0, start, end)).removeprefix("window 1 ")


def settle(survival: Survival, sandbox: Sandbox) -> None:
    """Record the sandbox's statistics; assert that there were no unnecessary exports and no leaks of the token."""
    stats = sandbox.stats
    survival.exports = stats.exports
    survival.faults.update(stats.faults)
    disturbed = sum(task.fault is not None for task in sandbox.exports.tasks.values())
    # A split window needs two exports more; a mode may make the pull give up on an export too early.
    odd = len(sandbox.faults.modes)
    # With the patience of a soak, an export that is not known at first may count as gone.
    gone = len(WINDOWS) if patience.LAG < 10 and "status-404-first" in stats.faults else 0
    assert stats.exports <= len(WINDOWS) + survival.kills + stats.lost_posts + 2 * (disturbed + odd) + gone
    assert stats.leaks == 0


async def survive_kills(seed: int, out: Path, expected: bytes, faults: str = "") -> Survival:
    """Pull, killed repeatedly at random times, until the pull succeeds; with `faults`, runs may also fail."""
    survival = Survival(seed)
    moments = random.Random(seed)
    began = anyio.current_time()
    options, timeouts = (OPTIONS, TIMEOUTS) if faults else (PATIENT, {})
    # Complete parts by export and number, and how often the host had delivered each when first known as complete.
    whole: dict[tuple[str, int], int] = {}
    async with Sandbox(replace(CONFIG, faults=faults)) as sandbox:
        doomed = {
            window_filter(window, None)
            for window in WINDOWS
            if sandbox.faults.always_fails(window_filter(window, None))
        }
        while True:
            assert survival.kills + survival.failed < MAX_RUNS
            process = victim.PROCESSES.Process(
                target=victim.run, args=(sandbox.url, CONFIG.token, out, options, RETRY, timeouts)
            )
            process.start()
            # Most kills come so many answers later, on a slow machine too; some when little or nothing has happened.
            answers = answered(sandbox) + (moments.randint(1, MOST_ANSWERS) if moments.random() < 0.8 else 0)
            try:
                with anyio.fail_after(RUN_TIMEOUT):
                    while process.is_alive() and answered(sandbox) < answers:
                        await to_thread.run_sync(process.join, 0.005)
                await to_thread.run_sync(process.join, moments.uniform(0.0, 0.3))
            finally:
                process.kill()
            await to_thread.run_sync(process.join)
            if process.exitcode == 0 or out.exists():
                break
            failed = process.exitcode == victim.FAILED
            assert process.exitcode in victim.KILLED or (failed and faults)
            survival.kills += not failed
            survival.failed += failed
            if doomed and survival.failed:
                survival.impossible = True
                break
            for part in whole_parts(out):
                whole.setdefault(part, sandbox.files.deliveries[part])
        settle(survival, sandbox)
        if not faults:  # with faults, a damaged file is detected in the merge and downloaded again
            assert {part: sandbox.files.deliveries[part] for part in whole} == whole
    survival.seconds = anyio.current_time() - began
    if not survival.impossible:
        assert out.read_bytes() == expected
    if process.exitcode == 0:
        assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f"{out.name}.manifest.json"]
    return survival


def answered(sandbox: Sandbox) -> int:
    """How many requests of the API and downloads the sandbox has seen."""
    return sum(sandbox.stats.requests.values()) + sandbox.stats.downloads


def whole_parts(out: Path) -> list[tuple[str, int]]:
    """Return the export and the number, from 0, of the files that the journal records as complete."""
    path = out.with_name(f"{out.name}.bulkpull") / "journal.sqlite"
    if not path.exists():
        return []
    journal = Journal(path)
    try:
        return [
            (export.id, part.number - 1)
            for exports in journal.exports().values()
            for export in exports
            for part in export.parts
            if part.size is not None
        ]
    finally:
        journal.close()
