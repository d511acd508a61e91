"""A session whose bytes pass unseen: it counts, and ends; it says nothing of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.closing import FrameError
from proxy.wire.opaque import OpaqueTunnel
from proxy.wire.tunnel import Side

from .conftest import Feed
from .peers import KEY, close
from .strategies import frame

CLIENT, NODE = Side.CLIENT, Side.NODE
SIDES = pytest.mark.parametrize("side", Side)
LOST = {CLIENT: "client_lost", NODE: "node_lost"}
CLOSED = {CLIENT: "client_closed", NODE: "node_closed"}
LIMIT = {CLIENT: "client_limit", NODE: "node_limit"}


def assert_hung_up(tunnel: OpaqueTunnel) -> None:
    """Both legs are over, with nothing sent, and nothing passes any more."""
    assert tunnel.finished
    for side in Side:
        tunnel.received(side, b"late")

        assert tunnel.legs[side].gone
        assert not tunnel.scanners[side].plain(b"late", 4)
        assert tunnel.take(side) == b""


@given(
    st.lists(st.tuples(st.sampled_from(Side), st.binary(min_size=1, max_size=300), st.booleans()))
)
def test_any_bytes_pass_untouched_and_are_counted(
    chunks: list[tuple[Side, bytes, bool]],
) -> None:
    tunnel = OpaqueTunnel()
    sent, out = [b"", b""], [b"", b""]
    for side, chunk, quick in chunks:
        sent[side] += chunk
        if quick and tunnel.scanners[side].plain(bytearray(chunk), len(chunk)):
            out[side.other] += chunk
        else:
            tunnel.received(side, chunk)
            out[side.other] += tunnel.take(side.other)
    for side in Side:
        assert out[side.other] == sent[side]
        assert tunnel.scanners[side].bytes == len(sent[side])
    assert tunnel.ending is None


@pytest.mark.parametrize("data", [close(1000, key=KEY), b"\x83\x80", b"GET / HTTP/1.1\r\n\r\n"])
@SIDES
def test_frames_mean_nothing(side: Side, data: bytes, feed: Feed) -> None:
    tunnel = OpaqueTunnel()
    feed(tunnel, side, data * 2)

    assert tunnel.take(side.other) == data * 2
    assert tunnel.ending is None
    scanner = tunnel.scanners[side]
    assert (scanner.messages, scanner.controls, scanner.left) == (0, 0, 0)


@SIDES
def test_plain_takes_all_until_the_end(side: Side) -> None:
    tunnel = OpaqueTunnel()

    assert tunnel.scanners[side].plain(frame(9, b"ping") + b"\xff", 7)
    assert tunnel.scanners[side].bytes == 7


@SIDES
def test_an_end_of_stream_passes_and_the_other_direction_goes_on(side: Side) -> None:
    tunnel, other = OpaqueTunnel(), side.other
    tunnel.lost(side, "end of stream", clean=True)

    assert (tunnel.ending, tunnel.detail) == (None, "")
    assert [leg.finish for leg in tunnel.legs] == [side is NODE, side is CLIENT]
    assert not tunnel.legs[side].done
    assert not tunnel.legs[other].done
    tunnel.received(other, b"still")
    assert tunnel.take(side) == b"still"
    assert tunnel.scanners[other].plain(b"here", 4)
    tunnel.received(side, b"what?")
    assert tunnel.take(other) == b""

    tunnel.lost(other, "end of stream", clean=True)
    assert tunnel.finished
    assert not any(leg.gone or leg.abort for leg in tunnel.legs)
    assert all(leg.finish for leg in tunnel.legs)
    assert (tunnel.ending, tunnel.detail) == (CLOSED[side], "end of stream")


@SIDES
def test_one_end_of_stream_counts_once(side: Side) -> None:
    tunnel = OpaqueTunnel()
    tunnel.lost(side, "first", clean=True)
    tunnel.lost(side, "second", clean=True)

    assert not tunnel.finished
    assert tunnel.ending is None


@SIDES
def test_a_reset_passes_as_one(side: Side) -> None:
    tunnel = OpaqueTunnel()
    tunnel.lost(side, "reset")

    assert [leg.abort for leg in tunnel.legs] == [side is NODE, side is CLIENT]


@SIDES
def test_a_reset_ends_both(side: Side) -> None:
    tunnel = OpaqueTunnel()
    tunnel.lost(side, "reset")

    assert (tunnel.ending, tunnel.detail) == (LOST[side], "reset")
    assert_hung_up(tunnel)


@SIDES
def test_a_reset_behind_an_end_of_stream_ends_both(side: Side) -> None:
    tunnel = OpaqueTunnel()
    tunnel.lost(side, clean=True)
    tunnel.lost(side, "reset")

    assert tunnel.ending == CLOSED[side]
    assert tunnel.legs[side.other].abort
    assert_hung_up(tunnel)


@SIDES
def test_an_answer_that_breaks_off_is_a_loss(side: Side) -> None:
    tunnel = OpaqueTunnel()
    tunnel.lost(side, clean=True)
    tunnel.lost(side.other, "reset")

    assert tunnel.ending == LOST[side.other]
    assert tunnel.legs[side].abort
    assert_hung_up(tunnel)


def test_closing_is_a_hang_up_with_no_word() -> None:
    tunnel = OpaqueTunnel()
    tunnel.close("shutdown", 1012, 1001, "shutting down", abort=True)

    assert (tunnel.ending, tunnel.detail) == ("shutdown", "shutting down")
    assert not any(leg.abort for leg in tunnel.legs)
    assert all(leg.sent is None for leg in tunnel.legs)
    assert_hung_up(tunnel)


@SIDES
def test_who_is_stalled_may_be_reset(side: Side) -> None:
    tunnel = OpaqueTunnel()
    tunnel.close("client_stalled" if side is CLIENT else "node_stalled", 1013, 1001, "", abort=True)

    assert [leg.abort for leg in tunnel.legs] == [side is CLIENT, side is NODE]
    assert_hung_up(tunnel)


@SIDES
def test_half_a_session_can_be_closed_and_a_whole_one_not_again(side: Side) -> None:
    tunnel = OpaqueTunnel()
    tunnel.lost(side, clean=True)
    tunnel.close("idle", 1001, 1001, "")
    tunnel.close("shutdown", 1012, 1001, "")

    assert tunnel.ending == "idle"
    assert_hung_up(tunnel)


@SIDES
def test_who_is_too_fast_ends_both(side: Side) -> None:
    tunnel = OpaqueTunnel()
    tunnel.offend(side, FrameError("too fast", 1008))

    assert (tunnel.ending, tunnel.detail) == (LIMIT[side], "too fast")
    assert_hung_up(tunnel)


def test_giving_up_is_a_hang_up() -> None:
    tunnel = OpaqueTunnel()
    tunnel.give_up()

    assert_hung_up(tunnel)


@SIDES
def test_nobody_is_pinged(side: Side) -> None:
    tunnel = OpaqueTunnel()

    assert not tunnel.ping(side, b"there?")
    assert tunnel.take(side) == b""
