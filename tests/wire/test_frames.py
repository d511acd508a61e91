"""The scanner against wsproto: any frames, cut anywhere, mean the same to both."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from proxy.wire.frames import MAX_CONTROL, Scanner, unmask

from .strategies import cuts, frame, streams


@attrs.define
class Seen:
    """What somebody has made of a stream of frames."""

    messages: int = 0
    controls: list[tuple[int, bytes]] = attrs.field(factory=list)
    verdict: int | None = None
    passed: bytes = b""


def scan(chunks: list[bytes], *, masked: bool) -> tuple[Seen, Scanner]:
    """Feed a scanner as a relay does, the quick way where it may be."""
    scanner, seen = Scanner(masked=masked), Seen()
    for chunk in chunks:
        if scanner.plain(bytearray(chunk), len(chunk)):
            seen.passed += chunk
            continue
        result = scanner.scan(chunk)
        seen.passed += result.data
        for control in result.controls:
            assert result.data[control.start] & 0x0F == control.opcode
            seen.controls.append((control.opcode, control.payload))
        if result.error:
            seen.verdict = result.error.code
    seen.messages = scanner.messages
    return seen, scanner


def judge(chunks: list[bytes], *, masked: bool) -> Seen:
    """Feed wsproto, which reads frames towards a server if they are masked."""
    protocol, seen = FrameProtocol(client=not masked, extensions=[]), Seen()
    for chunk in chunks:
        try:
            protocol.receive_bytes(chunk)
            for one in protocol.received_frames():
                if one.opcode < 8:
                    seen.messages += one.message_finished
                    continue
                payload = one.payload
                if isinstance(payload, tuple):
                    code, reason = payload
                    content = b"" if code == 1005 else code.to_bytes(2, "big") + reason.encode()
                    seen.controls.append((8, content))
                    return seen
                assert isinstance(payload, bytes)
                seen.controls.append((one.opcode, payload))
        except ParseFailed as exc:
            seen.verdict = exc.code
            return seen
    return seen


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bool, bytes, list[bytes]]:
    masked = draw(st.booleans())
    data = draw(streams(masked=masked))
    return masked, data, draw(cuts(data))


@given(cut_streams())
def test_agrees_with_wsproto(case: tuple[bool, bytes, list[bytes]]) -> None:
    masked, data, chunks = case
    ours, scanner = scan(chunks, masked=masked)
    theirs = judge([data], masked=masked)
    if theirs.verdict and ours.controls and ours.controls[-1][1][:2] == b"\x03\xf6":
        # 1014 is registered with IANA since; wsproto does not know it.
        theirs.verdict, theirs.controls = None, ours.controls

    assert ours.verdict == theirs.verdict
    assert ours.controls == theirs.controls
    # wsproto counts a message when it ends, the scanner when its last frame begins.
    assert ours.messages - theirs.messages == bool(scanner.left and not scanner.fragmented)
    assert data.startswith(ours.passed)


@given(cut_streams())
def test_cuts_change_nothing(case: tuple[bool, bytes, list[bytes]]) -> None:
    masked, data, chunks = case
    whole, at_once = scan([data] if data else [], masked=masked)
    pieces, piecewise = scan(chunks, masked=masked)

    assert pieces == whole
    assert (piecewise.left, piecewise.fragmented) == (at_once.left, at_once.fragmented)
    assert piecewise.bytes == len(pieces.passed)


@given(cut_streams())
def test_holds_back_little(case: tuple[bool, bytes, list[bytes]]) -> None:
    masked, _, chunks = case
    scanner, received, passed = Scanner(masked=masked), 0, 0
    for chunk in chunks:
        received += len(chunk)
        passed += len(scanner.scan(chunk).data)
        if scanner.stopped:
            break

        assert received - passed < MAX_CONTROL


@given(cut_streams())
def test_a_frame_fits_in_at_the_boundary(case: tuple[bool, bytes, list[bytes]]) -> None:
    """Wherever a boundary is said to be, a ping can be put in and all else stays as it was."""
    masked, _, chunks = case
    ping = frame(9, b"in between", key=b"\x01\x02\x03\x04" if masked else None)
    scanner, out, put = Scanner(masked=masked), b"", False
    for chunk in chunks:
        result = scanner.scan(chunk)
        if result.boundary is None or put:
            out += result.data
        else:
            out += result.data[: result.boundary] + ping + result.data[result.boundary :]
            put = True
    reread, _ = scan([out] if out else [], masked=masked)
    original, _ = scan(chunks, masked=masked)

    # An offending frame is not released: nothing that is released can offend.
    assert reread.verdict is None
    assert reread.messages == original.messages
    assert len(reread.controls) == len(original.controls) + put


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_plain_takes_whole_frames_and_pieces(size: int, *, masked: bool) -> None:
    data = frame(2, b"x" * size, key=b"abcd" if masked else None) * 3
    scanner = Scanner(masked=masked)
    middle = len(data) // 2

    assert scanner.plain(data, len(data))
    assert (scanner.messages, scanner.left) == (3, 0)
    if size > 20:
        assert scanner.plain(data[:middle], middle)
        assert scanner.left > 0
        assert scanner.plain(data[middle:], len(data) - middle)
        assert (scanner.messages, scanner.left) == (6, 0)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 254, 65_536])
def test_plain_knows_what_is_to_come_wherever_it_is_cut(size: int, *, masked: bool) -> None:
    data = frame(2, b"\xfe" * size, key=b"\0\0\0\0" if masked else None)
    header = len(data) - size
    for cut in range(1, min(len(data), 300) + 1):
        scanner = Scanner(masked=masked)

        assert scanner.plain(data[:cut], cut) == (cut >= header)
        assert scanner.left == (len(data) - cut if cut >= header else 0)


@pytest.mark.parametrize(
    "data",
    [
        frame(9, b"ping"),
        frame(8, b""),
        frame(1, b"fragment", fin=False),
        frame(2, b"x")[:1],
        frame(2, b"x" * 300)[:3],
        frame(2, b"x" * 70000)[:7],
        frame(2, b"x", key=b"abcd"),
        b"\x82\x7e\x00\x05hello",
        b"\x82\x7e\x00\x7c" + bytes(124),
        b"\x82\x7e\x00\x7d" + bytes(125),
        b"\x82\x7f" + (5).to_bytes(8, "big") + b"hello",
        b"\xc2\x01x",
        frame(2, b"x") + frame(10, b""),
    ],
)
def test_plain_says_no_and_changes_nothing(data: bytes) -> None:
    scanner = Scanner(masked=False)

    assert not scanner.plain(data, len(data))
    assert (scanner.messages, scanner.bytes, scanner.left) == (0, 0, 0)


def test_watched_scanner_lets_nothing_through_unseen() -> None:
    scanner = Scanner(masked=False)
    scanner.watched = True
    data = frame(2, b"x")

    assert not scanner.plain(data, len(data))
    scanner.watched = False
    assert scanner.plain(data, len(data))


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (0x83, 0x00, "reserved opcode"),
        (0x8B, 0x00, "reserved opcode"),
        (0x09, 0x00, "fragmented control frame"),
        (0xC2, 0x00, "reserved bit set"),
        (0xC9, 0x00, "reserved bit set"),
        (0x80, 0x00, "unexpected continuation"),
        (0x89, 0x7E, "control frame too long"),
        (0x82, 0x80, "frame is masked"),
    ],
)
def test_verdicts(first: int, second: int, reason: str) -> None:
    result = Scanner(masked=False).scan(bytes([first, second]) + bytes(20))

    assert result.error is not None
    assert (result.error.reason, result.error.code, result.data) == (reason, 1002, b"")


def test_frame_before_the_offending_one_passes() -> None:
    good = frame(2, b"good")
    result = Scanner(masked=False).scan(good + b"\x83\x00")

    assert result.data == good
    assert result.error is not None


def test_extension_may_use_its_bit_on_data_only() -> None:
    scanner = Scanner(masked=False, reserved=0x40)

    assert scanner.scan(b"\xc2\x01x").error is None
    assert scanner.scan(b"\xa2\x01x").error is not None
    assert Scanner(masked=False, reserved=0x40).scan(b"\xc9\x00").error is not None


def test_nothing_comes_behind_a_close() -> None:
    scanner = Scanner(masked=False)
    close = frame(8, b"\x03\xe8")

    assert scanner.scan(close + frame(2, b"late")).data == close
    assert scanner.scan(frame(2, b"later")).data == b""
    assert not scanner.plain(frame(2, b"later"), 7)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmask_is_its_own_inverse(payload: bytes, key: bytes) -> None:
    masked = unmask(payload, key)

    assert masked == bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    assert unmask(masked, key) == payload
