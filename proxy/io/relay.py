"""What the two ways of relaying a session have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import trio

from proxy.wire.tunnel import Ending, Side, Tunnel


class Relay(ABC):
    """Two streams and the tunnel between them.

    A relay owns neither stream for good: when `run` ends, the node's is closed, and the client's is
    the caller's to close, since how that ends is seen by people.
    """

    def __init__(self, tunnel: Tunnel, *, close_timeout: float) -> None:
        self.tunnel = tunnel
        self._close_timeout = close_timeout
        # Its deadline is set by the first event that ends the session.
        self._closing = trio.CancelScope()

    @abstractmethod
    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        """Relay until the tunnel is finished, or until the time for that is over.

        `early` are the bytes that came behind the handshake, from the client and from the node.
        """

    @abstractmethod
    def _wake(self) -> None:
        """Act on what was put in the tunnel from outside."""

    def close(self, ending: Ending, client_code: int, node_code: int, reason: str) -> None:
        """End the session with a Close to each side; `run` goes on until they have answered."""
        self.tunnel.close(ending, client_code, node_code, reason)
        self._start_clock()
        self._wake()

    def ping(self, side: Side, payload: bytes) -> bool:
        """Send a Ping of our own, see `Tunnel.ping`."""
        sent = self.tunnel.ping(side, payload)
        self._wake()
        return sent

    def _start_clock(self) -> None:
        """Once the session is ending, give it `close_timeout` for that."""
        if self.tunnel.ending and self._closing.deadline == float("inf"):
            self._closing.deadline = trio.current_time() + self._close_timeout
