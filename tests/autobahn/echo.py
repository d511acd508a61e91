"""The node of Autobahn's cases, a process of its own: wsproto, sending every message back.

Of the libraries at hand it is the one that passes all cases, so that there is something to lose
through the proxy: an echo goes out before the frame behind it is looked at, even if both came at
once and that one breaks the protocol.  A message is sent back when it is whole, since the fuzzing
client reads nothing while it sends one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.extensions import PerMessageDeflate

if TYPE_CHECKING:
    from collections.abc import Iterator


def answers(connection: WSConnection, pieces: list[ws.Message[Any]]) -> Iterator[ws.Event]:
    """Yield the answer to each event at hand; `pieces` has the message that is not whole yet."""
    for event in connection.events():
        if isinstance(event, ws.Request):
            yield ws.AcceptConnection(extensions=[PerMessageDeflate()])
        elif isinstance(event, ws.Ping | ws.CloseConnection):
            yield event.response()
        elif isinstance(event, ws.Message):
            pieces.append(event)
            if event.message_finished:
                yield type(event)(type(event.data)().join(piece.data for piece in pieces))
                pieces.clear()


async def echo(stream: trio.abc.Stream) -> None:
    """Serve one client until one of us closes."""
    connection = WSConnection(ConnectionType.SERVER)
    pieces: list[ws.Message[Any]] = []
    async with stream:
        try:
            async for data in stream:
                connection.receive_data(bytes(data))
                for answer in answers(connection, pieces):
                    await stream.send_all(connection.send(answer))
                    if isinstance(answer, ws.CloseConnection):
                        return
        except trio.BrokenResourceError:
            return


async def main() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listeners[0].socket.getsockname()
    print(json.dumps({"event": "ready", "address": f"{host}:{port}"}), flush=True)
    await trio.serve_listeners(echo, listeners)


if __name__ == "__main__":
    trio.run(main)
