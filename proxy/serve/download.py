"""A node's answer on its way to the client, piece by piece at the pace of the slower side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from proxy.errors import ClientGone, ResponseTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.observe.record import Record
from proxy.wire.body import SizedBody
from proxy.wire.head import Response
from proxy.wire.headers import ClientFacts, Fields, response_headers, trailers_to_send


async def relay_response(
    node: NodeHttp,
    response: Response,
    client: ClientHttp,
    record: Record,
    facts: ClientFacts,
    *,
    limit: float,
    close: bool = False,
    read: Callable[[NodeHttp], Awaitable[bytes]] = NodeHttp.read_body,
) -> None:
    """Send a node's answer to the client, piece by piece, each within `limit` seconds.

    `close` ends the client's connection behind it; `read` is how it is read.

    Raises:
        BadResponse, ResponseTimeout: the node did not send all of it.
        ClientGone: or it has stopped reading.
    """
    record.status = response.status_code
    headers = response_headers(response.headers, facts, response.http_version)
    length = node.body.size if isinstance(node.body, SizedBody) else None
    client.begin(response.status_code, response.reason, headers, length, close=close)
    # The head goes out with the first piece if that is here already.
    piece = node.body_nowait()
    record.bytes_from_node += len(piece)
    while not node.body.done:
        await _write(client, piece, limit)
        with trio.move_on_after(limit) as scope:
            piece = await read(node)
        if scope.cancelled_caught:
            raise ResponseTimeout(node.node, "The node's answer stopped half-way.")
        record.bytes_from_node += len(piece)
    trailers = trailers_to_send(node.body.trailers) if client.takes_trailers else ()
    await _write(client, piece, limit, last=True, trailers=trailers)


async def _write(
    client: ClientHttp, piece: bytes, limit: float, *, last: bool = False, trailers: Fields = ()
) -> None:
    if client.write_nowait(piece, last=last, trailers=trailers):
        return
    with trio.move_on_after(limit) as scope:
        await client.flush()
    if scope.cancelled_caught:
        raise ClientGone("The client has stopped reading.")
