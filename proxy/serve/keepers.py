"""Who looks after which upstream, those too that a reload took away and somebody still has."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from proxy.pool.upstream import Upstream

from .keep import Keeper
from .service import Service


class Keepers:
    """The keepers of all upstreams."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keepers: dict[Upstream, Keeper] = {}

    async def start(self, nursery: trio.Nursery, upstreams: Iterable[Upstream]) -> None:
        """Look after upstreams in tasks of a nursery; return when every node was asked once.

        Whoever cancels this calls `stop` for them.
        """
        async with trio.open_nursery() as starting:
            for upstream in upstreams:
                keeper = self._keepers[upstream] = Keeper(self._service, upstream)
                starting.start_soon(nursery.start, keeper.run)

    def stop(self, upstreams: Iterable[Upstream]) -> None:
        """Look after these no more."""
        for upstream in upstreams:
            if upstream in self._keepers:
                self._keepers.pop(upstream).stop()

    def follow(self) -> None:
        """Go by what upstreams have been reconfigured to."""
        for keeper in self._keepers.values():
            keeper.follow()

    def forget_left(self) -> None:
        """Forget the upstreams that were taken away, once nobody holds on to them any more."""
        removed = self._service.removed
        left = [name for name, upstream in removed.items() if not upstream.busy]
        self.stop([removed.pop(name) for name in left])
