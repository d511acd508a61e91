"""What routes may ask of requests, and answer: single values, and what goes together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.config.checks import Invalid
from proxy.config.http import (
    Redirect,
    RequestRate,
    Respond,
    Rewrite,
    answer_headers,
    error_statuses,
    header_conditions,
    host_pattern,
    method_list,
    page_for,
)
from proxy.config.page import Page

PAGE = Page(Path("sorry.html"), b"Sorry.")


def verdict(check: Any, value: object) -> str | None:
    """Return what a check says of a value, None if it is good."""
    try:
        check(None, None, value)
    except ValueError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize(
    ("check", "value"),
    [
        *[(host_pattern, host) for host in ("a", "*.a", "*.example.org", "192.0.2.7", "::1")],
        (method_list, None),
        (method_list, ("GET", "M-SEARCH")),
        (header_conditions, {}),
        (header_conditions, {"X-Version": "2", "Accept": "a, b", "X-B": "*"}),
        (answer_headers, {"X-A": "", "Cache-Control": "max-age=5", "Location": "/"}),
        *[(error_statuses, {status: PAGE}) for status in ("400", "599", "4xx", "5xx")],
    ],
)
def test_good(check: Any, value: object) -> None:
    assert verdict(check, value) is None


@pytest.mark.parametrize(
    ("check", "value", "reason"),
    [
        *[
            (host_pattern, host, "must be a host name without port, like ")
            for host in (
                "",
                "*",
                "*.",
                "*a",
                "*.*.a",
                "a.*",
                "*.192.0.2.7",
                "*.::1",
                "a:80",
                "**.a",
            )
        ],
        (method_list, (), "must have at least one entry"),
        (method_list, ("get",), 'must be methods like "GET", in capitals'),
        (method_list, ("G T",), 'must be methods like "GET", in capitals'),
        (method_list, ("",), 'must be methods like "GET", in capitals'),
        (method_list, ("CONNECT",), "CONNECT is never served"),
        (method_list, ("TRACE",), "TRACE is never served"),
        (header_conditions, {"X A": "b"}, "no request has such a header"),
        (header_conditions, {"": "b"}, "no request has such a header"),
        (header_conditions, {"X": ""}, "no request has such a header"),
        (header_conditions, {"X": " b"}, "no request has such a header"),
        (header_conditions, {"X": "b\n"}, "no request has such a header"),
        (header_conditions, {"X": "ä"}, "no request has such a header"),
        (header_conditions, {"hOst": "b"}, 'of hosts the key "host" tells'),
        (header_conditions, {"X": "1", "x": "2"}, "has a name more than once"),
        (answer_headers, {"X:": "b"}, "cannot be sent as a header"),
        (answer_headers, {"X": "b\r\nY: z"}, "cannot be sent as a header"),
        (answer_headers, {"X": "b "}, "cannot be sent as a header"),
        (answer_headers, {"content-length": "1"}, "is the proxy's own"),
        (answer_headers, {"Transfer-Encoding": "chunked"}, "is the proxy's own"),
        (answer_headers, {"Content-Type": "a/b"}, "is the proxy's own"),
        (answer_headers, {"X": "1", "x": "2"}, "has a name more than once"),
        *[
            (error_statuses, {status: PAGE}, 'must be statuses like "502", or "4xx" or "5xx"')
            for status in ("", "200", "3xx", "6xx", "5XX", "50x", "5000", "600")
        ],
    ],
)
def test_bad(check: Any, value: object, reason: str) -> None:
    assert (verdict(check, value) or "").startswith(reason)


def test_page_of_a_status_goes_before_that_of_its_kind() -> None:
    other = Page(Path("other.html"), b"Other.")
    pages = {"5xx": PAGE, "502": other}

    assert page_for(pages, 502) is other
    assert page_for(pages, 503) is PAGE
    assert page_for(pages, 404) is None


@pytest.mark.parametrize(
    "keys", [{}, {"path": "/a", "strip_prefix": "/b"}, {"path": "/a", "replace_prefix": "/b"}]
)
def test_rewrite_is_one_of_three(keys: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        Rewrite(**keys)

    reason = 'needs one of "strip_prefix", "replace_prefix" and "path"'
    assert caught.value.faults == (("", reason),)


@pytest.mark.parametrize(
    ("keys", "path", "prefix", "fault"),
    [
        ({"strip_prefix": "/a"}, "/a", None, None),
        ({"strip_prefix": "/a"}, "/a/b", None, None),
        ({"strip_prefix": "/a/"}, None, "/a", None),
        ({"strip_prefix": "/"}, None, "/a", None),
        ({"strip_prefix": "/a"}, None, "/a/", None),
        ({"strip_prefix": "/a"}, None, "/ab", ("strip_prefix", "is not how '/ab' begins")),
        ({"strip_prefix": "/a/b"}, None, "/a", ("strip_prefix", "is not how '/a' begins")),
        ({"replace_prefix": "/b"}, None, "/a", None),
        (
            {"replace_prefix": "/b"},
            "/a",
            None,
            ("replace_prefix", 'is for a route with "prefix"; for this one it is "path"'),
        ),
        ({"path": "/b"}, "/a", None, None),
        (
            {"path": "/b"},
            None,
            "/a",
            ("path", 'is for a route with "path"; for this one it is "replace_prefix"'),
        ),
    ],
)
def test_rewrite_suits_its_route(
    keys: dict[str, str], path: str | None, prefix: str | None, fault: object
) -> None:
    assert Rewrite(**keys).fault(path, prefix) == fault


@pytest.mark.parametrize(
    "keys",
    [
        {"status": 300},
        {"status": 304},
        {"host": "a:80"},
        {"host": "*.a"},
        {"port": 0},
        {"port": 65536},
        {"path": "a"},
        {"path": "/a#b"},
        {"path": "/a b"},
    ],
)
def test_redirects_that_lead_nowhere(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Redirect(**keys)


@pytest.mark.parametrize(
    ("keys", "content", "kind"),
    [
        ({}, None, "text/plain; charset=utf-8"),
        ({"body": "grüß"}, "grüß".encode(), "text/plain; charset=utf-8"),
        ({"body": ""}, b"", "text/plain; charset=utf-8"),
        ({"file": PAGE}, b"Sorry.", "text/html; charset=utf-8"),
        ({"body": "{}", "content_type": "application/json"}, b"{}", "application/json"),
        ({"file": PAGE, "content_type": "a/b"}, b"Sorry.", "a/b"),
    ],
)
def test_content(keys: dict[str, Any], content: bytes | None, kind: str) -> None:
    respond = Respond(**keys)

    assert (respond.content, respond.media_type) == (content, kind)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"body": "a", "file": PAGE}, 'takes either "body" or "file"'),
        ({"content_type": "a/b"}, "content_type: means nothing without a body"),
        ({"status": 204, "body": "a"}, "an answer with status 204 has no body"),
        ({"status": 199}, "must be from 200 to 599, and not 205 or 304: 199"),
        ({"status": 600}, "must be from 200 to 599, and not 205 or 304: 600"),
        ({"status": 304}, "must be from 200 to 599, and not 205 or 304: 304"),
        ({"body": "a", "content_type": "a\n"}, "cannot be sent in a header: 'a\\n'"),
        ({"body": "a", "content_type": ""}, "cannot be sent in a header: ''"),
        ({"retry_after": -1}, "must be from 0 to 100000000, not -1"),
    ],
)
def test_responses_that_cannot_be(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Respond(**keys)

    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "keys", [{"per_second": 0.0}, {"per_second": float("inf")}, {"per_second": 1.0, "burst": 0}]
)
def test_rates_have_bounds(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RequestRate(**keys)
