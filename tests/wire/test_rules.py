"""What a route's rules forbid in frames, and what the lenient ones let pass."""

from __future__ import annotations

from itertools import accumulate

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.frames import Control, Scanner
from proxy.wire.rules import Rules

from .strategies import Piece, cuts, frame, rules, streams, wild_pieces

KEY = b"\x01\x02\x03\x04"
LENIENT = Rules(lenient=True)


@attrs.define
class Seen:
    """What a scanner has made of a stream of frames."""

    scanner: Scanner
    passed: bytes = b""
    controls: list[tuple[int, bytes]] = attrs.field(factory=list)
    verdict: tuple[str, int] | None = None

    def feed(self, chunk: bytes, *, quick: bool) -> None:
        """Feed a chunk; with `quick` as a relay does, the quick way where it may be."""
        if quick and self.scanner.plain(bytearray(chunk), len(chunk)):
            self.passed += chunk
            return
        result = self.scanner.scan(chunk)
        self.passed += result.data
        self.controls += [(control.opcode, control.payload) for control in result.controls]
        if result.error is not None:
            assert self.verdict is None
            self.verdict = result.error.reason, result.error.code

    @property
    def counts(self) -> tuple[int, ...]:
        one = self.scanner
        return (one.bytes, one.messages, one.controls, one.control_bytes, one.left)


def look(chunks: list[bytes], rules: Rules, *, masked: bool, quick: bool = True) -> Seen:
    seen = Seen(Scanner(masked=masked, rules=rules))
    for chunk in chunks:
        seen.feed(chunk, quick=quick)
    return seen


def chunks_of(frames: list[bytes], way: str) -> list[bytes]:
    """Return the frames at once, or all but the middle of their payloads byte by byte."""
    if way == "whole":
        return [b"".join(frames)]
    chunks = []
    for one in frames:
        chunks += [one[i : i + 1] for i in range(min(16, len(one)))]
        chunks += [one[16:-1], one[-1:]] if len(one) > 17 else [one[16:]]
    return [chunk for chunk in chunks if chunk]


def message(*sizes: int, masked: bool = False, between: list[bytes] | None = None) -> list[bytes]:
    """Return the frames of one message, with others between them."""
    frames: list[bytes] = []
    for index, size in enumerate(sizes):
        frames += between or [] if index else []
        fin, key = index == len(sizes) - 1, KEY if masked else None
        frames.append(frame(0 if index else 2, b"x" * size, fin=fin, key=key))
    return frames


#: Rules; sizes of a message's fragments that pass; the last fragment's that does not, and why.
BORDERS = [
    (Rules(message_bytes=125), [125], [126], "message too big", 1009),
    (Rules(message_bytes=126), [126], [127], "message too big", 1009),
    (Rules(message_bytes=65_535), [65_535], [65_536], "message too big", 1009),
    (Rules(message_bytes=65_536), [65_536], [65_537], "message too big", 1009),
    (Rules(message_bytes=200), [100, 100], [100, 101], "message too big", 1009),
    (Rules(message_bytes=200), [100, 100, 0], [100, 100, 1], "message too big", 1009),
    (Rules(frame_bytes=125), [125], [126], "frame too big", 1009),
    (Rules(frame_bytes=65_536), [65_536], [65_537], "frame too big", 1009),
    (Rules(frame_bytes=125), [125, 125], [125, 126], "frame too big", 1009),
    (Rules(message_bytes=300, frame_bytes=200), [200, 100], [200, 101], "message too big", 1009),
    (Rules(message_bytes=300, frame_bytes=200), [200], [201], "frame too big", 1009),
    (Rules(fragments=1), [10], [10, 10], "too many fragments", 1008),
    (Rules(fragments=3), [10, 0, 10], [10, 0, 10, 0], "too many fragments", 1008),
]


@pytest.mark.parametrize("way", ["whole", "bytewise"])
@pytest.mark.parametrize("quick", [True, False], ids=["plain", "scan"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "bare"])
@pytest.mark.parametrize(("limits", "good", "bad", "reason", "code"), BORDERS)
def test_limits_hold_to_the_byte(
    limits: Rules,
    good: list[int],
    bad: list[int],
    reason: str,
    code: int,
    way: str,
    *,
    masked: bool,
    quick: bool,
) -> None:
    """What is at the limit passes, any number of times; of a frame beyond it nothing does."""
    ping = frame(9, b"p" * 125, key=KEY if masked else None)
    for between in ([], [ping]):
        allowed = message(*good, masked=masked, between=between) * 2
        *begun, offending = message(*bad, masked=masked, between=between)
        chunks = chunks_of([*allowed, *begun, offending], way)
        seen = look(chunks, limits, masked=masked, quick=quick)

        assert seen.verdict == (reason, code)
        assert seen.passed == b"".join(allowed + begun)
        assert seen.scanner.messages == 2
        assert seen.scanner.stopped


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_what_is_at_the_limit_goes_the_quick_way(size: int) -> None:
    limits = Rules(message_bytes=max(size, 125), frame_bytes=max(size, 125), fragments=1)
    scanner, data = Scanner(masked=True, rules=limits), frame(2, b"x" * size, key=KEY) * 5

    assert scanner.plain(data, len(data))
    assert scanner.messages == 5


def test_a_header_is_enough_to_refuse_its_frame() -> None:
    header = frame(2, bytes(70_000))[:10]
    result = Scanner(masked=False, rules=Rules(message_bytes=69_999)).scan(header)

    assert result.error is not None
    assert (result.error.code, result.data) == (1009, b"")


def test_a_message_in_many_frames_may_be_endless_without_limits() -> None:
    seen = look(message(*[0] * 5000, 100_000), Rules(), masked=False)

    assert seen.verdict is None
    assert seen.scanner.messages == 1


@st.composite
def any_streams(draw: st.DrawFn) -> tuple[bool, list[bytes]]:
    """Any stream, proper or wild, in pieces, and whether it is to be masked."""
    masked = draw(st.booleans())
    if draw(st.booleans()):
        data = draw(streams(masked=masked))
    else:
        data = b"".join(piece.wire for piece in draw(wild_pieces()))
    return masked, draw(cuts(data))


@given(any_streams(), rules)
def test_the_quick_way_and_the_slow_one_agree(case: tuple[bool, list[bytes]], any_: Rules) -> None:
    masked, chunks = case
    quick, slow = (look(chunks, any_, masked=masked, quick=one) for one in (True, False))

    assert quick.verdict == slow.verdict
    assert (quick.passed, quick.controls) == (slow.passed, slow.controls)
    assert quick.counts == slow.counts


@given(any_streams(), rules)
def test_cuts_change_no_verdict(case: tuple[bool, list[bytes]], any_: Rules) -> None:
    masked, chunks = case
    pieces = look(chunks, any_, masked=masked)
    whole = look([b"".join(chunks)] if chunks else [], any_, masked=masked)

    assert (pieces.verdict, pieces.passed) == (whole.verdict, whole.passed)
    assert pieces.counts == whole.counts


@given(any_streams(), rules)
def test_what_is_counted_is_what_was_released(case: tuple[bool, list[bytes]], any_: Rules) -> None:
    masked, chunks = case
    seen = look(chunks, any_, masked=masked)

    # Strict scanners see only proper controls, masked as they should be.
    assert seen.scanner.bytes == len(seen.passed)
    assert seen.scanner.controls == len(seen.controls)
    if not any_.lenient:
        overhead = 6 if masked else 2
        sizes = [overhead + len(payload) for _, payload in seen.controls]
        assert seen.scanner.control_bytes == sum(sizes)


def test_controls_are_counted_among_data() -> None:
    data = frame(2, b"x" * 300) + frame(9, b"") + frame(10, b"four") + frame(8, b"\x03\xe8")
    seen = look([data], Rules(), masked=False)

    assert (seen.scanner.controls, seen.scanner.control_bytes) == (3, 2 + 6 + 4)
    assert seen.scanner.bytes == len(data)


@given(st.data(), wild_pieces(), st.booleans())
def test_lenient_boundaries_stay_where_they_are(
    data: st.DataObject, pieces: list[Piece], masked: bool
) -> None:
    """Masks, reserved bits and opcodes, long lengths and bad codes pass as they came."""
    stream = b"".join(piece.wire for piece in pieces)
    edges = [0, *accumulate(len(piece.wire) for piece in pieces)]
    scanner, passed, controls = Scanner(masked=masked, rules=LENIENT), b"", list[Control]()
    for chunk in data.draw(cuts(stream)):
        before = len(passed)
        result = scanner.scan(chunk)
        passed += result.data
        controls += result.controls
        first = next((edge for edge in edges if edge >= before), None)

        assert result.error is None
        if first is None or first > len(passed):
            assert result.boundary is None
        else:
            assert result.boundary == first - before
    assert passed == stream
    assert [(one.opcode, one.payload) for one in controls] == [
        (piece.opcode, piece.payload) for piece in pieces if piece.opcode >= 8
    ]
    assert scanner.messages == sum(piece.opcode < 8 and piece.fin for piece in pieces)
    assert scanner.control_bytes == sum(len(piece.wire) for piece in pieces if piece.opcode >= 8)


@pytest.mark.parametrize("masked", [True, False], ids=["client", "node"])
@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (frame(3, b"reserved"), "reserved opcode"),
        (frame(11, b"reserved"), "reserved opcode"),
        (frame(2, b"bits", reserved=0x40), "reserved bit set"),
        (frame(10, b"bits", reserved=0x10), "reserved bit set"),
        (frame(2, b"long", form=2), "length is not minimal"),
        (frame(2, b"long", form=8), "length is not minimal"),
        (frame(2, bytes(126), form=8), "length is not minimal"),
        (frame(2, bytes(65_535), form=8), "length is not minimal"),
        (frame(8, b"\x03\xed"), "close code may not be sent"),
        (frame(8, b"\x03"), "close code may not be sent"),
        (frame(8, b"\x03\xe8\xff"), "close reason is not UTF-8"),
    ],
)
def test_strict_refuses_what_lenient_lets_pass(wire: bytes, reason: str, *, masked: bool) -> None:
    if masked:
        size = {126: 4, 127: 10}.get(wire[1], 2)
        # A mask of zeros leaves the payload as it is.
        wire = wire[:1] + bytes([wire[1] | 0x80]) + wire[2:size] + bytes(4) + wire[size:]
    strict = look([wire], Rules(), masked=masked)
    lenient = look([wire], LENIENT, masked=masked)

    assert strict.verdict is not None
    assert strict.verdict[0] == reason
    assert strict.passed == b""
    assert (lenient.verdict, lenient.passed) == (None, wire)


@pytest.mark.parametrize("way", ["whole", "bytewise"])
@pytest.mark.parametrize("masked", [True, False], ids=["client", "node"])
def test_masks_may_come_and_go_with_lenient_rules(way: str, *, masked: bool) -> None:
    frames = [
        frame(2, b"x" * size, key=key) for size in (0, 5, 126, 65_536) for key in (KEY, None, KEY)
    ]
    reason = "frame is not masked" if masked else "frame is masked"
    seen = look(chunks_of(frames, way), LENIENT, masked=masked)

    assert (seen.verdict, seen.passed) == (None, b"".join(frames))
    assert (seen.scanner.messages, seen.scanner.left) == (12, 0)
    assert look(chunks_of(frames, way), Rules(), masked=masked).verdict == (reason, 1002)


@pytest.mark.parametrize(
    ("wire", "reason", "code"),
    [
        (frame(9, b"", fin=False), "fragmented control frame", 1002),
        (frame(11, b"", fin=False), "fragmented control frame", 1002),
        (frame(9, b"x" * 126), "control frame too long", 1002),
        (frame(9, b"", form=2), "control frame too long", 1002),
        (frame(0, b"x"), "unexpected continuation", 1002),
        (frame(2, b"x", fin=False) + frame(1, b"y"), "fragment missing", 1002),
        (b"\x82\x7f" + (1 << 63).to_bytes(8, "big"), "length has its first bit set", 1002),
        (frame(2, bytes(126), form=8), "message too big", 1009),
        (frame(7, bytes(126)), "message too big", 1009),
        (b"".join(message(1, 1, 1)), "too many fragments", 1008),
    ],
)
def test_lenient_rules_still_forbid(wire: bytes, reason: str, code: int) -> None:
    limits = Rules(message_bytes=125, fragments=2, lenient=True)

    assert look([wire], limits, masked=False).verdict == (reason, code)
    assert look(chunks_of([wire], "bytewise"), limits, masked=False).verdict == (reason, code)


def test_a_lenient_close_is_the_last_frame() -> None:
    close, late = frame(8, b"\x03\xee", key=KEY), frame(2, b"late")
    seen = look([close + late, late], LENIENT, masked=False)

    assert seen.passed == close
    assert seen.scanner.stopped
