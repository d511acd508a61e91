"""Look after an upstream: ask its nodes how they are, resolve its names, let go who waits.

What to do is decided in `pool`; these tasks bring it the time and carry it out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

import attrs
import trio

from proxy.config.address import Address
from proxy.config.upstream import Discovery
from proxy.config.upstream import Node as NodeConfig
from proxy.errors import DnsError, Full, NodeError
from proxy.io.probes import probe
from proxy.io.resolve import resolve
from proxy.observe.log import LOG
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream, needs_resolving
from proxy.wire.proxy_protocol import build_own

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


@attrs.define(eq=False)
class _Watch:
    """The task that probes one node."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    #: What has the node probed before its turn.
    nudge: trio.Event = attrs.field(factory=trio.Event)


class Keeper:
    """The tasks of one upstream, which follow its configuration."""

    def __init__(self, service: Service, upstream: Upstream) -> None:
        self.upstream = upstream
        self._service = service
        self._random = Random()
        self._life = trio.CancelScope()
        #: Where the tasks are, once all have begun.
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        #: What the tasks go by.
        self._config = upstream.config
        self._watches: dict[Node, _Watch] = {}
        self._names: dict[Address, trio.CancelScope] = {}
        #: What the log was told last.
        self._told: dict[Node, str] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do it all until stopped; started when every node was resolved and asked once."""
        self.upstream.changed = self._wake
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    await self._begin(nursery)
                    task_status.started()
        finally:
            self._nursery = None
            self.upstream.end()

    def stop(self) -> None:
        """End all tasks."""
        self._life.cancel()

    async def _begin(self, nursery: trio.Nursery) -> None:
        async with trio.open_nursery() as starting:
            for name in filter(_is_name, self.upstream.config.nodes):
                scope = self._names[name.address] = trio.CancelScope()
                starting.start_soon(nursery.start, self._resolve, name, scope)
        async with trio.open_nursery() as starting:
            for index, node in enumerate(self._probed()):
                watch = self._watches[node] = _Watch()
                starting.start_soon(nursery.start, self._watch, node, watch, index)
        nursery.start_soon(persist, self._release, self.upstream.name)
        self._nursery = nursery
        # A name may have been answered for meanwhile that was not at first.
        self.follow()

    def follow(self) -> None:
        """Have the tasks that the upstream's configuration and its names' answers ask for.

        Those that nothing has changed for go on as they were.
        """
        if self._nursery is None:
            return
        config = self.upstream.config
        names = {node.address: node for node in config.nodes if _is_name(node)}
        for address in list(self._names):
            if address not in names or config.discovery != self._config.discovery:
                self._names.pop(address).cancel()
        for address in names.keys() - self._names.keys():
            scope = self._names[address] = trio.CancelScope()
            self._nursery.start_soon(self._resolve, names[address], scope)
        self._follow_nodes(self._nursery, anew=config.probe != self._config.probe)
        self._config = config
        self._wake()

    def _follow_nodes(self, nursery: trio.Nursery, *, anew: bool) -> None:
        probed = self._probed()
        for node in list(self._watches):
            if anew or node not in probed:
                self._watches.pop(node).scope.cancel()
        for index, node in enumerate(probed):
            if node not in self._watches:
                watch = self._watches[node] = _Watch()
                nursery.start_soon(self._watch, node, watch, index)

    def _probed(self) -> list[Node]:
        return [] if self.upstream.config.probe.kind == "none" else self.upstream.nodes

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self._tell_states()
        for node, watch in self._watches.items():
            if node.health.suspect:
                watch.nudge.set()

    async def _release(self) -> None:
        """Let go those who wait as nodes come back, at the pace that was configured."""
        upstream = self.upstream
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
        hold = self.upstream.hold
        extra = {"upstream": self.upstream.name, "released": hold.released, "left": hold.left}
        if holding:
            LOG.warning("holding", extra=extra)
        else:
            LOG.info("nobody waits", extra=extra)

    async def _watch(
        self,
        node: Node,
        watch: _Watch,
        index: int,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Probe a node for as long as it belongs to the upstream; started after the first time."""
        config = self.upstream.config.probe
        try:
            with watch.scope:
                if node.health.state == "unknown":
                    await self._ask(node)
                    self.upstream.forget_gone(trio.current_time())
                task_status.started()
                # Their first pauses spread the probes over an interval.
                pause = config.interval * (index + 1) / max(1, len(self.upstream.nodes))
                while node in self.upstream.nodes:
                    await self._pause(watch, pause)
                    well = await self._ask(node)
                    # One bad answer makes it doubtful: the next is not long in coming.
                    settled = well and node.state(trio.current_time()) == "up"
                    pause = config.interval if settled else config.down_interval
                    pause *= self._random.uniform(1 - _JITTER, 1 + _JITTER)
        finally:
            if self._watches.get(node) is watch:
                del self._watches[node]

    async def _pause(self, watch: _Watch, seconds: float) -> None:
        """Wait for a node's turn, or less if there is a reason to ask it at once."""
        watch.nudge = trio.Event()
        earliest = trio.current_time() + self.upstream.config.probe.down_interval
        with trio.move_on_after(seconds):
            await watch.nudge.wait()
            # Whoever makes a node suspect on purpose must not have it probed without end.
            await trio.sleep_until(earliest)

    async def _ask(self, node: Node) -> bool:
        """Probe a node once; return whether it is well."""
        try:
            security = self._service.security(self.upstream, node)
            config = self.upstream.config
            version = config.proxy_protocol
            header = partial(build_own, version) if version else b""
            seconds = await probe(config.probe, node.address, security, header=header)
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
        unprobed = self.upstream.config.probe.kind == "none"
        for node in self.upstream.nodes:
            state = node.state(now)
            if state == self._told.get(node, "up" if unprobed else "unknown"):
                continue
            self._told[node] = state
            if state == "down":
                self._service.doubt(node)
            extra = {"upstream": self.upstream.name, "node": node.name, "state": state}
            log = LOG.info if state == "up" else LOG.warning
            log("node", extra=extra | ({"reason": reason} if reason else {}))
        for node in self._told.keys() - set(self.upstream.nodes):
            del self._told[node]

    async def _resolve(
        self,
        name: NodeConfig,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep a name's addresses up to date; started after the first answer, or failure."""
        discovery = self.upstream.config.discovery
        started, failures = False, 0
        with scope:
            while True:
                lifetime = await self._look_up(name, discovery, again=failures > 0)
                failures = failures + 1 if lifetime is None else 0
                if not started:
                    started = True
                    task_status.started()
                pause = discovery.shortest * 2 ** min(failures - 1, 3)
                await trio.sleep(min(pause, discovery.longest) if lifetime is None else lifetime)

    async def _look_up(
        self, name: NodeConfig, discovery: Discovery, *, again: bool
    ) -> float | None:
        """Resolve a name once; return for how many seconds that holds, None if it failed.

        The last good answer holds then; the log is told unless it was `again`.
        """
        upstream = self.upstream
        try:
            answer = await resolve(name.address, discovery, self._random)
        except DnsError as exc:
            if not again:
                extra = {"upstream": upstream.name, "node": str(name.address)}
                LOG.warning("name not resolved", extra=extra | {"reason": exc.detail})
            return None
        except Exception:
            LOG.exception("bug", extra={"node": str(name.address)})
            return None
        if upstream.resolved(name, answer.addresses, trio.current_time()):
            names = [str(address) for address in answer.addresses]
            LOG.info("resolved", extra={"node": str(name.address), "addresses": names})
            self.follow()
        return answer.lifetime


def _is_name(node: NodeConfig) -> bool:
    return needs_resolving(node.address)
