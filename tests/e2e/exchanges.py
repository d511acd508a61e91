"""Requests written by hand, sent to whoever, and what came back as a value that can be compared."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import attrs
import trio

from tests.reading import Headers, Incomplete, Message, read_answer

from .program import deadline
from .raw import open_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .harness import Certificate

PATIENCE = 10.0
#: Between two hops, or of a moment: a proxy has its own.
OWN = frozenset(
    b"connection keep-alive proxy-connection transfer-encoding te upgrade date via "
    b"proxy-status expect".split()
)
#: What nodes are told of the client.
TOLD = frozenset(
    b"forwarded x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto "
    b"x-request-id".split()
)
PROBE = b"GET /length?still=open HTTP/1.1\r\nHost: probe\r\n\r\n"


@attrs.frozen
class Answer:
    """Wait for the whole answer to a request with this method."""

    method: str = "GET"


@attrs.frozen
class Until:
    """Wait until this has come, of what was not read as an answer before."""

    text: bytes


@attrs.frozen
class Poke:
    """Ask the node itself for something, on another connection, and wait for the answer."""

    path: str


Step = bytes | Answer | Until | Poke


@attrs.frozen
class Case:
    """What is sent, and when what is waited for."""

    name: str
    steps: tuple[Step, ...]
    #: Whether the connection goes on afterwards may depend on the node, or on the proxy.
    any_end: bool = False


def case(name: str, *steps: Step, any_end: bool = False) -> Case:
    return Case(name, steps, any_end)


def ask(
    target: str, *lines: str, method: str = "GET", version: str = "1.1", body: bytes = b""
) -> bytes:
    """A request; with a body it gets a Content-Length, unless it has a length already."""
    head = [f"{method} {target} HTTP/{version}", "Host: rt.example", *lines]
    if body and not any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in [*head, ""]).encode("latin-1") + body


def chunks(*pieces: bytes, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    """A whole chunked body."""
    parts = [b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces]
    return b"".join(parts) + b"0\r\n" + trailers + b"\r\n"


@attrs.frozen
class Seen:
    """What a client has seen: of each answer the interim ones, head, body and trailers."""

    answers: tuple[tuple[object, ...], ...]
    #: What one more request was answered with, if the connection went on.
    next: object


@attrs.define(eq=False)
class Talk:
    """One connection, and what came on it."""

    stream: trio.abc.Stream
    node: str
    _data: bytes = b""
    _at: int = 0
    _ended: bool = False

    async def run(self, case: Case) -> Seen:
        answers = []
        for step in case.steps:
            match step:
                case bytes():
                    await self._send(step)
                case Answer():
                    answers.append(await self._answer(step.method))
                case Until():
                    while step.text not in self._data[self._at :]:
                        assert not self._ended, (step.text, self._data[self._at :])
                        await self._more()
                case Poke():
                    async with open_plain(self.node) as stream:
                        request = f"GET {step.path} HTTP/1.1\r\nHost: poke\r\n\r\n"
                        await stream.send_all(request.encode())
                        await Talk(stream, self.node)._answer("GET")
        return Seen(tuple(answers), None if case.any_end else await self._goes_on())

    async def _goes_on(self) -> object:
        if not self._ended:
            await self._send(PROBE)
        return await self._answer("GET")

    async def _send(self, data: bytes) -> None:
        # Who hung up before may have answered first.
        with contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def _more(self) -> None:
        piece = b""
        with contextlib.suppress(trio.BrokenResourceError):
            piece = bytes(await self.stream.receive_some())
        self._data += piece
        self._ended = not piece

    async def _answer(self, method: str) -> tuple[object, ...]:
        interim: list[object] = []
        while True:
            try:
                message = read_answer(self._data, method, self._at, ended=self._ended)
            except Incomplete:
                if self._ended:
                    rest, self._data, self._at = self._data[self._at :], b"", 0
                    return "cut", rest.partition(b"\r\n")[0]
                await self._more()
                continue
            self._at = message.end
            if message.start[0][:1] != b"1":
                return tuple(interim), *_comparable(message)
            interim.append(_comparable(message))


def _comparable(message: Message) -> tuple[object, ...]:
    kept = [(name, value) for name, value in message.headers if name.lower() not in OWN]
    body: object = message.body
    if message.start[1] == b"Seen" and message.body:
        # How long it is depends on what the node was told.
        kept = [(name, value) for name, value in kept if name.lower() != b"content-length"]
        body = _told(json.loads(message.body))
    return message.start, kept, body, message.trailers


def _told(seen: dict[str, object]) -> dict[str, object]:
    """What a node says that it was sent, without what the proxy tells it."""
    raw = seen["rawHeaders"]
    assert isinstance(raw, list)
    lines: Headers = [(a.encode(), b.encode()) for a, b in zip(raw[::2], raw[1::2], strict=True)]
    kept = [line for line in lines if line[0].lower() not in OWN | TOLD]
    return seen | {"rawHeaders": kept}


@contextlib.asynccontextmanager
async def open_plain(address: str) -> AsyncIterator[trio.SocketStream]:
    host, port = address.rsplit(":", 1)
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        yield stream


def open_way(
    address: str, certificate: Certificate | None
) -> contextlib.AbstractAsyncContextManager[trio.abc.Stream]:
    """Connect, over TLS if there is a certificate to trust."""
    return open_tls(address, certificate) if certificate else open_plain(address)


async def run_case(case: Case, node: str, address: str, certificate: Certificate | None) -> Seen:
    """Send a case to an address, over TLS if there is a certificate to trust."""
    async with open_way(address, certificate) as stream:
        with deadline(PATIENCE, f"{case.name} at {address}"):
            return await Talk(stream, node).run(case)
