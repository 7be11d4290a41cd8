"""A transfer: one stream from a host to a file, retried and resumed until it is complete."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

import anyio

from bulkpull.download.budget import PROGRESS_BYTES, Pause, RetryBudget
from bulkpull.download.file import PartialFile
from bulkpull.download.host import PromisedLengths, RangeSupport
from bulkpull.download.protocols import Link, Opener, Progress, Version
from bulkpull.errors import (
    FileNotReadyError,
    LinkExpiredError,
    MalformedPartError,
    PartError,
    RangeRefusedError,
    TransferError,
)
from bulkpull.record import record
from bulkpull.retry import RetryPolicy
from bulkpull.source import Body

MAX_CONFIRMATIONS = 4  # requests for more of a file that may be truncated
SLOW_SECONDS = 60.0  # in which PROGRESS_BYTES must arrive, unless the retry policy allows longer
END_OF_FILE = sys.maxsize


class SegmentRefused(Exception):  # noqa: N818 - never leaves the room: the file is downloaded as one stream then
    """The host does not serve the file in segments, or serves another version of it."""


@record
class Job:
    """What all transfers of one download share."""

    opener: Opener
    link: Link
    progress: Progress
    retry: RetryPolicy


class Transfer:
    """Downloads bytes to a `file`, up to byte `end`; without an end, all that there are.

    A transfer that starts or ends within the file is a segment: it cannot start over.
    """

    def __init__(self, job: Job, file: PartialFile, end: int = END_OF_FILE) -> None:
        self.file = file
        self._job = job
        self._end = END_OF_FILE
        self._link = ""  # the one used last
        self._is_complete = False
        self._is_end_confirmed = False
        self._budget = RetryBudget(job.retry, file.offset)
        self._ranges = RangeSupport()
        self._promised = PromisedLengths()
        self.limit_to(end)

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    @property
    def is_segment(self) -> bool:
        return self.file.start > 0 or self._end < END_OF_FILE

    def limit_to(self, end: int) -> None:
        """Stop at byte `end`, even if the transfer is running."""
        self._end = end
        self._is_complete = self.file.offset >= end

    async def run(self) -> None:
        """Download until the transfer is complete.

        Raises:
            FileMissingError: The host does not have the file.
            MalformedPartError: What the host sends does not decompress, repeatedly.
            PartError: The file could not be downloaded within the retry policy.
            SegmentRefused: The segment could not be downloaded as such.
        """
        while not self._is_complete:
            if self.file.offset and self.file.offset == self.file.version.length:
                self._is_complete = True
                return
            try:
                await self._request()
            except FileNotReadyError as error:
                self._budget.record_progress(self.file.offset)
                await self._pause(self._budget.after_missing(error), error)
            except TransferError as error:
                self._budget.record_progress(self.file.offset)
                await self._pause(self._budget.after_failure(error), error)

    async def reject(self, error: MalformedPartError) -> None:
        """Discard a file that is malformed, and wait before it is downloaded again.

        Raises:
            MalformedPartError: It was malformed too often.
        """
        pause = self._budget.after_malformed(error)
        await self._restart(Version())
        self._is_complete = False
        self._promised.clear()
        await self._job.link.get(expired=self._link)
        await self._pause(pause, error)

    # One request

    async def _request(self) -> None:
        """Send one request, and one more where the end is in doubt. Raises TransferError to be retried after a wait."""
        before, version = self.file.offset, self.file.version
        can_resume = bool(before and version.validator and self._ranges.works)
        is_probe = can_resume and self._ranges.should_probe
        is_ranged = can_resume and not is_probe
        self._link = await self._job.link.get()
        try:
            async with self._job.opener(
                self._link, offset=before if is_ranged else 0, validator=version.validator if is_ranged else None
            ) as body:
                if is_probe and not body.is_empty:
                    self._ranges.record_probe()
                    return
                is_doubtful = await self._receive(body, is_ranged=is_ranged)
            await self._confirm_end(is_doubtful)
            self._is_complete = True
        except MalformedPartError as error:
            await self.reject(error)
        except LinkExpiredError as error:
            if is_ranged:
                self._record_range_failure()
            await self._renew(error)
        except RangeRefusedError as error:
            if not is_ranged:
                raise
            self._give_up_ranges()
            self._job.progress.retried(self._budget.next_attempt, 0.0, str(error))
        except TransferError as error:
            if self.file.offset > before or is_probe:
                self._ranges.record_success()
            elif is_ranged:
                self._record_range_failure()
            if not is_ranged or error.wait <= self._job.retry.seconds:
                raise
            self._ranges.suspect()  # the host may ask for this wait before ranges only
            self._job.progress.retried(self._budget.next_attempt, 0.0, str(error))

    async def _receive(self, body: Body, *, is_ranged: bool) -> bool:
        """Write a body to the file. Returns whether it is in doubt that it was all of the file. Raises TransferError if
        it certainly was not."""
        file = self.file
        if body.offset:
            self._check_range(body)
            file.expect(body.length)
            if body.is_empty:  # there is nothing behind the last byte
                return False
        elif file.offset and body.is_empty:
            reason = f"empty body after {file.offset} bytes of the file"
            raise RangeRefusedError(reason) if is_ranged else TransferError(reason)
        else:
            await self._restart(Version(body.validator, body.length))
        await self._write(body)
        if file.offset >= self._end:
            return False
        length = file.version.length
        if length is not None and file.offset != length:
            if file.offset > length:
                raise RangeRefusedError(f"oversized download: {file.offset} of {length} bytes")
            raise TransferError(_truncated(file.offset, length))
        if body.offset:
            return False
        if promised := self._promised.contradict(file.version, file.offset):
            file.expect(promised)
            raise TransferError(_truncated(file.offset, promised))
        # A proxy may have truncated the body together with its length. If records end where it ends, that cannot be
        # seen, and the host is not asked.
        return not self._is_end_confirmed and not body.is_checked and (file.ends_mid_line or not body.is_framed)

    def _check_range(self, body: Body) -> None:
        """Raise RangeRefusedError unless the body continues the file. Some hosts ignore If-Range, and serve a range of
        another version, or the end of one."""
        file = self.file
        length = file.version.length
        is_same = body.validator == file.version.validator or (body.is_empty and body.validator is None)
        if not is_same or body.offset != file.offset or length not in (None, body.length or length):
            raise RangeRefusedError("the host sent a range of another version of the file, or another range")

    async def _write(self, body: Body) -> None:
        file = self.file
        if body.receive_into:
            body.receive_into(file.room)
        speed = _MinimumSpeed(self._job.retry.seconds)
        try:
            async for chunk in body.chunks:
                speed.check(len(chunk))
                if not chunk:
                    continue
                self._job.progress.received(len(chunk))
                room = max(0, self._end - file.offset)
                await file.append(chunk[:room])
                if len(chunk) > room:
                    break
        except TransferError:
            await file.flush()
            raise
        await file.flush(is_last=True)

    async def _restart(self, version: Version) -> None:
        if self.is_segment:
            raise SegmentRefused
        if self.file.offset:
            self._budget.record_restart()
        self._promised.record(self.file.version)
        await self.file.restart(version)

    # The end of the file

    async def _confirm_end(self, is_doubtful: bool) -> None:
        """Download what the host has behind a doubtful end. Only an answer that breaks off is an error."""
        for _ in range(MAX_CONFIRMATIONS):
            if not is_doubtful:
                return
            async with AsyncExitStack() as stack:
                body = await self._open_more(stack)
                self._is_end_confirmed = body is None
                if body is None:
                    return
                self.file.expect(body.length)
                is_doubtful = await self._receive(body, is_ranged=False)

    async def _open_more(self, stack: AsyncExitStack) -> Body | None:
        """Return a body that holds more of the file than has arrived, or proves that it is all of it, if the host has
        one. An answer that says nothing about the end is not taken for its confirmation: the host is asked again."""
        file = self.file
        validator = file.version.validator
        offset = file.offset if validator and self._ranges.works else 0  # 0: the length of the whole file tells
        for attempt in range(1, MAX_CONFIRMATIONS + 1):
            try:
                body = await stack.enter_async_context(self._job.opener(self._link, offset=offset, validator=validator))
            except LinkExpiredError:
                self._link = await self._job.link.get(expired=self._link)
            except RangeRefusedError:
                offset = 0
                continue
            except PartError:
                pass
            else:
                # A whole file may have another ETag and still be the same: some hosts change it with each answer.
                is_same = body.offset == 0 or (body.offset == file.offset and body.validator == validator)
                is_more = is_same and not body.is_empty and (body.length or 0) > file.offset
                if is_more or (body.offset == 0 and body.is_checked):
                    return body
                is_end = body.offset == file.offset if body.is_empty else is_same and body.length in (None, file.offset)
                if is_end:
                    return None
                await stack.aclose()  # frees the connection
                offset = 0
            await anyio.sleep(self._job.retry.backoff(attempt))
        return None

    # Failures

    def _record_range_failure(self) -> None:
        self._ranges.record_failure()
        if self.is_segment and self._ranges.is_suspect:
            raise SegmentRefused

    def _give_up_ranges(self) -> None:
        """Download the whole file. What arrived before is discarded once that starts."""
        if self.is_segment:
            raise SegmentRefused
        self._ranges.give_up()

    async def _renew(self, error: LinkExpiredError) -> None:
        await anyio.sleep(self._budget.after_expiry(error))
        self._link = await self._job.link.get(expired=self._link)

    async def _pause(self, pause: Pause, error: PartError) -> None:
        self._job.progress.retried(pause.attempt, pause.wait, str(error))
        await anyio.sleep(pause.wait)


def _truncated(size: int, length: int) -> str:
    return f"truncated download: {size} of {length} bytes"


class _MinimumSpeed:
    """A limit below which a transfer counts as broken."""

    def __init__(self, seconds: float) -> None:
        self._seconds = max(seconds, SLOW_SECONDS)
        self._bytes = 0
        self._since = anyio.current_time()

    def check(self, size: int) -> None:
        """Record received bytes. Raises TransferError if there were too few."""
        now = anyio.current_time()
        self._bytes += size
        if self._bytes >= PROGRESS_BYTES:
            self._bytes, self._since = 0, now
        elif now - self._since > self._seconds:
            raise TransferError(f"transfer too slow: {self._bytes} bytes in {now - self._since:.0f} s")
