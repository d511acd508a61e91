"""Where WebSocket frames begin and end, read from their headers alone (RFC 6455 section 5.2).

Theory.  The proxy never needs a payload: whatever it counts, enforces or injects is decided by the
2 to 14 bytes of a frame's header, and by control frames, which have at most 125 bytes of payload.
So a `Scanner` looks at headers where they lie in the receive buffer and *releases* bytes; payloads
stay masked and go on untouched, fragments stay fragments, reserved bits stay set.

It releases a byte only when it may go out at once and for good:
  - of a data frame, the header once it is whole and found legal, then the payload as it comes;
  - a control frame only as a whole, since whoever relays may want to keep one (the pong to a ping
    of our own) or to know it (a Close).
What has come and is not released is `held`: less than MAX_CONTROL bytes, looked at again with what
comes next.  So the released bytes always end either within a data frame's payload, with `left`
bytes of it to come, or at a frame boundary, with `left == 0`: where another frame may be put in.

There are two ways in.  `plain` takes what nearly all chunks are, whole unfragmented data frames or
a piece of a payload, in a handful of operations; it says no, and has changed nothing, when there
is anything to decide.  `scan` takes everything.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import attrs

from .closing import FrameError, parse_close


class Opcode(IntEnum):
    """RFC 6455 section 11.8."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


_OPCODES: Final = frozenset(Opcode)
FIN: Final = 0x80
#: The longest that a header can say (section 5.2).
_MAX: Final = 2**63 - 1
#: The longest control frame: two bytes of header, a mask, 125 of payload.
MAX_CONTROL: Final = 2 + 4 + 125


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


@attrs.frozen
class Control:
    """A whole control frame: where it lies among the released bytes, and its payload unmasked."""

    opcode: int
    start: int
    end: int
    payload: bytes


@attrs.frozen
class Scan:
    """What `Scanner.scan` found.

    `data` are the released bytes, `controls` the control frames among them.  `boundary` is the
    first offset in `data` at which a frame could be put in, None if there is none.  With an `error`
    the released bytes end before the offending frame, and nothing is released ever after.
    """

    data: bytes
    controls: tuple[Control, ...] = ()
    boundary: int | None = 0
    error: FrameError | None = None


class Scanner:
    """One direction's frames.

    `masked` says whether frames must be masked (a client's) or must not be (a node's).  `reserved`
    is the mask of reserved bits, within a frame's first byte, that an extension may use.
    """

    __slots__ = (
        "_extended",
        "_fragments",
        "_held",
        "_largest",
        "_mask_bit",
        "_medium",
        "_message",
        "_overhead",
        "_reserved",
        "_rules",
        "_small",
        "_special",
        "_watched",
        "bytes",
        "control_bytes",
        "controls",
        "fragmented",
        "left",
        "messages",
        "stopped",
    )

    def __init__(self, *, masked: bool, reserved: int = 0, rules: Rules = Rules()) -> None:
        self._rules = rules
        #: The longest whole message in one frame.
        self._largest = min(rules.message_bytes or _MAX, rules.frame_bytes or _MAX)
        #: Of the message that is under way: bytes so far, and fragments.
        self._message = self._fragments = 0
        self._mask_bit = 0x80 if masked else 0
        self._overhead = 6 if masked else 2
        # A small frame's second byte is its size and this; a larger one's size and second byte.
        self._small = self._mask_bit - self._overhead
        self._medium = 126 + self._overhead
        self._extended = 126 | self._mask_bit
        self._reserved = reserved
        self._held = b""
        self._watched = self._special = False
        #: Bytes of the current data frame's payload that are still to come.
        self.left = 0
        #: Within a fragmented message.
        self.fragmented = False
        #: A Close was released, or an error found: what comes now is dropped (section 5.5.1).
        self.stopped = False
        #: Released: bytes in all, and whole data messages, counted as their last frame begins;
        #: and of the bytes those of control frames.
        self.bytes = self.messages = self.controls = self.control_bytes = 0

    @property
    def watched(self) -> bool:
        """While set, `plain` always says no: somebody waits for a boundary."""
        return self._watched

    @watched.setter
    def watched(self, value: bool) -> None:
        self._watched = value
        self._settle()

    def _settle(self) -> None:
        self._special = bool(self._held or self.fragmented or self.stopped or self._watched)

    def plain(self, data: bytes | bytearray, size: int) -> bool:
        """Release all of `data[:size]` if it is nothing but unfragmented data frames, or say no."""
        if self._special:
            return False
        left = self.left
        if left > size:
            self.left = left - size
            self.bytes += size
            return True
        if not left and ((first := data[0]) == 0x82 or first == 0x81):
            # Nearly always: one frame of less than 64 KiB.  Its size says what its header must be.
            if size < self._medium:
                one = size >= self._overhead and data[1] == size + self._small
            else:
                length = size - self._medium + 124
                one = data[3] == length & 0xFF and data[2] == length >> 8
                one = one and data[1] == self._extended and 126 <= length <= self._largest
            if one:
                self.messages += 1
                self.bytes += size
                return True
        # From here on `left` is where the next frame begins; at the end it may lie past `size`.
        messages = 0
        mask_bit, overhead = self._mask_bit, self._overhead
        while left < size:
            first = data[left]
            if (first != 0x82 and first != 0x81) or size - left < overhead:
                return False
            length = data[left + 1] - mask_bit
            if 0 <= length < 126:
                end = left + overhead + length
            elif length == 126 and size - left >= overhead + 2:
                length = data[left + 2] << 8 | data[left + 3]
                if not 126 <= length <= self._largest:
                    return False
                end = left + overhead + 2 + length
            elif length == 127 and size - left >= overhead + 8:
                length = int.from_bytes(data[left + 2 : left + 10], "big")
                if not 65536 <= length <= self._largest:
                    return False
                end = left + overhead + 8 + length
            else:
                return False
            messages += 1
            if end < size and messages & 3 == 1:
                alike = _alike(data, left, end - left, size)
                messages += alike
                end += alike * (end - left)
            left = end
        self.left = left - size
        self.messages += messages
        self.bytes += size
        return True

    def scan(self, data: bytes) -> Scan:
        """Release what of `data`, and of what was held before it, can go out now."""
        if self.stopped:
            return Scan(b"")
        data = self._held + data
        self._held = b""
        size = len(data)
        position = min(self.left, size)
        boundary = position if position == self.left else None
        self.left -= position
        controls: list[Control] = []
        error = None
        try:
            while position < size and not self.stopped:
                end = self._frame(data, position, controls)
                if end is None:
                    self._held = data[position:]
                    break
                position = min(end, size)
                self.left = end - position
        except FrameError as exc:
            self.stopped = True
            error = exc
        self._settle()
        self.bytes += position
        return Scan(data[:position], tuple(controls), boundary, error)

    def _frame(self, data: bytes, start: int, controls: list[Control]) -> int | None:
        """Read the frame at `start`; return where it ends, None if it can't be released yet.

        Raises:
            FrameError: as soon as the bytes at hand show that it is not legal here.
        """
        size = len(data)
        self._check_first(data[start])
        if size - start < 2:
            return None
        second = data[start + 1]
        self._check_second(data[start], second)
        length = second & 0x7F
        payload = start + 2
        if length > 125:
            payload += 2 if length == 126 else 8
            if size < payload:
                return None
            length = self._extended_length(data[start + 2 : payload])
        payload += second >> 5 & 4
        if size < payload:
            return None
        end = payload + length
        if data[start] & 0x0F < Opcode.CLOSE:
            self._data(data[start], length)
        elif end > size:
            return None
        else:
            controls.append(self._control(data, start, payload, end))
        return end

    def _data(self, first: int, length: int) -> None:
        """Account for a data frame."""
        rules = self._rules
        self._message += length
        self._fragments += 1
        if length > (rules.frame_bytes or _MAX):
            raise FrameError("frame too big", 1009)
        if self._message > (rules.message_bytes or _MAX):
            raise FrameError("message too big", 1009)
        if self._fragments > (rules.fragments or _MAX):
            raise FrameError("too many fragments", 1008)
        self.fragmented = first < FIN
        if not self.fragmented:
            self.messages += 1
            self._message = self._fragments = 0

    def _check_first(self, first: int) -> None:
        opcode = first & 0x0F
        control = opcode >= Opcode.CLOSE
        if control and first < FIN:
            raise FrameError("fragmented control frame")
        if not control and self.fragmented != (opcode == Opcode.CONTINUATION):
            raise FrameError("fragment missing" if self.fragmented else "unexpected continuation")
        if self._rules.lenient:
            return
        if opcode not in _OPCODES:
            raise FrameError("reserved opcode")
        # No extension gives a meaning to reserved bits on control frames.
        if first & 0x70 & ~(0 if control else self._reserved):
            raise FrameError("reserved bit set")

    def _check_second(self, first: int, second: int) -> None:
        if first & 0x0F >= Opcode.CLOSE and second & 0x7F > 125:
            raise FrameError("control frame too long")
        if second & 0x80 != self._mask_bit and not self._rules.lenient:
            raise FrameError("frame is not masked" if self._mask_bit else "frame is masked")

    def _extended_length(self, encoded: bytes) -> int:
        """Return a length of 2 or 8 bytes, which must be the shortest form (section 5.2)."""
        length = int.from_bytes(encoded, "big")
        if length >> 63:
            raise FrameError("length has its first bit set")
        if length < (126 if len(encoded) == 2 else 65536) and not self._rules.lenient:
            raise FrameError("length is not minimal")
        return length

    def _control(self, data: bytes, start: int, payload: int, end: int) -> Control:
        content = data[payload:end]
        if data[start + 1] & 0x80:
            content = unmask(content, data[payload - 4 : payload])
        opcode = data[start] & 0x0F
        if opcode == Opcode.CLOSE:
            parse_close(content, lenient=self._rules.lenient)
            self.stopped = True
        self.controls += 1
        self.control_bytes += end - start
        return Control(opcode, start, end, content)


def _alike(data: bytes | bytearray, start: int, step: int, size: int) -> int:
    """Return how many frames behind the one at `start` have its header, if all whole ones do.

    Many small messages in one chunk are often of one length; then a few slices stand for a loop
    over the frames.  Up to 4 bytes of a header say all about a frame of less than 64 KiB.
    """
    count = (size - start) // step
    if step > 65536 or count < 4:
        return 0
    end = start + count * step
    for offset in range(2 if data[start + 1] & 0x7F < 126 else 4):
        if data[start + offset : end : step].count(data[start + offset]) != count:
            return 0
    return count - 1


def unmask(payload: bytes, key: bytes) -> bytes:
    """Apply a 4-byte mask (RFC 6455 section 5.3); doing so twice gives the payload back."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
