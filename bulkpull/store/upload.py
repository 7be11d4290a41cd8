"""An upload that follows a file while it still grows, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bulkpull.errors import OutputError
from bulkpull.store.bucket import MAX_PARTS, PART_BYTES, Bucket, StoreError

_ATTEMPTS = 3  # each from the start of the file, which is on the disk
_PAUSE_S = 20.0  # before another attempt
_POLL_S = 0.2
_STALLED_S = 900.0  # without any part sent
_COMPLETE_S = 900.0  # for the last parts
_ABORT_S = 5.0


class _Aborted(Exception):  # noqa: N818 - not an error: the pull does not publish
    pass


class Upload:
    """The upload of the file at `path` to `key`, which appears at `complete`.

    Of the file, the first `size()` bytes do not change any more. The thread is a daemon, since a request to a server
    that does not answer cannot be interrupted.

    Args:
        bucket: Where to.
        key: Where to in the bucket.
        path: The file. It need not exist yet.
        size: Returns how many bytes are there; called in the thread.
        receipt: The object's receipt.
        content: The name of its format.
    """

    def __init__(
        self, bucket: Bucket, key: str, path: Path, size: Callable[[], int], *, receipt: str, content: str
    ) -> None:
        self._bucket, self._key, self._path, self._size = bucket, key, path, size
        self._receipt, self._content = receipt, content
        self._changed = threading.Condition()
        self._whole: int | None = None
        self._is_sent = False
        self._progress = 0
        self._may_complete: bool | None = None
        self._mode = "create"
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """The size of the whole file, once it is known."""
        assert self._whole is not None
        return self._whole

    def check(self) -> None:
        """Raise what ended the upload, if anything did."""
        if self._error:
            raise self._error

    def send_rest(self, checkpoint: Callable[[], None]) -> None:
        """Wait until all of the file, which is complete, is sent, except for the last parts.

        Args:
            checkpoint: Called several times a second; may raise to stop waiting.

        Raises:
            OutputError: The upload failed, or makes no progress.
        """
        with self._changed:
            self._whole = self._path.stat().st_size
            self._changed.notify_all()
            seen, since = self._progress, time.monotonic()
            while not self._is_sent:
                self.check()
                checkpoint()
                self._changed.wait(_POLL_S)
                if self._progress != seen:
                    seen, since = self._progress, time.monotonic()
                elif time.monotonic() - since > _STALLED_S:
                    raise self._stalled()

    def complete(self, *, overwrite: bool, checkpoint: Callable[[], None] = lambda: None) -> None:
        """Make the object visible.

        Args:
            overwrite: Whether an object that is there may be replaced. Without it, an object of a single part never
                replaces another.
            checkpoint: Called several times a second; may raise to stop waiting.

        Raises:
            AlreadyExists: There is an object.
            OutputError: The upload failed, or does not end in time.
        """
        with self._changed:
            self._may_complete, self._mode = True, "overwrite" if overwrite else "create"
            self._changed.notify_all()
        until = time.monotonic() + _COMPLETE_S
        while self._thread.is_alive():
            checkpoint()
            self._thread.join(_POLL_S)
            if time.monotonic() > until:
                raise self._stalled()
        self.check()

    def abort(self) -> None:
        """End the upload, so that nothing stays in the bucket if the server answers. A no-op if it has ended."""
        with self._changed:
            self._may_complete = self._may_complete or False
            self._changed.notify_all()
        if self._may_complete is False:
            self._thread.join(_ABORT_S)

    def _stalled(self) -> OutputError:
        return OutputError(
            f"cannot write to {self._bucket.url.bucket}/{self._key}: the storage takes no more data. Run the same "
            "command again later to resume"
        )

    # The thread

    def _run(self) -> None:
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return self._upload()
                except StoreError as error:
                    if error.is_permanent or attempt == _ATTEMPTS or self._may_complete is not None:
                        raise
                self._pause()
        except _Aborted:
            pass
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _upload(self) -> None:
        self._is_sent = False
        if self._wait_for(PART_BYTES + 1) > PART_BYTES:
            write = self._write_parts
        else:
            self._wait_until_complete()
            write = self._write_at_once
        try:
            write()
        except OutputError:  # the answer to a request that was carried out may have been lost
            if not self._may_complete or not self._is_visible():
                raise

    def _write_parts(self) -> None:
        self._bucket.put_parts(self._key, self._parts(), receipt=self._receipt, content=self._content)

    def _write_at_once(self) -> None:
        data = self._path.read_bytes()
        self._bucket.put(self._key, data, mode=self._mode, receipt=self._receipt, content=self._content)

    def _is_visible(self) -> bool:
        found = self._bucket.find(self._key)
        return found is not None and found.receipt == self._receipt

    def _parts(self) -> Iterator[bytes]:
        with self._path.open("rb", buffering=0) as file:
            position = 0
            for _ in range(MAX_PARTS):
                size = min(PART_BYTES, self._wait_for(position + PART_BYTES) - position)
                if size <= 0:
                    break
                part = file.read(size)
                position += len(part)
                yield part
                with self._changed:
                    self._progress += 1
            else:
                raise OutputError(
                    f"the output has more than {MAX_PARTS:,} parts of {PART_BYTES:,} bytes, which object storage "
                    "does not take. Compress it, or use --partition-by month"
                )
        self._wait_until_complete()

    def _wait_for(self, wanted: int) -> int:
        """Wait for so many bytes, or for the whole file; return how many there are."""
        with self._changed:
            while True:
                if self._may_complete is False:
                    raise _Aborted
                if self._whole is not None:
                    return self._whole
                if (size := self._size()) >= wanted:
                    return size
                self._changed.wait(_POLL_S)

    def _wait_until_complete(self) -> None:
        with self._changed:
            self._is_sent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._may_complete is not None)
            if not self._may_complete:
                raise _Aborted

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._may_complete is not None, _PAUSE_S)
            if self._may_complete is False:
                raise _Aborted
