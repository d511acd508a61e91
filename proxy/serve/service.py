"""What all connections of a process share: the configuration made ready, and who is here."""

from __future__ import annotations

import itertools
import secrets
import select
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from random import Random
from weakref import WeakKeyDictionary

import attrs
import trio

from proxy.config.model import Config
from proxy.config.route import Route
from proxy.io.contexts import Contexts, make_contexts
from proxy.io.dial import dial
from proxy.io.handshakes import Handshakes
from proxy.io.kept import Kept
from proxy.io.messages import MessageRelay
from proxy.io.node_security import NodeSecurity
from proxy.io.patience import PATIENCE, Patience
from proxy.io.pump import PumpRelay
from proxy.io.relay import Relay
from proxy.io.splice import Splice
from proxy.io.splicer import Splicer
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.transport import SocketTransport
from proxy.observe import log
from proxy.observe.record import Record
from proxy.pool.node import Node
from proxy.pool.schedule import Schedule
from proxy.pool.upstream import Upstream
from proxy.wire.clients import Clients
from proxy.wire.closing import Ending
from proxy.wire.headers import HeadLimits
from proxy.wire.tunnel import Side, Tunnel

from .admission import Admission, Place, check_address
from .hooks import Hooks, check_hooks
from .leave import Drain, DrainProgress, Leave, turns
from .listeners import labels
from .passages import Passages
from .routes import Routes
from .session import SHUTDOWN, Session


class Gauge:
    """How many are within its `with` block at this moment."""

    def __init__(self) -> None:
        self.count = 0
        self._none = trio.Event()

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count:
            self._none.set()
            self._none = trio.Event()

    async def wait_none(self) -> None:
        """Wait until there is nobody within."""
        while self.count:
            await self._none.wait()


class Service:
    """The shared state of a running proxy.

    `on_record` is called with every finished record; by default they go to the access log.
    `hooks` are by their route's name.

    Raises:
        ConfigError: a certificate, key or CA file cannot be used, or hooks are for no route.
    """

    def __init__(
        self,
        config: Config,
        *,
        on_record: Callable[[Record], object] | None = None,
        hooks: Mapping[str, Hooks] | None = None,
    ) -> None:
        self.hooks: Mapping[str, Hooks] = dict(hooks or {})
        self.random = Random()
        #: This process in `Via`; clients see the beginning of its requests' names, and not this.
        self._instance = secrets.token_hex(8)
        self.upstreams: dict[str, Upstream] = {}
        #: Those that are in the configuration no more, while anybody holds on to them.
        self.removed: dict[str, Upstream] = {}
        self._upstream_contexts: WeakKeyDictionary[Upstream, ssl.SSLContext] = WeakKeyDictionary()
        #: With the session that each node is offered the next time, until the next reload.
        self._securities: WeakKeyDictionary[Node, NodeSecurity] = WeakKeyDictionary()
        check_hooks(self.hooks, config.routes)
        contexts = make_contexts(config)
        self.handshakes = Handshakes(config.limits.handshakes, config.limits.handshake_steps)
        self._go_by(config, contexts, self.new_upstreams(config, contexts))
        self.sessions: set[Session] = set()
        #: Of the sessions that were, how many ended how.
        self.endings: Counter[Ending] = Counter()
        self.draining = False
        #: What is being emptied, by its cause.
        self.leaving: dict[Hashable, Drain] = {}
        self.on_record = on_record or log.access
        self.splicer: Splicer | None = None
        #: By what their routes are for: they outlive its settings.
        self._admissions: defaultdict[Hashable, Admission] = defaultdict(Admission)
        self.timers = Timers()
        #: Of those who wait for a node in the express lane, where nobody watches clients.
        self.patience = Patience(self.timers, PATIENCE)
        #: Connections to nodes between two requests.
        self.kept = Kept(self.timers)
        self._ids = map(partial("{}{:08x}".format, secrets.token_hex(4)), itertools.count(1))
        #: The requests and sessions that are being served; a drain waits for them.
        self.under_way = Gauge()

    def _go_by(self, config: Config, contexts: Contexts, upstreams: Mapping[str, Upstream]) -> None:
        self.config = config
        self.handshakes.most = config.limits.handshakes
        self.handshakes.turnstile.width = config.limits.handshake_steps
        self.contexts = contexts
        self.clients = Clients(config, self._instance)
        self.routes = Routes(config.routes, labels(config.listeners))
        self.passages = Passages(config.routes)
        self.head_limits = HeadLimits(
            config.limits.head_bytes, config.limits.target_bytes, config.limits.headers
        )
        self.upstreams = {name: upstreams[name] for name in config.upstreams}
        self.removed = {name: one for name, one in upstreams.items() if name not in self.upstreams}
        for name, context in contexts.upstreams.items():
            self._upstream_contexts[self.upstreams[name]] = context
        #: By a route's identity: its hash would cost more than it saves.  The route is here, lest
        #: another one come to have its identity.
        self._terms: dict[int, tuple[Route, Terms]] = {}

    def new_upstreams(self, config: Config, contexts: Contexts) -> dict[str, Upstream]:
        """Make those that a configuration adds; no request finds one before `reconfigure`."""
        known = self.upstreams.keys() | self.removed.keys()
        new = {
            name: Upstream(name, one, self.random)
            for name, one in config.upstreams.items()
            if name not in known
        }
        for name in new.keys() & contexts.upstreams.keys():
            self._upstream_contexts[new[name]] = contexts.upstreams[name]
        return new

    def reconfigure(
        self, config: Config, contexts: Contexts, new: dict[str, Upstream], now: float
    ) -> int:
        """Go by another configuration; what is under way goes on as it began.

        `new` are the upstreams that it adds; one that was removed before is taken up again.
        Returns how many sessions have lost their route, or their node, by it.
        """
        # They were made by the rules of before.
        self.kept.close()
        known = self.upstreams | self.removed
        wanted = [node for upstream in known.values() for node in upstream.nodes if node.wanted]
        for name in known.keys() & config.upstreams.keys():
            if known[name].config != config.upstreams[name]:
                known[name].reconfigure(config.upstreams[name], now)
        self._go_by(config, contexts, known | new)
        for key in [*self._admissions]:
            if key not in self.routes.keys and not self._admissions[key].sessions:
                del self._admissions[key]
        return self._note_removed({node for node in wanted if not node.wanted})

    def _note_removed(self, lost: set[Node]) -> int:
        """Tell sessions whether their route and upstream are there; count who has lost one."""
        affected = 0
        # There are many more sessions than routes, and all else waits meanwhile.
        there: dict[int, bool] = {}
        for session in self.sessions:
            route = id(session.route)
            if route not in there:
                there[route] = session.route_key in self.routes.keys
            was = session.removed
            session.removed = not there[route] or session.is_homeless
            if (session.removed and not was) or session.node in lost:
                affected += 1
        return affected

    def next_id(self) -> str:
        """Return a name for a request: unique, and not to be guessed from another process's."""
        return next(self._ids)

    def security(self, upstream: Upstream, node: Node) -> NodeSecurity | None:
        """Return the TLS towards a node; the name that it has to prove is the configured one."""
        if (tls := upstream.config.tls) is None:
            return None
        context = self._upstream_contexts[upstream]
        name = tls.server_name or node.config.address.host
        known = self._securities.get(node)
        if known is None or known.context is not context or known.server_name != name:
            known = self._securities[node] = NodeSecurity(context, name, tls.session_reuse)
        return known

    async def dial(
        self, upstream: Upstream, node: Node, limit: float, header: bytes = b""
    ) -> trio.abc.Stream:
        """Connect to a node, see `io.dial`."""
        security = self.security(upstream, node)
        return await dial(node.address, security, limit=limit, header=header)

    def relay(
        self, client: trio.abc.Stream, node: trio.abc.Stream, tunnel: Tunnel, route: Route
    ) -> Relay:
        """Return the best relay for two streams, or the one that shows messages to a hook."""
        terms, timers = self.terms(route), self.timers
        # Those that began together should not all be pinged together, nor one that has just begun.
        stagger = self.random.uniform(0.5, 1.0)
        hooks = self.hooks.get(route.name)
        if hooks is not None and hooks.on_message is not None:
            return MessageRelay(client, node, tunnel, terms, timers, stagger=stagger)
        if (
            self.splicer is not None
            and isinstance(client, SocketTransport)
            and isinstance(node, SocketTransport)
        ):
            return Splice(self.splicer, client, node, tunnel, terms, self.timers, stagger=stagger)
        return PumpRelay(client, node, tunnel, terms, self.timers, stagger=stagger)

    def admit_request(self, route: Route, client: str) -> None:
        """Let a request or handshake of a route pass, or not; `client` is its address.

        Raises:
            AddressDenied, TooMany: not.
        """
        check_address(route, client)
        if route.requests is not None:
            admission = self._admissions[self.routes.key(route)]
            remembered = self.config.limits.addresses
            admission.check_request(route.requests, client, trio.current_time(), remembered)

    def admit(self, route: Route, client: str) -> Place:
        """Return a place for one more session of a route.

        Raises:
            TooMany, RouteFull: there is none.
        """
        admission = self._admissions[self.routes.key(route)]
        remembered = self.config.limits.addresses
        return admission.admit(route.limits, client, trio.current_time(), remembered)

    def terms(self, route: Route) -> Terms:
        """Return the settings of a route's sessions."""
        if id(route) not in self._terms:
            terms = Terms.of(route, self.config.timeouts.close)
            hooks = self.hooks.get(route.name)
            if hooks is not None and hooks.on_message is not None:
                # Its messages are judged as they come; the tunnel sees what a hook made of them.
                terms = attrs.evolve(terms, make_tunnel=lambda reserved: Tunnel())
            self._terms[id(route)] = route, terms
        return self._terms[id(route)][1]

    async def run_splicer(self) -> None:
        """Serve sessions over sockets the fast way, for as long as this runs.

        Where there is no epoll there is no fast way, and this returns.
        """
        if not hasattr(select, "epoll"):
            return
        turnstile = self.handshakes.turnstile
        self.splicer = self.kept.splicer = splicer = Splicer()
        nothing, turnstile.between = turnstile.between, splicer.turn
        try:
            await splicer.run()
        finally:
            self.splicer = self.kept.splicer = None
            turnstile.between = nothing

    def live(
        self, relay: Relay, record: Record, route: Route, upstream: Upstream, node: Node
    ) -> Session:
        """Return a session that is listed, and counted as under way, within its `with` block."""
        session = Session(self, relay, record, route, upstream, node)
        # They may have been taken away while it was on its way here.
        there = session.route_key in self.routes.keys
        session.removed = not there or session.is_homeless
        return session

    def doubt(self, node: Node) -> None:
        """Have a node's sessions pinged now: it may be frozen, and they need not wait for that."""
        for session in self.sessions:
            if session.node is node:
                session.relay.doubt(Side.NODE)

    def goes_on(self) -> bool:
        """Whether sessions are moved still, and not all sent away."""
        return not self.draining

    async def drain(self) -> None:
        """Refuse what is new, have all sessions leave, wait for all that is under way."""
        self.draining = True
        for upstream in (*self.upstreams.values(), *self.removed.values()):
            upstream.hold.release_all()
        shutdown, started = self.config.shutdown, trio.current_time()
        # The last closing handshakes should be over at the deadline.
        time = max(shutdown.deadline - self.config.timeouts.close, shutdown.deadline / 2)
        drain = Drain(
            "shutdown",
            SHUTDOWN,
            Schedule(shutdown.jitter, self.random.random),
            self.sessions,
            started=started,
            deadline=started + time,
        )

        def plan(now: float, until: float) -> list[Leave]:
            for session in self.sessions:
                session.observe(now)
            drain.look(self.sessions)
            drain.turn(now, until, shutdown.rate)
            return [drain]

        self.leaving = {"shutdown": drain}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns, plan)
            await self.under_way.wait_none()
            nursery.cancel_scope.cancel()
        self.leaving.clear()
        drain.end(trio.current_time())

    def drains(self) -> list[DrainProgress]:
        """Return how far those drains have come that are under way."""
        return [drain.progress for drain in self.leaving.values()]
