"""Headers that errors answer with, and what else they know."""

from __future__ import annotations

import pytest

from proxy.errors import Draining, Full, NoNode, Refusal, UpgradeRequired, WrongVersion


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (WrongVersion(), (b"Sec-WebSocket-Version", b"13")),
        (UpgradeRequired(), (b"Upgrade", b"websocket")),
        (Draining(), (b"Retry-After", b"1")),
        (Full(), (b"Retry-After", b"5")),
        (Full(retry_after=9), (b"Retry-After", b"9")),
        (NoNode("up"), (b"Retry-After", b"1")),
        (NoNode("up", retry_after=30), (b"Retry-After", b"30")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Refusal) else value[1].decode(),
)
def test_headers(error: Refusal, header: tuple[bytes, bytes]) -> None:
    assert error.headers == (header,)


def test_no_node_has_its_upstream_and_status() -> None:
    error = NoNode("deepstream", status=503)

    assert (error.upstream, error.status, NoNode.status) == ("deepstream", 503, 500)
