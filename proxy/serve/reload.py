"""Another configuration, while all goes on.

Whatever can fail or takes time comes first, and changes nothing: the files for TLS are read, in a
thread, since that takes milliseconds which the splicer has not; new addresses are bound; the nodes
of new upstreams are asked how they are.  Then all is switched at one blow, within one step of one
task: no request is served by half a configuration.

What is under way goes on as it began.  An upstream that is gone lives on until nobody holds on to
it; what its sessions do meanwhile is for their routes to say (`on_removed`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final, Literal

import attrs
import trio

from proxy.config.model import Config
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.errors import ConfigError, NotRunning
from proxy.io.contexts import Contexts, make_contexts, remarks
from proxy.io.descriptors import make_room, needed
from proxy.observe.log import LOG
from proxy.pool.upstream import Upstream

from .hooks import Hooks, check_hooks
from .keepers import Keepers
from .listeners import Listeners, Opened, discard, keyed, labels
from .renewal import tell_remarks
from .routes import Routes
from .service import Service

#: How often it is looked, in seconds, whether upstreams that were taken away can be forgotten.
_TURN: Final = 1.0
#: The sections of a configuration that are of nothing in particular.
_SETTINGS: Final = ("timeouts", "limits", "shutdown", "log", "tls", "error_pages")
#: By what they are known by: what they are called, and what is said of them.
_Things = dict[Hashable, tuple[str, object]]


@attrs.frozen
class Changes:
    """What a reload has done to one kind of thing, by their names."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@attrs.frozen
class Reloaded:
    """What a reload has changed.  Nodes are called `upstream/address`."""

    listeners: Changes
    routes: Changes
    #: Their nodes apart.
    upstreams: Changes
    nodes: Changes
    #: The other sections that are not as they were.
    settings: tuple[str, ...]
    #: The listeners that show another certificate though they were told of none.
    certificates: tuple[str, ...] = ()
    #: How many live sessions have lost their route or their node by it.
    sessions: int = 0

    def fields(self) -> dict[str, object]:
        """Return what the log is told: of lists those that have something in them."""
        lists = {
            f"{kind}_{how}": getattr(getattr(self, kind), how)
            for kind in ("listeners", "routes", "upstreams", "nodes")
            for how in ("added", "changed", "removed")
        }
        told = {name: ", ".join(value) for name, value in lists.items() if value}
        for kind in ("settings", "certificates"):
            if value := getattr(self, kind):
                told[kind] = ", ".join(value)
        return {**told, "sessions": self.sessions}


class Reloader:
    """Has a running proxy go by other configurations, one after the other."""

    def __init__(self, service: Service, listeners: Listeners, keepers: Keepers) -> None:
        self._service = service
        self._listeners = listeners
        self._keepers = keepers
        self._state: Literal["new", "open", "closed"] = "new"
        self._turn = trio.Lock()
        #: Of the reload that is being made ready.
        self._preparing = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    async def run(
        self,
        nursery: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Allow reloads until cancelled or closed; `nursery` is for what they begin."""
        self._nursery = nursery
        try:
            if self._state == "new":
                self._state = "open"
            task_status.started()
            while True:
                await trio.sleep(_TURN)
                # A reload that is being made ready counts on those that are there.
                async with self._turn:
                    self._keepers.forget_left()
        finally:
            self.close()

    def close(self) -> None:
        """Allow no reload any more, and break off one that is being made ready."""
        self._state = "closed"
        self._preparing.cancel()

    async def reload(
        self, config: Config, source: str, hooks: Mapping[str, Hooks] | None = None
    ) -> Reloaded:
        """Go by another configuration, or say why not and change nothing; `source` is its name.

        `hooks` take the place of those there are, None keeps them.

        Raises:
            ConfigError: a certificate, key or CA file cannot be used, or hooks are for no route.
            OSError: an address cannot be bound.
            NotRunning: the proxy has not started, or is shutting down.
        """
        async with self._turn:
            try:
                with trio.CancelScope() as self._preparing:
                    self._check_running()
                    return await self._reload(config, source, hooks)
                raise NotRunning("the proxy is shutting down")
            except (ConfigError, OSError, NotRunning) as exc:
                tell_refused(exc)
                raise

    def _check_running(self) -> None:
        if self._state != "open":
            closed = self._state == "closed"
            raise NotRunning(f"the proxy {'is shutting down' if closed else 'has not started yet'}")

    async def _reload(
        self, config: Config, source: str, hooks: Mapping[str, Hooks] | None
    ) -> Reloaded:
        assert self._nursery is not None
        hooks = self._service.hooks if hooks is None else dict(hooks)
        check_hooks(hooks, config.routes)
        contexts = await trio.to_thread.run_sync(
            make_contexts, config, source, self._service.contexts, abandon_on_cancel=True
        )
        room = needed(config.limits.connections)
        await trio.to_thread.run_sync(make_room, room, abandon_on_cancel=True)
        opened = await self._listeners.bind(config.listeners)
        new = self._service.new_upstreams(config, contexts)
        try:
            await self._keepers.start(self._nursery, new.values())
            self._check_running()
        except BaseException:
            discard(opened)
            self._keepers.stop(new.values())
            raise
        self._service.hooks = hooks
        return self._switch(config, contexts, opened, new)

    def _switch(
        self, config: Config, contexts: Contexts, opened: Opened, new: dict[str, Upstream]
    ) -> Reloaded:
        before, shown = self._service.config, self._service.contexts
        affected = self._service.reconfigure(config, contexts, new, trio.current_time())
        self._listeners.switch(config.listeners, contexts.listeners, opened)
        self._keepers.follow()
        self._keepers.forget_left()
        reloaded = attrs.evolve(
            difference(before, config, sessions=affected),
            certificates=_renewed(before, shown, config, contexts),
        )
        LOG.info("reloaded", extra=reloaded.fields())
        tell_remarks(config, contexts, told=remarks(before, shown))
        return reloaded


def tell_refused(error: Exception) -> None:
    """Log why a configuration was not taken, each reason by itself."""
    problems = error.problems if isinstance(error, ConfigError) else [_reason(error)]
    for problem in problems:
        LOG.error("reload refused", extra={"reason": problem})


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def difference(old: Config, new: Config, sessions: int = 0) -> Reloaded:
    """Say in which way one configuration is not the other."""
    return Reloaded(
        listeners=_compare(_listeners(old), _listeners(new)),
        routes=_compare(_routes(old), _routes(new)),
        upstreams=_compare(_upstreams(old), _upstreams(new)),
        nodes=_compare(_nodes(old), _nodes(new)),
        settings=tuple(one for one in _SETTINGS if getattr(old, one) != getattr(new, one)),
        sessions=sessions,
    )


def _compare(old: _Things, new: _Things) -> Changes:
    return Changes(
        added=tuple(name for key, (name, _) in new.items() if key not in old),
        changed=tuple(n for key, (n, said) in new.items() if key in old and old[key][1] != said),
        removed=tuple(name for key, (name, _) in old.items() if key not in new),
    )


def _listeners(config: Config) -> _Things:
    return {key: (one.name or str(one.bind), one) for key, one in keyed(config.listeners).items()}


def _renewed(before: Config, shown: Contexts, after: Config, contexts: Contexts) -> tuple[str, ...]:
    """Name the listeners whose files have the same names as before, and hold something else."""
    old = dict(zip(keyed(before.listeners), shown.listeners, strict=True))
    new = zip(keyed(after.listeners).items(), contexts.listeners, strict=True)
    return tuple(
        config.name or str(config.bind)
        for (key, config), tls in new
        if tls is not None
        and (known := old.get(key)) is not None
        and known.certificates == tls.certificates
        and known.shown.pairs != tls.shown.pairs
    )


def _routes(config: Config) -> _Things:
    routes = Routes(config.routes, labels(config.listeners))
    # That a listener is called otherwise changes no route.
    return {
        routes.key(route): (route.name, attrs.evolve(route, listener="")) for route in config.routes
    }


def _upstreams(config: Config) -> _Things:
    others = [field.name for field in attrs.fields(UpstreamConfig) if field.name != "nodes"]
    return {
        name: (name, [getattr(upstream, other) for other in others])
        for name, upstream in config.upstreams.items()
    }


def _nodes(config: Config) -> _Things:
    return {
        (name, node.address): (f"{name}/{node.address}", node)
        for name, upstream in config.upstreams.items()
        for node in upstream.nodes
    }
