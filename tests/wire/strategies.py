"""Frames, and ways to cut them."""

from __future__ import annotations

from itertools import pairwise

import attrs
from hypothesis import strategies as st

from proxy.wire.frames import unmask
from proxy.wire.rules import Rules


def frame(
    opcode: int,
    payload: bytes,
    *,
    fin: bool = True,
    key: bytes | None = None,
    reserved: int = 0,
    form: int = 0,
) -> bytes:
    """Return one frame as it stands on the wire; `key` masks it.

    `form` is how many bytes the length shall have at least, beside the 7 bits: 0, 2 or 8.
    """
    head = bytes([opcode | reserved | (0x80 if fin else 0)])
    mask = 0 if key is None else 0x80
    size = len(payload)
    if size < 126 and not form:
        head += bytes([mask | size])
    elif size < 65536 and form < 8:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    return head + (payload if key is None else key + unmask(payload, key))


keys = st.binary(min_size=4, max_size=4)
#: Sizes around every border of the length's encoding, and some between.
sizes = st.one_of(
    st.integers(0, 20), st.sampled_from([124, 125, 126, 127, 128, 300, 65535, 65536, 65537])
)
#: Close codes: all that mean something, borders, and anything.
codes = st.one_of(
    st.sampled_from([*range(998, 1017), 2999, 3000, 3999, 4000, 4999, 5000]), st.integers(0, 65535)
)


@st.composite
def close_payloads(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(st.sampled_from([b"", b"\x03", b"\x03\xe8\xff"]))
    return draw(codes).to_bytes(2, "big") + draw(st.text(max_size=20)).encode()[:100]


@st.composite
def messages(draw: st.DrawFn, *, masked: bool) -> bytes:
    """A data message, whole or in fragments, with control frames in between."""
    key = draw(keys) if masked else None
    pieces = draw(st.lists(sizes, min_size=1, max_size=4))
    out = b""
    for index, size in enumerate(pieces):
        # Letters, so that every cut of a text message is UTF-8: the scanner doesn't look.
        opcode = draw(st.sampled_from([1, 2])) if index == 0 else 0
        out += frame(opcode, b"a" * size, fin=index == len(pieces) - 1, key=key)
        if draw(st.integers(0, 4)) == 0:
            opcode = draw(st.sampled_from([9, 10]))
            out += frame(opcode, draw(st.binary(max_size=125)), key=key)
    return out


@st.composite
def broken_frames(draw: st.DrawFn, *, masked: bool) -> bytes:
    """Two arbitrary bytes of header and what may follow: nearly always illegal."""
    return draw(st.binary(min_size=2, max_size=2)) + draw(st.binary(max_size=30)) + bytes(12)


@st.composite
def streams(draw: st.DrawFn, *, masked: bool) -> bytes:
    """Some legal messages, then perhaps a Close or something broken."""
    out = b"".join(draw(st.lists(messages(masked=masked), max_size=5)))
    end = draw(st.sampled_from(["open", "close", "broken"]))
    if end == "close":
        out += frame(8, draw(close_payloads()), key=draw(keys) if masked else None)
    elif end == "broken":
        out += draw(broken_frames(masked=masked))
    return out


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces: whole, byte by byte near a place, or anywhere."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    if data and draw(st.booleans()):
        around = draw(st.integers(0, len(data)))
        places = sorted({*places, *range(max(0, around - 16), min(len(data), around + 16))})
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@attrs.frozen
class Piece:
    """One frame of a stream: as it stands on the wire, and what it is."""

    wire: bytes
    opcode: int
    fin: bool
    payload: bytes


@st.composite
def wild_pieces(draw: st.DrawFn) -> list[Piece]:
    """Frames with boundaries that anybody can tell, and hardly anything else that is proper."""
    pieces: list[Piece] = []

    def add(opcode: int, payload: bytes, *, fin: bool, form: int) -> None:
        key, reserved = draw(st.none() | keys), draw(st.sampled_from([0, 0x10, 0x40, 0x70]))
        wire = frame(opcode, payload, fin=fin, key=key, reserved=reserved, form=form)
        pieces.append(Piece(wire, opcode, fin, payload))

    for _ in range(draw(st.integers(0, 4))):
        of_message = draw(st.lists(sizes, min_size=1, max_size=3))
        for index, size in enumerate(of_message):
            opcode = 0 if index else draw(st.integers(1, 7))
            form, fin = draw(st.sampled_from([0, 2, 8])), index == len(of_message) - 1
            add(opcode, b"a" * size, fin=fin, form=form)
            if draw(st.booleans()):
                opcode = draw(st.sampled_from([9, 10, 11, 15]))
                add(opcode, draw(st.binary(max_size=125)), fin=True, form=0)
    if draw(st.booleans()):
        add(8, draw(close_payloads()), fin=True, form=0)
    return pieces


_borders = st.sampled_from([0, 125, 126, 127, 250, 300, 65535, 65536, 70_000])
rules = st.builds(Rules, _borders, _borders, st.integers(0, 4), lenient=st.booleans())
