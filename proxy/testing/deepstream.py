"""As much of deepstream's binary protocol as a session with events needs.

One WebSocket binary message is one deepstream message: a varint length and a protobuf of the topic
(field 2) and the inner message (field 3).  The fields of an inner message that are used here:
1 action, 2 data, 3 correlation id, 5 "this is an acknowledgement" (events), 5 URL (connection),
6 name, 7 names (events).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import attrs


class Topic(IntEnum):
    CONNECTION = 2
    AUTH = 3
    EVENT = 4


class Connection(IntEnum):
    PING = 2
    PONG = 3
    ACCEPT = 4
    CHALLENGE = 5


class Auth(IntEnum):
    REQUEST = 2
    SUCCESSFUL = 3


class Event(IntEnum):
    EMIT = 2
    SUBSCRIBE = 3


DATA, CORRELATION, IS_ACK, NAME, NAMES = 2, 3, 5, 6, 7


@attrs.frozen
class Message:
    """A topic, an action, and the inner message's other fields by number."""

    topic: int
    action: int
    fields: Mapping[int, int | str] = attrs.field(factory=dict)

    def text(self, number: int) -> str:
        """Return a text field, empty if it isn't there."""
        value = self.fields.get(number, "")
        return value if isinstance(value, str) else ""

    def encode(self) -> bytes:
        inner = _field(1, self.action) + b"".join(_field(n, v) for n, v in self.fields.items())
        outer = _field(2, self.topic) + _field(3, inner)
        return _varint(len(outer)) + outer

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Read one message.

        Raises:
            ValueError: it isn't one.
        """
        length, start = _read_varint(data, 0)
        if length != len(data) - start:
            raise ValueError("not a deepstream message: wrong length")
        outer = _read_fields(data[start:])
        inner = _read_fields(bytes(_bytes(outer.get(3, b""))))
        fields = {
            number: value.decode() if isinstance(value, bytes) else value
            for number, value in inner.items()
            if number != 1
        }
        return cls(_int(outer.get(2, 0)), _int(inner.get(1, 0)), fields)


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    encoded = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(encoded)) + encoded


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("not a deepstream message: broken number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _read_fields(data: bytes) -> dict[int, int | bytes]:
    fields: dict[int, int | bytes] = {}
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        value, position = _read_varint(data, position)
        if key & 7 == 0:
            fields[key >> 3] = value
        elif key & 7 == 2 and position + value <= len(data):
            fields[key >> 3] = data[position : position + value]
            position += value
        else:
            raise ValueError("not a deepstream message: unknown kind of field")
    return fields


def _int(value: int | bytes) -> int:
    return value if isinstance(value, int) else 0


def _bytes(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else b""
