"""The tunnel's close rules, injection and swallowing, fed whole and byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.closing import FrameError
from proxy.wire.tunnel import Side, Tunnel

from .conftest import Feed
from .peers import KEY, Peer, close
from .strategies import cuts, frame, messages

CLIENT, NODE = Side.CLIENT, Side.NODE
#: From a client: an opcode that nobody has given a meaning.
OFFENCE = b"\x83\x80" + bytes(8)


def test_frames_pass_unchanged(feed: Feed) -> None:
    tunnel = Tunnel()
    up = frame(2, b"to the node", key=KEY) + frame(9, b"ping", key=KEY)
    down = frame(1, b"to ", fin=False) + frame(10, b"?") + frame(0, b"the client")
    feed(tunnel, CLIENT, up)
    feed(tunnel, NODE, down)

    assert tunnel.take(NODE) == up
    assert tunnel.take(CLIENT) == down
    assert tunnel.ending is None


def test_client_closes_and_the_node_answers(feed: Feed) -> None:
    tunnel = Tunnel()
    goodbye = close(1000, b"bye", key=KEY)
    feed(tunnel, CLIENT, goodbye)

    assert tunnel.take(NODE) == goodbye
    assert tunnel.take(CLIENT) == b""
    assert (tunnel.ending, tunnel.ended_by, tunnel.detail) == ("client_closed", "client", "bye")
    assert not tunnel.legs[NODE].done

    feed(tunnel, NODE, close(1000))

    assert tunnel.take(CLIENT) == close(1000)
    assert tunnel.take(NODE) == b""
    assert tunnel.finished


def test_client_that_has_closed_still_receives(feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, CLIENT, close(1000, key=KEY))
    feed(tunnel, NODE, frame(2, b"last words") + close(1000))

    assert tunnel.take(CLIENT) == frame(2, b"last words") + close(1000)


def test_node_closes_and_is_answered_at_once(feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, NODE, close(1001, b"restart"))

    assert tunnel.take(CLIENT) == close(1001, b"restart")
    assert Peer.read(NODE, tunnel.take(NODE)).close == (1001, "")
    assert tunnel.legs[NODE].done
    assert not tunnel.finished
    assert (tunnel.ending, tunnel.ended_by) == ("node_closed", "node")

    feed(tunnel, CLIENT, frame(2, b"too late", key=KEY) + close(1001, key=KEY))

    assert tunnel.take(NODE) == b""
    assert tunnel.finished


def test_empty_close_stays_empty(feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, NODE, close(None))

    assert tunnel.take(CLIENT) == b"\x88\x00"
    assert tunnel.take(NODE)[:2] == b"\x88\x80"
    assert tunnel.legs[NODE].received == tunnel.legs[CLIENT].sent == 1005


def test_node_that_closes_while_the_client_is_within_a_frame_is_hung_up_on() -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, frame(2, b"x" * 100, key=KEY)[:50])
    tunnel.take(NODE)
    tunnel.received(NODE, close(None))

    assert tunnel.take(NODE) == b""
    assert tunnel.legs[NODE].done
    assert tunnel.take(CLIENT) == close(None)


def test_lost_node_is_1011_to_the_client(feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, NODE, frame(2, b"so far"))
    tunnel.lost(NODE, "reset")

    assert Peer.read(CLIENT, tunnel.take(CLIENT)) == Peer([b"so far"], [], (1011, "node lost"))
    assert (tunnel.ending, tunnel.detail) == ("node_lost", "reset")
    feed(tunnel, CLIENT, close(1011, key=KEY))
    assert tunnel.finished


def test_lost_node_after_the_clients_close_is_an_answer() -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, close(4001, b"me", key=KEY))
    tunnel.lost(NODE)

    assert Peer.read(CLIENT, tunnel.take(CLIENT)).close == (4001, "")
    assert tunnel.finished
    assert tunnel.ending == "client_closed"


def test_node_lost_within_a_frame_leaves_nothing_to_say() -> None:
    tunnel = Tunnel()
    torn = frame(2, b"x" * 100)[:50]
    tunnel.received(NODE, torn)
    tunnel.lost(NODE)

    assert tunnel.take(CLIENT) == torn
    assert tunnel.finished


@pytest.mark.parametrize("torn", [b"\x82", frame(9, b"ping")[:3]], ids=["header", "control"])
def test_node_lost_within_what_is_held_back_can_be_told(torn: bytes) -> None:
    tunnel = Tunnel()
    tunnel.received(NODE, torn)
    tunnel.lost(NODE)

    assert Peer.read(CLIENT, tunnel.take(CLIENT)).close == (1011, "node lost")


def test_lost_client_ends_all() -> None:
    tunnel = Tunnel()
    tunnel.lost(CLIENT, "end of stream")

    assert tunnel.finished
    assert tunnel.take(NODE) == b""
    assert (tunnel.ending, tunnel.ended_by) == ("client_lost", "client")


def test_client_that_breaks_the_protocol(feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, CLIENT, frame(2, b"good", key=KEY) + OFFENCE)

    assert Peer.read(NODE, tunnel.take(NODE)) == Peer([b"good"], [], (1001, ""))
    assert tunnel.take(CLIENT) == b""
    assert (tunnel.ending, tunnel.detail) == ("client_error", "reserved opcode")

    feed(tunnel, NODE, frame(2, b"good to you") + close(1001))

    seen = Peer.read(CLIENT, tunnel.take(CLIENT))
    assert seen == Peer([b"good to you"], [], (1002, "reserved opcode"))
    assert tunnel.take(NODE) == b""
    assert tunnel.finished


@pytest.mark.parametrize(
    "end",
    [
        partial(Tunnel.lost, side=NODE),
        partial(Tunnel.received, side=NODE, data=frame(2, b"masked", key=KEY)),
        Tunnel.give_up,
    ],
    ids=["lost", "faulty", "silent"],
)
def test_client_that_breaks_the_protocol_is_told_though_the_node_does_not_answer(
    end: Callable[[Tunnel], None],
) -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, OFFENCE)
    end(tunnel)

    assert Peer.read(CLIENT, tunnel.take(CLIENT)).close == (1002, "reserved opcode")
    assert tunnel.finished


def test_own_pong_is_swallowed_while_a_fault_is_to_be_told() -> None:
    tunnel = Tunnel()
    tunnel.ping(NODE, b"ours")
    tunnel.received(CLIENT, OFFENCE)
    tunnel.received(NODE, frame(10, b"ours") + frame(9, b"theirs") + close(1001))

    assert Peer.read(CLIENT, tunnel.take(CLIENT)) == Peer(
        [], [b"theirs"], (1002, "reserved opcode")
    )


def test_client_that_breaks_the_protocol_after_a_close_is_told_nothing_more(feed: Feed) -> None:
    tunnel = Tunnel()
    tunnel.close("shutdown", 1012, 1001, "")
    tunnel.take(CLIENT)
    feed(tunnel, CLIENT, OFFENCE)
    feed(tunnel, NODE, close(1001))

    assert tunnel.take(CLIENT) == b""
    assert tunnel.finished


def test_node_that_breaks_the_protocol(feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, NODE, frame(2, b"masked", key=KEY))

    assert Peer.read(NODE, tunnel.take(NODE)).close == (1002, "frame is masked")
    assert Peer.read(CLIENT, tunnel.take(CLIENT)).close == (1011, "")
    assert tunnel.ending == "node_error"


@pytest.mark.parametrize("side", Side)
def test_offence_that_others_have_found(side: Side) -> None:
    tunnel = Tunnel()
    ending = "client_error" if side is CLIENT else "node_error"
    tunnel.offend(side, FrameError("text is not UTF-8", 1007))
    blame = 1001 if side is CLIENT else 1011

    assert Peer.read(side.other, tunnel.take(side.other)).close == (blame, "")
    tunnel.received(side.other, close(blame, key=KEY if side is NODE else None))
    assert Peer.read(side, tunnel.take(side)).close == (1007, "text is not UTF-8")
    assert (tunnel.ending, tunnel.detail) == (ending, "text is not UTF-8")
    # From the offender nothing is waited for, and nothing more goes on.
    assert tunnel.legs[side].done
    tunnel.received(side, frame(2, b"more", key=KEY if side is CLIENT else None))
    assert tunnel.take(side.other) == b""


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_codes_that_may_not_be_sent_go_nowhere(code: int, feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, NODE, close(code))

    assert Peer.read(CLIENT, tunnel.take(CLIENT)).close == (1011, "")
    assert Peer.read(NODE, tunnel.take(NODE)).close == (1002, "close code may not be sent")


@pytest.mark.parametrize("code", [1000, 1003, 1012, 1014, 3000, 4999])
def test_other_codes_pass_with_their_reason(code: int, feed: Feed) -> None:
    tunnel = Tunnel()
    feed(tunnel, NODE, close(code, "día".encode()))

    assert tunnel.take(CLIENT) == close(code, "día".encode())


def test_our_close_goes_to_both_and_is_answered_by_both(feed: Feed) -> None:
    tunnel = Tunnel()
    tunnel.close("shutdown", 1012, 1001, "shutting down")

    assert Peer.read(CLIENT, tunnel.take(CLIENT)).close == (1012, "shutting down")
    assert Peer.read(NODE, tunnel.take(NODE)).close == (1001, "")
    feed(tunnel, CLIENT, frame(2, b"late", key=KEY) + close(1012, key=KEY))
    feed(tunnel, NODE, frame(2, b"late") + close(1001))
    assert tunnel.take(CLIENT) == tunnel.take(NODE) == b""
    assert tunnel.finished
    assert (tunnel.ending, tunnel.ended_by) == ("shutdown", "proxy")


def test_our_close_waits_for_the_end_of_a_frame(feed: Feed) -> None:
    tunnel = Tunnel()
    data = frame(2, b"x" * 100)
    feed(tunnel, NODE, data[:50])
    tunnel.close("shutdown", 1012, 1001, "")

    assert tunnel.take(CLIENT) == data[:50]
    assert not tunnel.legs[CLIENT].done

    feed(tunnel, NODE, data[50:] + frame(2, b"dropped"))

    rest = tunnel.take(CLIENT)
    assert rest[:52] == data[50:]
    assert Peer.read(CLIENT, rest[52:]) == Peer([], [], (1012, ""))


def test_node_lost_while_our_close_waits_for_it() -> None:
    tunnel = Tunnel()
    tunnel.received(NODE, frame(2, b"x" * 100)[:50])
    tunnel.close("shutdown", 1012, 1001, "")
    tunnel.lost(NODE)

    assert tunnel.finished


def test_close_of_an_ending_session_changes_nothing() -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, close(1000, key=KEY))
    tunnel.take(NODE)
    tunnel.close("shutdown", 1012, 1001, "")

    assert tunnel.ending == "client_closed"
    assert tunnel.take(NODE) == tunnel.take(CLIENT) == b""


def test_giving_up_answers_a_client_that_has_closed() -> None:
    tunnel = Tunnel()
    tunnel.received(CLIENT, close(1000, key=KEY))
    tunnel.give_up()

    assert Peer.read(CLIENT, tunnel.take(CLIENT)).close == (1000, "")
    assert tunnel.finished


def test_own_pong_is_swallowed_and_others_pass(feed: Feed) -> None:
    tunnel = Tunnel()
    assert tunnel.ping(CLIENT, b"ours")
    assert Peer.read(CLIENT, tunnel.take(CLIENT)).pings == [b"ours"]

    before, after = frame(10, b"theirs", key=KEY), frame(2, b"data", key=KEY)
    feed(tunnel, CLIENT, before + frame(10, b"ours", key=KEY) + after)
    feed(tunnel, CLIENT, frame(10, b"ours", key=KEY))

    assert tunnel.take(NODE) == before + after + frame(10, b"ours", key=KEY)


def test_one_ping_at_a_time_and_none_at_the_end() -> None:
    tunnel = Tunnel()

    assert tunnel.ping(CLIENT, b"one")
    assert not tunnel.ping(CLIENT, b"two")
    tunnel.received(CLIENT, frame(10, b"one", key=KEY))
    assert tunnel.ping(CLIENT, b"three")
    tunnel.lost(NODE)
    assert not tunnel.ping(NODE, b"gone")
    assert not tunnel.ping(CLIENT, b"closing")


def test_no_ping_within_a_frame_but_between_fragments() -> None:
    tunnel = Tunnel()
    first = frame(2, b"x" * 100, fin=False)
    tunnel.received(NODE, first[:50])
    assert not tunnel.ping(CLIENT, b"now")
    tunnel.received(NODE, first[50:])
    assert tunnel.ping(CLIENT, b"now")
    tunnel.received(NODE, frame(0, b"y"))

    assert Peer.read(CLIENT, tunnel.take(CLIENT)) == Peer([b"x" * 100 + b"y"], [b"now"], None)


@st.composite
def chunks(draw: st.DrawFn, *, masked: bool) -> list[bytes]:
    data = b"".join(draw(st.lists(messages(masked=masked), max_size=4)))
    return draw(cuts(data))


@given(chunks(masked=True), chunks(masked=False), st.data())
def test_injection_never_breaks_a_stream(
    up: list[bytes], down: list[bytes], data: st.DataObject
) -> None:
    """Pings and a Close of ours at any moment: both peers read whole frames and a clean Close."""
    tunnel, out, pings = Tunnel(), [b"", b""], [list[bytes](), list[bytes]()]
    steps = [partial(tunnel.received, CLIENT, chunk) for chunk in up]
    steps += [partial(tunnel.received, NODE, chunk) for chunk in down]
    order = data.draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    last = data.draw(st.integers(0, len(steps)))
    for index, (step, ping) in enumerate(zip(steps, order, strict=True)):
        if index == last:
            tunnel.close("shutdown", 1012, 1001, "")
        for side in Side if ping else ():
            payload, refused = b"ours %d" % index, tunnel.scanners[side.other].left or index >= last
            sent = tunnel.ping(side, payload)

            assert sent == (not refused)
            pings[side] += [payload] if sent else []
            # As if it had been answered.
            tunnel.legs[side].ping = b""
        step()
        for side in Side:
            out[side] += tunnel.take(side)
    for side, came in ((CLIENT, down), (NODE, up)):
        seen, original = Peer.read(side, out[side]), Peer.read(side, b"".join(came))
        said = tunnel.legs[side].sent is not None and not tunnel.legs[side].waiting

        assert (seen.close is not None) == said
        assert [one for one in seen.pings if one.startswith(b"ours ")] == pings[side]
        assert seen.messages == original.messages[: len(seen.messages)]
        if not tunnel.ending:
            assert len(seen.messages) == len(original.messages)


@given(chunks(masked=False), st.data())
def test_nothing_of_the_nodes_is_lost_for_a_clients_fault(
    down: list[bytes], data: st.DataObject
) -> None:
    tunnel, out = Tunnel(), b""
    last = data.draw(st.integers(0, len(down)))
    for index, chunk in enumerate([*down, close(1001)]):
        if index == last:
            tunnel.received(CLIENT, OFFENCE)
        tunnel.received(NODE, chunk)
        out += tunnel.take(CLIENT)

    assert out == b"".join(down) + close(1002, b"reserved opcode")
    assert tunnel.finished
