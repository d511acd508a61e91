"""A client's certificate, and how nodes are told of it.

Headers are there where a fact is wanted and known: a subject or a certificate that is too long for
one is left out, not cut short, which might make it somebody else's.  All are plain ASCII.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

import attrs

from proxy.config.forwarding import CertificateFact

#: A distinguished name as `ssl.SSLSocket.getpeercert` has it: sets of pairs, the root's end first.
Name = Iterable[Iterable[tuple[str, str]]]
Line = tuple[bytes, bytes]

#: Bytes of a header: node.js and others take 8 to 16 KiB for all of a request's.
_LONGEST_NAME: Final = 1024
_LONGEST_CERTIFICATE: Final = 6 * 1024
#: RFC 4514 section 3; other types have the names that OpenSSL gives them.
_TYPES: Final = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
#: RFC 4514 section 2.4.
_SPECIAL: Final = frozenset('"+,;<>\\')
#: What nodes may take for the word of a proxy about a certificate: ours, and those of others.
_PREFIXES: Final = (
    b"client-cert",
    b"ssl-client-",
    b"x-amzn-mtls-clientcert",
    b"x-client-cert",
    b"x-forwarded-client-cert",
    b"x-forwarded-tls-client-cert",
    b"x-ssl-client-",
)


def distinguished_name(name: Name) -> str:
    """Return a name as text (RFC 4514), its last part first; what is not ASCII is escaped."""
    parts = [
        "+".join(f"{_TYPES.get(kind, kind)}={_escaped(text)}" for kind, text in part)
        for part in name
    ]
    return ",".join(reversed(parts))


def _escaped(text: str) -> str:
    escaped = [_character(one) for one in text]
    if escaped and text[0] in " #":
        escaped[0] = "\\" + text[0]
    if len(escaped) > 1 and text[-1] == " ":
        escaped[-1] = "\\ "
    return "".join(escaped)


def _character(one: str) -> str:
    if one in _SPECIAL:
        return "\\" + one
    if one.isascii() and one.isprintable():
        return one
    return "".join(f"\\{byte:02X}" for byte in one.encode("utf-8", "surrogatepass"))


@attrs.frozen
class ClientCertificate:
    """A certificate that a client has shown, and that was accepted."""

    #: RFC 4514, "" where it cannot be told.
    subject: str
    common_name: str
    #: In hexadecimal.
    serial: str
    #: Of the whole certificate, in hexadecimal.
    sha256: str
    #: What nodes can be told of it, made once for all requests of a connection.
    lines: dict[CertificateFact, Line] = attrs.field(repr=False, eq=False, factory=dict)

    @classmethod
    def of(cls, der: bytes, subject: Name, serial: str) -> ClientCertificate:
        """Tell of a certificate (DER) what nodes may want to know."""
        subject = [list(part) for part in subject]
        name = distinguished_name(subject)
        pairs = [pair for part in subject for pair in part]
        common_name = next((text for kind, text in pairs if kind == "commonName"), "")
        fingerprint = sha256(der).hexdigest()
        # RFC 9440 section 2.1
        encoded = b":" + b64encode(der) + b":"
        values: dict[CertificateFact, bytes] = {
            "verify": b"SUCCESS",
            "subject": name.encode() if len(name) <= _LONGEST_NAME else b"",
            "serial": serial.encode() if len(serial) <= _LONGEST_NAME else b"",
            "fingerprint": fingerprint.encode(),
            "certificate": encoded if len(encoded) <= _LONGEST_CERTIFICATE else b"",
        }
        lines = {fact: (_HEADERS[fact], value) for fact, value in values.items() if value}
        return cls(name, common_name, serial, fingerprint, lines)


_HEADERS: Final[dict[CertificateFact, bytes]] = {
    "verify": b"X-SSL-Client-Verify",
    "subject": b"X-SSL-Client-Subject",
    "serial": b"X-SSL-Client-Serial",
    "fingerprint": b"X-SSL-Client-Fingerprint",
    "certificate": b"Client-Cert",
}
_NONE: Final[dict[CertificateFact, Line]] = {"verify": (_HEADERS["verify"], b"NONE")}
#: Stands where each certificate has its own.
SAMPLE: Final = ClientCertificate(
    subject="",
    common_name="",
    serial="",
    sha256="",
    lines={
        fact: (name, b"SUCCESS" if fact == "verify" else b"(of each certificate)")
        for fact, name in _HEADERS.items()
    },
)


def certificate_headers(
    certificate: ClientCertificate | None, wanted: Sequence[CertificateFact]
) -> list[Line]:
    """Return what a node is told; of a client without a certificate, that it has none."""
    lines = _NONE if certificate is None else certificate.lines
    return [lines[fact] for fact in wanted if fact in lines]


def tells_of_certificates(name: bytes) -> bool:
    """Whether a node may take this header for a proxy's word; `_` and `-` are one (CGI, WSGI)."""
    return name.lower().replace(b"_", b"-").startswith(_PREFIXES)
