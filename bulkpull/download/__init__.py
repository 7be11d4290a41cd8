"""Download: a link that can be renewed becomes one verified file on the disk.

    downloader = Downloader(source.download, source.retry, streams, verify, memory)
    downloaded = await downloader.download(link, path, checkpoints, progress, known)

The room knows nothing of windows, exports or the journal. What must survive a crash goes to `Checkpoints`; `Link` gives
the current link; `Progress` is told what happens and decides nothing.
"""

from bulkpull.download.downloader import Downloader, Verify, keep
from bulkpull.download.link import LinkSettings, link_opener, link_session, open_link
from bulkpull.download.protocols import (
    Checkpoints,
    Downloaded,
    FileMissingError,
    Link,
    Opener,
    Progress,
    Version,
)
from bulkpull.download.verify import verify_csv

__all__ = [
    "Checkpoints",
    "Downloaded",
    "Downloader",
    "FileMissingError",
    "Link",
    "LinkSettings",
    "Opener",
    "Progress",
    "Verify",
    "Version",
    "keep",
    "link_opener",
    "link_session",
    "open_link",
    "verify_csv",
]
