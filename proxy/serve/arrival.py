"""How a connection begins, before anything is asked of us."""

from __future__ import annotations

import ssl

import trio

from proxy.io.tls import TlsTransport
from proxy.io.transport import SocketTransport
from proxy.observe.record import Record


async def shake_hands(
    stream: SocketTransport, tls: ssl.SSLContext, record: Record, deadline: float
) -> TlsTransport | None:
    """Shake hands as TLS's server; None: it failed, or was not complete by `deadline`.

    The record is told how long it took, or why it failed.
    """
    started = trio.current_time()
    transport = TlsTransport(stream.sock, tls)
    try:
        with trio.move_on_at(deadline):
            await transport.do_handshake()
            record.tls_time = trio.current_time() - started
            return transport
    except trio.BrokenResourceError as exc:
        record.detail = f"The TLS handshake failed: {exc.__cause__ or exc}."
    else:
        record.detail = "The TLS handshake was not complete in time."
    return None
