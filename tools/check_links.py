"""Check the links of a static site: pages, files and anchors that stand on it; of other hosts only the syntax."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Page(HTMLParser):
    """The anchors of a page, its links, and what it loads."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors |= {name for key in ("id", "name") if (name := attributes.get(key))}
        if (target := attributes.get("href")) and tag == "a":
            self.links.append(target)
        elif (target := attributes.get("href") or attributes.get("src")) and attributes.get("rel") != "canonical":
            self.loaded.append(target)


def check_links(site: Path) -> tuple[int, list[str]]:
    """Return the number of pages, and a line for each link that leads nowhere."""
    pages = {path: _parse(path) for path in site.rglob("*.html")}
    wrong = [
        f"{path.relative_to(site)}: {target}: {reason}"
        for path, page in pages.items()
        if path.name != "404.html"  # its links are relative to the page that is missing
        for target in page.links + page.loaded
        if (reason := _wrong(target, path, pages, is_loaded=target in page.loaded))
    ]
    return len(pages), wrong


def _parse(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _wrong(target: str, path: Path, pages: dict[Path, Page], *, is_loaded: bool) -> str:
    """Return why a link is wrong; empty if it is not."""
    parts = urlsplit(target)
    if parts.scheme in ("http", "https"):
        if is_loaded:
            return "is loaded from another host"
        return "" if parts.hostname and "." in parts.hostname else "has no host"
    if parts.scheme:
        return "" if parts.scheme in ("mailto", "data") else "has an unknown scheme"
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not file.is_file():
        return "does not exist"
    if parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].anchors:
        return "has no such anchor"
    return ""
