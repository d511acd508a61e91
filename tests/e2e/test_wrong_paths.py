"""Upgrades that no route matches.

A node drops such a request without a byte. A proxy that passes it on and takes the silence for a
failure ejects its nodes, one after another, at the wish of any stranger.
"""

from __future__ import annotations

import pytest
import trio

from .harness import Certificate, open_deployment
from .raw import Response, upgrade

STRANGERS = 200
AT_ONCE = 10
CLIENTS = 20


@pytest.mark.parametrize("target", ["/deepstreamXX", "/deepstream?x=1"])
async def test_strangers_get_404_and_clients_never_know(
    certificate: Certificate, target: str
) -> None:
    async with open_deployment(certificate) as deployment:
        answers: list[Response] = []
        async with trio.open_nursery() as nursery:
            address = deployment.proxy.address()
            nursery.start_soon(knock, address, certificate, target, answers)
            names = await deployment.connect(CLIENTS, "guest")

        assert [answer.status for answer in answers] == [404] * STRANGERS
        assert all("proxy-status" in answer.headers for answer in answers)
        assert await deployment.clients.errors(names) == []
        for states in (await deployment.clients.states(names)).values():
            assert "RECONNECTING" not in states


async def knock(
    address: str, certificate: Certificate, target: str, answers: list[Response]
) -> None:
    """Ask for the same wrong thing again and again, a few at a time."""
    limit = trio.CapacityLimiter(AT_ONCE)

    async def once() -> None:
        async with limit:
            answers.append(await upgrade(address, certificate, target))

    async with trio.open_nursery() as nursery:
        for _ in range(STRANGERS):
            nursery.start_soon(once)
