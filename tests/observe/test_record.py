"""The access record: what is in it, in which order, and what a tunnel adds."""

from __future__ import annotations

import logging

import attrs
import pytest

from proxy.observe.record import Record
from proxy.wire.tunnel import Side, Tunnel
from tests.wire.strategies import frame

KEY = b"abcd"


def make_record() -> Record:
    return Record(id="r1", client="192.0.2.1:5000")


def test_fields_of_a_new_record() -> None:
    assert make_record().fields() == {
        "id": "r1",
        "client": "192.0.2.1:5000",
        "attempts": 0,
        "status": 0,
        "bytes_from_client": 0,
        "bytes_from_node": 0,
        "messages_from_client": 0,
        "messages_from_node": 0,
    }


def test_fields_are_in_the_order_of_the_class() -> None:
    record = make_record()
    record.session_time = 1.0
    record.ended_by = "node"
    record.node = "127.0.0.1:6020"
    record.method = "GET"
    order = [field.name for field in attrs.fields(Record)]
    names = list(record.fields())

    assert {"session_time", "ended_by", "node", "method"} <= set(names)
    assert names == [name for name in order if name in names]


@pytest.mark.parametrize(
    ("time", "expected"),
    [(0.0, 0.0), (0.12345678, 0.123457), (3.0000001, 3.0), (1e-9, 0.0), (None, None)],
)
def test_times_are_rounded_to_microseconds(time: float | None, expected: float | None) -> None:
    record = make_record()
    record.dial_time = time

    assert record.fields().get("dial_time") == expected


def test_zero_is_known_and_none_is_not() -> None:
    record = make_record()
    record.head_time, record.close_from_node = 0.0, 0
    fields = record.fields()

    assert (fields["head_time"], fields["close_from_node"]) == (0.0, 0)
    assert "close_to_node" not in fields
    assert "detail" not in fields


def test_unknown_facts_cannot_be_written() -> None:
    with pytest.raises(AttributeError):
        make_record().stauts = 200  # type: ignore[attr-defined]


def test_takes_what_a_tunnel_knows() -> None:
    tunnel, record = Tunnel(), make_record()
    hello, answer = frame(2, b"hello", key=KEY), frame(1, b"answer")
    goodbye = frame(8, b"\x03\xe9bye", key=KEY)
    tunnel.received(Side.CLIENT, hello)
    tunnel.received(Side.NODE, answer * 2)
    tunnel.received(Side.CLIENT, goodbye)
    tunnel.received(Side.NODE, frame(8, b"\x03\xe9"))
    record.take(tunnel)

    assert (record.ended_by, record.ending, record.detail) == ("client", "client_closed", "bye")
    assert (record.close_from_client, record.close_to_node) == (1001, 1001)
    assert (record.close_from_node, record.close_to_client) == (1001, 1001)
    assert (record.messages_from_client, record.messages_from_node) == (1, 2)
    assert record.bytes_from_client == len(hello + goodbye)
    assert record.bytes_from_node == len(answer * 2 + frame(8, b"\x03\xe9"))


def test_takes_how_a_lost_node_ended_it() -> None:
    tunnel, record = Tunnel(), make_record()
    tunnel.lost(Side.NODE, "reset")
    record.take(tunnel)
    fields = record.fields()

    assert (fields["ended_by"], fields["ending"], fields["detail"]) == (
        "node",
        "node_lost",
        "reset",
    )
    assert fields["close_to_client"] == 1011
    assert "close_from_node" not in fields


def test_detail_stays_if_the_tunnel_has_none() -> None:
    tunnel, record = Tunnel(), make_record()
    record.detail = "noted before"
    tunnel.lost(Side.CLIENT)
    record.take(tunnel)

    assert (record.detail, record.ending) == ("noted before", "client_lost")


def test_nothing_has_ended_yet() -> None:
    record = make_record()
    record.take(Tunnel())

    assert (record.ended_by, record.ending) == (None, None)


def test_every_field_can_be_an_extra_of_a_log_record() -> None:
    names = [field.name for field in attrs.fields(Record)]
    extra = dict.fromkeys(names, "x")
    made = logging.getLogger("test").makeRecord("test", 20, "f", 1, "m", (), None, extra=extra)

    assert all(vars(made)[name] == "x" for name in names)
    # What the renderers add.
    assert not {"timestamp", "level", "event", "exception"} & set(names)
