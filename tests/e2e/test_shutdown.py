"""The proxy is told to end while sessions are open."""

from __future__ import annotations

from .harness import Certificate, Proxy, open_deployment
from .raw import open_raw_session

SERVICE_RESTART = 1012
CLIENTS = 20


async def test_sigterm_closes_sessions_and_exits_cleanly(certificate: Certificate) -> None:
    async with open_deployment(certificate) as deployment:
        proxy = deployment.proxy
        names = await deployment.connect(CLIENTS, "sailor")
        async with open_raw_session(proxy.address(), certificate) as session:
            proxy.program.process.terminate()
            assert await session.closed() == SERVICE_RESTART
            await deployment.clients.call("reached", clients=names, state="RECONNECTING")
            assert await proxy.program.ended() == 0
        await assert_recorded(proxy, CLIENTS + 1)
        for node in deployment.nodes:
            await node.until_users([])


async def assert_recorded(proxy: Proxy, sessions: int) -> None:
    """Each session has its record, and it says that the proxy ended it."""
    records = await proxy.until_records(sessions, status=101)
    assert [record["ended_by"] for record in records] == ["proxy"] * sessions
