"""Hooks at work: each call has its time, its failure is logged, and this is what follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import attrs
import trio

from proxy.errors import ClientGone, Denied, InternalError
from proxy.io.messages import MessageRelay, unchanged
from proxy.io.relay import Relay
from proxy.observe.log import LOG
from proxy.observe.record import Record
from proxy.pool.upstream import Upstream
from proxy.wire.handshake import Upgrade
from proxy.wire.headers import ClientFacts
from proxy.wire.messages import Message

from .hooks import Allow, Handshake, Hooks, OnHandshake, OnMessage, Refuse, SessionView
from .reach import gone_before
from .service import Service

T = TypeVar("T")


@attrs.frozen
class Way:
    """A handshake and where it goes; `only` is the address of the one node that may be asked."""

    upgrade: Upgrade
    upstream: Upstream
    only: str | None = None


class HookFailed(Exception):
    """A hook has raised or took too long; the log says which, and why."""


async def _call(
    what: str,
    hook: Callable[[], Awaitable[T]],
    record: Record,
    limit: float,
    *,
    shield: bool = False,
) -> T:
    """Call a hook for the request or session of this record; it has `limit` seconds.

    Raises:
        HookFailed: it has not returned.
    """
    extra = {"hook": what, "id": record.id}
    try:
        with trio.move_on_after(limit, shield=shield):
            return await hook()
    except Exception:
        LOG.exception("hook failed", extra=extra)
        raise HookFailed from None
    LOG.error("hook timed out", extra=extra)
    raise HookFailed


async def consult(
    service: Service,
    hooks: Hooks,
    way: Way,
    record: Record,
    facts: ClientFacts,
    hung_up: Callable[[], Awaitable[object]],
) -> Way:
    """Ask a route's hooks about a handshake; return the way it is to take.

    `hung_up` returns when the client has gone.

    Raises:
        Denied: it is to take none.
        InternalError: the hook has failed.
        ClientGone: nobody waits for the answer any more.
    """
    if hooks.on_message is not None:
        # Of compressed messages nothing could be shown.
        way = attrs.evolve(way, upgrade=way.upgrade.without_extensions())
    if hooks.on_handshake is None:
        return way
    verdicts: list[Way | Refuse] = []
    decide = partial(_decide, hooks.on_handshake, _shown(way, record, facts), service, way)

    async def ask() -> None:
        with suppress(HookFailed):
            limit = service.config.timeouts.hook
            verdicts.append(await _call("on_handshake", decide, record, limit))

    started = trio.current_time()
    try:
        if await gone_before(hung_up, ask):
            raise ClientGone("It hung up while a hook decided on it.")
    finally:
        record.hook_time = trio.current_time() - started
    if not verdicts:
        raise InternalError("A hook of the proxy has failed; it is in its log.")
    verdict = verdicts[0]
    if isinstance(verdict, Refuse):
        raise Denied(status=verdict.status, headers=verdict.encoded, body=verdict.body)
    record.upstream = verdict.upstream.name
    return verdict


def _shown(way: Way, record: Record, facts: ClientFacts) -> Handshake:
    return Handshake(
        id=record.id,
        client=record.client,
        address=facts.address,
        listener=record.listener,
        scheme=facts.scheme,
        host=record.host,
        target=record.target,
        headers=tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in way.upgrade.headers),
        subprotocols=tuple(name.decode("latin-1") for name in way.upgrade.subprotocols),
        route=record.route,
        upstream=way.upstream.name,
        certificate=facts.certificate,
    )


async def _decide(hook: OnHandshake, shown: Handshake, service: Service, way: Way) -> Way | Refuse:
    """Ask a hook; return what it says, checked."""
    answer: object = await hook(shown)
    if answer is None:
        return way
    if isinstance(answer, Refuse):
        return answer
    if not isinstance(answer, Allow):
        raise TypeError(f"on_handshake returns Allow, Refuse or None, not {answer!r}")
    upstream = way.upstream
    if answer.upstream is not None:
        if answer.upstream not in service.upstreams:
            known = ", ".join(map(repr, service.upstreams))
            raise LookupError(f"no upstream is called {answer.upstream!r}; there are: {known}")
        upstream = service.upstreams[answer.upstream]
    upgrade = attrs.evolve(way.upgrade, changes=(*way.upgrade.changes, *answer.changes))
    return Way(upgrade, upstream, answer.node)


@attrs.frozen
class HookedSession:
    """A session of a route with hooks."""

    relay: Relay
    hooks: Hooks
    record: Record
    #: Seconds for each call.
    limit: float

    async def run(self, early: tuple[bytes, bytes]) -> None:
        """Relay until both sides are done; see `Relay.run`."""
        view = SessionView(self.record, self.relay)
        try:
            if isinstance(self.relay, MessageRelay) and self.hooks.on_message is not None:
                self.relay.on_message = partial(self._show, self.hooks.on_message, view)
            if self.hooks.on_open is not None:
                await self._open(partial(self.hooks.on_open, view))
            await self.relay.run(early)
        finally:
            if isinstance(self.relay, MessageRelay):
                # Else each session would be a cycle, for the garbage collector to find.
                self.relay.on_message = unchanged

    async def _open(self, on_open: Callable[[], Awaitable[object]]) -> None:
        try:
            await _call("on_open", on_open, self.record, self.limit)
        except HookFailed:
            self._fail()

    async def _show(
        self, on_message: OnMessage, view: SessionView, message: Message
    ) -> Message | None:
        """Return what a hook makes of a message: nothing if it fails, which ends the session."""

        async def checked() -> Message | None:
            answer: object = await on_message(view, message)
            if answer is None or isinstance(answer, Message):
                return answer
            raise TypeError(f"on_message returns a Message or None, not {answer!r}")

        try:
            return await _call("on_message", checked, self.record, self.limit)
        except HookFailed:
            self._fail()
            return None

    def _fail(self) -> None:
        self.relay.close("hook", 1011, 1001, "hook failed")


async def tell_closed(hooks: Hooks, record: Record, limit: float) -> None:
    """Call `on_close`, whatever is being cancelled; it has `limit` seconds."""
    if hooks.on_close is not None:
        with suppress(HookFailed):
            await _call("on_close", partial(hooks.on_close, record), record, limit, shield=True)
