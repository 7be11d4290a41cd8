"""Modes: how a server is all the time, where a fault of `KINDS` strikes now and then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mode:
    """What a mode means. Where that speaks of N, a profile may give N as `kind:N`; otherwise N is `default`."""

    meaning: str
    default: int | None = None


MODES: dict[str, dict[str, Mode]] = {
    "counts": {
        "counts-capped": Mode("total_count never says more than N", 10_000),
        "counts-zero": Mode("total_count is 0 for everything"),
        "counts-stale": Mode("the first N counts say half", 1),
        "counts-lag": Mode("the newest N percent of all activities are not counted", 10),
        "counts-text": Mode('total_count is text: "3"'),
        "counts-float": Mode("total_count is a decimal number: 3.0"),
        "counts-negative": Mode("total_count is -1 for everything"),
        "counts-null": Mode("total_count is null"),
        "counts-over": Mode("counts say N more than there are", 3),
        "counts-under": Mode("counts say N fewer than there are, though not less than 0", 3),
        "counts-refused-after": Mode("after N counts, all others are refused with 403", 3),
    },
    "launches": {
        "launch-refused-200": Mode("with N exports in flight, another launch gets 200 and an error object", 2),
        "launch-refused-400": Mode("with N exports in flight, another launch gets 400", 2),
        "launch-refused-403": Mode("with N exports in flight, another launch gets 403", 2),
        "launch-refused-409": Mode("with N exports in flight, another launch gets 409", 2),
        "launch-refused-429": Mode("with N exports in flight, another launch gets 429", 2),
        "launch-refused-503": Mode("with N exports in flight, another launch gets 503", 2),
        "launch-slow": Mode("a launch is answered after N seconds; the export is made at once", 2),
    },
    "ids": {
        "odd-ids": Mode("an export's id looks like gid://shop/BulkOperation/1?x=1"),
    },
    "polls": {
        "status-202": Mode("a running export is answered with 202 and no status"),
        "status-204": Mode("a running export is answered with 204"),
        "status-404-first": Mode("the first N polls of an export get 404", 1),
        "status-409": Mode("a running export is answered with 409"),
        "status-425": Mode("a running export is answered with 425"),
        "retry-after-day-429": Mode("every poll gets 429 with Retry-After: 86400"),
        "retry-after-day-503": Mode("every poll gets 503 with Retry-After: 86400"),
    },
    "words": {
        "status-words": Mode("statuses are words of other systems: Done, completed, FAILED, canceled, queued, ..."),
        "status-unknown": Mode("an export with links has a status that nobody knows, and is not active"),
    },
    "links": {
        "links-late": Mode("the first N polls that say success have no links (absent, null or an empty list)", 1),
        "links-never": Mode("the first N exports succeed and never have links", 1),
        "status-flaps": Mode("the first poll that says success has no links, the next says started"),
    },
    "ends": {
        "export-pending-first": Mode("the first export stays pending"),
        "export-pending-all": Mode("every export stays pending"),
        "export-fails-once": Mode("of each of the first N filters, the first export fails", 1),
        "too-many-records": Mode("an export of more than N rows fails, with that message", 1000),
        "poisoned-instant": Mode("an export that holds the instant of the middle activity fails"),
    },
    "rows": {
        "rows-capped": Mode("an export delivers N rows at most, and does not say so", 1000),
        "late-rows": Mode("the first export of a filter lacks its last N activities", 3),
    },
    "empty": {
        "empty-file-zero": Mode("an export without rows has a file of no bytes"),
        "empty-file-newline": Mode("an export without rows has a file with a newline alone"),
        "empty-file-bom": Mode("an export without rows has a file with a byte order mark alone"),
    },
    "damage": {
        "damaged-once": Mode("one file of the first export is damaged in its first download"),
        "damaged-always": Mode("one file of the first export is damaged in every download"),
    },
    "headers": {
        "headers-long": Mode("answers of the API carry a Content-Security-Policy of 12 KB"),
    },
    "breaks": {
        "cut-first": Mode("the first N answers with a file break off in the middle", 1),
        "cut-all": Mode("every answer with a file breaks off in the middle"),
    },
    "ranges": {
        "range-403": Mode("requests with a Range get 403"),
        "range-405": Mode("requests with a Range get 405"),
        "range-500": Mode("requests with a Range get 500"),
        "range-503-day": Mode("requests with a Range get 503 with Retry-After: 86400"),
        "range-empty": Mode("requests with a Range get 200 and an empty body"),
        "range-416": Mode("requests with a Range get 416 without Content-Range"),
        "range-416-wrong": Mode("requests with a Range get 416 with the length of something else"),
        "range-unsaid": Mode("the rest of a file comes with 206 and without Content-Range"),
        "range-broken": Mode("the rest of a file comes with 206 and Content-Range: bytes"),
        "range-wrong": Mode("the rest of a file comes with 206 and the Content-Range of something else"),
    },
    "etags": {
        "etag-changes": Mode("every answer with a file has an ETag of its own"),
        "etag-weak": Mode("the ETags of files are weak"),
        "etag-none": Mode("files have no ETag"),
    },
    "labels": {
        "label-utf-8": Mode("files come as they are, with Content-Encoding: UTF8"),
        "label-binary": Mode("files come as they are, with Content-Encoding: binary"),
        "label-none": Mode("files come as they are, with Content-Encoding: none"),
        "label-aws-chunked": Mode("files come as they are, with Content-Encoding: aws-chunked"),
        "label-gzip": Mode("files come as they are, with Content-Encoding: gzip"),
        "body-gzip": Mode("files come as gzip"),
        "body-gzip-unlabelled": Mode("files come as gzip, without Content-Encoding"),
        "body-gzip-members": Mode("files come as gzip of two members and zeros, labelled aws-chunked,gzip"),
        "body-deflate": Mode("files come as deflate, in a zlib stream"),
        "body-deflate-raw": Mode("files come as deflate, in a raw stream"),
        "body-zstd": Mode("files come as zstd"),
        "body-zstd-unlabelled": Mode("files come as zstd, without Content-Encoding"),
        "body-zip": Mode("files come as zips"),
        "body-br": Mode("files come with Content-Encoding: br"),
    },
    "framing": {
        "until-close": Mode("files come with HTTP/1.0, without a length, until the connection is closed"),
        "chunked": Mode("files come in chunks, without a length"),
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
            "links have a blank and an umlaut in their query, and 400 is what they get as such"
        ),
        "redirect-odd-characters": Mode("links are redirected to URLs with a blank and an umlaut in their query"),
    },
    "file-headers": {
        "file-headers-long": Mode("answers with a file carry a Content-Security-Policy of N bytes", 12_000),
    },
}

# What `everything` and `odd` draw, with values to choose from; at most one mode of a group. A mode that they never draw
# stands in ENDS. A new mode must be in exactly one of these three.
COMES: dict[str, tuple[int, ...]] = {  # a pull gets every row, with no more exports than without the mode
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
COSTS: dict[str, tuple[int, ...]] = {  # every row too, but exports may be needed on top: drawn by `odd` alone
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
    "damaged-always": (),
    "preparing-200": (1,),
}
# A pull ends with an error, or says that its output is incomplete.
ENDS = frozenset(
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
