"""Heads of messages: read once, strictly, and written anew.

Theory.  A head is read by one regular expression for all of its header lines, which is anchored at
the line's beginning, so that as many lines match as there are exactly when every line is a header
as RFC 9112 section 5 has it: no space before a colon, no folding, no bare CR or LF, no control
character.  There is nothing left then that another parser could read differently.  The quantifiers
are possessive: a line that does not match costs no more than one that does.

What does not match goes to h11.  Of a request that is to say why it is refused, and nothing else;
an answer it may still understand, for nodes are the operator's own, and some end lines in LF.  h11
is also the oracle of the tests: what is read here it reads too, and in the same way.

Whoever sends one message after the other sends mostly the same lines.  So the lines of a head are
kept (`Lines`), with what was made of them; a head that is read `like` the one before, from the same
peer, and has just the same bytes there, has these lines.  Nobody changes them.

What is written was read here, or checked where a program made it, so nothing in it can begin
another line.  That is looked at once more all the same: it would be another message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import h11

from proxy.errors import (
    BadRequest,
    HeadTooLarge,
    MethodNotAllowed,
    NotImplementedCoding,
    Refusal,
    TargetTooLong,
    VersionNotSupported,
)

from .forwarded import HOST
from .headers import Headers, HeadLimits, check_head

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_REQUEST_LINE: Final = re.compile(rb"(%b+) ([!-~]+) HTTP/(\d\.\d)\r\n" % _TOKEN)
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.(\d) ([1-9]\d\d)(?: ([\t -~\x80-\xff]*+))?\r\n")
_FIELD: Final = re.compile(rb"(?<=\r\n)(%b++):[ \t]*+([\t -~\x80-\xff]*+)\r\n" % _TOKEN)
_END: Final = re.compile(rb"\n\r?\n")
#: In one way only: leading zeros are no more needed than a sign.
_DIGITS: Final = re.compile(rb"0|[1-9]\d{0,14}")
_ABSOLUTE: Final = re.compile(rb"(?:http|ws)s?://([^/?#]*)(.*)", re.IGNORECASE)
#: "." and ".." as path segments, also where a node would have to decode something, or to take a
#: backslash for a slash, or ";" for the segment's end, to find them: it may resolve them, a route
#: does not.
_SLASH: Final = rb"(?:[/\\]|%2f|%5c)"
_DOT_SEGMENT: Final = re.compile(
    rb"%b(?:\.|%%2e){1,2}(?:%b|;|%%3b|$)" % (_SLASH, _SLASH), re.IGNORECASE
)
#: Of which there is one, or the message could be two.
_SINGLE: Final = (b"host", b"content-length", b"transfer-encoding")
#: The longest head that h11 is given: whoever calls has cut it to its own, smaller limit.
_ROOM: Final = 2**20
#: What an h11 client has asked: without a question it would not read an answer, nor a 101.
_QUESTION: Final = h11.Request(
    method="GET",
    target="/",
    headers=[("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "websocket")],
)


class Lines:
    """The header lines of a head: as they are on the wire, one by one, and by name."""

    __slots__ = ("_made", "headers", "names", "raw")

    def __init__(self, raw: bytes, headers: Headers, names: dict[bytes, bytes]) -> None:
        self.raw = raw
        self.headers = headers
        self.names = names
        self._made: Headers | None = None

    def once(self, make: Callable[[Headers], Headers]) -> Headers:
        """Return a list of its own of what is made of them, always in the same way, but once."""
        if self._made is None:
            self._made = make(self.headers)
        return self._made.copy()


class Head:
    """What requests and answers have in common.

    `headers` are as they came; `names` has the same by lower-case name, the values of one that
    comes several times joined by commas (RFC 9110 section 5.3).
    """

    __slots__ = ("headers", "http_version", "lines", "names")

    def __init__(
        self,
        headers: Headers,
        names: dict[bytes, bytes],
        http_version: bytes,
        lines: Lines | None = None,
    ) -> None:
        self.headers = headers
        self.names = names
        self.http_version = http_version
        self.lines = lines

    def once(self, make: Callable[[Headers], Headers]) -> Headers:
        """Return what is made of the headers, always in the same way; see `Lines.once`."""
        return make(self.headers) if self.lines is None else self.lines.once(make)

    def get(self, name: bytes) -> bytes | None:
        """Return a header's value; `name` is in lower case."""
        return self.names.get(name)

    def lists(self, name: bytes, token: bytes) -> bool:
        """Whether a token, in lower case, is a member of the list under a name."""
        value = self.names.get(name)
        if value is None:
            return False
        value = value.lower()
        return value == token or token in [part.strip() for part in value.split(b",")]


class Request(Head):
    """The head of a request."""

    __slots__ = ("method", "target")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        names: dict[bytes, bytes] | None = None,
        http_version: bytes = b"1.1",
        lines: Lines | None = None,
    ) -> None:
        names = _by_name(headers) if names is None else names
        super().__init__(headers, names, http_version, lines)
        self.method = method
        self.target = target

    def of(self, host: bytes) -> Request:
        """Return the same request with a Host header, which it lacks."""
        headers = [(b"Host", host), *self.headers]
        return Request(self.method, self.target, headers, None, self.http_version)

    def to(self, target: bytes) -> Request:
        """Return the same request for another target."""
        same = self.headers, self.names, self.http_version, self.lines
        return Request(self.method, target, *same)


class Response(Head):
    """The head of an answer, the last one or, with a status below 200, one before it."""

    __slots__ = ("reason", "status_code")

    def __init__(
        self,
        status_code: int,
        reason: bytes,
        headers: Headers,
        names: dict[bytes, bytes] | None = None,
        http_version: bytes = b"1.1",
        lines: Lines | None = None,
    ) -> None:
        names = _by_name(headers) if names is None else names
        super().__init__(headers, names, http_version, lines)
        self.status_code = status_code
        self.reason = reason


def read_request(head: bytes, limits: HeadLimits, like: Lines | None = None) -> Request:
    """Return a request from its whole head; `like` are lines of one that was read before.

    Raises:
        BadRequest: or what else says why it is none, or could be read as two.
    """
    line = _REQUEST_LINE.match(head)
    lines = line and _lines(head, line.end(), like)
    if line is None or lines is None:
        raise _why_not(head, limits)
    method, target, version = line.groups()
    if len(target) > limits.target_bytes:
        raise TargetTooLong
    if lines is not like:
        if len(lines.headers) > limits.headers:
            raise HeadTooLarge("The request has too many headers.")
        _check_length(lines)
    if b"host" not in lines.names and version == b"1.1":
        raise BadRequest("The request has no Host header.")
    return Request(method, target, lines.headers, lines.names, version, lines)


def _lines(head: bytes, start: int, like: Lines | None) -> Lines | None:
    """Return the lines from `start` on, `like` if they are the same; None: one is no header."""
    raw = head[start - 2 :]
    if like is not None and like.raw == raw:
        return like
    fields = _FIELD.findall(raw)
    if len(fields) != raw.count(b"\n") - 2:
        return None
    if b" \r\n" in raw or b"\t\r\n" in raw:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    return Lines(raw, fields, _by_name(fields))


def _by_name(headers: Headers) -> dict[bytes, bytes]:
    names = {name.lower(): value for name, value in headers}
    if len(names) != len(headers):
        names.clear()
        for name, value in headers:
            key = name.lower()
            names[key] = names[key] + b", " + value if key in names else value
    return names


def _check_length(lines: Lines) -> None:
    """Refuse what could be read as a body of another length (RFC 9112 section 6.3)."""
    names = lines.names
    if len(names) != len(lines.headers):
        lower = [name.lower() for name, _ in lines.headers]
        for single in _SINGLE:
            if lower.count(single) > 1:
                raise BadRequest(f"The request has several {single.decode().title()} headers.")
    coding, length = names.get(b"transfer-encoding"), names.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest("The head gives more than one length for the body.")
        if coding.lower() != b"chunked":
            raise NotImplementedCoding
    elif length is not None and not _DIGITS.fullmatch(length):
        raise BadRequest("Content-Length is not a number.")


def _why_not(head: bytes, limits: HeadLimits) -> Refusal:
    """Return what is wrong with a head."""
    try:
        check_head(head, limits)
        conn = h11.Connection(h11.SERVER, max_incomplete_event_size=_ROOM)
        conn.receive_data(head)
        conn.next_event()
    except Refusal as refusal:
        return refusal
    except h11.RemoteProtocolError as exc:
        # What h11 says behind a colon quotes the request, which may hold secrets.
        return BadRequest(f"The request is malformed: {str(exc).partition(':')[0]}.")
    return BadRequest()


def check_request(request: Request) -> Request:
    """Return a request with its target in origin form (RFC 9112 section 3.2).

    Raises:
        BadRequest, MethodNotAllowed, VersionNotSupported: with the reason.
    """
    if request.http_version not in (b"1.1", b"1.0"):
        raise VersionNotSupported
    if request.method in (b"CONNECT", b"TRACE"):
        raise MethodNotAllowed(
            headers=[(b"Allow", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")]
        )
    if request.http_version == b"1.0" and request.get(b"transfer-encoding") is not None:
        raise BadRequest("HTTP/1.0 has no transfer codings.")
    host, target = request.get(b"host"), request.target
    if host is not None and not HOST.fullmatch(host):
        raise BadRequest("The Host header is not a host.")
    if not target.startswith(b"/") and (absolute := _ABSOLUTE.fullmatch(target)):
        if host is not None and absolute[1].lower() != host.lower():
            raise BadRequest("The target and the Host header name different hosts.")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        if host is None:
            # HTTP/1.0: the target says what a Host header would (RFC 9112 section 3.2.2).
            request = request.of(absolute[1])
    if not target.startswith(b"/") or b"#" in target:
        raise BadRequest("The request target is not a path.")
    if (b"." in target or b"%" in target) and _DOT_SEGMENT.search(target.partition(b"?")[0]):
        raise BadRequest("The path has dot segments.")
    return request if target == request.target else request.to(target)


def find_response_head(buffer: bytes) -> int | None:
    """Return the length of the head at the start of `buffer`, None if it isn't whole yet."""
    end = _END.search(buffer)
    return None if end is None else end.end()


def read_response(head: bytes, like: Lines | None = None) -> Response:
    """Return an answer from its whole head; `like` are lines of one that was read before.

    Raises:
        h11.RemoteProtocolError: it is malformed.
    """
    line = _STATUS_LINE.match(head)
    lines = line and _lines(head, line.end(), like)
    if line is None or lines is None:
        return _read_by_h11(head)
    minor, status, reason = line.groups()
    names = lines.names
    response = Response(int(status), reason or b"", lines.headers, names, b"1." + minor, lines)
    coding, length = names.get(b"transfer-encoding"), names.get(b"content-length")
    if (coding is not None and coding.lower() != b"chunked") or (
        length is not None and not _DIGITS.fullmatch(length)
    ):
        return _read_by_h11(head)
    return response


def _read_by_h11(head: bytes) -> Response:
    conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ROOM)
    conn.send(_QUESTION)
    conn.receive_data(head)
    event = conn.next_event()
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise h11.RemoteProtocolError("not a head")
    headers = event.headers.raw_items()
    return Response(event.status_code, event.reason, headers, None, event.http_version)


def write_request(method: bytes, target: bytes, headers: Headers) -> bytes:
    """Return the head of a request."""
    return _written(b"%b %b HTTP/1.1" % (method, target), headers)


def write_response(status: int, reason: bytes, headers: Headers) -> bytes:
    """Return the head of an answer."""
    return _written(b"HTTP/1.1 %d %b" % (status, reason), headers)


def _written(first: bytes, headers: Headers) -> bytes:
    head = b"\r\n".join([first, *map(b": ".join, headers), b"", b""])
    lines = len(headers) + 2
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise AssertionError("a header holds the end of a line")
    return head
