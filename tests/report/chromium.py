"""A report in Chromium: no errors, no requests, nothing wider than the screen. Run by `make soak`.

`python -m tests.report.chromium REPORT.html DIRECTORY` saves its pictures in both themes at three widths.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from bulkpull.journal import Timeline
from bulkpull.report import report_page
from tests.report.made import Made

SECONDS = 60.0
WIDTHS = (400, 800, 1400)
THEMES = ("light", "dark")
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run")
_SIZE = """[
    document.documentElement.scrollWidth,
    document.documentElement.scrollHeight,
    document.querySelectorAll("svg").length,
]"""


class Page:
    """A page of Chromium, over its DevTools protocol. `heard` are its messages that answer nothing."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.heard: list[dict[str, Any]] = []

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": arguments})
        while (message := await self._socket.receive_json(timeout=SECONDS)).get("id") != number:
            self.heard.append(message)
        assert "error" not in message, message
        return dict(message["result"])

    async def open(self, address: str) -> None:
        for domain in ("Page", "Network", "Log", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=address)
        while not any(message["method"] == "Page.loadEventFired" for message in self.heard):
            self.heard.append(await self._socket.receive_json(timeout=SECONDS))

    async def show(self, width: int, theme: str) -> tuple[int, int, int]:
        """Show the page at a width in a theme; returns its width and height, and the number of its charts."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        found = await self.call("Runtime.evaluate", expression=_SIZE, returnByValue=True)
        right, bottom, charts = found["result"]["value"]
        return right, bottom, charts

    async def picture(self, height: int, width: int) -> bytes:
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(found["data"])


@asynccontextmanager
async def chromium() -> AsyncIterator[Page]:
    """Start Chromium with an empty page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            "chromium", *_OPTIONS, f"--user-data-dir={profile}", "about:blank", stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as session:
                port_file = Path(profile, "DevToolsActivePort")
                while not port_file.exists() or not port_file.read_text().count("\n"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                port = port_file.read_text().splitlines()[0]
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    [target] = [one for one in await answer.json() if one["type"] == "page"]
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            await process.wait()


def many() -> Timeline:
    """A pull with a bit of everything."""
    made = Made(1000, exports=20)
    for window in range(1000):
        launched = window // 20 * 60.0 + window % 20 * 0.2
        ready = launched + 30 + window * 7 % 29
        if window % 90 == 7:
            made.export(window, launched, ready - 20, failed="Export failed: see https://example.com/reason")
            launched = ready - 19
        made.export(window, launched, ready, running=launched + 5, downloading=ready + 1, downloaded=ready + 3)
        made.add(launched, "traffic", None, 5, 10_000)
        made.merge(window, launched + 62, launched + 63)
    made.add(3200.0, "ended", None, 1)
    return made.timeline()


async def test_a_report_loads_nothing_logs_nothing_and_fits(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(report_page(many(), Path("activity.csv")), encoding="utf-8")
    async with chromium() as page:
        await page.open(report.as_uri())
        pictures = set()
        for width, theme in itertools.product(WIDTHS, THEMES):
            right, bottom, charts = await page.show(width, theme)
            assert right <= width
            assert charts == 8
            pictures.add(await page.picture(bottom, width))
        assert len(pictures) == len(WIDTHS) * len(THEMES)
        methods = [message["method"] for message in page.heard]
        requested = [
            message["params"]["request"]["url"]
            for message in page.heard
            if message["method"] == "Network.requestWillBeSent"
        ]
    assert requested == [report.as_uri()]
    assert not {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"} & set(methods)


async def _save(report: Path, directory: Path) -> None:
    async with chromium() as page:
        await page.open(report.absolute().as_uri())
        for width, theme in itertools.product(WIDTHS, THEMES):
            _, height, _ = await page.show(width, theme)
            (directory / f"{report.stem}-{width}-{theme}.png").write_bytes(await page.picture(height, width))


if __name__ == "__main__":
    asyncio.run(_save(Path(sys.argv[1]), Path(sys.argv[2])))
