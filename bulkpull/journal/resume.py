"""Resume: what earlier runs of a pull have done, and whether the options are still the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from bulkpull.errors import UsageError
from bulkpull.events import Resumed
from bulkpull.journal.journal import Journal


def has_begun(journal: Journal, options: Mapping[str, str]) -> bool:
    """Whether an earlier run has recorded the plan. Blocks on the disk.

    Raises:
        UsageError: its options were others; the message names the differences.
        OutputError: the journal cannot be read.
    """
    recorded = journal.options
    differences = [
        f"{name.replace('_', ' ')} is {options.get(name) or '(none)'} instead of {recorded[name] or '(none)'}"
        for name in recorded
        if recorded[name] != options.get(name)
    ]
    if differences:
        raise UsageError(
            f"the pull to be resumed was started with {'; '.join(differences)}. Rerun with the original options, or "
            "discard the progress with --fresh"
        )
    return bool(recorded)


def resume(journal: Journal) -> Resumed | None:
    """Record that a run starts. Returns what it resumes, or None if no export was launched before. Blocks on the disk.

    Raises:
        OutputError: the journal cannot be read or written.
    """
    run = journal.start_run()
    if not journal.launches:
        return None
    by_window = journal.exports().values()
    newest = [exports[-1] for exports in by_window]
    parts = [part for exports in by_window for export in exports for part in export.parts]
    frontier = journal.frontier
    return Resumed(
        run=run,
        merged=frontier.windows,
        **asdict(frontier.figures),
        exports=journal.launches,
        exporting=sum(not export.has_succeeded for export in newest),
        exported=sum(export.has_succeeded for export in newest),
        whole=sum(part.size is not None for part in parts),
        half=sum(part.size is None and part.validator is not None for part in parts),
        skipped=len(journal.skipped),
        splits=journal.splits,
    )
