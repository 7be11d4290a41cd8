"""URLs from outside: made valid as browsers do it, and unchanged byte for byte where they are valid."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from yarl import URL

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*:)?(//[^/?#]*)?([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_ILLEGAL = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]")
_HOST = re.compile(r"[A-Za-z0-9\-._~]+")
_LONE_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # the others stand for bytes of a header
_BLANK = "".join(map(chr, range(0x21)))


def resolved(base: URL, link: str) -> str:
    """Return `link`, which may be relative to `base`, as a URL with illegal characters percent-encoded.

    What is encoded already stays unchanged, since signatures cover it.

    Raises:
        ValueError: It cannot be a URL.
    """
    url = legal(link)
    if url and not _SCHEME.match(url):
        url = urljoin(str(base), url)
    return url


def legal(link: str) -> str:
    """Return `link` with only legal characters.

    Line ends, tabs and surrounding blanks are removed, a host name is encoded with IDNA, all else percent-encoded as
    UTF-8.

    Raises:
        ValueError: The host name cannot be encoded.
    """
    text = re.sub(r"[\t\r\n]", "", link).strip(_BLANK)
    head, mark, query = _split(text)
    match = _PARTS.fullmatch(head.replace("\\", "/") + mark + query)
    assert match
    scheme, authority, path, query, fragment = (part or "" for part in match.groups())
    fragment = fragment[:1] + fragment[1:].replace("#", "%23")
    return scheme + _authority(authority) + _quoted(path + query + fragment)


def _split(text: str) -> tuple[str, str, str]:
    """Split at the character that ends the path of a URL."""
    at = min((at for at in (text.find("?"), text.find("#")) if at >= 0), default=len(text))
    return text[:at], text[at : at + 1], text[at + 1 :]


def _authority(text: str) -> str:
    if not text.isascii():
        user, at, place = text.removeprefix("//").rpartition("@")
        host, colon, port = place.partition(":")
        encoded = URL.build(scheme="https", host=host).raw_host or ""
        if not _HOST.fullmatch(encoded):
            raise ValueError("the host name cannot be encoded")
        text = f"//{_quoted(user)}{at}{encoded}{colon}{port}"
    if not text.isascii() or _ILLEGAL.search(text.encode()):
        raise ValueError("the host name has illegal characters")
    return text


def _quoted(text: str) -> str:
    data = _LONE_SURROGATES.sub("\ufffd", text).encode("utf-8", "surrogateescape")
    return _ILLEGAL.sub(lambda found: b"%%%02X" % found[0][0], data).decode("ascii")
