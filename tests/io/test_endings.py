"""For every ending: what each side sees of it, and who is said to have begun it."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import attrs
import pytest
import trio
import trio.testing

from proxy.config.route import Ping, Route, SessionLimits
from proxy.io.terms import Terms
from proxy.wire.closing import ENDINGS, Ending, party
from proxy.wire.tunnel import Side, Tunnel

from .actors import Actor
from .conftest import SOCKETS
from .rig import Explosion, Rig, open_rig

#: Sooner than any wait for who does not answer would be over.
SOON = 3.0


@attrs.frozen
class Scene:
    """A session with somebody at either end."""

    rig: Rig
    client: Actor
    node: Actor

    def actor(self, side: Side) -> Actor:
        return (self.client, self.node)[side]


Play = Callable[[Scene], Awaitable[None]]
#: The code and the reason of the Close that came (1006: none), and how the stream ended.
Seen = tuple[int, str, str]


@attrs.frozen
class Row:
    """How an ending comes about, and what is seen of it."""

    ending: Ending
    client: Seen
    node: Seen
    play: Play
    route: dict[str, Any] = attrs.field(factory=dict)
    #: Who only reads; who does not even do that until the session ends, or until it is over.
    mute: Side | None = None
    stalls: Side | None = None
    sleeps: Side | None = None

    @property
    def name(self) -> str:
        return f"{self.ending}-{self.client[0]}-{self.node[0]}"


def says(side: Side, opcode: int, payload: bytes, *, fin: bool = True) -> Play:
    async def play(scene: Scene) -> None:
        await scene.actor(side).say(opcode, payload, fin=fin)

    return play


def sends(side: Side, data: bytes) -> Play:
    return lambda scene: scene.actor(side).send(data)


def leaves(side: Side) -> Play:
    return lambda scene: scene.actor(side).leave()


def floods(side: Side) -> Play:
    return lambda scene: scene.actor(side).flood()


def is_told(ending: Ending, client: int, node: int, reason: str) -> Play:
    async def play(scene: Scene) -> None:
        scene.rig.relay.close(ending, client, node, reason)

    return play


async def nothing_happens(scene: Scene) -> None:
    return


def leaves_much_unread(side: Side) -> Play:
    async def play(scene: Scene) -> None:
        """Let one side go while the proxy still has something for it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.actor(side.other).flood)
            while not scene.rig.relay.held(side):
                await trio.lowlevel.checkpoint()
            await scene.actor(side).leave()

    return play


async def is_cancelled(scene: Scene) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scene.rig.scope.cancel()


async def meets_a_bug(scene: Scene) -> None:
    def explode(*_: object) -> NoReturn:
        raise Explosion

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tunnel, "received", explode)
        await scene.client.say(9)
        await scene.rig.over.wait()


def limits(**options: Any) -> dict[str, Any]:
    return {"limits": SessionLimits(**options)}


def pings(client: float, node: float) -> dict[str, Any]:
    return {"ping": Ping(client=client, node=node, timeout=0.05)}


CLIENT, NODE = Side.CLIENT, Side.NODE
GONE = (1006, "", "-")
LEFT = (1001, "", "FIN")
RESERVED = b"\x83\x80" + bytes(20)
NOT_UTF8 = "close reason is not UTF-8"
STALL: dict[str, Any] = {"write_stall": 0.08}
ABORT = STALL | {"on_stall": "abort"}
#: What is told from outside, with the client's code.
TOLD: dict[Ending, int] = {"shutdown": 1012, "moved": 1012, "removed": 1012, "hook": 4000}
ROWS = [
    Row(
        "client_closed",
        (4001, "me", "FIN"),
        (4001, "me", "FIN"),
        says(CLIENT, 8, b"\x0f\xa1me"),
    ),
    Row("client_closed", (1005, "", "FIN"), (1005, "", "FIN"), says(CLIENT, 8, b"")),
    Row("node_closed", (1001, "restart", "FIN"), LEFT, says(NODE, 8, b"\x03\xe9restart")),
    Row("client_lost", GONE, (1006, "", "FIN"), leaves(CLIENT)),
    Row("client_lost", GONE, (1006, "", "FIN"), leaves_much_unread(CLIENT), sleeps=CLIENT),
    Row("node_lost", (1011, "node lost", "FIN"), GONE, leaves(NODE)),
    Row("node_lost", (1011, "node lost", "FIN"), GONE, leaves_much_unread(NODE), sleeps=NODE),
    Row("client_error", (1002, "reserved opcode", "FIN"), LEFT, sends(CLIENT, RESERVED)),
    Row("client_error", (1007, NOT_UTF8, "FIN"), LEFT, says(CLIENT, 8, b"\x03\xe8\xff")),
    Row("node_error", (1011, "", "FIN"), (1002, "reserved opcode", "FIN"), sends(NODE, RESERVED)),
    Row("node_error", (1011, "", "FIN"), (1007, NOT_UTF8, "FIN"), says(NODE, 8, b"\x03\xe8\xff")),
    Row(
        "client_limit",
        (1009, "message too big", "FIN"),
        LEFT,
        says(CLIENT, 2, bytes(126)),
        limits(message_bytes=125),
    ),
    Row(
        "client_limit",
        (1008, "too many fragments", "FIN"),
        LEFT,
        sends(CLIENT, b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0"),
        limits(fragments=1),
    ),
    Row(
        "client_limit",
        (1008, "too fast", "FIN"),
        LEFT,
        sends(CLIENT, b"\x82\x80\0\0\0\0" * 3),
        limits(messages_per_second=1, exceeded="close"),
    ),
    Row(
        "client_limit",
        (1008, "too many control frames", "FIN"),
        LEFT,
        sends(CLIENT, b"\x89\x80\0\0\0\0" * 3),
        limits(controls_per_second=1),
    ),
    Row(
        "node_limit",
        (1001, "", "FIN"),
        (1009, "message too big", "FIN"),
        says(NODE, 2, bytes(126)),
        limits(node_message_bytes=125),
    ),
    Row(
        "client_silent",
        (1001, "no answer to a ping", "FIN"),
        LEFT,
        nothing_happens,
        pings(0.02, 0),
        mute=CLIENT,
    ),
    Row(
        "client_silent",
        (1001, "no answer to a ping", "FIN"),
        LEFT,
        nothing_happens,
        pings(0.02, 0) | ABORT,
        mute=CLIENT,
    ),
    Row(
        "node_silent",
        (1001, "node is silent", "FIN"),
        LEFT,
        nothing_happens,
        pings(0, 0.02),
        mute=NODE,
    ),
    Row("client_stalled", (1013, "too slow", "FIN"), LEFT, floods(NODE), STALL, stalls=CLIENT),
    Row("client_stalled", (1006, "", "RST"), LEFT, floods(NODE), ABORT, sleeps=CLIENT),
    Row(
        "node_stalled", (1013, "node is too slow", "FIN"), LEFT, floods(CLIENT), STALL, stalls=NODE
    ),
    Row(
        "node_stalled",
        (1013, "node is too slow", "FIN"),
        (1006, "", "RST"),
        floods(CLIENT),
        ABORT,
        sleeps=NODE,
    ),
    Row("idle", (1001, "idle", "FIN"), LEFT, nothing_happens, {"idle_timeout": 0.03}),
    *(
        Row(ending, (code, "why", "FIN"), LEFT, is_told(ending, code, 1001, "why"))
        for ending, code in TOLD.items()
    ),
    Row("cancelled", (1006, "", "FIN"), (1006, "", "FIN"), is_cancelled),
    Row("bug", (1011, "", "FIN"), LEFT, meets_a_bug),
]


def test_the_rows_are_the_endings() -> None:
    assert {row.ending for row in ROWS} == set(ENDINGS)


@pytest.mark.parametrize("kind", SOCKETS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_what_each_side_sees(
    row: Row, kind: str, exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    route = Route(path="/", upstream="node", websocket=True, **row.route)
    terms = Terms.of(route, close_timeout=2 * SOON)
    async with open_rig(kind, (exact_tls, server_tls), terms=terms, tcp=True) as rig:
        scene = Scene(rig, Actor(rig.client, CLIENT), Actor(rig.node, NODE))
        with trio.fail_after(SOON):
            await enact(row, scene)

    assert scene.client.seen == row.client
    assert scene.node.seen == row.node
    # That nobody but the caller has ended it, only the caller knows.
    assert rig.tunnel.ending == (None if row.ending == "cancelled" else row.ending)
    assert rig.tunnel.ended_by == (party(row.ending) if rig.tunnel.ending else None)


async def enact(row: Row, scene: Scene) -> None:
    """Let it come to the ending, and wait until everybody has left."""
    async with trio.open_nursery() as nursery:
        for side in Side:
            actor = scene.actor(side)
            actor.mute = side is row.mute
            if side not in (row.stalls, row.sleeps):
                actor.reads.set()
            nursery.start_soon(actor.run)
        if row.stalls is not None:
            scene.rig.relay.on_ending = scene.actor(row.stalls).reads.set
        nursery.start_soon(row.play, scene)
        await scene.rig.over.wait()
        if row.sleeps is not None:
            scene.actor(row.sleeps).reads.set()
