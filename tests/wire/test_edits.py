"""What rules make of headers."""

from __future__ import annotations

from proxy.config.headers import HeaderRules
from proxy.wire.edits import NO_EDITS, Edits

HEADERS = [(b"A", b"1"), (b"b", b"2"), (b"B", b"3"), (b"C", b"4")]


def words() -> dict[str, str]:
    return {"client": "192.0.2.7", "host": "", "request_id": "{host}", "scheme": "https"}


def edited(**rules: object) -> list[tuple[bytes, bytes]]:
    return Edits.of(HeaderRules(**rules)).apply(HEADERS, words)  # type: ignore[arg-type]  # any rules


def test_remove_then_set_then_add() -> None:
    given = edited(
        remove=("a", "D"), set={"B": "x", "D": "y"}, add={"b": "beside", "A": "again", "C": "5"}
    )

    assert given == [
        (b"C", b"4"),
        (b"B", b"x"),
        (b"D", b"y"),
        (b"b", b"beside"),
        (b"A", b"again"),
        (b"C", b"5"),
    ]


def test_placeholders_are_filled_once() -> None:
    given = edited(set={"X": "{client} {scheme}", "Y": "{request_id}", "Z": '{"a":{"b":1}}'})

    assert given[4:] == [(b"X", b"192.0.2.7 https"), (b"Y", b"{host}"), (b"Z", b'{"a":{"b":1}}')]


def test_nothing_can_be_sent() -> None:
    """A value must not begin or end with a space."""
    assert edited(set={"X": "{host}", "Y": "at {host}"})[4:] == [(b"X", b""), (b"Y", b"at")]


def test_without_rules_nothing_is_made() -> None:
    def never() -> dict[str, str]:
        raise AssertionError("nobody needs words")

    assert NO_EDITS.apply(HEADERS, never) is HEADERS
    assert Edits.of(HeaderRules()) == NO_EDITS
