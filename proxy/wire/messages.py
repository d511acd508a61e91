"""Whole messages out of one direction's frames, and a frame out of a message.

This is for routes with a hook that is shown every message; nobody else needs a payload.  As
everywhere the scanner judges the frames and finds the control frames, which stay as they are.  What
it releases beside them is legal, and wsproto decodes it: masks, fragments, UTF-8 (RFC 6455 sections
5.3, 5.4 and 5.6).

A message has to be whole before anybody can look at it, so its size has a limit; one that does not
fit is refused as soon as a frame's header says so.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from .closing import FrameError
from .frames import Scan, Scanner
from .rules import STRICT, Rules
from .tunnel import Side

#: Builders of frames as each side sends them: a client's are masked.
_BUILDERS: Final = (
    FrameProtocol(client=True, extensions=[]),
    FrameProtocol(client=False, extensions=[]),
)


def _check_data(_: object, __: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, str):
        # Half of a surrogate pair cannot be sent: better to hear of it here.
        value.encode()
    elif not isinstance(value, bytes):
        raise TypeError(f"a message is str or bytes, not {type(value).__name__}")


@attrs.frozen
class Message:
    """A whole message of a session: text is a `str`, binary is `bytes`.

    Raises:
        TypeError: the data is neither.
        ValueError: the text cannot be encoded.
    """

    data: str | bytes = attrs.field(validator=_check_data)
    from_client: bool


def frame_of(side: Side, data: str | bytes) -> bytes:
    """Return a message as one frame, as this side would send it."""
    return bytes(_BUILDERS[side].send_data(data))


class MessageReader:
    """What one side sends, as messages of at most `limit` bytes and control frames.

    The rules are kept to the letter, lenient or not: what passes is written anew.
    """

    def __init__(self, side: Side, rules: Rules = STRICT, *, limit: int) -> None:
        self._from_client = side is Side.CLIENT
        size = min(rules.message_bytes or limit, limit)
        rules = attrs.evolve(rules, message_bytes=size, lenient=False)
        #: Sees the frames as they come.
        self.scanner = Scanner(masked=self._from_client, rules=rules)
        self._frames = FrameProtocol(client=not self._from_client, extensions=[])
        #: What has come of the current message, encoded: its fragments may be many and small.
        self._begun = bytearray()
        self._stopped = False

    @property
    def held(self) -> int:
        """How many bytes there are of a message that is not whole."""
        return len(self._begun)

    def received(self, data: bytes) -> list[Message | bytes | FrameError]:
        """Take bytes; return what they complete, in order.

        A control frame comes as its bytes.  An error comes last, and nothing comes after it.
        """
        found: list[Message | bytes | FrameError] = []
        if self._stopped:
            return found
        try:
            self._read(self.scanner.scan(data), found)
        except FrameError as exc:
            self._stopped = True
            # Its traceback has this frame: together they would be a cycle.
            found.append(exc.with_traceback(None))
        return found

    def _read(self, scan: Scan, found: list[Message | bytes | FrameError]) -> None:
        position = 0
        for control in scan.controls:
            self._decode(scan.data[position : control.start], found)
            found.append(scan.data[control.start : control.end])
            position = control.end
        self._decode(scan.data[position:], found)
        if scan.error is not None:
            raise scan.error

    def _decode(self, data: bytes, found: list[Message | bytes | FrameError]) -> None:
        """Take what the scanner has released of data frames."""
        self._frames.receive_bytes(data)
        try:
            for frame in self._frames.received_frames():
                payload = frame.payload
                assert not isinstance(payload, tuple)
                piece = payload.encode() if isinstance(payload, str) else payload
                if not frame.message_finished:
                    self._begun += piece
                    continue
                if self._begun:
                    self._begun += piece
                    text = isinstance(payload, str)
                    payload = self._begun.decode() if text else bytes(self._begun)
                    self._begun = bytearray()
                found.append(Message(payload, self._from_client))
        except ParseFailed:
            # The scanner leaves nothing else to find; and what wsproto says quotes the message.
            raise FrameError("text is not UTF-8", 1007) from None
