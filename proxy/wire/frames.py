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

from typing import Final

import attrs

from .closing import FrameError, parse_close
from .rules import FIN, MAX_LENGTH, STRICT, Opcode, Rules

#: The longest control frame: two bytes of header, a mask, 125 of payload.
MAX_CONTROL: Final = 2 + 4 + 125


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
        "_decides",
        "_extended",
        "_extra",
        "_fragments",
        "_held",
        "_large",
        "_largest",
        "_mask_bit",
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

    def __init__(self, *, masked: bool, reserved: int = 0, rules: Rules = STRICT) -> None:
        self._rules = rules
        #: The longest whole message in one frame.
        self._largest = min(rules.message_bytes or MAX_LENGTH, rules.frame_bytes or MAX_LENGTH)
        #: Of the message that is under way: bytes so far, and fragments.
        self._message = self._fragments = 0
        self._mask_bit = 0x80 if masked else 0
        self._overhead = 6 if masked else 2
        # A frame of less than `_large` has its size and `_small` as second byte, any other `_extra`
        # bytes around its payload.
        self._small = self._mask_bit - self._overhead
        self._extra = self._overhead + 2
        self._large = self._overhead + 126
        self._extended = 126 | self._mask_bit
        self._reserved = reserved
        self._held = b""
        self._watched = self._decides = self._special = False
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
        self._decides = bool(self._held or self.fragmented or self.stopped or self._watched)
        self._special = self._decides or self.left > 0

    def plain(self, data: bytes | bytearray, size: int) -> bool:
        """Release all of `data[:size]` if it is nothing but unfragmented data frames, or say no."""
        if self._special or size < self._overhead:
            return self._rest(data, size)
        # Nearly always: one frame of less than 64 KiB.  Its size says what its header must be.
        if ((first := data[0]) == 0x82 or first == 0x81) and (
            data[1] == size + self._small
            if size < self._large
            else data[1] == self._extended
            and (length := data[2] << 8 | data[3]) == size - self._extra
            and 126 <= length <= self._largest
        ):
            self.messages += 1
            self.bytes += size
            return True
        return self._frames(data, size, 0)

    def _rest(self, data: bytes | bytearray, size: int) -> bool:
        """As `plain`, where a payload is under way or too little has come for a header."""
        left = self.left
        if self._decides or not left:
            return False
        if left < size:
            return self._frames(data, size, left)
        self.left = left - size
        self._special = left > size
        self.bytes += size
        return True

    def _frames(self, data: bytes | bytearray, size: int, position: int) -> bool:
        """As `plain`, from where a frame begins; at the end `position` may lie past `size`."""
        messages = 0
        mask_bit, overhead = self._mask_bit, self._overhead
        while position < size:
            first = data[position]
            if (first != 0x82 and first != 0x81) or size - position < overhead:
                return False
            length = data[position + 1] - mask_bit
            if 0 <= length < 126:
                end = position + overhead + length
            elif length == 126 and size - position >= overhead + 2:
                length = data[position + 2] << 8 | data[position + 3]
                if not 126 <= length <= self._largest:
                    return False
                end = position + overhead + 2 + length
            elif length == 127 and size - position >= overhead + 8:
                length = int.from_bytes(data[position + 2 : position + 10], "big")
                if not 65536 <= length <= self._largest:
                    return False
                end = position + overhead + 8 + length
            else:
                return False
            messages += 1
            if end < size and messages & 3 == 1:
                alike = _alike(data, position, end - position, size)
                messages += alike
                end += alike * (end - position)
            position = end
        self.left = position - size
        self._special = position > size
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
        rules = self._rules
        rules.check_first(data[start], fragmented=self.fragmented, reserved=self._reserved)
        if size - start < 2:
            return None
        second = data[start + 1]
        rules.check_second(data[start], second, self._mask_bit)
        length = second & 0x7F
        payload = start + 2
        if length > 125:
            payload += 2 if length == 126 else 8
            if size < payload:
                return None
            length = rules.read_length(data[start + 2 : payload])
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
        self._message += length
        self._fragments += 1
        self._rules.check_sizes(length, self._message, self._fragments)
        self.fragmented = first < FIN
        if not self.fragmented:
            self.messages += 1
            self._message = self._fragments = 0

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
