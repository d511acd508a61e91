"""Who is pinged when, and who is found silent, stalled or idle; by a clock that the test winds."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.closing import Ending
from proxy.wire.liveness import LegView, Liveness, Patience, Verdict
from proxy.wire.opaque import OpaqueTunnel
from proxy.wire.tunnel import Side, Tunnel

from .peers import Peer, key_of
from .strategies import frame

CLIENT, NODE = Side.CLIENT, Side.NODE
SIDES = pytest.mark.parametrize("side", Side)
NEVER = float("inf")
SILENT: dict[Side, Ending] = {CLIENT: "client_silent", NODE: "node_silent"}
STALLED: dict[Side, Ending] = {CLIENT: "client_stalled", NODE: "node_stalled"}
START = 1024.0


@attrs.define
class Life:
    """A session, and a clock that begins at 0."""

    patience: Patience
    first: float = 1.0
    tunnel: Tunnel = attrs.field(factory=Tunnel)
    views: list[LegView] = attrs.field(factory=lambda: [LegView(), LegView()])
    liveness: Liveness = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.liveness = Liveness(
            self.tunnel, self.tunnel.scanners, self.patience, START, self.first
        )

    def look(self, at: float) -> Verdict | float:
        """Return the verdict, or when to look again."""
        found = self.liveness.check(START + at, (self.views[0], self.views[1]))
        return found if isinstance(found, Verdict) else found - START

    def pings(self, side: Side) -> list[bytes]:
        """Return the pings that this side was sent since the last time."""
        return Peer.read(side, self.tunnel.take(side)).pings

    def receive(self, side: Side, opcode: int, payload: bytes = b"") -> None:
        self.tunnel.received(side, frame(opcode, payload, key=key_of(side)))
        self.tunnel.take(side.other)

    def pong(self, side: Side, at: float, ping: bytes) -> None:
        """Answer a ping, as a relay tells of it."""
        self.receive(side, 10, ping)
        assert self.tunnel.legs[side].ping == b""
        self.liveness.ponged(side, START + at)

    def view(self, side: Side, view: LegView) -> None:
        self.views[side] = view


def of_side(side: Side, interval: float) -> tuple[float, float]:
    """Return intervals of pings for one side alone."""
    return (interval, 0.0) if side is CLIENT else (0.0, interval)


def test_without_patience_there_is_nothing_to_look_at() -> None:
    life = Life(Patience())

    assert life.look(0) == life.look(10**6) == NEVER
    assert life.pings(CLIENT) == life.pings(NODE) == []
    assert life.liveness.blocked(START) == NEVER


def test_who_is_doubted_is_pinged_now() -> None:
    life = Life(Patience(ping=of_side(NODE, 30), ping_timeout=10))
    life.look(0)
    assert life.liveness.doubt(NODE, START + 5)
    assert life.look(5) == 15
    assert len(life.pings(NODE)) == 1
    # It is being asked already; and the other one never is.
    assert not life.liveness.doubt(NODE, START + 6)
    assert not life.liveness.doubt(CLIENT, START + 6)

    assert life.look(15) == Verdict("node_silent", "no answer to a ping for 10 s")


@pytest.mark.parametrize("first", [0.0, 0.25, 1.0])
def test_each_leg_is_pinged_by_itself_and_staggered(first: float) -> None:
    life = Life(Patience(ping=(20, 40), ping_timeout=100), first)
    if first:
        assert life.look(0) == 20 * first
        assert life.pings(CLIENT) == life.pings(NODE) == []
        assert life.look(20 * first) == 40 * first
    assert life.look(40 * first) == 100 + (20 if first else 0) * first
    [client], [node] = life.pings(CLIENT), life.pings(NODE)

    assert client.startswith(b"tidegate")
    assert node.startswith(b"tidegate")
    assert client != node


@SIDES
def test_a_pong_gives_the_round_trip_and_the_next_ping_comes_an_interval_later(side: Side) -> None:
    life = Life(Patience(ping=of_side(side, 20), ping_timeout=15))
    assert life.look(20) == 35
    [ping] = life.pings(side)
    life.pong(side, 20.5, ping)

    pulse = life.liveness.legs[side]
    assert pulse.rtt == pytest.approx(0.5)
    assert life.look(35) == 40.5
    assert life.pings(side) == []
    life.look(40.5)
    [again] = life.pings(side)
    assert again != ping
    # It stays known until there is another.
    assert pulse.rtt == pytest.approx(0.5)


def test_a_pong_that_nobody_waits_for_changes_nothing() -> None:
    life = Life(Patience(ping=(20, 0)))
    life.liveness.ponged(CLIENT, START + 5)

    assert life.liveness.legs[CLIENT].rtt is None
    assert life.look(5) == 20


@SIDES
def test_silence_is_found_exactly_at_the_deadline(side: Side) -> None:
    life = Life(Patience(ping=of_side(side, 20), ping_timeout=15))
    life.receive(side, 2, b"before")

    assert life.look(20) == 35
    assert life.look(34.9) == 35
    assert life.look(35) == Verdict(SILENT[side], "no answer to a ping for 15 s")


@SIDES
@pytest.mark.parametrize(
    ("opcode", "payload"), [(2, b"data"), (9, b"a ping of its own"), (10, b"unasked")]
)
def test_any_bytes_since_the_ping_are_a_sign_of_life(
    side: Side, opcode: int, payload: bytes
) -> None:
    life = Life(Patience(ping=of_side(side, 20), ping_timeout=15))
    life.look(20)
    life.receive(side, opcode, payload)

    assert life.look(35) == 50
    # It is asked anew, and has the same time again.
    assert life.look(50) == 65
    assert life.look(65) == Verdict(SILENT[side], "no answer to a ping for 15 s")


@SIDES
def test_what_the_other_side_sends_is_no_sign_of_life(side: Side) -> None:
    life = Life(Patience(ping=of_side(side, 20), ping_timeout=15))
    life.look(20)
    life.receive(side.other, 2, b"data")

    assert isinstance(life.look(35), Verdict)


@SIDES
def test_a_long_message_before_the_pong_is_a_sign_of_life(side: Side) -> None:
    life = Life(Patience(ping=of_side(side, 20), ping_timeout=15))
    message = frame(2, bytes(1000), key=key_of(side))
    life.tunnel.received(side, message[:100])
    life.look(20)
    for number in range(1, 9):
        life.tunnel.received(side, message[100 * number : 100 * (number + 1)])

        assert life.look(20 + 15 * number) == 35 + 15 * number


@SIDES
def test_silence_is_our_own_doing_while_it_is_not_read(side: Side) -> None:
    life = Life(Patience(ping=of_side(side, 20), ping_timeout=15))
    life.look(20)
    life.view(side, LegView(reads=False))
    assert life.look(35) == 50
    assert life.look(50) == 65
    life.view(side, LegView())

    assert life.look(64) == 65
    # Perhaps it has answered something else meanwhile: it is asked anew.
    assert len(life.pings(side)) == 1
    assert life.look(65) == 80
    assert len(life.pings(side)) == 1
    assert life.look(80) == Verdict(SILENT[side], "no answer to a ping for 15 s")


@SIDES
def test_a_pong_that_never_comes_is_forgotten_where_there_is_life(side: Side) -> None:
    """Who is pinged by both of us may answer the later ping alone (RFC 6455 section 5.5.3)."""
    life = Life(Patience(ping=of_side(side, 20), ping_timeout=15))
    life.look(20)
    life.receive(side, 10, b"to the other one's ping")
    assert life.look(25) == 40
    life.pings(side)
    assert life.look(40) == 55
    [ping] = life.pings(side)
    life.pong(side, 41, ping)

    assert life.liveness.legs[side].rtt == 1
    assert life.look(55) == 61


@SIDES
def test_no_ping_joins_a_backlog(side: Side) -> None:
    life = Life(Patience(ping=of_side(side, 20)))
    life.view(side, LegView(backlog=1))
    assert life.look(20) == 40
    assert life.look(40) == 60
    assert life.pings(side) == []
    life.view(side, LegView())
    life.look(60)

    assert len(life.pings(side)) == 1


@SIDES
def test_a_ping_that_is_refused_within_a_frame_is_tried_again_soon(side: Side) -> None:
    life = Life(Patience(ping=of_side(side, 20), ping_timeout=15))
    wire = frame(2, bytes(100), key=key_of(side.other))
    life.tunnel.received(side.other, wire[:50])
    assert life.look(20) == 20.25
    assert life.look(20.25) == 20.5
    life.tunnel.received(side.other, wire[50:])
    life.tunnel.take(side)

    assert life.look(20.5) == 35.5
    assert len(life.pings(side)) == 1


def test_bytes_that_pass_unseen_are_not_pinged() -> None:
    life = Life(Patience(idle=60), tunnel=OpaqueTunnel())

    assert life.look(0) == 60
    life.tunnel.received(CLIENT, b"any")
    assert life.look(60) == 120
    assert life.look(120) == Verdict("idle", "no data for 60 s")


@SIDES
@pytest.mark.parametrize("opcode", [9, 10])
def test_pings_do_not_keep_a_session_from_being_idle(side: Side, opcode: int) -> None:
    life = Life(Patience(idle=60))
    for at in range(10, 60, 10):
        life.receive(side, opcode, b"x" * 125)

        assert life.look(at) == 60
    assert life.look(60) == Verdict("idle", "no data for 60 s")


@SIDES
def test_data_either_way_keeps_a_session_from_being_idle(side: Side) -> None:
    life = Life(Patience(idle=60))
    life.receive(side, 2)
    assert life.look(50) == 110
    assert life.look(109.9) == 110

    assert life.look(110) == Verdict("idle", "no data for 60 s")


def test_a_long_message_keeps_a_session_from_being_idle() -> None:
    life, message = Life(Patience(idle=60)), frame(2, bytes(200))
    for number in range(4):
        life.tunnel.received(NODE, message[50 * number : 50 * (number + 1)])

        assert life.look(60 * number) == 60 * (number + 1)


@SIDES
def test_a_backlog_that_does_not_move_is_a_stall(side: Side) -> None:
    life = Life(Patience(write_stall=8))
    life.view(side, LegView(backlog=(7, 7)))
    assert life.liveness.blocked(START) - START == 2

    assert [life.look(at) for at in (2, 4, 6, 8, 9, 10)] == [4, 6, 8, 10, 10, STALL_OF_8[side]]


STALL_OF_8 = {side: Verdict(STALLED[side], "nothing was read for 8 s") for side in Side}


@SIDES
@pytest.mark.parametrize("view", [LegView(backlog=(7, 8)), LegView()], ids=["moved", "gone"])
def test_movement_begins_a_stall_anew(side: Side, view: LegView) -> None:
    life = Life(Patience(write_stall=8))
    life.view(side, LegView(backlog=(7, 7)))
    life.look(2)
    life.view(side, view)
    assert life.look(9.5) == (11.5 if view.backlog else NEVER)
    life.view(side, LegView(backlog=(7, 7)))

    assert life.look(11.5) == 13.5
    assert life.look(19) == 19.5
    assert life.look(19.5) == STALL_OF_8[side]


@given(st.lists(st.floats(0.01, 9), max_size=8), st.sampled_from(Side))
def test_a_stall_is_found_between_its_time_and_a_quarter_more(
    gaps: list[float], side: Side
) -> None:
    life, moves = Life(Patience(write_stall=8)), [0.0]
    for gap in gaps:
        moves.append(moves[-1] + gap)
    found: Verdict | float = life.liveness.blocked(START) - START
    at, last = 0.0, 0.0
    while not isinstance(found, Verdict):
        at = found
        last = max(move for move in moves if move <= at)
        life.view(side, LegView(backlog=last))
        found = life.look(at)

    assert found == STALL_OF_8[side]
    assert 8 <= at - last <= 10


def test_who_is_stalled_first_is_told_of_though_both_are_silent() -> None:
    """While it does not read, it can't see a ping; nor does the other one have its answer read."""
    life = Life(Patience(ping=(20, 20), ping_timeout=15, write_stall=8))
    life.look(20)
    life.view(CLIENT, LegView(backlog=1))
    life.view(NODE, LegView(reads=False))
    life.look(25)

    assert life.look(35) == STALL_OF_8[CLIENT]


def test_nobody_is_pinged_who_is_told_goodbye() -> None:
    life = Life(Patience(ping=(20, 30), ping_timeout=10, idle=100))
    life.look(20)

    assert isinstance(life.look(30), Verdict)
    assert life.pings(NODE) == []


_times = st.sampled_from([0.0, 0.3, 5.0, 20.0, 60.0])
_views = st.builds(LegView, st.booleans(), st.none() | st.integers(0, 2))


@st.composite
def patiences(draw: st.DrawFn) -> Patience:
    ping, timeout = (draw(_times), draw(_times)), draw(st.sampled_from([0.2, 15.0]))
    return Patience(ping, timeout, draw(_times), draw(_times))


@given(patiences(), st.floats(0, 1), st.lists(st.tuples(st.data(), _views, _views), max_size=30))
def test_never_now_for_ever(
    patience: Patience,
    first: float,
    steps: list[tuple[st.DataObject, LegView, LegView]],
) -> None:
    """Whatever happens, whenever it is looked: the next look is later, and not too late."""
    life, at = Life(patience, first), 0.0
    longest = max(*patience.ping, patience.ping_timeout, patience.idle, patience.write_stall)
    for data, *views in steps:
        life.views = list(views)
        happens(life, data, at)
        found = life.look(at)
        if isinstance(found, Verdict):
            return
        assert found > at
        if any(patience.ping) or patience.idle:
            assert found <= at + longest
        else:
            assert found == NEVER or any(view.backlog is not None for view in views)
        at = data.draw(st.sampled_from([found, (at + found) / 2])) if found < NEVER else at + 1


def happens(life: Life, data: st.DataObject, at: float) -> None:
    """Let one side send something, or nothing, or answer a ping."""
    side = data.draw(st.sampled_from(Side))
    what = data.draw(st.sampled_from(["nothing", "data", "pong", "part"]))
    ping = life.tunnel.legs[side].ping
    if life.tunnel.scanners[side].left:
        life.tunnel.received(side, bytes(life.tunnel.scanners[side].left))
    elif what == "data":
        life.receive(side, 2, b"data")
    elif what == "part":
        life.tunnel.received(side, frame(2, bytes(100), key=key_of(side))[:50])
    elif what == "pong" and ping:
        life.pong(side, at, ping)


def test_a_client_that_we_do_not_read_is_not_idle() -> None:
    """It has sent too much, and is paused for that."""
    life = Life(Patience(idle=60))
    life.look(0)
    life.view(CLIENT, LegView(reads=False))
    assert life.look(60) == 120
    life.view(CLIENT, LegView())

    assert life.look(120) == Verdict("idle", "no data for 60 s")


def half_closed(patience: Patience, side: Side, at: float) -> tuple[Life, float]:
    """Return a session of which a side ends its stream then, and when it is looked at."""
    life = Life(patience, tunnel=OpaqueTunnel())
    life.tunnel.lost(side, clean=True)
    # Nothing is read of a side that has ended its stream.
    life.view(side, LegView(reads=False))
    return life, life.liveness.half_closed(START + at) - START


@SIDES
@pytest.mark.parametrize(
    ("patience", "limit"),
    [
        (Patience(idle=60), 60),
        (Patience(idle=60, half_close=5), 5),
        (Patience(idle=60, half_close=90), 60),
        (Patience(half_close=5), 5),
    ],
)
def test_half_a_session_is_idle_too(patience: Patience, limit: float, side: Side) -> None:
    life, due = half_closed(patience, side, 50)
    assert due == 50 + limit
    life.tunnel.received(side.other, b"more")
    assert life.look(due) == due + limit

    assert life.look(due + limit) == Verdict("idle", f"no data for {limit:g} s")


@SIDES
def test_half_a_session_may_have_all_the_time_there_is(side: Side) -> None:
    life, due = half_closed(Patience(), side, 50)

    assert due == NEVER
    assert life.look(10**6) == NEVER


def test_a_whole_session_has_its_own_time() -> None:
    life = Life(Patience(idle=60, half_close=5), tunnel=OpaqueTunnel())

    assert life.look(0) == 60
