"""A live display that stays tidy when the terminal is resized."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from bulkpull.cli.screen import lines
from bulkpull.progress import Progress

_ERASED_LINE = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))


class LiveLines(Live):
    """Lines that are made anew at each refresh.

    Args:
        lines: Returns the lines for a width in cells; the second argument is whether they may be Unicode.
        console: The terminal.
        refreshes_per_second: None to refresh on demand only.
    """

    def __init__(
        self,
        lines: Callable[[int, bool], list[Text]],
        console: Console,
        *,
        refreshes_per_second: float | None = None,
    ) -> None:
        self._lines = _Lines(lines)
        super().__init__(
            self._lines,
            console=console,
            auto_refresh=refreshes_per_second is not None,
            refresh_per_second=refreshes_per_second or 1,
            vertical_overflow="crop",
        )

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Erase the lines that were drawn before, also where a terminal that became narrower has wrapped them."""
        width = max(1, self.console.width)
        wrapped = sum(max(0, cells - 1) // width for cells in self._lines.widths)
        processed = super().process_renderables(renderables)
        if wrapped and self.console.is_interactive:  # else nothing is erased
            processed.insert(1, Control(*_ERASED_LINE * wrapped))
        return processed


class LiveScreen(LiveLines):
    """The lines of a pull.

    Args:
        figures: Returns the figures of the pull.
        console: The terminal.
        refreshes_per_second: None to refresh on demand only.
        requests_per_minute: The request budget.
    """

    def __init__(
        self,
        figures: Callable[[], Progress],
        console: Console,
        *,
        refreshes_per_second: float | None = None,
        requests_per_minute: int | None = None,
    ) -> None:
        def of_pull(width: int, is_unicode: bool) -> list[Text]:
            return lines(figures(), width, is_unicode=is_unicode, requests_per_minute=requests_per_minute)

        super().__init__(of_pull, console, refreshes_per_second=refreshes_per_second)


class _Lines:
    """Lines, as rich renders them. `widths` are those of the lines that were drawn last, in cells."""

    def __init__(self, lines: Callable[[int, bool], list[Text]]) -> None:
        self.widths: list[int] = []
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # One cell stays free, since some terminals wrap when the last one is written.
        shown = self._lines(max(1, options.max_width - 1), is_unicode(console))
        self.widths = [cell_len(line.plain) for line in shown[: console.height]]
        yield Text("\n", no_wrap=True, end="").join(shown)


def is_unicode(console: Console) -> bool:
    """Return whether a console shows more than ASCII."""
    return console.encoding.startswith("utf")
