"""Messages come out whole and in order, however they were cut; and what is none is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from proxy.wire.closing import FrameError
from proxy.wire.messages import Message, MessageReader, frame_of
from proxy.wire.tunnel import Side

from .strategies import cuts, frame, keys, sizes, streams

CLIENT, NODE = Side.CLIENT, Side.NODE
KEY = b"\x01\x02\x03\x04"
MEGABYTE = 2**20


def read(side: Side, *chunks: bytes, limit: int = MEGABYTE) -> list[Message | bytes | FrameError]:
    reader = MessageReader(side, limit=limit)
    return [one for chunk in chunks for one in reader.received(chunk)]


def error(side: Side, *chunks: bytes, limit: int = MEGABYTE) -> tuple[int, str]:
    """Return what the last thing read is, which must be an error."""
    last = read(side, *chunks, limit=limit)[-1]
    assert isinstance(last, FrameError)
    return last.code, last.reason


def from_side(side: Side, opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return frame(opcode, payload, fin=fin, key=KEY if side is CLIENT else None)


@pytest.mark.parametrize("side", Side)
def test_text_is_str_and_binary_is_bytes(side: Side) -> None:
    data = from_side(side, 1, "día".encode()) + from_side(side, 2, b"\xff\x00")

    assert read(side, data) == [
        Message("día", from_client=side is CLIENT),
        Message(b"\xff\x00", from_client=side is CLIENT),
    ]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_every_length_comes_byte_by_byte(size: int, side: Side) -> None:
    # Byte by byte where something is decided.
    data = from_side(side, 2, b"x" * size)
    head, tail = data[:20], data[20:]
    chunks = [bytes([byte]) for byte in head] + [tail]

    assert read(side, *chunks) == [Message(b"x" * size, from_client=side is CLIENT)]


def test_control_frames_keep_their_place() -> None:
    ping, pong = frame(9, b"?", key=KEY), frame(10, b"!", key=KEY)
    data = (
        ping
        + frame(1, b"on", fin=False, key=KEY)
        + pong
        + frame(0, b"e", key=KEY)
        + frame(2, b"two", key=KEY)
        + ping
    )

    assert read(CLIENT, data) == [
        ping,
        pong,
        Message("one", from_client=True),
        Message(b"two", from_client=True),
        ping,
    ]


def test_nothing_comes_after_a_close() -> None:
    goodbye = frame(8, b"\x03\xf6bye")

    assert read(NODE, goodbye + frame(2, b"late"), frame(2, b"later")) == [goodbye]


def test_letters_may_be_cut_between_fragments() -> None:
    whole = "€uro".encode()
    data = frame(1, whole[:1], fin=False) + frame(0, whole[1:2], fin=False) + frame(0, whole[2:])

    assert read(NODE, data) == [Message("€uro", from_client=False)]
    assert read(NODE, *(bytes([byte]) for byte in data)) == [Message("€uro", from_client=False)]


def test_empty_fragments_cost_nothing() -> None:
    data = frame(2, b"", fin=False) + frame(0, b"", fin=False) * 10_000
    reader = MessageReader(NODE, limit=125)

    assert reader.received(data) == []
    assert reader.received(frame(0, b"end")) == [Message(b"end", from_client=False)]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ((3, b""), (1002, "reserved opcode")),
        ((0, b""), (1002, "unexpected continuation")),
        ((0x42, b""), (1002, "reserved bit set")),
        ((8, b"\x03"), (1002, "close code may not be sent")),
        ((8, b"\x03\xe8\xff"), (1007, "close reason is not UTF-8")),
        ((1, b"caf\xe9"), (1007, "text is not UTF-8")),
        ((1, b"\xed\xa0\x80"), (1007, "text is not UTF-8")),
        ((1, b"\xe2\x82"), (1007, "text is not UTF-8")),
    ],
)
def test_what_breaks_the_protocol(
    data: tuple[int, bytes], expected: tuple[int, str], side: Side
) -> None:
    good = from_side(side, 2, b"good")
    found = read(side, good + from_side(side, *data) + good, good)

    assert found[0] == Message(b"good", from_client=side is CLIENT)
    assert isinstance(found[1], FrameError)
    assert (found[1].code, found[1].reason) == expected
    assert found[2:] == []


@pytest.mark.parametrize("side", Side)
def test_masks_must_be_as_they_should(side: Side) -> None:
    other = from_side(side.other, 1, b"hello")

    assert error(side, other) == (1002, f"frame is {'not ' if side is CLIENT else ''}masked")


def test_half_a_letter_is_known_to_be_wrong_before_the_message_ends() -> None:
    assert error(NODE, frame(1, b"\xc3(", fin=False)) == (1007, "text is not UTF-8")


@pytest.mark.parametrize("opcode", [1, 2])
def test_size_has_a_limit(opcode: int) -> None:
    fits = frame(opcode, b"x" * 1000)
    assert len(read(NODE, fits, fits, limit=1000)) == 2

    # In one piece, in fragments, and as soon as a header says so.
    too_big = (1009, "message too big")
    half = frame(opcode, b"x" * 600, fin=False)
    assert error(NODE, frame(opcode, b"x" * 1001), limit=1000) == too_big
    assert error(NODE, half + frame(0, b"x" * 401), limit=1000) == too_big
    assert error(NODE, half, frame(0, b"x" * 401)[:4], limit=1000) == too_big
    assert error(NODE, b"\x82\x7f" + (2**62).to_bytes(8, "big"), limit=1000) == too_big


def test_letters_are_counted_as_bytes() -> None:
    assert error(NODE, frame(1, "é".encode() * 501), limit=1000) == (1009, "message too big")
    assert len(read(NODE, frame(1, "é".encode() * 500), limit=1000)) == 1


def test_control_frames_do_not_count() -> None:
    data = frame(2, b"x" * 70, fin=False) + frame(9, b"y" * 100) + frame(0, b"x" * 30)

    assert len(read(NODE, data, limit=100)) == 2


@pytest.mark.parametrize("data", [b"", b"\xff" * 300, "", "día" * 50_000])
def test_a_message_is_one_frame(data: bytes | str) -> None:
    up, down = frame_of(CLIENT, data), frame_of(NODE, data)

    assert read(CLIENT, up) == [Message(data, from_client=True)]
    assert read(NODE, down) == [Message(data, from_client=False)]
    # A client has to mask, each time with another key.
    assert up != frame_of(CLIENT, data)


@pytest.mark.parametrize("data", [None, 3, bytearray(b"x"), ["x"]])
def test_message_is_str_or_bytes(data: object) -> None:
    with pytest.raises(TypeError, match="str or bytes"):
        Message(data, from_client=True)  # type: ignore[arg-type]


def test_text_that_cannot_be_encoded_is_no_message() -> None:
    with pytest.raises(UnicodeEncodeError):
        Message("\ud800", from_client=True)


@st.composite
def conversations(draw: st.DrawFn, side: Side) -> tuple[bytes, list[Message | bytes]]:
    """Messages in any fragments with control frames anywhere, and what should be read."""
    key = st.just(None) if side is NODE else keys
    stream, expected = b"", list[Message | bytes]()
    for _ in range(draw(st.integers(0, 4))):
        data = draw(st.one_of(st.text(max_size=40), st.binary(max_size=40), sizes.map(bytes)))
        encoded = data.encode() if isinstance(data, str) else data
        inner = draw(st.lists(st.integers(0, len(encoded)), max_size=4))
        edges = list(pairwise([0, *sorted(inner), len(encoded)]))
        for index, (start, end) in enumerate(edges):
            opcode = 0 if index else 1 if isinstance(data, str) else 2
            last = index == len(edges) - 1
            stream += frame(opcode, encoded[start:end], fin=last, key=draw(key))
            if last:
                expected.append(Message(data, from_client=side is CLIENT))
            if draw(st.integers(0, 3)) == 0:
                control = frame(
                    draw(st.sampled_from([9, 10])), draw(st.binary(max_size=125)), key=draw(key)
                )
                stream += control
                expected.append(control)
    return stream, expected


@pytest.mark.parametrize("side", Side)
@given(data=st.data())
def test_messages_come_out_whole_and_in_order(side: Side, data: st.DataObject) -> None:
    stream, expected = data.draw(conversations(side))
    chunks = data.draw(cuts(stream))

    assert read(side, *chunks) == expected


@pytest.mark.parametrize("side", Side)
@given(data=st.data())
def test_cuts_make_no_difference(side: Side, data: st.DataObject) -> None:
    """Also of streams that end in a Close or in something illegal."""
    stream = data.draw(streams(masked=side is CLIENT))
    chunks = data.draw(cuts(stream))

    assert list(map(comparable, read(side, *chunks))) == list(map(comparable, read(side, stream)))


def comparable(one: Message | bytes | FrameError) -> object:
    return (one.code, one.reason) if isinstance(one, FrameError) else one


@given(st.lists(st.one_of(st.text(), st.binary())))
def test_wsproto_reads_what_is_written(messages: list[str | bytes]) -> None:
    for side in Side:
        protocol = FrameProtocol(client=side is NODE, extensions=[])
        protocol.receive_bytes(b"".join(frame_of(side, data) for data in messages))
        found = [one.payload for one in protocol.received_frames() if one.message_finished]

        assert found == messages
