"""Resume: what earlier runs of a pull have done, held against what is asked for now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from bulkpull.errors import UsageError
from bulkpull.events import Resumed
from bulkpull.journal.journal import Journal


def has_begun(journal: Journal, options: Mapping[str, str]) -> bool:
    """Whether an earlier run has planned the pull.

    Raises UsageError, naming the differences, where it was asked for something else; OutputError.
    """
    recorded = journal.options
    differences = [
        f"{name.replace('_', ' ')} {recorded[name] or '(none)'!s}, and now {options[name] or '(none)'}"
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
    """A run starts: what there is to go on with, or None where no export was launched yet. Raises OutputError."""
    run = journal.start_run()
    if not journal.launches:
        return None
    by_window = journal.exports().values()
    exports = [of_window[-1] for of_window in by_window]
    parts = [part for of_window in by_window for export in of_window for part in export.parts]
    frontier = journal.frontier
    return Resumed(
        run=run,
        merged=frontier.windows,
        **asdict(frontier.figures),
        exports=journal.launches,
        exporting=sum(not export.exported for export in exports),
        exported=sum(export.exported for export in exports),
        whole=sum(part.size is not None for part in parts),
        half=sum(part.size is None and part.validator is not None for part in parts),
        skipped=len(journal.skipped),
        splits=journal.splits,
    )
