"""What a frame may be: the rules of RFC 6455 section 5, and a route's own limits."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import attrs

from .closing import FrameError

FIN: Final = 0x80
#: The longest that a header can say (section 5.2).
MAX_LENGTH: Final = 2**63 - 1


class Opcode(IntEnum):
    """RFC 6455 section 11.8."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


_OPCODES: Final = frozenset(Opcode)


@attrs.frozen
class Rules:
    """What one direction's frames may be; sizes in bytes, 125 at the least, 0: any.

    `lenient` lets pass what leaves the frames' boundaries alone: masks where none should be, or
    none where one should, reserved bits and opcodes, lengths in a longer form than needed, codes of
    a Close that may not be sent.
    """

    message_bytes: int = 0
    frame_bytes: int = 0
    #: Of one message.
    fragments: int = 0
    lenient: bool = False

    def check_first(self, first: int, *, fragmented: bool, reserved: int) -> None:
        """Look at a frame's first byte, within a fragmented message or not.

        `reserved` is the mask of reserved bits that an extension may use.

        Raises:
            FrameError: the frame is not legal here.
        """
        opcode = first & 0x0F
        control = opcode >= Opcode.CLOSE
        if control and first < FIN:
            raise FrameError("fragmented control frame")
        if not control and fragmented != (opcode == Opcode.CONTINUATION):
            raise FrameError("fragment missing" if fragmented else "unexpected continuation")
        if self.lenient:
            return
        if opcode not in _OPCODES:
            raise FrameError("reserved opcode")
        # No extension gives a meaning to reserved bits on control frames.
        if first & 0x70 & ~(0 if control else reserved):
            raise FrameError("reserved bit set")

    def check_second(self, first: int, second: int, mask_bit: int) -> None:
        """Look at a frame's second byte, whose mask bit has to be `mask_bit`.

        Raises:
            FrameError: the frame is not legal here.
        """
        if first & 0x0F >= Opcode.CLOSE and second & 0x7F > 125:
            raise FrameError("control frame too long")
        if second & 0x80 != mask_bit and not self.lenient:
            raise FrameError("frame is not masked" if mask_bit else "frame is masked")

    def read_length(self, encoded: bytes) -> int:
        """Return a length of 2 or 8 bytes, which must be the shortest form (section 5.2).

        Raises:
            FrameError: it is not, or there is no such length.
        """
        length = int.from_bytes(encoded, "big")
        if length > MAX_LENGTH:
            raise FrameError("length has its first bit set")
        if length < (126 if len(encoded) == 2 else 65536) and not self.lenient:
            raise FrameError("length is not minimal")
        return length

    def check_sizes(self, frame: int, message: int, fragments: int) -> None:
        """Look at the lengths of a data frame and of its message so far, and at their number.

        Raises:
            FrameError: a limit is passed, with the code that says which kind.
        """
        if frame > (self.frame_bytes or MAX_LENGTH):
            raise FrameError("frame too big", 1009)
        if message > (self.message_bytes or MAX_LENGTH):
            raise FrameError("message too big", 1009)
        if fragments > (self.fragments or MAX_LENGTH):
            raise FrameError("too many fragments", 1008)


#: As RFC 6455 has it, and of any size.
STRICT: Final = Rules()
