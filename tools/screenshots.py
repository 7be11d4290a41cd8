"""Take pictures of pulls in a terminal: each runs in tmux against a sandbox, and the screen becomes an SVG.

    python -m tools.screenshots [NAME ...] [--columns 80] [--text] [--resize 40 120]

With `--text` the screens are printed, and nothing is written. With `--resize` the terminal then gets other widths, one
after the other, while the pull runs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from bulkpull.sandbox.process import SandboxProcess, sandbox_process

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "assets"
TIMEOUT_S = 180.0
COLUMNS = 80
RESIZED_S = 2.5  # after which the screen is taken
# rich's own format, which would load a font from another host.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace("Fira Code", "Menlo")
RANGE = "--start 2024-01-01 --end 2026-01-01 --out activity.csv"


@dataclass(frozen=True, slots=True)
class Scene:
    """A pull: the options of its sandbox and its own, and the words after which the screen is taken, some seconds
    later."""

    title: str
    sandbox: str
    pull: str
    words: str
    seconds: float
    command: str = "pull"


SCENES = {
    "normal": Scene(
        "a pull",
        "--rows 400000 --workers 8 --export-seconds 5",
        "--rows-per-export 8000",
        "left",
        4,
    ),
    "outage": Scene(
        "an outage",
        "--rows 100000 --workers 8 --export-seconds 4 --faults outage:1 --fault-seconds 20",
        "--rows-per-export 4000",
        "retrying",
        6,
    ),
    "quota": Scene(
        "the request budget is used up",
        "--rows 100000 --workers 16 --export-seconds 2",
        "--rows-per-export 2000 --requests-per-minute 60",
        "next request in",
        3,
    ),
    "stall": Scene(
        "exports that hang",
        "--rows 100000 --workers 8 --export-seconds 1.5 --faults export-never-ends:1",
        "--rows-per-export 4000 --export-timeout 600",
        "waiting for",
        25,
    ),
    "end": Scene("the end", "--rows 100000 --workers 8 --export-seconds 1", "--rows-per-export 8000", "rows in", 0.5),
    "watch": Scene(
        "bulkpull status --watch",
        "--rows 400000 --workers 8 --export-seconds 5",
        "--rows-per-export 8000",
        "left",
        8,
        command="watch",
    ),
    "watched-quota": Scene(
        "bulkpull status --watch",
        "--rows 100000 --workers 16 --export-seconds 2",
        "--rows-per-export 2000 --requests-per-minute 60",
        "next request in",
        3,
        command="watch",
    ),
}


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENES)}")
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--text", action="store_true", help="print the screens")
    parser.add_argument("--resize", type=int, nargs="*", default=[], metavar="COLUMNS", help="with --text")
    options = parser.parse_args()
    for name in options.names or SCENES:
        scene = SCENES[name]
        with sandbox_process(*scene.sandbox.split()) as sandbox:
            screens = screens_of(scene, sandbox, [options.columns, *options.resize])
        if options.text:
            for columns, shown in zip([options.columns, *options.resize], screens, strict=True):
                print(f"--- {name}, {columns} columns\n{Text.from_ansi(shown).plain}")
            continue
        path = PICTURES / (f"terminal-{name}.svg" if options.columns == COLUMNS else f"terminal-{name}-wide.svg")
        path.write_text(picture(scene, screens[0], options.columns), encoding="utf-8")
        print(f"{path}: {path.stat().st_size:,} bytes")


def screens_of(scene: Scene, sandbox: SandboxProcess, widths: Sequence[int]) -> list[str]:
    """Run the scene in tmux; return its screen at each of the widths, with escape sequences."""
    with tempfile.TemporaryDirectory() as directory:
        socket = str(Path(directory) / "tmux")

        def tmux(*arguments: str) -> str:
            command = ["tmux", "-S", socket, "-f", os.devnull, *arguments]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603

        pull = f"bulkpull pull {RANGE} {scene.pull}"
        typed = pull if scene.command == "pull" else "bulkpull status activity.csv --watch"
        variables = {"BULKPULL_BASE_URL": sandbox.url, "BULKPULL_TOKEN": sandbox.token, "PYTHONPATH": str(ROOT)}
        variables |= {"PS1": "$ ", "HISTFILE": os.devnull}
        setting = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        shell = ("bash", "--norc", "--noprofile")
        tmux(
            "start-server",
            ";",
            "set",
            "-g",
            "default-terminal",
            "xterm-256color",
            ";",
            "new-session",
            "-d",
            "-x",
            str(widths[0]),
            "-y",
            "30",
            "-c",
            directory,
            *setting,
            *shell,
        )
        try:
            tmux("send-keys", f'bulkpull() {{ {sys.executable} -m bulkpull "$@"; }}; clear', "Enter")
            if scene.command == "watch":
                tmux("new-window", "-d", "-c", directory, *setting, *shell, "-c", f"{sys.executable} -m {pull}")
                _wait(lambda: (Path(directory) / "activity.csv.bulkpull" / "journal.sqlite").exists())
                time.sleep(3)
            time.sleep(1)
            tmux("send-keys", typed, "Enter")
            _wait(lambda: scene.words in " ".join(tmux("capture-pane", "-p").split("\n")[1:]))
            time.sleep(scene.seconds)
            screens: list[str] = []
            for width in widths:
                if screens:
                    tmux("resize-window", "-x", str(width), "-y", "30")
                    time.sleep(RESIZED_S)
                screens.append(tmux("capture-pane", "-e", "-p").rstrip().replace(f"{Path(directory).resolve()}/", ""))
            return screens
        finally:
            tmux("kill-server")


def _wait(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError("the screen did not come")
        time.sleep(0.2)


def picture(scene: Scene, shown: str, columns: int) -> str:
    """Return a screen as an SVG."""
    console = Console(record=True, width=columns, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(shown), soft_wrap=True)
    return console.export_svg(title=scene.title, code_format=FORMAT, unique_id="terminal")


if __name__ == "__main__":
    main()
