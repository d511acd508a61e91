"""Close frames: what they carry, and the words for how a session ends.

The endings are a closed set: the record, the statistics and the log have no other.  What each side
of a session sees of one (a code and a reason; 1006 stands for a connection that just ends):

    ending            client                      node                        begun by
    client_closed     the node's answer           the client's Close          client
    node_closed       the node's Close            its own Close, then FIN     node
    client_lost       -                           FIN                         client
    node_lost         1011                        -                           node
    client_error      1002, 1007                  1001                        client
    node_error        1011                        1002, 1007                  node
    client_limit      1008, 1009                  1001                        client
    node_limit        1001                        1008, 1009                  node
    client_silent     1001                        1001                        client
    node_silent       1001                        1001                        node
    client_stalled    1013, or a reset            1001                        client
    node_stalled      1013                        1001, or a reset            node
    idle              1001                        1001                        proxy
    shutdown          1012                        1001                        proxy
    moved             1012                        1001                        proxy
    removed           1012                        1001                        proxy
    hook              1011, or the hook's own     1001                        proxy
    cancelled         FIN                         FIN                         proxy
    bug               1011                        1001                        proxy

A Close that has to wait for the end of a frame, and cannot, is left out: that side sees 1006, which
is the truth.  Where bytes pass unseen there are no codes: in the place of each is the end of the
connection, and client_lost and node_lost are a reset for the other side.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

#: What an empty Close is said to have; never on the wire.
NO_STATUS: Final = 1005

Party = Literal["client", "node", "proxy"]
Ending = Literal[
    "client_closed",
    "node_closed",
    "client_lost",
    "node_lost",
    "client_error",
    "node_error",
    "client_limit",
    "node_limit",
    "client_silent",
    "node_silent",
    "client_stalled",
    "node_stalled",
    "idle",
    "shutdown",
    "moved",
    "removed",
    "hook",
    "cancelled",
    "bug",
]
ENDINGS: Final[tuple[Ending, ...]] = get_args(Ending)


def party(ending: Ending) -> Party:
    """Return who has begun it."""
    if ending.startswith("client_"):
        return "client"
    return "node" if ending.startswith("node_") else "proxy"


class FrameError(Exception):
    """A frame that may not pass; `code` is what the offender's Close should say."""

    def __init__(self, reason: str, code: int = 1002) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


def parse_close(payload: bytes, *, lenient: bool = False) -> tuple[int, str]:
    """Return a Close frame's code and reason; an empty one has the code 1005.

    With `lenient`, one that may not be sent is taken for an empty one.

    Raises:
        FrameError: if the payload may not be sent (RFC 6455 sections 5.5.1 and 7.4).
    """
    try:
        return _parse_close(payload)
    except FrameError:
        if not lenient:
            raise
        return NO_STATUS, ""


def _parse_close(payload: bytes) -> tuple[int, str]:
    if not payload:
        return NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not sendable(code):
        raise FrameError("close code may not be sent")
    try:
        return code, payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise FrameError("close reason is not UTF-8", 1007) from None


def sendable(code: int) -> bool:
    """Whether a Close frame may carry `code`: what IANA registers, and 3000 to 4999.

    wsproto refuses 1014 ("bad gateway"), which is registered; it passes here.
    """
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
