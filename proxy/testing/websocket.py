"""A WebSocket over a Trio stream: wsproto's, in either role."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError


class Closed(Exception):
    """The WebSocket has ended; `code` is 1006 if the connection just broke."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed with {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Rejected(Exception):
    """The handshake was answered with something else than a 101."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(f"rejected with {status}")
        self.status = status
        self.headers = headers


class WebSocket:
    """One end of a WebSocket.  One task may receive while others send."""

    def __init__(self, stream: trio.abc.Stream, kind: ConnectionType) -> None:
        self.stream = stream
        self._ws = WSConnection(kind)
        self._events: list[Event] = []
        self._sending = trio.Lock()

    @classmethod
    async def connect(
        cls,
        stream: trio.abc.Stream,
        host: str,
        target: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> WebSocket:
        """Shake hands as a client; `headers` are sent besides those that it takes.

        Raises:
            Rejected: the answer was not a 101.
            Closed: there was no answer.
        """
        self = cls(stream, ConnectionType.CLIENT)
        await self._send(Request(host=host, target=target, extra_headers=list(headers)))
        answer = await self._next_event()
        if isinstance(answer, RejectConnection):
            told = {name.decode().lower(): value.decode() for name, value in answer.headers}
            raise Rejected(answer.status_code, told)
        assert isinstance(answer, AcceptConnection)
        return self

    @classmethod
    async def accept(
        cls,
        stream: trio.abc.Stream,
        headers: list[tuple[bytes, bytes]],
        target: bytes,
        early: bytes = b"",
    ) -> WebSocket:
        """Accept a request that was read already; `early` is what came behind it.

        Raises:
            RemoteProtocolError: it is no WebSocket handshake.
        """
        self = cls(stream, ConnectionType.SERVER)
        self._ws.initiate_upgrade_connection(headers, target.decode())
        await self._send(AcceptConnection())
        self._ws.receive_data(early)
        self._events = [event for event in self._ws.events() if not isinstance(event, Request)]
        return self

    async def send(self, message: bytes | str) -> None:
        """Send a whole message.

        Raises:
            Closed: it can't be sent any more.
        """
        if isinstance(message, str):
            await self._send(TextMessage(message))
        else:
            await self._send(BytesMessage(message))

    async def receive(self) -> bytes | str:
        """Return the next whole message, answering pings meanwhile.

        Raises:
            Closed: there is no next one.
        """
        pieces: list[bytes | bytearray | str] = []
        while True:
            event = await self._next_event()
            if isinstance(event, (BytesMessage, TextMessage)):
                pieces.append(event.data)
                if event.message_finished:
                    break
            elif isinstance(event, Ping):
                # A Close that came right behind it has ended what may be sent.
                if self._ws.state is ConnectionState.OPEN:
                    await self._send(event.response())
            elif isinstance(event, CloseConnection):
                if self._ws.state is ConnectionState.REMOTE_CLOSING:
                    await self._send(event.response())
                raise Closed(event.code, event.reason or "")
        if isinstance(pieces[0], str):
            return "".join(str(piece) for piece in pieces)
        return b"".join(piece for piece in pieces if not isinstance(piece, str))

    async def close(self, code: int = 1000) -> None:
        """Say goodbye and wait for the answer."""
        try:
            await self._send(CloseConnection(code))
            while True:
                await self.receive()
        except Closed:
            return

    async def _next_event(self) -> Event:
        while not self._events:
            try:
                data = await self.stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise Closed(1006)
            try:
                self._ws.receive_data(bytes(data))
            except RemoteProtocolError as exc:
                raise Closed(1006, str(exc)) from exc
            self._events = list(self._ws.events())
        return self._events.pop(0)

    async def _send(self, event: Event) -> None:
        async with self._sending:
            if self._ws.state is ConnectionState.CLOSED:
                raise Closed(1006)
            try:
                await self.stream.send_all(self._ws.send(event))
            # The latter: one of the two has said goodbye already.
            except (trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError):
                raise Closed(1006) from None
