"""URLs that others wrote: legal ones come out byte for byte, all others as browsers send them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from bulkpull.download.urls import legal, resolved

UNRESERVED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
SUB_DELIMITERS = "!$&'()*+,;="
ESCAPED = st.sampled_from(["%2f", "%2F", "%2B", "%00", "%e4", "%C3%A4", "%20", "%25"])
LEGAL = re.compile(r"(?:[!#$&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]|%[0-9A-Fa-f]{2})*")


def texts(alphabet: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(alphabet) | ESCAPED, max_size=30).map("".join)


LEGAL_URLS = st.builds(
    "{}://{}{}/{}{}{}".format,
    st.sampled_from(["https", "http", "HTTPS"]),
    st.sampled_from(["files.example", "127.0.0.1", "[::1]", "Files.Example", "xn--bcher-kva.example"]),
    st.sampled_from(["", ":8080"]),
    texts(UNRESERVED + SUB_DELIMITERS + ":@/"),
    texts(UNRESERVED + SUB_DELIMITERS + ":@/?").map(lambda text: text and f"?{text}"),
    texts(UNRESERVED + SUB_DELIMITERS + ":@/?").map(lambda text: text and f"#{text}"),
)


@given(LEGAL_URLS)
def test_a_legal_url_stays_as_it_is(url: str) -> None:
    assert legal(url) == url
    assert resolved(URL("https://api.example/v1.1/tasks/export/id"), url) == url


@given(st.text() | st.builds("https://files.example/{}".format, st.text()))
def test_whatever_comes_out_is_legal_and_stays_so(text: str) -> None:
    try:
        url = legal(text)
    except ValueError:  # no host can have that name
        assert not text.startswith("https://files.example/")
        return
    assert LEGAL.fullmatch(url)
    assert legal(url) == url


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/a b", "/a%20b"),
        ("/ä?name=Übersicht der Rechte", "/%C3%A4?name=%C3%9Cbersicht%20der%20Rechte"),
        ('/a"<>\\b?q="<>`{}|^\\', "/a%22%3C%3E/b?q=%22%3C%3E%60%7B%7D%7C%5E%5C"),
        ("/a\tb\r\n?c=\nd ", "/ab?c=d"),
        ("/a\x00b\x7f", "/a%00b%7F"),
        ("/100%?a=%zz&b=%4", "/100%25?a=%25zz&b=%254"),
        ("/a%2Fb+c/../d/./e?x=%7E+'1'", "/a%2Fb+c/../d/./e?x=%7E+'1'"),
        ("/latin-1\udce4", "/latin-1%E4"),  # a byte of a header that is no UTF-8
        ("/alone\ud800", "/alone%EF%BF%BD"),
        ("/😀", "/%F0%9F%98%80"),
    ],
)
def test_what_may_not_stand_in_a_url_is_encoded_as_browsers_do(written: str, sent: str) -> None:
    assert legal(f"https://files.example{written}") == f"https://files.example{sent}"


def test_names_of_hosts_are_encoded_as_idna_has_it() -> None:
    assert legal("https://bücher.example:8080/ä") == "https://xn--bcher-kva.example:8080/%C3%A4"


@pytest.mark.parametrize("link", ["https://a b/", "https://ä<b/", "https://%zz/", "https://ä:८/", "https://℀/"])
def test_names_that_no_host_can_have(link: str) -> None:
    with pytest.raises(ValueError):
        legal(link)


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("/files/1?s=%2f+", "https://api.example/files/1?s=%2f+"),
        ("files/1", "https://api.example/v1.1/tasks/export/files/1"),
        ("//cdn.example/1", "https://cdn.example/1"),
        ("?file=1", "https://api.example/v1.1/tasks/export/id?file=1"),
        ("https://cdn.example/a/../b", "https://cdn.example/a/../b"),
    ],
)
def test_relative_links_belong_to_the_answer_that_held_them(link: str, url: str) -> None:
    assert resolved(URL("https://api.example/v1.1/tasks/export/id"), link) == url
