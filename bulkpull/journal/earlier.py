"""What earlier pulls have shown of a server: how long its exports take, and how many it works on at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import orjson

from bulkpull.errors import OutputError
from bulkpull.eta import EARLIER_DOUBT, Prior
from bulkpull.export_durations import DELAY, ExportHistory, explained
from bulkpull.journal.reading import JournalReader, has_journal
from bulkpull.journal.timeline import Moment, decoded
from bulkpull.record import record
from bulkpull.store import MANIFEST_SUFFIX, ObjectUrl, WorkDirectory, manifest_path

_MAX_EXPORTS = 240  # the latest ones of a pull
_MAX_MANIFESTS = 3  # beside the output, the newest ones
_MAX_MANIFEST_BYTES = 32_000_000  # reading a larger one would delay the pull
_MAX_MOMENTS = 8 * _MAX_EXPORTS  # of a journal that are read


@record
class EarlierPull:
    """A pull of the same site.

    Args:
        name: Of its output.
        is_finished: Whether its output was published.
        seen_at: When its last export ended.
        prior: What a later pull may assume.
    """

    name: str
    is_finished: bool
    seen_at: datetime
    prior: Prior


def earlier_pull(
    out: str | os.PathLike[str], state: str | os.PathLike[str] | None, base_url: str
) -> EarlierPull | None:
    """Find a pull that has shown how long exports of a site take; None if there is none.

    It is, in this order, the unfinished pull to `out`, the pull that has written `out`, or one that has written another
    output into the same directory: the first of which exports have succeeded. Blocks on the disk, and changes nothing
    there; what cannot be read is passed over.

    Args:
        out: The output.
        state: The directory of the progress, if the output is in object storage.
        base_url: The site.
    """
    with suppress(OutputError, OSError):
        work = WorkDirectory.of(out, state)
        for found in (_unfinished(work, base_url), *_finished(_manifests(out, work), base_url)):
            if found:
                return found
    return None


def _unfinished(work: WorkDirectory, base_url: str) -> EarlierPull | None:
    with suppress(OutputError, ValueError, ArithmeticError):
        if not has_journal(work):
            return None
        with closing(JournalReader(work.journal)) as journal:
            if journal.options.get("base_url") != base_url:
                return None
            rows = {window.index: window.rows for window in journal.windows}
            name = work.path.name.removesuffix(".bulkpull")
            return _seen(name, journal.latest_moments(_MAX_MOMENTS), rows, is_finished=False)
    return None


def _manifests(out: str | os.PathLike[str], work: WorkDirectory) -> Iterator[Path]:
    """Yield the manifest of the output, then the newest ones beside it."""
    own = None if ObjectUrl.of(out) else manifest_path(Path(work.output))
    others = [path for path in work.path.parent.glob(f"*{MANIFEST_SUFFIX}") if path != own and path.is_file()]
    if own and own.is_file():
        yield own
    yield from sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[:_MAX_MANIFESTS]


def _finished(manifests: Iterable[Path], base_url: str) -> Iterator[EarlierPull | None]:
    for path in manifests:
        with suppress(OSError, ValueError, ArithmeticError, KeyError, TypeError):  # it may be damaged
            if path.stat().st_size > _MAX_MANIFEST_BYTES:
                continue
            manifest = orjson.loads(path.read_bytes())  # only these two members: checking all would take longer
            if manifest["source"] == base_url and (text := manifest["timeline"]):
                timeline = decoded(text)
                rows = {window.number: window.counted for window in timeline.windows}
                yield _seen(path.name.removesuffix(MANIFEST_SUFFIX), timeline.moments, rows, is_finished=True)


def _seen(
    name: str, moments: Sequence[Moment], rows: dict[int, int | None], *, is_finished: bool
) -> EarlierPull | None:
    """Return what the moments show of exports; None if none of those has succeeded."""
    launches = [at for at, moment in enumerate(moments) if moment.kind == "launched"]
    history, in_flight, seen_at = ExportHistory(), 0, 0.0
    for moment in moments[launches[-_MAX_EXPORTS] if len(launches) > _MAX_EXPORTS else 0 :]:
        at, window = moment.at, moment.window
        if moment.kind == "run":  # what is in flight then, is seen again after an unknown time
            history.exports = [one for one in history.exports if not one.is_pending]
        if window is None:
            continue
        match moment.kind:
            case "launched":
                history.launched(window, rows.get(window), at)
                in_flight = max(in_flight, len(history.pending))
            case "queued" | "running":
                history.seen(window, is_queued=moment.kind == "queued", now=at)
            case "ready" | "failed":
                for one in history.pending:
                    if one.index == window:  # it was polled shortly before, which is not recorded
                        one.unfinished_at = max(one.unfinished_at, at - DELAY * (at - one.launched_at))
                        one.queued_at = max(one.queued_at, moment.other or one.queued_at)
                history.ended(window, at, has_succeeded=moment.kind == "ready")
                seen_at = at
    found, durations = explained(history, seen_at, in_flight=in_flight)
    if durations is None:
        return None
    is_adaptive = any(moment.kind == "options" and moment.text for moment in moments)
    workers = found.workers
    if workers is None and is_adaptive and in_flight < len(rows):
        workers = in_flight  # the limit that the server was found to have
    prior = Prior(durations, workers, EARLIER_DOUBT)
    return EarlierPull(name, is_finished, datetime.fromtimestamp(seen_at, UTC), prior)
