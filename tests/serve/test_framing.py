"""What reaches a node is what the proxy has accounted for, and can be read in one way only.

A node keeps the very bytes that it was sent.  Afterwards they are read by a strict reader and by
liberal ones, each of which would fall for something else; all have to find the same requests, and
for each of them, in order, there has to be one record that says the same of it.
"""

from __future__ import annotations

import contextlib
import re
from typing import Literal

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.observe.record import Record
from tests.reading import Incomplete, Malformed, Message, read_answer, read_request

from .smuggling import BEHIND, CHUNKED, HIDDEN, VECTORS, Request, Vector, head
from .world import CONFIG, UPGRADE, open_world, read_all

#: Every target has a route, so that nothing is refused for want of one.
OPEN = CONFIG.replace('prefix = "/api"', 'prefix = "/"')
#: What a trailer must never be: it would be taken for what the head said.
HEAD_ONLY = frozenset(
    b"host content-length transfer-encoding x-forwarded-for authorization connection te".split()
)

Prefer = Literal["length", "coding"]
PREFER: tuple[Prefer, ...] = ("length", "coding")


def by_cgi(name: bytes) -> bytes:
    """Return a name as it is known behind CGI (RFC 3875), WSGI and their like: - and _ are one."""
    return name.lower().replace(b"_", b"-")


class Node:
    """Answers what a strict reader finds, and keeps all that came, by connection."""

    def __init__(self) -> None:
        self.connections: list[bytearray] = []
        #: Ids of the requests, in the order in which they were complete.
        self.order: list[bytes] = []

    async def __call__(self, stream: trio.abc.Stream) -> None:
        came, at = bytearray(), 0
        self.connections.append(came)
        while data := await stream.receive_some():
            came += data
            try:
                while True:
                    request = read_request(bytes(came), at)
                    at = request.end
                    self.order.append(request.get(b"x-request-id") or b"")
                    await stream.send_all(self._answer(request))
            except Incomplete:
                continue
            except Malformed:
                return

    def _answer(self, request: Message) -> bytes:
        body = b"" if request.start[0] == b"HEAD" else b"ok"
        return b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\n" + body


@attrs.define
class Liberal:
    """Reads what it can: lines that end in LF, names by their letters, sizes by their digits."""

    prefer: Prefer
    data: bytes
    at: int = 0

    def read(self) -> list[Request]:
        found = []
        try:
            while self.at < len(self.data):
                found.append(self._request())
        except Incomplete:
            pass
        return found

    def _line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Incomplete
        line, self.at = self.data[self.at : end], end + 1
        return line.removesuffix(b"\r")

    def _lines(self) -> list[bytes]:
        lines: list[bytes] = []
        while line := self._line():
            if line[:1] in b" \t" and lines:
                lines[-1] += line
            else:
                lines.append(line)
        return lines

    def _request(self) -> Request:
        while not (first := self._line()):
            pass
        method, target = (*first.split(), b"", b"")[:2]
        length, chunked = b"", False
        for line in self._lines():
            name, _, value = line.partition(b":")
            match by_cgi(re.sub(rb"[^!-~]+", b"", name)):
                case b"content-length":
                    length = length or b"".join(re.findall(rb"\d+", value)[:1])
                case b"transfer-encoding":
                    chunked = chunked or b"chunked" in value.lower()
        if chunked and not (length and self.prefer == "length"):
            return method, target, self._chunks()
        return method, target, self._take(int(length or 0))

    def _take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise Incomplete
        self.at += size
        return self.data[self.at - size : self.at]

    def _chunks(self) -> bytes:
        body = b""
        while True:
            size = re.match(rb"\s*(?:0x)?([0-9a-f]*)", self._line().lower())
            assert size is not None
            if not int(size[1] or b"0", 16):
                self._lines()
                return body
            body += self._take(int(size[1], 16))
            # The end of the line, if there is one.
            if re.match(rb"\r?\n", self.data[self.at :]):
                self._line()


def read(came: bytearray) -> list[Message]:
    """Return the requests on a connection; the last one may have been given up half-way."""
    data, at = bytes(came), 0
    found: list[Message] = []
    with contextlib.suppress(Incomplete):
        while at < len(data):
            found.append(read_request(data, at))
            at = found[-1].end
    plain = [(*one.start, one.body) for one in found]
    assert [Liberal(prefer, data).read() for prefer in PREFER] == [plain, plain], data
    return found


@attrs.frozen
class Outcome:
    """What a client sent, what it got, and what is known of it."""

    answers: bytes
    records: list[Record]
    node: Node

    def requests(self) -> list[Message]:
        """Return what has reached the node, however it is read, each as its record says it was."""
        found = {self._checked(one): one for came in self.node.connections for one in read(came)}
        assert sorted(found) == sorted(self.node.order)
        known = {record.id.encode(): record for record in self.records}
        # In the order of the records, which is that of the client.
        assert self.node.order == [name for name in known if name in found]
        for name, one in found.items():
            record = known[name]
            told = record.method.encode(), record.target.encode("latin-1")
            assert (told, record.bytes_from_client) == (one.start, len(one.body))
        answered = {name for name, record in known.items() if record.status == 200}
        assert answered == found.keys()
        return [found[name] for name in self.node.order]

    def _checked(self, request: Message) -> bytes:
        """Return a request's id; what a node believes is the proxy's word."""
        told = [(by_cgi(name), value) for name, value in request.headers]
        assert [name for name, _ in told].count(b"host") == 1
        assert [v for name, v in told if name == b"x-forwarded-for"] == [b"192.0.2.7"]
        assert {v for name, v in told if name == b"upgrade"} <= {b"websocket"}
        assert not HEAD_ONLY & {by_cgi(name) for name, _ in request.trailers}
        return request.get(b"x-request-id") or b""

    def statuses(self) -> list[int]:
        """Return what the client was answered, each answer as its record says."""
        told = [record for record in self.records if record.status]
        found, at = [], 0
        for record in told:
            while True:
                answer = read_answer(self.answers, record.method, at, ended=True)
                at = answer.end
                if answer.start[0][:1] != b"1":
                    break
            found.append(int(answer.start[0]))
        assert self.answers[at:] == b""
        assert found == [record.status for record in told]
        return found


def send(*pieces: bytes) -> Outcome:
    """Send a client's bytes, hang up, and return what has come of it."""
    node = Node()
    answers: list[bytes] = []
    records: list[Record] = []

    async def run() -> None:
        async with open_world(OPEN) as world:
            world.nodes = {"node-a": node, "node-b": node}
            client = world.connect()
            try:
                for piece in pieces:
                    await client.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
                await client.send_stream.aclose()
            except trio.BrokenResourceError:
                pass
            answers.append(await read_all(client))
            await trio.testing.wait_all_tasks_blocked()
            records.extend(world.records)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return Outcome(answers[0], records, node)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_known_vectors(vector: Vector) -> None:
    outcome = send(vector.data + BEHIND)
    reached = [(*one.start, one.body) for one in outcome.requests()]
    statuses = outcome.statuses()

    assert b"/hidden" not in [target for _, target, _ in reached]
    if vector.wanted is None:
        assert reached == []
        assert [status for status in statuses if status < 400] == []
        assert len(statuses) <= 1
    elif vector.wanted:
        assert reached == [*vector.wanted]
        assert statuses.count(200) == len(reached)


def test_vectors_come_in_any_pieces() -> None:
    data = head(CHUNKED) + b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n" + BEHIND
    whole = [(*one.start, one.body) for one in send(data).requests()]

    assert len(whole) == 2
    for cut in range(1, len(data)):
        outcome = send(data[:cut], data[cut:])
        assert [(*one.start, one.body) for one in outcome.requests()] == whole, cut
        assert outcome.statuses() == [200, 200]


GOOD = [
    head(method=b"GET"),
    head(b"Content-Length: 5") + b"hello",
    head(CHUNKED, b"Expect: 100-continue") + b"5\r\nhello\r\n0\r\n\r\n",
    head(CHUNKED, b"TE: trailers") + b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n",
    head(b"Content-Length: %d" % len(HIDDEN), method=b"GET") + HIDDEN,
    head(b"X-A: 1", b"Connection: keep-alive, x-a", method=b"HEAD"),
    UPGRADE,
    *(vector.data for vector in VECTORS if len(vector.data) < 400),
]
PIECES = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"0",
        b"\xff",
        b"\r\n\r\n",
        b"\r\n ",
    ),
    *(b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(
        b"Transfer-Encoding: identity\r\n",
        b"Connection: content-length\r\n",
        b"Host: c.example\r\n",
    ),
    *(b"0\r\n\r\n", b"3\r\nabc\r\n", b"HEAD ", b"GET /x HTTP/1.1\r\n", BEHIND),
]


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """Some requests, changed at a line's beginning or end more often than elsewhere, in pieces."""
    data = b"".join(draw(st.lists(st.sampled_from(GOOD), min_size=1, max_size=3))) + BEHIND
    for _ in range(draw(st.integers(0, 3))):
        edges = [found.start() for found in re.finditer(rb"\r\n|:|;", data)]
        edges += [edge + 2 for edge in edges]
        place = draw(st.one_of(st.sampled_from(edges or [0]), st.integers(0, len(data))))
        cut = draw(st.sampled_from([0, 0, 0, 1, 2, 5]))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=2)))
        data = data[:place] + piece + data[place + cut :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=2)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=300)
@given(mutated())
def test_mutated_requests(pieces: list[bytes]) -> None:
    outcome = send(*pieces)
    outcome.requests()
    outcome.statuses()
