"""Bodies as real file hosts send them: compressed in several ways, sometimes with a wrong Content-Encoding."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
import zlib

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# The Content-Encoding of bodies that are not encoded.
LABELS = {
    "label-utf-8": "UTF8",
    "label-binary": "binary",
    "label-none": "none",
    "label-aws-chunked": "aws-chunked",
    "label-gzip": "gzip",
}
_CODED = {
    "body-gzip": "gzip",
    "body-gzip-unlabelled": "",
    "body-gzip-members": "aws-chunked,gzip",
    "body-deflate": "deflate",
    "body-deflate-raw": "deflate",
    "body-zstd": "zstd",
    "body-zstd-unlabelled": "",
    "body-zip": "",
    "body-br": "br",
}


def encode_body(kind: str, content: bytes) -> tuple[bytes, str] | None:
    """Encode a file under the mode `kind`; return the body and its Content-Encoding, or None if it is not encoded."""
    if kind not in _CODED:
        return None
    match kind:
        case "body-deflate":
            body = zlib.compress(content, 1)
        case "body-deflate-raw":
            body = zlib.compress(content, 1, wbits=-zlib.MAX_WBITS)
        case "body-zstd" | "body-zstd-unlabelled":
            body = zstd.compress(content, 1)
        case "body-zip":
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("../activity.csv", content)
            body = file.getvalue()
        case "body-gzip-members":
            half = len(content) // 2
            body = gzip.compress(content[:half], 1) + gzip.compress(content[half:], 1) + b"\0" * 100
        case "body-br":
            body = b"\x0b" + content  # not valid Brotli, which no client here supports
        case _:
            body = gzip.compress(content, 1)
    return body, _CODED[kind]
