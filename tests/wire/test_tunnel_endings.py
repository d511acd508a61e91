"""How sessions end that keep no rule, no limit, or no silence: what each side is told, and when."""

from __future__ import annotations

import pytest

from proxy.wire.closing import Ending, FrameError
from proxy.wire.rules import Rules
from proxy.wire.tunnel import Side, Tunnel

from .conftest import Feed
from .peers import KEY, Peer, close, key_of
from .strategies import frame

CLIENT, NODE = Side.CLIENT, Side.NODE
BIG = Rules(message_bytes=125)
FEW = Rules(fragments=1)
LENIENT = Rules(lenient=True)
SIDES = pytest.mark.parametrize("side", Side)


def told(tunnel: Tunnel, side: Side) -> Peer:
    return Peer.read(side, tunnel.take(side))


def begun(side: Side) -> bytes:
    """Return the first half of a frame from this side."""
    return frame(2, b"x" * 100, key=key_of(side))[:50]


def rest(side: Side) -> bytes:
    return frame(2, b"x" * 100, key=key_of(side))[50:]


@SIDES
@pytest.mark.parametrize(
    ("rules", "offence", "code", "reason"),
    [
        (BIG, [(2, 126, True)], 1009, "message too big"),
        (BIG, [(2, 100, False), (0, 26, True)], 1009, "message too big"),
        (Rules(frame_bytes=125), [(2, 126, True)], 1009, "frame too big"),
        (FEW, [(2, 1, False), (0, 1, True)], 1008, "too many fragments"),
    ],
)
def test_limits_are_told_to_who_went_beyond(
    side: Side,
    rules: Rules,
    offence: list[tuple[int, int, bool]],
    code: int,
    reason: str,
    feed: Feed,
) -> None:
    tunnel, key = Tunnel(rules=(rules, rules)), key_of(side)
    frames = [frame(opcode, b"x" * size, fin=fin, key=key) for opcode, size, fin in offence]
    good = frame(2, b"good", key=key)
    feed(tunnel, side, good + b"".join(frames) + frame(2, b"late", key=key))

    # Of the offending frame nothing has passed.
    passed = tunnel.take(side.other)
    assert passed.startswith(good + b"".join(frames[:-1]))
    assert Peer.read(side.other, passed) == Peer([b"good"], [], (1001, ""))
    ending = "client_limit" if side is CLIENT else "node_limit"
    assert (tunnel.ending, tunnel.detail) == (ending, reason)
    assert not tunnel.finished
    feed(tunnel, side.other, close(1001, key=key_of(side.other)))
    assert told(tunnel, side) == Peer([], [], (code, reason))
    # It broke a rule: what it says to that is not waited for.
    assert tunnel.finished


@SIDES
def test_limits_are_each_sides_own(side: Side, feed: Feed) -> None:
    rules = (BIG, Rules()) if side is NODE else (Rules(), BIG)
    tunnel, data = Tunnel(rules=rules), frame(2, b"x" * 1000, key=key_of(side))
    feed(tunnel, side, data)

    assert tunnel.take(side.other) == data
    assert tunnel.ending is None


@SIDES
@pytest.mark.parametrize("code", [1008, 1009])
def test_a_limit_that_no_frame_shows(side: Side, code: int) -> None:
    tunnel = Tunnel()
    tunnel.received(side, frame(2, b"good", key=key_of(side)))
    tunnel.offend(side, FrameError("too fast", code))

    assert told(tunnel, side.other) == Peer([b"good"], [], (1001, ""))
    tunnel.received(side.other, close(1001, key=key_of(side.other)))
    assert told(tunnel, side).close == (code, "too fast")
    assert tunnel.ending == ("client_limit" if side is CLIENT else "node_limit")
    # Nothing of it passes any more.
    late = frame(2, b"late", key=key_of(side))
    assert not tunnel.scanners[side].plain(late, len(late))
    tunnel.received(side, late + close(1000, key=key_of(side)))
    assert tunnel.take(side.other) == b""
    assert tunnel.legs[side].received is None


@SIDES
def test_an_offender_is_told_after_the_frame_that_it_is_being_sent(side: Side, feed: Feed) -> None:
    tunnel, other = Tunnel(), side.other
    feed(tunnel, other, begun(other))
    tunnel.offend(side, FrameError("too fast", 1008))

    assert tunnel.take(side) == begun(other)
    assert not tunnel.legs[side].done
    assert told(tunnel, other).close == (1001, "")

    feed(tunnel, other, rest(other) + frame(2, b"late", key=key_of(other)))
    feed(tunnel, other, close(1001, key=key_of(other)))

    last = tunnel.take(side)
    assert last.startswith(rest(other))
    # To a client, after all that the node still has to say.
    late = [b"late"] if side is CLIENT else []
    assert Peer.read(side, last[len(rest(other)) :]) == Peer(late, [], (1008, "too fast"))
    assert tunnel.finished


@SIDES
def test_an_offence_within_a_frame_of_its_own_cuts_the_other_side(side: Side) -> None:
    """The frame's end will not come, so no Close can: the other side sees 1006."""
    tunnel = Tunnel()
    tunnel.received(side, begun(side))
    tunnel.offend(side, FrameError("too fast", 1008))

    assert told(tunnel, side).close == (1008, "too fast")
    assert tunnel.take(side.other) == begun(side)
    assert tunnel.finished


@SIDES
def test_an_offence_of_a_side_that_is_waited_for_ends_the_wait(side: Side, feed: Feed) -> None:
    tunnel = Tunnel()
    tunnel.close("shutdown", 1012, 1001, "")
    tunnel.take(CLIENT), tunnel.take(NODE)
    feed(tunnel, side, b"\x83\x80" + bytes(8))

    assert tunnel.take(CLIENT) == tunnel.take(NODE) == b""
    assert tunnel.ending == "shutdown"
    assert tunnel.legs[side].done
    assert not tunnel.finished
    feed(tunnel, side.other, close(1001, key=key_of(side.other)))
    assert tunnel.finished


def test_a_node_that_answers_a_close_with_an_offence() -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, close(1000, key=KEY))
    tunnel.received(NODE, b"\x83\x00")

    assert told(tunnel, CLIENT).close == (1011, "")
    assert tunnel.take(NODE) == close(1000, key=KEY)
    assert tunnel.ending == "client_closed"
    assert tunnel.finished


@SIDES
def test_an_offence_while_a_close_waits_for_the_end_of_its_frame(side: Side) -> None:
    """What waits for a frame that nobody reads on is not put into it."""
    tunnel = Tunnel()
    tunnel.received(side, begun(side))
    tunnel.close("shutdown", 1012, 1001, "")
    assert not tunnel.legs[side.other].done
    tunnel.offend(side, FrameError("too fast", 1008))
    tunnel.received(side, rest(side))

    assert tunnel.take(side.other) == begun(side)
    assert tunnel.finished


@SIDES
def test_a_close_that_was_never_sent_is_not_said_to_have_been(side: Side) -> None:
    tunnel = Tunnel()
    tunnel.received(side.other, begun(side.other))
    tunnel.close("shutdown", 1012, 1001, "")
    assert tunnel.legs[side].waiting
    tunnel.give_up()

    assert tunnel.legs[side].sent is None
    assert tunnel.legs[side.other].sent is not None


IMPROPER = [
    b"\x03",
    b"\x03\xe8\xff",
    *(code.to_bytes(2, "big") + b"why" for code in (0, 999, 1004, 1005, 1006, 1015, 5000)),
]


@SIDES
@pytest.mark.parametrize("payload", IMPROPER)
def test_an_improper_close_passes_as_an_empty_one(side: Side, payload: bytes, feed: Feed) -> None:
    tunnel, key = Tunnel(rules=(LENIENT, LENIENT)), key_of(side)
    data = frame(3, b"any opcode", key=key)
    feed(tunnel, side, data + frame(8, payload, key=key) + frame(2, b"late", key=key))

    passed = tunnel.take(side.other)
    assert passed.startswith(data)
    assert Peer.read(side.other, passed[len(data) :]).close == (1005, "")
    assert (tunnel.legs[side].received, tunnel.legs[side.other].sent) == (1005, 1005)
    assert tunnel.ending == ("client_closed" if side is CLIENT else "node_closed")
    feed(tunnel, side.other, close(1005, key=key_of(side.other)))
    assert tunnel.finished
    # Both leave with empty ones: a client hears the node's answer, a node hears ours.
    assert told(tunnel, side).close == (1005, "")


@SIDES
@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa1me", b"\x03\xf6"])
def test_a_proper_close_passes_lenient_rules_as_it_is(
    side: Side, payload: bytes, feed: Feed
) -> None:
    tunnel, wire = Tunnel(rules=(LENIENT, LENIENT)), frame(8, payload, key=key_of(side))
    feed(tunnel, side, wire)

    assert tunnel.take(side.other) == wire


def test_an_improper_close_behind_a_pong_of_ours() -> None:
    tunnel = Tunnel(rules=(LENIENT, LENIENT))
    assert tunnel.ping(CLIENT, b"ours")
    between = frame(10, b"theirs", key=KEY)
    pong, bad = frame(10, b"ours", key=KEY), frame(8, b"\x03\xed", key=KEY)
    tunnel.received(CLIENT, pong + between + bad)

    passed = tunnel.take(NODE)
    assert passed.startswith(between)
    assert Peer.read(NODE, passed[len(between) :]).close == (1005, "")


@SIDES
def test_an_improper_close_where_ours_was_sent_goes_nowhere(side: Side) -> None:
    tunnel = Tunnel(rules=(LENIENT, LENIENT))
    tunnel.close("shutdown", 1012, 1001, "")
    tunnel.take(CLIENT), tunnel.take(NODE)
    tunnel.received(side, frame(8, b"\x03\xed", key=key_of(side)))

    assert tunnel.take(CLIENT) == tunnel.take(NODE) == b""
    assert tunnel.legs[side].done


def test_an_improper_close_ends_the_frame_that_ours_has_waited_for() -> None:
    tunnel = Tunnel(rules=(LENIENT, LENIENT))
    tunnel.received(NODE, begun(NODE))
    tunnel.close("shutdown", 1012, 1001, "bye")
    tunnel.received(NODE, rest(NODE) + frame(8, b"\x03\xed"))

    data = tunnel.take(CLIENT)
    whole = begun(NODE) + rest(NODE)
    assert data.startswith(whole)
    assert Peer.read(CLIENT, data) == Peer([b"x" * 100], [], (1012, "bye"))


def test_a_client_may_end_its_stream_behind_its_close(feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, CLIENT, close(4001, b"me", key=KEY))
    tunnel.lost(CLIENT, "end of stream", clean=True)

    assert (tunnel.legs[CLIENT].ended, tunnel.legs[CLIENT].done) == (True, False)
    feed(tunnel, NODE, frame(2, b"last words") + close(4001))
    assert tunnel.take(CLIENT) == frame(2, b"last words") + close(4001)
    assert tunnel.finished
    assert tunnel.ending == "client_closed"


def test_a_client_that_has_ended_its_stream_sends_nothing_more() -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, close(4001, key=KEY))
    tunnel.lost(CLIENT, clean=True)
    tunnel.take(NODE)
    tunnel.received(CLIENT, frame(2, b"what?", key=KEY))
    tunnel.lost(CLIENT, clean=True)

    assert tunnel.take(NODE) == b""
    assert not tunnel.finished


def test_a_client_that_has_ended_its_stream_may_be_reset_too() -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, close(4001, key=KEY))
    tunnel.lost(CLIENT, "end of stream", clean=True)
    tunnel.lost(CLIENT, "reset")

    assert tunnel.finished
    assert (tunnel.ending, tunnel.detail) == ("client_closed", "")


@SIDES
def test_an_end_without_a_close_is_a_loss(side: Side) -> None:
    tunnel = Tunnel()
    tunnel.lost(side, "end of stream", clean=True)

    assert tunnel.ending == ("client_lost" if side is CLIENT else "node_lost")
    assert tunnel.legs[side].gone


@pytest.mark.parametrize("ending", ["client_silent", "client_stalled", "node_silent"])
def test_no_answer_is_waited_for_of_who_is_silent(ending: Ending) -> None:
    side = CLIENT if ending.startswith("client") else NODE
    tunnel = Tunnel()
    tunnel.close(ending, 1013, 1001, "why")

    assert told(tunnel, CLIENT).close == (1013, "why")
    assert told(tunnel, NODE).close == (1001, "")
    assert tunnel.legs[side].done
    assert not tunnel.finished
    tunnel.received(side.other, close(1001, key=key_of(side.other)))
    assert (tunnel.ending, tunnel.ended_by) == (ending, side.name.lower())
    assert tunnel.finished


@SIDES
def test_silence_within_a_frame_cuts_the_other_side(side: Side) -> None:
    tunnel = Tunnel()
    tunnel.received(side, begun(side))
    tunnel.close("client_silent" if side is CLIENT else "node_silent", 1001, 1001, "")

    assert told(tunnel, side).close == (1001, "")
    assert tunnel.take(side.other) == begun(side)
    assert tunnel.finished


@SIDES
def test_who_is_aborted_is_not_told(side: Side) -> None:
    tunnel = Tunnel()
    tunnel.close("client_stalled" if side is CLIENT else "node_stalled", 1013, 1001, "", abort=True)

    assert tunnel.take(side) == b""
    assert (tunnel.legs[side].abort, tunnel.legs[side.other].abort) == (True, False)
    assert tunnel.legs[side].done
    assert told(tunnel, side.other).close == (1001 if side is CLIENT else 1013, "")
    tunnel.received(side.other, close(1001, key=key_of(side.other)))
    assert tunnel.finished


def test_nobody_is_aborted_whom_the_proxy_asks_to_leave() -> None:
    tunnel = Tunnel()
    tunnel.close("shutdown", 1012, 1001, "", abort=True)

    assert not any(leg.abort for leg in tunnel.legs)


def test_an_ending_session_is_not_aborted() -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, close(1000, key=KEY))
    tunnel.close("client_stalled", 1013, 1001, "", abort=True)

    assert tunnel.ending == "client_closed"
    assert not tunnel.legs[CLIENT].abort
