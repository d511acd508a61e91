"""A request's target and host, as routes compare them, as nodes get them, and for redirects."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.http import Redirect, Rewrite
from proxy.config.route import Route
from proxy.errors import BadRequest
from proxy.wire.head import Request, check_request
from proxy.wire.target import comparable, host_name, location, rewritten


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("rt.example.org", "rt.example.org"),
        ("RT.example.org:443", "rt.example.org"),
        ("rt.example.org.", "rt.example.org"),
        ("rt.example.org.:443", "rt.example.org"),
        ("[::1]", "::1"),
        ("[2001:DB8::1]:80", "2001:db8::1"),
        ("", ""),
        (":80", ""),
    ],
)
def test_host_name(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("path", "as_compared"),
    [
        ("/plain", "/plain"),
        ("/%61%5A%30%2d%2E%5f%7e", "/aZ0-._~"),
        ("/%2fa%3b%25%c3%A9", "/%2Fa%3B%25%C3%A9"),
        # Once only, and what is no encoding stays.
        ("/%2561", "/%2561"),
        ("/%6%61%zz%", "/%6a%zz%"),
    ],
)
def test_comparable(path: str, as_compared: str) -> None:
    assert comparable(path) == as_compared


@pytest.mark.parametrize(
    ("keys", "target", "onward"),
    [
        ({"prefix": "/api"}, b"/api/x?q", b"/api/x?q"),
        ({"prefix": "/api", "drop_query": True}, b"/api/x?q", b"/api/x"),
        ({"prefix": "/api", "drop_query": True}, b"/api/x?", b"/api/x"),
        ({"prefix": "/api", "rewrite": Rewrite(strip_prefix="/api")}, b"/api", b"/"),
        ({"prefix": "/api", "rewrite": Rewrite(strip_prefix="/api")}, b"/api?a/b?c", b"/?a/b?c"),
        ({"prefix": "/api", "rewrite": Rewrite(strip_prefix="/api")}, b"/api/", b"/"),
        ({"prefix": "/api", "rewrite": Rewrite(strip_prefix="/api/")}, b"/api/api/x?", b"/api/x?"),
        ({"prefix": "/a/b", "rewrite": Rewrite(strip_prefix="/a")}, b"/a/b/c", b"/b/c"),
        ({"prefix": "/", "rewrite": Rewrite(strip_prefix="/")}, b"/a", b"/a"),
        ({"prefix": "/", "rewrite": Rewrite(replace_prefix="/v1")}, b"/a?q", b"/v1/a?q"),
        ({"prefix": "/", "rewrite": Rewrite(replace_prefix="/v1/")}, b"/", b"/v1/"),
        ({"prefix": "/api", "rewrite": Rewrite(replace_prefix="/v1")}, b"/api", b"/v1"),
        ({"prefix": "/api", "rewrite": Rewrite(replace_prefix="/v1/")}, b"/api/x", b"/v1/x"),
        ({"prefix": "/api", "rewrite": Rewrite(replace_prefix="/")}, b"/api", b"/"),
        ({"prefix": "/api/", "rewrite": Rewrite(replace_prefix="/v1")}, b"/api/", b"/v1/"),
        ({"path": "/a/b", "rewrite": Rewrite(strip_prefix="/a")}, b"/a/b?q", b"/b?q"),
        ({"path": "/dsdeepstream", "rewrite": Rewrite(path="/ds")}, b"/dsdeepstream?q", b"/ds?q"),
        ({"path": "/a", "rewrite": Rewrite(path="/b"), "drop_query": True}, b"/a?q", b"/b"),
        ({"prefix": "/api"}, b"/%61pi/%62", b"/%61pi/%62"),
        ({"prefix": "/api", "rewrite": Rewrite(strip_prefix="/api")}, b"/%61pi/x", b"/x"),
        ({"prefix": "/api", "rewrite": Rewrite(strip_prefix="/api")}, b"/a%70%69?q", b"/?q"),
        ({"prefix": "/%61/b", "rewrite": Rewrite(strip_prefix="/%61")}, b"/a/b%2fc", b"/b%2Fc"),
        ({"prefix": "/a%2fb", "rewrite": Rewrite(replace_prefix="/v")}, b"/a%2Fb/c", b"/v/c"),
    ],
)
def test_rewritten(keys: dict[str, Any], target: bytes, onward: bytes) -> None:
    assert rewritten(target, Route(upstream="u", **keys)) == onward


HERE = ("http", b"rt.example.org:8080", b"/a/b?c=d")


@pytest.mark.parametrize(
    ("keys", "request_", "where"),
    [
        ({"scheme": "https"}, HERE, b"https://rt.example.org/a/b?c=d"),
        ({"scheme": "https", "port": 8443}, HERE, b"https://rt.example.org:8443/a/b?c=d"),
        ({"scheme": "https", "port": 443}, HERE, b"https://rt.example.org/a/b?c=d"),
        ({"host": "docs.example.org"}, HERE, b"http://docs.example.org/a/b?c=d"),
        ({"host": "::1", "port": 81}, HERE, b"http://[::1]:81/a/b?c=d"),
        ({"port": 80}, HERE, b"http://rt.example.org/a/b?c=d"),
        # With nothing said of the place, it is this one.
        ({"path": "/x"}, HERE, b"http://rt.example.org:8080/x?c=d"),
        ({"path": "/x?y"}, HERE, b"http://rt.example.org:8080/x?y"),
        ({"path": "/x?"}, HERE, b"http://rt.example.org:8080/x?"),
        ({"path": "/x"}, ("https", b"h:443", b"/"), b"https://h/x"),
        ({"path": "/x"}, ("https", b"[::1]:80", b"/"), b"https://[::1]:80/x"),
        ({"scheme": "https"}, ("http", b"[::1]:80", b"/"), b"https://[::1]/"),
        # To browsers "//evil.example" alone would be another host.
        ({"path": "/x"}, ("http", b"h", b"//evil.example"), b"http://h/x"),
        ({"port": 81}, ("http", b"h", b"//evil.example"), b"http://h:81//evil.example"),
        ({"host": "h"}, ("http", b"", b"/"), b"http://h/"),
    ],
)
def test_location(keys: dict[str, Any], request_: tuple[str, bytes, bytes], where: bytes) -> None:
    assert location(Redirect(**keys), *request_) == where


@pytest.mark.parametrize("host", [b"", b":80"])
def test_redirect_without_any_host(host: bytes) -> None:
    """HTTP/1.0 has none."""
    with pytest.raises(BadRequest, match="needs a Host"):
        location(Redirect(scheme="https"), "http", host, b"/")


segments = st.lists(st.text("ab%.~-", max_size=3), max_size=4)


@given(
    segments,
    st.sampled_from(["", "?", "?a=/b?c"]),
    st.sampled_from(
        [
            {"prefix": "/", "rewrite": Rewrite(strip_prefix="/")},
            {"prefix": "/p", "rewrite": Rewrite(strip_prefix="/p")},
            {"prefix": "/p", "rewrite": Rewrite(replace_prefix="/")},
            {"prefix": "/p", "rewrite": Rewrite(replace_prefix="/q/r/")},
            {"prefix": "/p", "drop_query": True},
        ]
    ),
)
def test_what_goes_on_is_a_target_as_good_as_what_came(
    below: list[str], query: str, keys: dict[str, Any]
) -> None:
    """No dot segment comes up by it, and nothing that is no path."""
    path = f"{keys['prefix'].rstrip('/')}/{'/'.join(below)}{query}".encode()
    host = [(b"host", b"h")]
    try:
        check_request(Request(b"GET", path, host))
    except BadRequest:
        return
    onward = rewritten(path, Route(upstream="u", **keys))

    assert check_request(Request(b"GET", onward, host)).target == onward
    assert h11.Request(method=b"GET", target=onward, headers=host).target == onward
    where = location(Redirect(host="h"), "http", b"x", onward)
    assert h11.Response(status_code=308, headers=[(b"location", where)]).headers[0][1] == where
