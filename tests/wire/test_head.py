"""Heads: read strictly and in one way, as h11 reads them, and written so that they stay one."""

from __future__ import annotations

import time

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import (
    BadRequest,
    HeadTooLarge,
    MethodNotAllowed,
    NotImplementedCoding,
    Refusal,
    TargetTooLong,
    VersionNotSupported,
)
from proxy.wire.head import (
    Request,
    check_request,
    find_response_head,
    read_request,
    read_response,
    write_request,
    write_response,
)
from proxy.wire.headers import HeadLimits, get

LIMITS = HeadLimits(head_bytes=4096, target_bytes=64, headers=5)
HOST = [(b"Host", b"example.org")]
CHUNKED = (b"Transfer-Encoding", b"chunked")
HEADERS = [(b"Host", b"a"), (b"X-Case", b"Kept"), (b"X-Empty", b"")]


def asked(target: bytes) -> Request:
    return Request(b"GET", target, HOST)


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", *lines, b"", b""])


def test_a_request_is_what_was_written() -> None:
    written = write_request(b"PUT", b"/a?b", HEADERS)
    request = read_request(written, LIMITS)

    assert written == b"PUT /a?b HTTP/1.1\r\nHost: a\r\nX-Case: Kept\r\nX-Empty: \r\n\r\n"
    assert (request.method, request.target, request.http_version) == (b"PUT", b"/a?b", b"1.1")
    assert request.headers == HEADERS


@pytest.mark.parametrize("status", [100, 101, 103, 200, 204, 304, 404, 599])
def test_an_answer_is_what_was_written(status: int) -> None:
    response = read_response(write_response(status, b"Why not", HEADERS))

    assert (response.status_code, response.reason) == (status, b"Why not")
    assert response.headers == HEADERS


def test_names_are_in_lower_case_and_their_values_together() -> None:
    lines = [b"Host: a", b"Connection:close,  X ", b"CONNECTION:\tY", b"Te: "]
    request = read_request(head(*lines), LIMITS)

    assert request.headers[1:3] == [(b"Connection", b"close,  X"), (b"CONNECTION", b"Y")]
    assert request.get(b"connection") == b"close,  X, Y"
    assert request.get(b"nothing") is None
    assert [request.lists(b"connection", token) for token in (b"close", b"x", b"y", b"z")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("data", "error", "detail"),
    [
        (head(), BadRequest, "no Host"),
        (head(b"Host: a", b"Host: a"), BadRequest, "several Host"),
        (head(b"Host : a"), BadRequest, "malformed"),
        (head(b": a", b"Host: a"), BadRequest, "malformed"),
        (head(b"Host: a", b"X"), BadRequest, "malformed"),
        (head(b"Host: a", b"X: a", b" b"), BadRequest, "folded"),
        (head(b" Host: a"), BadRequest, "folded"),
        (head(b"Host: a\rX: b"), BadRequest, "control"),
        (head(b"Host: a\nX: b"), BadRequest, "LF alone"),
        (head(b"Host: a", b"X: \0"), BadRequest, "control"),
        (head(b"Host: a", b"X\xe9: b"), BadRequest, "malformed"),
        (head(b"Host: a", b"Content-Length: 1", b"Content-Length: 1"), BadRequest, "several"),
        (head(b"Host: a", b"Content-Length: 1, 1"), BadRequest, "not a number"),
        (head(b"Host: a", b"Content-Length: +1"), BadRequest, "not a number"),
        (head(b"Host: a", b"Content-Length: -1"), BadRequest, "not a number"),
        (head(b"Host: a", b"Content-Length: 0x1"), BadRequest, "not a number"),
        (head(b"Host: a", b"Content-Length: 01"), BadRequest, "not a number"),
        (head(b"Host: a", b"Content-Length: 1_0"), BadRequest, "not a number"),
        (head(b"Host: a", b"Content-Length:"), BadRequest, "not a number"),
        (head(b"Host: a", b"Content-Length: " + b"9" * 16), BadRequest, "not a number"),
        (head(b"Host: a", b"Content-Length: 1", b"Transfer-Encoding: chunked"), BadRequest, "than"),
        (head(b"Host: a", *[b"Transfer-Encoding: chunked"] * 2), BadRequest, "several"),
        (head(b"Host: a", b"Transfer-Encoding: gzip"), NotImplementedCoding, "chunked is"),
        (head(b"Host: a", b"Transfer-Encoding: chunked, gzip"), NotImplementedCoding, ""),
        (head(b"Host: a", b"Transfer-Encoding: \x0bchunked"), BadRequest, "control"),
        (head(b"Host: a", *[b"X: a"] * 5), HeadTooLarge, "too many"),
        (b"GET /" + b"a" * 64 + b" HTTP/1.1\r\nHost: a\r\n\r\n", TargetTooLong, ""),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BadRequest, "malformed"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest, "malformed"),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest, "malformed"),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest, "malformed"),
        (b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest, "malformed"),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", BadRequest, "malformed"),
        (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", BadRequest, "malformed"),
        (b"GET /\r\n\r\n", BadRequest, "malformed"),
    ],
)
def test_what_is_refused(data: bytes, error: type[Refusal], detail: str) -> None:
    with pytest.raises(error) as caught:
        read_request(data, LIMITS)

    assert type(caught.value) is error
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    "line",
    [
        b"X:" + b" " * 200_000 + b"\0",
        b"X: " + b"a" * 200_000 + b"\0",
        b"a" * 400_000,
        b"X: a\r\n" * 40_000 + b"\0",
        (b"X:" + b"\t " * 50 + b"\r\n") * 4000 + b" ",
    ],
)
def test_what_does_not_match_costs_no_more_than_what_does(line: bytes) -> None:
    """Backtracking would take minutes."""
    started = time.process_time()
    with pytest.raises(Refusal):
        read_request(head(b"Host: a", line), LIMITS)

    assert time.process_time() - started < 5


pieces = st.one_of(
    st.sampled_from(
        [
            *(
                b"GET",
                b" ",
                b"/",
                b"HTTP/1.1",
                b"HTTP/1.0",
                b"\r\n",
                b"\n",
                b"\r",
                b":",
                b"\t",
                b"\0",
            ),
            *(b"Host: a\r\n", b"X: y\r\n", b"Content-Length: 3\r\n", b"\r\n\r\n", b"\x80", b"\x7f"),
            *(b"Transfer-Encoding: chunked\r\n", b"GET / HTTP/1.1\r\n", b" y", b"\x0b", b"\0"),
        ]
    ),
    st.binary(max_size=2),
)


@given(st.lists(pieces, max_size=10).map(b"".join))
@example(b"X: y\r\n")
def test_h11_reads_what_is_read_here_in_the_same_way(data: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"
    data = data[: data.index(b"\r\n\r\n") + 4]
    try:
        request = read_request(data, LIMITS)
    except Refusal:
        return
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(data)
    event = conn.next_event()

    assert isinstance(event, h11.Request)
    assert (request.method, request.target) == (event.method, event.target)
    assert request.headers == event.headers.raw_items()


@given(st.lists(pieces, max_size=10).map(b"".join))
def test_and_answers_too(data: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n"
    data = data[: data.index(b"\r\n\r\n") + 4]
    conn = h11.Connection(h11.CLIENT)
    conn.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    conn.receive_data(data)
    try:
        event = conn.next_event()
    except h11.RemoteProtocolError:
        event = None
    try:
        response = read_response(data)
    except h11.RemoteProtocolError:
        assert not isinstance(event, h11.Response)
        return
    assert isinstance(event, h11.Response)
    assert response.headers == event.headers.raw_items()


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"HTTP/1.1 200\r\nX: y\r\n\r\n", [(b"X", b"y")]),
        (b"HTTP/1.0 200 \xc3\xa4\r\nX: y\r\n\r\n", [(b"X", b"y")]),
        (b"HTTP/1.1 200 OK\nX: y\n\n", [(b"X", b"y")]),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", [(b"X", b"y z")]),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            [(b"Content-Length", b"3")],
        ),
    ],
)
def test_odd_answers_that_are_understood(data: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    response = read_response(data)

    assert response.status_code == 200
    assert response.headers == headers


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    ],
)
def test_answers_that_are_none(data: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        read_response(data)


@pytest.mark.parametrize(
    ("buffer", "length"),
    [
        (b"", None),
        (b"HTTP/1.1 200 OK\r\n\r", None),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", 19),
        (b"HTTP/1.1 200 OK\n\nabc", 17),
        (b"HTTP/1.1 200 OK\r\nX: y\n\r\nabc", 24),
    ],
)
def test_where_an_answer_s_head_ends(buffer: bytes, length: int | None) -> None:
    assert find_response_head(buffer) == length


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b"])
def test_no_header_can_be_two(value: bytes) -> None:
    with pytest.raises(AssertionError):
        write_request(b"GET", b"/", [(b"X", value)])
    with pytest.raises(AssertionError):
        write_response(200, value, [])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", b"/"),
        (b"/a?b=/../c", b"/a?b=/../c"),
        (b"http://example.org/a?b", b"/a?b"),
        (b"HTTPS://Example.org?b", b"/?b"),
        (b"ws://example.org", b"/"),
        (b"/a/..b/.c", b"/a/..b/.c"),
    ],
)
def test_targets_are_brought_to_origin_form(target: bytes, expected: bytes) -> None:
    assert check_request(asked(target)).target == expected


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"example.org:80",
        b"/a#b",
        b"http://other.example/",
        b"ftp://example.org/",
        b"/a/../b",
        b"/./a",
        b"/a/%2E%2e/b",
        b"/a/..",
        b"/a/..%2fb",
        b"/a%2f..%2Fb",
        b"/a/%2e%2e%5cb",
        b"/a\\..\\b",
        b"/a/..;/b",
        b"/a/..;x=y",
    ],
)
def test_other_targets_are_refused(target: bytes) -> None:
    with pytest.raises(BadRequest):
        check_request(asked(target))


@pytest.mark.parametrize("host", [b"a b", b"a/b", b"a:b", b"user@host", b"[::1", b"a:123456"])
def test_odd_hosts_are_refused(host: bytes) -> None:
    with pytest.raises(BadRequest):
        check_request(Request(b"GET", b"/", [(b"Host", host)]))


@pytest.mark.parametrize("host", [b"example.org", b"a.b:8443", b"[::1]:443", b"127.0.0.1", b""])
def test_hosts_are_accepted(host: bytes) -> None:
    assert check_request(Request(b"GET", b"/", [(b"host", host)])).target == b"/"


def test_methods_and_versions() -> None:
    for method in (b"TRACE", b"CONNECT"):
        with pytest.raises(MethodNotAllowed) as caught:
            check_request(Request(method, b"/", HOST))
        assert get(caught.value.headers, b"allow")
    with pytest.raises(VersionNotSupported):
        check_request(Request(b"GET", b"/", HOST, http_version=b"2.0"))
    with pytest.raises(BadRequest):
        check_request(Request(b"POST", b"/", [*HOST, CHUNKED], http_version=b"1.0"))
