"""What can be seen of a session while it lives."""

from __future__ import annotations

import pytest

from proxy.observe.live import Look
from proxy.wire.tunnel import Side, Tunnel
from tests.wire.strategies import frame

KEY = b"abcd"
UP = frame(2, b"x" * 94, key=KEY)
DOWN = frame(1, b"y" * 18)


def test_counts_are_those_of_now() -> None:
    tunnel = Tunnel()
    look = Look(100.0)
    tunnel.received(Side.CLIENT, UP)
    client, node = look.legs(tunnel, 100.1, (7, 8), (0.25, None))

    assert (client.messages, client.bytes, node.messages, node.bytes) == (1, 100, 0, 0)
    assert (client.held, node.held) == (7, 8)
    assert (client.rtt, node.rtt) == (0.25, None)
    # A tenth of a second says nothing about a rate.
    assert client.messages_per_second == 0


def test_rates_are_those_since_the_look_before() -> None:
    tunnel = Tunnel()
    look = Look(100.0)
    tunnel.received(Side.CLIENT, UP * 4)
    tunnel.received(Side.NODE, DOWN)
    first = look.legs(tunnel, 102.0, (0, 0), (None, None))
    tunnel.received(Side.NODE, DOWN * 9)
    soon = look.legs(tunnel, 102.5, (0, 0), (None, None))
    later = look.legs(tunnel, 105.0, (0, 0), (None, None))

    assert [leg.messages_per_second for leg in first] == [2.0, 0.5]
    assert [leg.bytes_per_second for leg in first] == [200.0, 10.0]
    # Looking often does not make rates of nothing.
    assert [leg.messages_per_second for leg in soon] == [2.0, 0.5]
    assert [leg.messages for leg in soon] == [4, 10]
    assert [leg.messages_per_second for leg in later] == [0.0, pytest.approx(3.0)]
