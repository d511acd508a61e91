"""Heads: parsed by h11, written here, and nothing in a header begins another line."""

from __future__ import annotations

import h11
import pytest

from proxy.wire.head import (
    find_response_head,
    parse_request,
    parse_response,
    write_request,
    write_response,
)

HEADERS = [(b"Host", b"a"), (b"X-Case", b"Kept"), (b"X-Empty", b"")]


def test_a_request_is_what_was_written() -> None:
    head = write_request(b"PUT", b"/a?b", HEADERS)
    request = parse_request(head)

    assert head == b"PUT /a?b HTTP/1.1\r\nHost: a\r\nX-Case: Kept\r\nX-Empty: \r\n\r\n"
    assert (request.method, request.target) == (b"PUT", b"/a?b")
    assert request.headers.raw_items() == HEADERS


@pytest.mark.parametrize("status", [100, 101, 103, 200, 204, 304, 404, 599])
def test_an_answer_is_what_was_written(status: int) -> None:
    response = parse_response(write_response(status, b"Why not", HEADERS))

    assert (response.status_code, response.reason) == (status, b"Why not")
    assert response.headers.raw_items() == HEADERS


@pytest.mark.parametrize(
    "head",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    ],
)
def test_answers_that_are_none(head: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        parse_response(head)


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
