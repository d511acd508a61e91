"""Heads of messages: h11 parses them, one at a time; here they are written.

What is written was parsed by h11 before, or checked by it where a program made it, so nothing in it
can begin another line.  That is looked at once more all the same: it would be another message.
"""

from __future__ import annotations

import re
from typing import Final

import h11

from .headers import Headers

#: What an h11 client has asked: without a question it would not read an answer, nor a 101.
_QUESTION: Final = h11.Request(
    method="GET",
    target="/",
    headers=[("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "websocket")],
)
_END: Final = re.compile(rb"\n\r?\n")
#: The longest head that h11 is given: whoever calls has cut it to its own, smaller limit.
_ROOM: Final = 2**20


def parse_request(head: bytes) -> h11.Request:
    """Return a request from its whole head, `check_head` having found nothing.

    Raises:
        h11.RemoteProtocolError: it is malformed; its `error_status_hint` says how to answer.
    """
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=_ROOM)
    conn.receive_data(head)
    event = conn.next_event()
    assert isinstance(event, h11.Request)
    return event


def find_response_head(buffer: bytes) -> int | None:
    """Return the length of the head at the start of `buffer`, None if it isn't whole yet."""
    end = _END.search(buffer)
    return None if end is None else end.end()


def parse_response(head: bytes) -> h11.Response | h11.InformationalResponse:
    """Return an answer from its whole head.

    Raises:
        h11.RemoteProtocolError: it is malformed.
    """
    conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ROOM)
    conn.send(_QUESTION)
    conn.receive_data(head)
    event = conn.next_event()
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise h11.RemoteProtocolError("not a head")
    return event


def write_request(method: bytes, target: bytes, headers: Headers) -> bytes:
    """Return the head of a request."""
    return _written(b"%b %b HTTP/1.1" % (method, target), headers)


def write_response(status: int, reason: bytes, headers: Headers) -> bytes:
    """Return the head of an answer."""
    return _written(b"HTTP/1.1 %d %b" % (status, reason), headers)


def _written(first: bytes, headers: Headers) -> bytes:
    head = b"\r\n".join([first, *map(b"%b: %b".__mod__, headers), b"", b""])
    lines = len(headers) + 2
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise AssertionError("a header holds the end of a line")
    return head
