"""What the two ways of relaying a session have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from proxy.wire.tunnel import Ending, Side, Tunnel


class Relay(ABC):
    """Two streams and the tunnel between them.

    A relay owns neither stream for good: when `run` ends, the node's is closed, and the client's is
    the caller's to close, since how that ends is seen by people.
    """

    __slots__ = ("_close_timeout", "on_ending", "tunnel")

    def __init__(self, tunnel: Tunnel, *, close_timeout: float) -> None:
        self.tunnel = tunnel
        self._close_timeout = close_timeout
        #: Called when the session begins to end: `tunnel.ending` says why.
        self.on_ending: Callable[[], None] | None = None

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
        self._wake()

    def ping(self, side: Side, payload: bytes) -> bool:
        """Send a Ping of our own, see `Tunnel.ping`."""
        sent = self.tunnel.ping(side, payload)
        self._wake()
        return sent
