"""What is told from the first bytes of what is no TLS."""

from __future__ import annotations

import pytest

from proxy.config.address import Address
from proxy.wire.plaintext import begins_as_http, name_protocol
from proxy.wire.proxy_protocol import Source, build

SOURCE = Source((Address("192.0.2.7", 5555), Address("198.51.100.1", 443)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"GET ",
        b"G",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"VERSION-CONTROL /",
        # The preface of HTTP/2: it is answered in HTTP/1.1, and its sender knows that.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_http(data: bytes) -> None:
    assert begins_as_http(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (build("v1", SOURCE), "a PROXY header, which this listener expects none of"),
        (build("v2", SOURCE), "a PROXY header, which this listener expects none of"),
        (b"\x80\x2e\x01\x03\x01\0\x15", "a ClientHello in the format of SSL 2"),
        (b"\x80\x2e\x01\0\x02\0\x15", "a ClientHello in the format of SSL 2"),
        (b"\x15\x03\x03\0\x02\x02\x28", "a TLS record of something else than a handshake"),
        (b"\x17\x03\x03\x01", "a TLS record of something else than a handshake"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\x10\x0c\0\x04MQTT", "0x100c00044d515454"),
        (b"get / http/1.1\r\n\r\n", "0x676574202f20687474702f312e310d0a"),
        (b"\0" * 1000, "0x" + "00" * 16),
        (b"\x80", "0x80"),
        (b"\n\x1b[2J", "0x0a1b5b324a"),
    ],
)
def test_what_is_neither(data: bytes, name: str) -> None:
    assert not begins_as_http(data)
    assert name_protocol(data) == name
