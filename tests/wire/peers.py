"""The two ends of a tunnel: what they send, and what they make of what they are sent."""

from __future__ import annotations

import attrs
from wsproto.frame_protocol import FrameProtocol

from proxy.wire.tunnel import Side, Tunnel

from .strategies import frame

KEY = b"\x01\x02\x03\x04"


def feed_whole(tunnel: Tunnel, side: Side, data: bytes) -> None:
    tunnel.received(side, data)


def feed_bytes(tunnel: Tunnel, side: Side, data: bytes) -> None:
    for byte in data:
        tunnel.received(side, bytes([byte]))


def close(code: int | None, reason: bytes = b"", *, key: bytes | None = None) -> bytes:
    return frame(8, b"" if code is None else code.to_bytes(2, "big") + reason, key=key)


def key_of(side: Side) -> bytes | None:
    """Return what masks the frames that come from a side."""
    return KEY if side is Side.CLIENT else None


@attrs.frozen
class Peer:
    """What a peer has read of what it was sent."""

    messages: list[bytes]
    pings: list[bytes]
    close: tuple[int, str] | None

    @classmethod
    def read(cls, side: Side, data: bytes) -> Peer:
        protocol = FrameProtocol(client=side is Side.CLIENT, extensions=[])
        protocol.receive_bytes(data)
        whole: list[bytes] = []
        pings: list[bytes] = []
        ending = None
        current = b""
        for one in protocol.received_frames():
            payload = one.payload
            if isinstance(payload, tuple):
                ending = (int(payload[0]), payload[1])
            elif one.opcode < 8:
                current += payload.encode() if isinstance(payload, str) else payload
                if one.message_finished:
                    whole.append(current)
                    current = b""
            elif one.opcode == 9 and isinstance(payload, bytes):
                pings.append(payload)
        return cls(whole, pings, ending)
