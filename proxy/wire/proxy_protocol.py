"""The PROXY protocol: whom a connection is for, told in its first bytes by whoever relays it.

Sections are those of HAProxy's specification, "The PROXY protocol, versions 1 & 2".  A header is
read from what has come so far, as often as more comes, and only as a whole: nobody may guess
whether there is one (section 2), and what is behind it belongs to what follows.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Final

import attrs

from proxy.config.address import Address
from proxy.config.upstream import ProxyVersion
from proxy.errors import BadProxyHeader

#: What a header says besides addresses: pairs of type and value (section 2.2).
Tlvs = tuple[tuple[int, bytes], ...]

ALPN: Final = 0x01
AUTHORITY: Final = 0x02
CRC32C: Final = 0x03
NOOP: Final = 0x04
UNIQUE_ID: Final = 0x05
SSL: Final = 0x20
SSL_VERSION: Final = 0x21
SSL_CN: Final = 0x22
SSL_CIPHER: Final = 0x23
#: The bits of PP2_TYPE_SSL: over TLS; with a certificate on this connection; in this TLS session.
_OVER_TLS, _CERTIFICATE_NOW, _CERTIFICATE_ONCE = 0x01, 0x02, 0x04

#: A whole line of version 1, CRLF included (section 2.1).
MAX_LINE: Final = 107
#: A whole header of version 2.  The length field could say 64 KiB; nginx too takes 4,096 bytes, and
#: the addresses and TLVs that are registered need some 800.
MAX_HEADER: Final = 4096
#: RFC 5280 appendix A.1, ub-common-name.
_MAX_NAME: Final = 64

_WORD: Final = b"PROXY "
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?"
    rb"|TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) " + _PORT + b" " + _PORT + b")"
)
_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED: Final = 16
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _STREAM, _DGRAM = range(3)
_UNIX: Final = 3
_INET: Final = {1: struct.Struct("!4s4sHH"), 2: struct.Struct("!16s16sHH")}
_UNIX_PATHS: Final = struct.Struct("!108s108s")
_TLV: Final = struct.Struct("!BH")

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


@attrs.frozen
class Source:
    """What a header says of a connection.

    `ends` are those of the connection that the client made: its own, and where it went to, each an
    IP address or a unix socket.  None: the connection is the sender's own, like a health check, or
    it does not know.
    """

    ends: tuple[Address, Address] | None = None
    tlvs: Tlvs = ()

    @property
    def over_tls(self) -> bool:
        """Whether the client has come over TLS, which the sender has taken off."""
        return any(kind == SSL and value and value[0] & _OVER_TLS for kind, value in self.tlvs)

    def passed_on(self, own: Tlvs) -> Source:
        """Return what the next one is told: the TLVs of our `own`, then those of other types."""
        taken = {kind for kind, _ in own} | {CRC32C, NOOP}
        return attrs.evolve(self, tlvs=(*own, *(tlv for tlv in self.tlvs if tlv[0] not in taken)))


@attrs.frozen
class TlsFacts:
    """A client's TLS: names as OpenSSL has them, "" where there is none."""

    version: str
    cipher: str
    alpn: str = ""
    #: What it asked for in SNI.
    server_name: str = ""
    #: Whether it has shown a certificate, which was accepted.
    certificate: bool = False
    common_name: str = ""
    #: Whether the TLS session is an earlier connection's, and so is the certificate.
    resumed: bool = False


def read(data: bytes) -> tuple[Source, int] | None:
    """Return what the header at the start of a connection's bytes says, and its length.

    None: it is not whole yet.  Of IPv6 addresses that stand for IPv4 those are returned.  Checksums
    are verified; they and padding are not among the TLVs that are returned.

    Raises:
        BadProxyHeader: there is none, or it is malformed, too long or for datagrams.
    """
    if data.startswith(_WORD):
        return _read_v1(data)
    if data.startswith(_SIGNATURE):
        return _read_v2(data)
    if _WORD.startswith(data) or _SIGNATURE.startswith(data):
        return None
    raise BadProxyHeader("It does not begin with a PROXY header.")


def _read_v1(data: bytes) -> tuple[Source, int] | None:
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise BadProxyHeader(f"The PROXY line is longer than {MAX_LINE} bytes.")
        return None
    found = _LINE.fullmatch(data, 0, end)
    if found is None:
        raise BadProxyHeader("The PROXY line is malformed.")
    family, *addresses, first, second = (word and word.decode() for word in found.groups())
    if not family:
        return Source(), end + 2
    parse = ipaddress.IPv4Address if family == "4" else ipaddress.IPv6Address
    try:
        client, destination = (_unmapped(parse(address)) for address in addresses)
    except ValueError as exc:
        raise BadProxyHeader("The PROXY line has a malformed address.") from exc
    if max(ports := (int(first), int(second))) > 0xFFFF:
        raise BadProxyHeader("The PROXY line has a malformed port.")
    return Source((Address(client, ports[0]), Address(destination, ports[1]))), end + 2


def _read_v2(data: bytes) -> tuple[Source, int] | None:
    if len(data) < _FIXED:
        return None
    command, family, length = struct.unpack_from("!BBH", data, len(_SIGNATURE))
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader(f"The PROXY header has an unknown version or command, {command:#x}.")
    size = _FIXED + length
    if size > MAX_HEADER:
        raise BadProxyHeader(f"The PROXY header is longer than {MAX_HEADER} bytes.")
    # The sender's own has no family, whatever stands there.
    kind, protocol = divmod(family, 16) if command == _PROXY else (_UNSPEC, _UNSPEC)
    if kind > _UNIX or protocol > _DGRAM:
        raise BadProxyHeader(f"The PROXY header has an unknown address family, {family:#x}.")
    if protocol == _DGRAM:
        raise BadProxyHeader("The PROXY header is for datagrams.")
    if len(data) < size:
        return None
    if _UNSPEC in (kind, protocol):
        # Where TLVs would begin, if addresses are there, nobody says.
        return Source(), size
    ends, start = _read_ends(data[:size], kind)
    return Source(ends, _read_tlvs(data[:size], start)), size


def _read_ends(header: bytes, kind: int) -> tuple[tuple[Address, Address], int]:
    """Return both addresses, and where they end."""
    form = _INET.get(kind, _UNIX_PATHS)
    if len(header) < _FIXED + form.size:
        raise BadProxyHeader("The PROXY header is too short for its addresses.")
    values = form.unpack_from(header, _FIXED)
    if form is _UNIX_PATHS:
        # Those in the abstract namespace begin with a NUL.
        first, second = (
            Address(path=value.rstrip(b"\0").decode("utf-8", "surrogateescape")) for value in values
        )
    else:
        first = Address(_unmapped(ipaddress.ip_address(values[0])), values[2])
        second = Address(_unmapped(ipaddress.ip_address(values[1])), values[3])
    return (first, second), _FIXED + form.size


def _unmapped(address: _Ip) -> str:
    """Return the text of an address, of an IPv4 client on a dual-stack socket its own."""
    return str((address.version == 6 and address.ipv4_mapped) or address)


def _read_tlvs(header: bytes, position: int) -> Tlvs:
    found = []
    while position < len(header):
        if len(header) - position < _TLV.size:
            raise BadProxyHeader("The PROXY header ends within a TLV.")
        kind, length = _TLV.unpack_from(header, position)
        start, position = position + _TLV.size, position + _TLV.size + length
        if position > len(header):
            raise BadProxyHeader("The PROXY header ends within a TLV.")
        if kind == CRC32C:
            _check_sum(header, start, length)
        elif kind != NOOP:
            found.append((kind, header[start:position]))
    return tuple(found)


def _check_sum(header: bytes, start: int, length: int) -> None:
    """Verify a checksum, which is that of the header with zeros in its place (section 2.2.3)."""
    given = header[start : start + length]
    blank = header[:start] + bytes(length) + header[start + length :]
    if given != crc32c(blank).to_bytes(4, "big"):
        raise BadProxyHeader("The PROXY header's checksum is wrong.")


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the checksum of RFC 4960 appendix B."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def build(version: ProxyVersion, source: Source) -> bytes:
    """Return the header that says what `source` does.

    An IPv4 end beside one of IPv6 is told as IPv6.  A line of version 1 has no TLVs, and knows no
    unix sockets: it says UNKNOWN.  Of the TLVs those are left out that would make the header longer
    than `MAX_HEADER`.
    """
    return _build_v1(source) if version == "v1" else _build_v2(source)


def build_own(version: ProxyVersion, ends: tuple[Address, Address]) -> bytes:
    """Return the header of a connection that the sender makes for itself, between these ends.

    Version 1 has no word for that, and not everybody takes UNKNOWN: it names the ends (section
    2.1), as HAProxy does in its checks.
    """
    return build(version, Source(ends) if version == "v1" else Source())


def _build_v1(source: Source) -> bytes:
    if source.ends is None or not all(end.host for end in source.ends):
        return b"PROXY UNKNOWN\r\n"
    client, destination = _same_family(source.ends)
    ports = " ".join(str(end.port) for end in source.ends)
    return f"PROXY TCP{client.version} {client} {destination} {ports}\r\n".encode()


def _build_v2(source: Source) -> bytes:
    if source.ends is None:
        return _SIGNATURE + struct.pack("!BBH", _LOCAL, _UNSPEC, 0)
    kind, payload = _build_ends(source.ends)
    for tlv, value in source.tlvs:
        if _FIXED + len(payload) + _TLV.size + len(value) <= MAX_HEADER:
            payload += _TLV.pack(tlv, len(value)) + value
    return _SIGNATURE + struct.pack("!BBH", _PROXY, kind << 4 | _STREAM, len(payload)) + payload


def _build_ends(ends: tuple[Address, Address]) -> tuple[int, bytes]:
    """Return the address family and the addresses; a unix socket makes both unix ones."""
    if not all(end.host for end in ends):
        return _UNIX, _UNIX_PATHS.pack(*(e.path.encode("utf-8", "surrogateescape") for e in ends))
    client, destination = _same_family(ends)
    kind = 1 if client.version == 4 else 2
    ports = ends[0].port, ends[1].port
    return kind, _INET[kind].pack(client.packed, destination.packed, *ports)


def _same_family(ends: tuple[Address, Address]) -> list[_Ip]:
    found = [ipaddress.ip_address(end.host) for end in ends]
    if found[0].version == found[1].version:
        return found
    return [ipaddress.IPv6Address(f"::ffff:{ip}") if ip.version == 4 else ip for ip in found]


def own_tlvs(request_id: str, tls: TlsFacts | None) -> Tlvs:
    """Return what we know of a client's connection ourselves, its TLS if it came to us with it."""
    unique_id = (UNIQUE_ID, request_id.encode())
    if tls is None:
        return (unique_id,)
    named = ((ALPN, tls.alpn), (AUTHORITY, tls.server_name))
    known = [(kind, text.encode()) for kind, text in named if text]
    return (*known, unique_id, (SSL, _ssl_value(tls)))


def _ssl_value(tls: TlsFacts) -> bytes:
    """Return the value of PP2_TYPE_SSL (section 2.2.6)."""
    flags = _OVER_TLS
    if tls.certificate:
        flags |= _CERTIFICATE_ONCE | (0 if tls.resumed else _CERTIFICATE_NOW)
    parts = ((SSL_VERSION, tls.version), (SSL_CN, tls.common_name[:_MAX_NAME]))
    value = struct.pack("!BI", flags, not tls.certificate)
    for kind, text in (*parts, (SSL_CIPHER, tls.cipher)):
        if text:
            value += _TLV.pack(kind, len(text.encode())) + text.encode()
    return value
