"""Look after an upstream: ask its nodes how they are, resolve its names, let go who waits.

What to do is decided in `pool`; these tasks bring it the time and carry it out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import trio

from proxy.config.upstream import Node as NodeConfig
from proxy.errors import DnsError, Full, NodeError
from proxy.io.probes import probe
from proxy.io.resolve import resolve
from proxy.observe.log import LOG
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream, needs_resolving

from .service import Service

#: Probes of one interval are not all at its end.
_JITTER = 0.1


async def persist(task: Callable[[], Awaitable[None]], upstream: str = "") -> None:
    """Begin again after a bug, which should not end sessions that have no part in it."""
    while True:
        try:
            await task()
        except Exception:
            LOG.exception("bug", extra={"upstream": upstream} if upstream else {})
            await trio.sleep(1.0)


class Keeper:
    """The tasks of one upstream."""

    def __init__(self, service: Service, upstream: Upstream) -> None:
        self._service = service
        self._upstream = upstream
        self._random = Random()
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._probes = upstream.config.probe.kind
        self._watched: set[Node] = set()
        #: What the log was told last.
        self._told: dict[Node, str] = {}
        #: What has a node probed before its turn.
        self._nudges: dict[Node, trio.Event] = {}
        upstream.changed = self._wake

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do it all until cancelled; started when every node was resolved and asked once."""
        async with trio.open_nursery() as self._nursery:
            async with trio.open_nursery() as starting:
                for config in self._upstream.config.nodes:
                    if needs_resolving(config.address):
                        starting.start_soon(self._nursery.start, self._resolve, config)
            async with trio.open_nursery() as starting:
                for index, node in enumerate(self._upstream.nodes):
                    starting.start_soon(self._nursery.start, self._watch, node, index)
            self._nursery.start_soon(persist, self._release, self._upstream.name)
            task_status.started()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self._tell_states()
        for node, nudge in self._nudges.items():
            if node.health.suspect:
                nudge.set()

    async def _release(self) -> None:
        """Let go those who wait as nodes come back, at the pace that was configured."""
        upstream = self._upstream
        holding = False
        while True:
            changed = self._changed
            pause = upstream.release(trio.current_time())
            if holding != bool(len(upstream.hold)):
                holding = not holding
                self._tell_holding(holding)
            with trio.move_on_after(pause):
                await changed.wait()

    def _tell_holding(self, holding: bool) -> None:
        hold = self._upstream.hold
        extra = {"upstream": self._upstream.name, "released": hold.released, "left": hold.left}
        if holding:
            LOG.warning("holding", extra=extra)
        else:
            LOG.info("nobody waits", extra=extra)

    async def _watch(
        self,
        node: Node,
        index: int = 0,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Probe a node for as long as it belongs to the upstream; started after the first time."""
        config = self._upstream.config.probe
        if config.kind == "none" or node in self._watched:
            task_status.started()
            return
        self._watched.add(node)
        await self._ask(node)
        task_status.started()
        # Their first pauses spread the probes over an interval.
        pause = config.interval * (index + 1) / max(1, len(self._upstream.nodes))
        while node in self._upstream.nodes:
            nudge = self._nudges[node] = trio.Event()
            asked = trio.current_time()
            try:
                with trio.move_on_after(pause):
                    await nudge.wait()
                    # Whoever makes a node suspect on purpose must not have it probed without end.
                    await trio.sleep_until(asked + config.down_interval)
            finally:
                self._nudges.pop(node, None)
            well = await self._ask(node)
            # One bad answer makes it doubtful: the next is not long in coming.
            settled = well and node.state(trio.current_time()) == "up"
            pause = config.interval if settled else config.down_interval
            pause *= self._random.uniform(1 - _JITTER, 1 + _JITTER)
        self._watched.discard(node)

    async def _ask(self, node: Node) -> bool:
        """Probe a node once; return whether it is well."""
        try:
            security = self._service.security(self._upstream, node)
            seconds = await probe(self._upstream.config.probe, node.address, security)
        except NodeError as exc:
            node.probed(trio.current_time(), well=False, error=exc)
            self._tell_states(exc.detail)
            return False
        except Full:
            # Of this machine, not of the node: nothing was learned.
            return True
        except Exception:
            LOG.exception("bug", extra={"node": node.name})
            return True
        node.probed(trio.current_time(), well=True, seconds=seconds)
        self._tell_states()
        return True

    def _tell_states(self, reason: str = "") -> None:
        """Log every node whose state has changed, whoever has found out."""
        now = trio.current_time()
        for node in self._upstream.nodes:
            state = node.state(now)
            if state == self._told.get(node, "up" if self._probes == "none" else "unknown"):
                continue
            self._told[node] = state
            extra = {"upstream": self._upstream.name, "node": node.name, "state": state}
            log = LOG.info if state == "up" else LOG.warning
            log("node", extra=extra | ({"reason": reason} if reason else {}))
        for node in self._told.keys() - set(self._upstream.nodes):
            del self._told[node]

    async def _resolve(
        self,
        config: NodeConfig,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep a name's addresses up to date; started after the first answer, or failure."""
        upstream = self._upstream
        assert self._nursery is not None
        started, failures = False, 0
        discovery = upstream.config.discovery
        while True:
            pause = min(discovery.shortest * 2 ** min(failures, 3), discovery.longest)
            try:
                answer = await resolve(config.address, discovery, self._random)
            except DnsError as exc:
                # The last good answer holds.
                if not failures:
                    extra = {"upstream": upstream.name, "node": str(config.address)}
                    LOG.warning("name not resolved", extra=extra | {"reason": exc.detail})
                failures += 1
            except Exception:
                LOG.exception("bug", extra={"node": str(config.address)})
            else:
                failures = 0
                pause = answer.lifetime
                known = set(upstream.nodes)
                if upstream.resolved(config, answer.addresses, trio.current_time()):
                    names = [str(address) for address in answer.addresses]
                    LOG.info("resolved", extra={"node": str(config.address), "addresses": names})
                if started:
                    for node in upstream.nodes:
                        if node not in known:
                            self._nursery.start_soon(self._watch, node)
            if not started:
                started = True
                task_status.started()
            await trio.sleep(pause)
