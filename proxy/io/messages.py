"""The relay of routes with a hook that is shown every message.

It is the portable relay, with what comes from a stream taken apart into messages and control frames
before the tunnel sees it.  To the tunnel each side sends what the hook has made of its messages,
one frame each, and control frames as they came.  So all its rules hold as on any session, and its
counts are of what was passed on.

Backpressure goes through the hook: a direction is read again when the hook has returned, and what
it returned was taken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from proxy.wire.closing import FrameError
from proxy.wire.frames import Scanner
from proxy.wire.messages import Message, MessageReader, frame_of
from proxy.wire.tunnel import Side, Tunnel

from .pump import PumpRelay
from .terms import Terms
from .timers import Timers

#: The longest header of a frame.
_HEADER: Final = 2 + 8 + 4
#: Returns what to pass on instead of a message, None: nothing.  Errors end the relay.
OnMessage = Callable[[Message], Awaitable[Message | None]]


class MessageRelay(PumpRelay):
    """Relay a session, each of its messages by way of `on_message`.

    A message is in memory as a whole, so it has in any case at most `terms.held_bytes`.
    """

    def __init__(
        self,
        client: trio.abc.Stream,
        node: trio.abc.Stream,
        tunnel: Tunnel,
        terms: Terms,
        timers: Timers,
        *,
        stagger: float = 1.0,
    ) -> None:
        self._readers = [
            MessageReader(side, terms.rules[side], limit=terms.held_bytes) for side in Side
        ]
        super().__init__(client, node, tunnel, terms, timers, stagger=stagger)
        self.on_message: OnMessage = unchanged
        self._early = (b"", b"")

    def scanner(self, side: Side) -> Scanner:
        return self._readers[side].scanner

    def held(self, side: Side) -> int:
        return super().held(side) + self._readers[side.other].held

    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        # They wait for the hook, each in its direction's task.
        self._early = early
        await super().run()

    async def _pump(self, side: Side) -> None:
        if early := self._early[side]:
            await self._received(side, early)
            await self._act(side.other)
        await super()._pump(side)

    async def _received(self, side: Side, data: bytes) -> None:
        for one in self._readers[side].received(data):
            if isinstance(one, Message):
                await self._show(side, one)
            elif isinstance(one, FrameError):
                self.tunnel.offend(side, one)
            else:
                self._receive(side, one)

    async def _show(self, side: Side, message: Message) -> None:
        """Pass on what the hook makes of a message, if there is anybody to pass it on to."""
        other = self.tunnel.legs[side.other]
        if other.outbox:
            # The hook may take its time, and nothing should wait for that but this message.
            await self._act(side.other)
        if other.gone or other.sent is not None:
            return
        passed = await self.on_message(message)
        if passed is None:
            return
        frame = frame_of(side, passed.data)
        if len(frame) > self.terms.held_bytes + _HEADER:
            self.close("hook", 1011, 1001, "a hook's message is too big")
        else:
            self.tunnel.received(side, frame)


async def unchanged(message: Message) -> Message:
    return message
