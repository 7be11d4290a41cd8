"""Modes: permanent misbehaviour of the sandbox, as opposed to the random faults in `faults.KINDS`."""

from __future__ import annotations

from bulkpull.record import record


@record
class Mode:
    """A mode: its meaning, and the default of its value N, if it has one. A profile sets N with `kind:N`."""

    meaning: str
    default: int | None = None


MODES: dict[str, dict[str, Mode]] = {
    "counts": {
        "counts-capped": Mode("total_count is at most N", 10_000),
        "counts-zero": Mode("total_count is always 0"),
        "counts-stale": Mode("the first N counts are half of the right number", 1),
        "counts-lag": Mode("counts omit the newest N percent of all activities", 10),
        "counts-text": Mode('total_count is a string: "3"'),
        "counts-float": Mode("total_count is a float: 3.0"),
        "counts-negative": Mode("total_count is always -1"),
        "counts-null": Mode("total_count is null"),
        "counts-over": Mode("counts are too high by N", 3),
        "counts-under": Mode("counts are too low by N, but not below 0", 3),
        "counts-refused-after": Mode("counting is refused with 403 after N counts", 3),
    },
    "launches": {
        "launch-refused-200": Mode("with N exports in flight, a launch gets 200 and an error object", 2),
        "launch-refused-400": Mode("with N exports in flight, a launch gets 400", 2),
        "launch-refused-403": Mode("with N exports in flight, a launch gets 403", 2),
        "launch-refused-409": Mode("with N exports in flight, a launch gets 409", 2),
        "launch-refused-429": Mode("with N exports in flight, a launch gets 429", 2),
        "launch-refused-503": Mode("with N exports in flight, a launch gets 503", 2),
        "launch-slow": Mode("the response to a launch is delayed by N seconds; the export starts at once", 2),
    },
    "ids": {
        "odd-ids": Mode("export ids look like gid://shop/BulkOperation/1?x=1"),
    },
    "polls": {
        "status-202": Mode("polls of a running export get 202 without a status"),
        "status-204": Mode("polls of a running export get 204"),
        "status-404-first": Mode("the first N polls of an export get 404", 1),
        "status-409": Mode("polls of a running export get 409"),
        "status-425": Mode("polls of a running export get 425"),
        "retry-after-day-429": Mode("every poll gets 429 with Retry-After: 86400"),
        "retry-after-day-503": Mode("every poll gets 503 with Retry-After: 86400"),
    },
    "words": {
        "status-words": Mode("statuses use the words of other systems: Done, completed, FAILED, canceled, queued, ..."),
        "status-unknown": Mode("an export with links has an unknown status, and is not active"),
    },
    "links": {
        "links-late": Mode("the first N successful polls have no links (absent, null or an empty list)", 1),
        "links-never": Mode("the first N exports succeed, but never have links", 1),
        "status-flaps": Mode("the first successful poll has no links, and the next returns started"),
    },
    "ends": {
        "export-pending-first": Mode("the first export stays pending"),
        "export-pending-all": Mode("every export stays pending"),
        "export-fails-once": Mode("the first export of each of the first N filters fails", 1),
        "too-many-records": Mode("an export of more than N rows fails with that message", 1000),
        "poisoned-instant": Mode("an export that includes the instant of the middle activity fails"),
    },
    "rows": {
        "rows-capped": Mode("an export silently delivers at most N rows", 1000),
        "late-rows": Mode("the first export of a filter lacks its last N activities", 3),
        "rows-of-another": Mode("the first export of each of N filters has the rows of the first filter", 1),
    },
    "empty": {
        "empty-file-zero": Mode("an export without rows has an empty file"),
        "empty-file-newline": Mode("an export without rows has a file with only a newline"),
        "empty-file-bom": Mode("an export without rows has a file with only a byte order mark"),
    },
    "damage": {
        "damaged-once": Mode("one file of the first export is damaged in the first download"),
        "damaged-always": Mode("one file of the first export is damaged in every download"),
    },
    "headers": {
        "headers-long": Mode("API responses have a Content-Security-Policy header of 12 KB"),
    },
    "breaks": {
        "cut-first": Mode("the first N downloads of each file are cut off in the middle", 1),
        "cut-all": Mode("every download of a file is cut off in the middle"),
    },
    "ranges": {
        "range-403": Mode("range requests get 403"),
        "range-405": Mode("range requests get 405"),
        "range-500": Mode("range requests get 500"),
        "range-503-day": Mode("range requests get 503 with Retry-After: 86400"),
        "range-empty": Mode("range requests get 200 and an empty body"),
        "range-416": Mode("range requests get 416 without Content-Range"),
        "range-416-wrong": Mode("range requests get 416 with a wrong length"),
        "range-unsaid": Mode("range requests get 206 without Content-Range"),
        "range-broken": Mode("range requests get 206 with a malformed Content-Range"),
        "range-wrong": Mode("range requests get 206 with a wrong Content-Range"),
    },
    "etags": {
        "etag-changes": Mode("every download of a file has another ETag"),
        "etag-weak": Mode("files have weak ETags"),
        "etag-none": Mode("files have no ETag"),
    },
    "labels": {
        "label-utf-8": Mode("files are not encoded, but have Content-Encoding: UTF8"),
        "label-binary": Mode("files are not encoded, but have Content-Encoding: binary"),
        "label-none": Mode("files are not encoded, but have Content-Encoding: none"),
        "label-aws-chunked": Mode("files are not encoded, but have Content-Encoding: aws-chunked"),
        "label-gzip": Mode("files are not encoded, but have Content-Encoding: gzip"),
        "body-gzip": Mode("files are compressed with gzip"),
        "body-gzip-unlabelled": Mode("files are compressed with gzip, without Content-Encoding"),
        "body-gzip-members": Mode("files are gzip with two members and padding, Content-Encoding: aws-chunked,gzip"),
        "body-deflate": Mode("files are compressed with deflate (zlib format)"),
        "body-deflate-raw": Mode("files are compressed with deflate (raw)"),
        "body-zstd": Mode("files are compressed with zstd"),
        "body-zstd-unlabelled": Mode("files are compressed with zstd, without Content-Encoding"),
        "body-zip": Mode("files are ZIP archives"),
        "body-br": Mode("files have Content-Encoding: br"),
    },
    "framing": {
        "until-close": Mode("files are sent with HTTP/1.0 without a length, until the connection is closed"),
        "chunked": Mode("files are sent in chunks, without a length"),
    },
    "readiness": {
        "preparing": Mode("the first N requests for a file get 202 and JSON", 1),
        "preparing-200": Mode("the first N requests for a file get 200 and JSON", 1),
        "not-found-first": Mode("the first N requests for a file get 404", 2),
        "file-retry-after-day": Mode("every request for a file gets 503 with Retry-After: 86400"),
        "never-ready": Mode("every request for a file gets 202 and JSON"),
    },
    "urls": {
        "link-odd-characters": Mode(
            "links contain an unencoded space and umlaut in their query, and get 400 if requested unencoded"
        ),
        "redirect-odd-characters": Mode("links redirect to URLs with an unencoded space and umlaut in their query"),
    },
    "file-headers": {
        "file-headers-long": Mode("downloads have a Content-Security-Policy header of N bytes", 12_000),
    },
}

# The modes that the profiles `everything` and `odd` draw, with their possible values; at most one mode per group. Every
# mode is in exactly one of HARMLESS, COSTLY and FATAL.
HARMLESS: dict[str, tuple[int, ...]] = {  # a pull is complete and needs no additional exports
    "counts-text": (),
    "counts-float": (),
    "counts-null": (),
    "counts-refused-after": (1, 5),
    "launch-slow": (1,),
    "odd-ids": (),
    "status-202": (),
    "status-204": (),
    "status-404-first": (1, 2),
    "status-409": (),
    "status-425": (),
    "status-words": (),
    "status-unknown": (),
    "links-late": (1, 2),
    "status-flaps": (),
    "empty-file-zero": (),
    "empty-file-newline": (),
    "empty-file-bom": (),
    "damaged-once": (),
    "headers-long": (),
    "cut-first": (1, 2),
    "range-403": (),
    "range-405": (),
    "range-500": (),
    "range-503-day": (),
    "range-empty": (),
    "range-416": (),
    "range-416-wrong": (),
    "range-unsaid": (),
    "range-broken": (),
    "range-wrong": (),
    "etag-changes": (),
    "etag-weak": (),
    "etag-none": (),
    "label-utf-8": (),
    "label-binary": (),
    "label-none": (),
    "label-aws-chunked": (),
    "label-gzip": (),
    "body-gzip": (),
    "body-gzip-unlabelled": (),
    "body-gzip-members": (),
    "body-deflate": (),
    "body-deflate-raw": (),
    "body-zstd": (),
    "body-zstd-unlabelled": (),
    "body-zip": (),
    "until-close": (),
    "chunked": (),
    "preparing": (1, 2),
    "not-found-first": (1, 2),
    "link-odd-characters": (),
    "redirect-odd-characters": (),
    "file-headers-long": (12_000, 60_000),
}
COSTLY: dict[str, tuple[int, ...]] = {  # a pull is complete, but may need additional exports: drawn by `odd` only
    "counts-capped": (100, 1000),
    "counts-zero": (),
    "counts-stale": (1, 3),
    "counts-lag": (10, 50),
    "counts-negative": (),
    "counts-over": (1, 20),
    "counts-under": (1, 20),
    "launch-refused-200": (1, 2),
    "launch-refused-400": (1, 2),
    "launch-refused-403": (1, 2),
    "launch-refused-409": (1, 2),
    "launch-refused-429": (1, 2),
    "launch-refused-503": (1, 2),
    "links-never": (1,),
    "export-pending-first": (),
    "export-fails-once": (1, 5),
    "too-many-records": (300,),
    "rows-capped": (300,),
    "late-rows": (3,),
    "rows-of-another": (1, 2),
    "damaged-always": (),
    "preparing-200": (1,),
}
# A pull fails, or reports its output as incomplete: never drawn.
FATAL = frozenset(
    {
        "retry-after-day-429",
        "retry-after-day-503",
        "export-pending-all",
        "poisoned-instant",
        "cut-all",
        "body-br",
        "file-retry-after-day",
        "never-ready",
    }
)
