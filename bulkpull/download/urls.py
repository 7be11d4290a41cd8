"""URLs that others wrote: made legal as browsers do it, and left alone byte for byte where they are."""

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
    """`link` as a URL, which may be relative to `base`, with all that may not stand in one percent-encoded.

    What is encoded already stays as it is: signatures are made over it. Raises ValueError for what is no URL.
    """
    url = legal(link)
    if url and not _SCHEME.match(url):
        url = urljoin(str(base), url)
    return url


def legal(link: str) -> str:
    """`link` with what may not stand in a URL left out (line ends, tabs, blanks around it), percent-encoded (as UTF-8),
    or, in a host's name, encoded as IDNA has it. Raises ValueError for a host that cannot be."""
    text = re.sub(r"[\t\r\n]", "", link).strip(_BLANK)
    head, mark, query = _split(text)
    match = _PARTS.fullmatch(head.replace("\\", "/") + mark + query)
    assert match
    scheme, authority, path, query, fragment = (part or "" for part in match.groups())
    fragment = fragment[:1] + fragment[1:].replace("#", "%23")
    return scheme + _authority(authority) + _quoted(path + query + fragment)


def _split(text: str) -> tuple[str, str, str]:
    """Text, what ends a URL's path, and what is behind it."""
    at = min((at for at in (text.find("?"), text.find("#")) if at >= 0), default=len(text))
    return text[:at], text[at : at + 1], text[at + 1 :]


def _authority(text: str) -> str:
    if not text.isascii():
        user, at, place = text.removeprefix("//").rpartition("@")
        host, colon, port = place.partition(":")
        encoded = URL.build(scheme="https", host=host).raw_host or ""
        if not _HOST.fullmatch(encoded):
            raise ValueError("a host's name that cannot be encoded")
        text = f"//{_quoted(user)}{at}{encoded}{colon}{port}"
    if not text.isascii() or _ILLEGAL.search(text.encode()):
        raise ValueError("a host's name with what may not stand in one")
    return text


def _quoted(text: str) -> str:
    data = _LONE_SURROGATES.sub("\ufffd", text).encode("utf-8", "surrogateescape")
    return _ILLEGAL.sub(lambda found: b"%%%02X" % found[0][0], data).decode("ascii")
