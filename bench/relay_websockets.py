"""The plain way in asyncio: a proxy of `websockets`, two tasks per session.

Run as `python relay_websockets.py PORT NODE_PORT CERT KEY`, by the interpreter of an environment
that has `websockets`.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  this is what Tidegate is compared with
import logging
import ssl
import sys

from websockets.asyncio.client import (  # type: ignore[import-not-found, unused-ignore]
    ClientConnection,
    connect,
)
from websockets.asyncio.server import (  # type: ignore[import-not-found, unused-ignore]
    ServerConnection,
    serve,
)
from websockets.exceptions import (  # type: ignore[import-not-found, unused-ignore]
    ConnectionClosed,
)


async def pump(
    source: ServerConnection | ClientConnection, target: ServerConnection | ClientConnection
) -> None:
    """Relay messages until the source is closed, then close the target alike."""
    try:
        async for message in source:
            await target.send(message)
    except ConnectionClosed:
        pass
    await target.close()


async def main(port: int, node_port: int, cert: str, key: str) -> None:
    """Relay between 127.0.0.1:port and the node until killed."""

    async def relay(client: ServerConnection) -> None:
        url = f"ws://127.0.0.1:{node_port}/deepstream"
        async with connect(url, compression=None, max_size=None, ping_interval=None) as node:
            await asyncio.gather(pump(client, node), pump(node, client))

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.load_cert_chain(cert, key)
    async with serve(
        relay,
        "127.0.0.1",
        port,
        ssl=tls,
        compression=None,
        max_size=None,
        ping_interval=None,
        backlog=4096,
    ):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
