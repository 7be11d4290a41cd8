"""Take a picture of `make demo`: run it in a terminal, and write what it shows, during and at the end, as an SVG."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from itertools import groupby
from pathlib import Path

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "assets" / "demo.svg"
COLUMNS, LINES = 110, 60
BAR = "━"  # what rich draws progress with
SHOWN_PERCENT = 60  # of the pull are done in the frame that is shown
END = "The first lines of the output:"  # what follows are rows, wider than a terminal
# rich's own format, which would load a font from another host.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace("Fira Code", "Menlo")


def main() -> None:
    """Run the demo, and write docs/assets/demo.svg."""
    screen = pyte.Screen(COLUMNS, LINES)
    with tempfile.TemporaryDirectory() as directory:
        frames = _run(screen, Path(directory))
        end = _lines(screen, Path(directory).resolve())
    running = min(frames, key=lambda frame: abs(_percent(frame) - SHOWN_PERCENT))
    shown = [*running, Text("..."), *(line for line in end if line not in running)]
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    for line in shown:
        console.print(line, soft_wrap=True)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(console.export_svg(title="make demo", code_format=FORMAT, unique_id="demo"), encoding="utf-8")
    print(PICTURE)


def _run(screen: pyte.Screen, directory: Path) -> list[list[Text]]:
    """Run the demo in a pseudo-terminal that `screen` shows; return the frames that show progress.

    Raises CalledProcessError if it fails.
    """
    stream = pyte.ByteStream(screen)
    mine, its = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "bulkpull.sandbox.demo"]
    frames = []
    with subprocess.Popen(command, cwd=directory, env=environment, stdin=its, stdout=its, stderr=its) as demo:  # noqa: S603
        os.close(its)
        with suppress(OSError):  # how Linux tells that the other side is closed
            while data := os.read(mine, 65536):
                stream.feed(data)
                if any(BAR in line for line in screen.display):
                    frames.append(_lines(screen, directory))
    os.close(mine)
    if demo.returncode:
        raise subprocess.CalledProcessError(demo.returncode, command)
    return frames


def _percent(frame: Sequence[Text]) -> int:
    found = re.search(rf"{BAR} +(\d+)%", "\n".join(line.plain for line in frame))
    return int(found[1]) if found else 0


def _lines(screen: pyte.Screen, directory: Path) -> list[Text]:
    """Return what is on the screen up to `END`, with its colours; the directory that it ran in becomes `~`."""
    lines = []
    for number, plain in enumerate(screen.display):
        if plain.rstrip() == END:
            break
        line = Text()
        for style, cells in groupby((screen.buffer[number][column] for column in range(screen.columns)), _style):
            line.append("".join(cell.data for cell in cells), style)
        line.rstrip()
        if (at := line.plain.find(f"{directory}/")) >= 0:
            line = line[:at] + Text("~/") + line[at + len(f"{directory}/") :]
        lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _style(cell: pyte.screens.Char) -> Style:
    name = cell.fg.replace("brown", "yellow").replace("bright", "bright_")
    colour = None if name == "default" else f"#{name}" if re.fullmatch(r"[0-9a-f]{6}", name) else name
    return Style(color=colour, bold=cell.bold)


if __name__ == "__main__":
    main()
