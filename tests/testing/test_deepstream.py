"""The protocol against bytes that the real client and server have sent."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.testing.deepstream import (
    CORRELATION,
    DATA,
    IS_ACK,
    NAMES,
    Auth,
    Connection,
    Event,
    Message,
    Topic,
)

#: Captured between deepstream's JavaScript client 7.0.5 and server 7.0.2.
CAPTURED = [
    (
        b"\x3f\x10\x02\x1a\x3b\x08\x05\x2a\x1ews://127.0.0.1:7601/deepstream"
        b"\x32\x040.1a\x3a\x057.0.5\x42\x0ajavascript",
        Message(
            Topic.CONNECTION,
            Connection.CHALLENGE,
            {5: "ws://127.0.0.1:7601/deepstream", 6: "0.1a", 7: "7.0.5", 8: "javascript"},
        ),
    ),
    (bytes.fromhex("06 10 02 1a 02 08 05"), Message(Topic.CONNECTION, Connection.CHALLENGE)),
    (bytes.fromhex("06 10 02 1a 02 08 04"), Message(Topic.CONNECTION, Connection.ACCEPT)),
    (
        b'\x1a\x10\x03\x1a\x16\x08\x02\x12\x12{"username":"bob"}',
        Message(Topic.AUTH, Auth.REQUEST, {DATA: '{"username":"bob"}'}),
    ),
    (bytes.fromhex("06 10 03 1a 02 08 03"), Message(Topic.AUTH, Auth.SUCCESSFUL)),
    (
        b"\x0d\x10\x04\x1a\x09\x08\x03\x1a\x010\x3a\x02ev",
        Message(Topic.EVENT, Event.SUBSCRIBE, {CORRELATION: "0", NAMES: "ev"}),
    ),
    (
        bytes.fromhex("0b 10 04 1a 07 08 03 1a 01 30 28 01"),
        Message(Topic.EVENT, Event.SUBSCRIBE, {CORRELATION: "0", IS_ACK: 1}),
    ),
    (bytes.fromhex("06 10 02 1a 02 08 02"), Message(Topic.CONNECTION, Connection.PING)),
    (bytes.fromhex("06 10 02 1a 02 08 03"), Message(Topic.CONNECTION, Connection.PONG)),
]

numbers = st.integers(0, 2**64 - 1)
#: Field 1 is the action.
fields = st.dictionaries(st.integers(2, 2000), numbers | st.text(), max_size=5)
some_messages = st.builds(Message, numbers, numbers, fields)


@pytest.mark.parametrize(("data", "message"), CAPTURED, ids=lambda value: type(value).__name__)
def test_captured(data: bytes, message: Message) -> None:
    assert Message.decode(data) == message
    assert message.encode() == data


@given(some_messages)
@example(Message(127, 128, {15: "x" * 127, 16: "x" * 128, 2047: 2**63}))
def test_round_trip(message: Message) -> None:
    assert Message.decode(message.encode()) == message


def test_unknown_topics_and_fields_are_kept() -> None:
    data = bytes.fromhex("09 10 64 1a 05 08 65 48 ac 02")

    assert Message.decode(data) == Message(100, 101, {9: 300})


def test_text() -> None:
    message = Message(4, 2, {DATA: "d", IS_ACK: 1})

    assert (message.text(DATA), message.text(IS_ACK), message.text(NAMES)) == ("d", "", "")


@given(st.binary(max_size=40))
@example(b"")
@example(b"\xff" * 20)
@example(b"\x04\x1a\x02\x12\x05")
@example(b"\x06\x1a\x04\x12\x02\xff\xff")
def test_garbage_is_a_value_error(data: bytes) -> None:
    try:
        message = Message.decode(data)
    except ValueError:
        return

    assert Message.decode(message.encode()) == message


@given(some_messages, st.data())
def test_cut_message_is_a_value_error(message: Message, data: st.DataObject) -> None:
    whole = message.encode()
    cut = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(ValueError):
        Message.decode(whole[:cut])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "broken number"),
        (b"\x80" * 11 + b"\x01", "broken number"),
        (b"\x05\x10\x02", "wrong length"),
        (b"\x02\x10\x02\x00", "wrong length"),
        (b"\x02\x10\x80", "broken number"),
        (b"\x02\x15\x00", "unknown kind of field"),
        (b"\x02\x1a\x05", "unknown kind of field"),
        (b"\x06\x1a\x04\x12\x02\xff\xff", "invalid start byte"),
    ],
)
def test_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Message.decode(data)
