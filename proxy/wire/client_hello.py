"""The name that a TLS client asks for, from its first bytes, with nothing of TLS terminated.

A ClientHello is the first thing that a client sends, in the clear (RFC 8446 section 4.1.2): one
handshake message, in as many records as its sender likes, each in as many segments as the network
likes.  Records are collected until the message is whole, then it is read once; so what a byte costs
does not depend on how they come.  Nothing is answered here: a node is sent the bytes as they are.

What does not begin as a TLS record is no error but another protocol, which asks for no name.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import BadClientHello

from .alert import Alert

#: What is taken of a client before its ClientHello has to be whole, records' headers included.
#: Browsers send some 2 KiB with a post-quantum key share; HAProxy's buffer is 16 KiB, as nginx's
#: preread_buffer_size.
MAX_HELLO: Final = 16 * 1024
#: RFC 8446 sections 5.1 and 4.
_HANDSHAKE: Final = 22
_MAJOR_VERSION: Final = 3
_RECORD_HEAD: Final = 5
_MAX_RECORD: Final = 2**14
_CLIENT_HELLO: Final = 1
_MESSAGE_HEAD: Final = 4
#: RFC 6066 section 3.
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
_NAME: Final = re.compile(rb"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LONGEST_NAME: Final = 253


class ClientHello:
    """What a connection begins with, as it comes."""

    def __init__(self) -> None:
        #: All that has come, to be passed on.
        self.received = bytearray()
        #: Nothing more has to come: it is known what is asked for.
        self.done = False
        #: It is TLS, as far as one can see.
        self.tls = False
        #: The name that is asked for, in lower case; empty if none is.
        self.name = ""
        self._message = bytearray()
        #: Where the next record begins.
        self._next = 0

    @property
    def room(self) -> int:
        """How much more may come before it has to be whole."""
        return MAX_HELLO - len(self.received)

    def receive(self, data: bytes) -> None:
        """Take up to `room` bytes that came.

        Raises:
            BadClientHello: this is TLS, and its ClientHello is malformed or too long.
        """
        self.received += data
        if self.done or not self._begins_as_tls():
            return
        while self._take_record():
            if self._take_message():
                self.done = True
                return
        if not self.room:
            raise _too_long()

    def _begins_as_tls(self) -> bool:
        begin = self.received[:2]
        if begin == bytes((_HANDSHAKE, _MAJOR_VERSION))[: len(begin)]:
            self.tls = len(begin) == 2
        else:
            self.done = True
        return self.tls

    def _take_record(self) -> bool:
        """Move the next record's payload to the message; return False if it is not whole yet."""
        head = self.received[self._next : self._next + _RECORD_HEAD]
        if len(head) < _RECORD_HEAD:
            return False
        size = int.from_bytes(head[3:], "big")
        if head[:2] != bytes((_HANDSHAKE, _MAJOR_VERSION)) or not size:
            reason = "Within the ClientHello is a record of something else."
            raise BadClientHello(reason, alert=Alert.UNEXPECTED_MESSAGE)
        if size > _MAX_RECORD:
            reason = "A record of the ClientHello is too long."
            raise BadClientHello(reason, alert=Alert.RECORD_OVERFLOW)
        begin = self._next + _RECORD_HEAD
        if len(self.received) < begin + size:
            return False
        self._message += self.received[begin : begin + size]
        self._next = begin + size
        return True

    def _take_message(self) -> bool:
        """Read the message; return False if it is not whole yet."""
        message = self._message
        if message[0] != _CLIENT_HELLO:
            reason = "The TLS handshake begins with another message."
            raise BadClientHello(reason, alert=Alert.UNEXPECTED_MESSAGE)
        if len(message) < _MESSAGE_HEAD:
            return False
        size = int.from_bytes(message[1:_MESSAGE_HEAD], "big")
        if size > MAX_HELLO:
            raise _too_long()
        if len(message) < _MESSAGE_HEAD + size:
            return False
        self.name = _server_name(_Reader(bytes(message[_MESSAGE_HEAD : _MESSAGE_HEAD + size])))
        return True


def _too_long() -> BadClientHello:
    reason = f"The ClientHello is longer than {MAX_HELLO} bytes."
    return BadClientHello(reason, alert=Alert.ILLEGAL_PARAMETER)


class _Reader:
    """Vectors of a TLS structure, one after the other (RFC 8446 section 3.4)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise BadClientHello("The ClientHello ends within a field.")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, head: int) -> bytes:
        """Return a vector whose length stands before it in so many bytes."""
        return self.take(self.number(head))


def _server_name(hello: _Reader) -> str:
    # Version and random, session id, cipher suites, compression methods.
    hello.take(2 + 32)
    for head in (1, 2, 1):
        hello.vector(head)
    if not hello:
        # Extensions are an extension themselves (RFC 5246 section 7.4.1.2).
        return ""
    extensions = _Reader(hello.vector(2))
    if hello:
        raise BadClientHello("Something stands behind the extensions of the ClientHello.")
    names = []
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            names.append(content)
    if len(names) > 1:
        reason = "The ClientHello has two lists of names."
        raise BadClientHello(reason, alert=Alert.ILLEGAL_PARAMETER)
    return _host_name(_Reader(names[0])) if names else ""


def _host_name(extension: _Reader) -> str:
    names = _Reader(extension.vector(2))
    if extension:
        raise BadClientHello("Something stands behind the names of the ClientHello.")
    found = []
    while names:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            found.append(name)
    if len(found) != 1:
        raise BadClientHello("The ClientHello asks for several names, or for none.")
    return read_name(found[0])


def read_name(name: bytes) -> str:
    """Return a name that is asked for as it is compared: in lower case.

    Raises:
        BadClientHello: it cannot be one of a host.
    """
    name = name.removesuffix(b".")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        reason = "The ClientHello asks for a name that is none."
        raise BadClientHello(reason, alert=Alert.UNRECOGNIZED_NAME)
    return name.decode("ascii").lower()
