from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptreel.errors import UrlUnusable
from promptreel.fetching.urls import Target, follow_redirect, read_url

PORTS = {80, 443}


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", Target("http", "example.com", 80, "/")),
        (" HTTPS://Example.COM.:443/a%20b?c=%2F&d#e ", Target("https", "example.com", 443, "/a%20b?c=%2F&d")),
        ("https://faß.de/bär.png?ö", Target("https", "xn--fa-hia.de", 443, "/b%C3%A4r.png?%C3%B6")),
        ("http://my_store:80/x?y?z=[1]", Target("http", "my_store", 80, "/x?y?z=[1]")),
        ("http://[2606:4700::0:1111]:/x", Target("http", "2606:4700::1111", 80, "/x")),
        ("http://\uff11.1.1.1/", Target("http", "1.1.1.1", 80, "/")),
        ("https:///x", None),
        ("example.com/x", None),
        ("//example.com/x", None),
        ("http:example.com", None),
        ("http://ex ample.com/", None),
        ("http://example.com/\r\nHost: b", None),
        ("http://a\\@b/", None),
        ("http://a/\ud800", None),
        ("http://a@b/", None),
        ("http://:secret@b/", None),
        ("http://a..b/", None),
        ("http://-a/", None),
        ("http://a%2eb/", None),
        ("http://[::1]a/", None),
        ("http://a[::1]/", None),
        ("http://[::1%25lo]/", None),
        ("http://[127.0.0.1]/", None),
        ("http://a:b/", None),
        ("http://a:0/", None),
        ("http://a:8000/", None),
        ("http://a:65616/", None),
        ("http://a\u2100b/", None),
        ("http://" + "a." * 200 + "b/", None),
        ("http://a/" + "x" * 9000, None),
        *[(f"{scheme}://example.com/x", None) for scheme in ("file", "gopher", "ftp", "ws", "httpx", "jar")],
        ("file:///etc/passwd", None),
        ("data:image/png;base64,AAAA", None),
        ("javascript:alert(1)", None),
        ("", None),
    ],
)
def test_url_is_read_in_one_way_or_refused(url: str, target: Target | None) -> None:
    if target is not None:
        assert read_url(url, ports=PORTS) == target
        return
    with pytest.raises(UrlUnusable):
        read_url(url, ports=PORTS)


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "127.0.0.01", "0177.0.0.1", "017700000001", "1.2.3.4.5",
             "256.1.1.1", "127.0.0.0x1", "a.0x", "①②⑦.1", "127。0。1"]
)  # fmt: skip
def test_other_spellings_of_ipv4_are_refused(host: str) -> None:
    with pytest.raises(UrlUnusable, match="four decimal numbers"):
        read_url(f"http://{host}/", ports=PORTS)


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=()), max_size=40), st.sampled_from(["", "http://", "https://[", "http://a:"]))
def test_any_text_is_a_target_or_refused(text: str, start: str) -> None:
    try:
        target = read_url(start + text, ports=PORTS)
    except UrlUnusable:
        return
    assert target.port in PORTS
    assert f"{target.host}{target.path}".isascii()
    assert not set(target.host) & set("/\\@?#% ")


def test_redirect_is_relative_or_whole_and_does_not_leave_https() -> None:
    start = Target("https", "a.test", 443, "/x/y?z")

    assert follow_redirect(start, "w", ports=PORTS).path == "/x/w"
    assert follow_redirect(start, "//b.test/w", ports=PORTS) == Target("https", "b.test", 443, "/w")
    for location in ("http://a.test/x", "https://a.test:8000/", "https://u:p@a.test/", "file:///etc/passwd", "//[x"):
        with pytest.raises(UrlUnusable):
            follow_redirect(start, location, ports=PORTS)
