"""The strict reader has to be strict: what it lets pass is not looked at again."""

from __future__ import annotations

import pytest

from .reading import Incomplete, Malformed, read_answer, read_request

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        HEAD.replace(b"\r\n", b"\n") + b"\n\r\n",
        HEAD + b"X : y\r\n\r\n",
        HEAD + b" folded\r\n\r\n",
        HEAD + b"X: a\rb\r\n\r\n",
        HEAD + b"X: \0\r\n\r\n",
        HEAD + b"Content-Length: +1\r\n\r\na",
        HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
        CHUNKED + b"1\na\r\n0\r\n\r\n",
        CHUNKED + b"1\r\naXX0\r\n\r\n",
        CHUNKED + b"0\r\nX: y\n\r\n\r\n",
    ],
)
def test_what_nobody_should_write_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_request(data)


def test_a_request_is_there_with_its_last_byte() -> None:
    data = CHUNKED + b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"
    whole = read_request(data + b"GET")

    assert (whole.body, whole.trailers, whole.end) == (b"abc", [(b"X", b"y")], len(data))
    for size in range(len(data)):
        with pytest.raises(Incomplete):
            read_request(data[:size])


def test_an_answer_without_a_length_lasts_as_long_as_the_connection() -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nto the end"

    assert read_answer(data, "HEAD").body == b""
    with pytest.raises(Incomplete):
        read_answer(data, "GET")
    assert read_answer(data, "GET", ended=True).body == b"to the end"
