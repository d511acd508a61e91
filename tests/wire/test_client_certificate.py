"""What is told of a client's certificate, and what nobody else may tell."""

from __future__ import annotations

import re
from base64 import b64decode
from hashlib import sha256
from typing import get_args

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.forwarding import CertificateFact
from proxy.wire.client_certificate import (
    SAMPLE,
    ClientCertificate,
    certificate_headers,
    distinguished_name,
    tells_of_certificates,
)

ALL: tuple[CertificateFact, ...] = get_args(CertificateFact)
ADA = ((("countryName", "GB"),), (("organizationName", "Engines"),), (("commonName", "Ada"),))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ((), ""),
        (ADA, "CN=Ada,O=Engines,C=GB"),
        (
            ((("commonName", "a"), ("userId", "b")), (("streetAddress", "c"),)),
            "STREET=c,CN=a+UID=b",
        ),
        (((("emailAddress", "a@b"),),), "emailAddress=a@b"),
        (((("1.2.3.4", "x"),),), "1.2.3.4=x"),
        (((("commonName", ""),),), "CN="),
        (((("commonName", 'a,b+"c"\\<d>;'),),), 'CN=a\\,b\\+\\"c\\"\\\\\\<d\\>\\;'),
        (((("commonName", "#a"),),), "CN=\\#a"),
        (((("commonName", " a b "),),), "CN=\\ a b\\ "),
        (((("commonName", " "),),), "CN=\\ "),
        (((("commonName", "Lövelace"),),), "CN=L\\C3\\B6velace"),
        (((("commonName", "a\r\nX: \0\x7f"),),), "CN=a\\0D\\0AX: \\00\\7F"),
    ],
)
def test_names_as_text(name: tuple[tuple[tuple[str, str], ...], ...], text: str) -> None:
    assert distinguished_name(name) == text


KINDS = {
    "commonName": x509.NameOID.COMMON_NAME,
    "organizationName": x509.NameOID.ORGANIZATION_NAME,
    "domainComponent": x509.NameOID.DOMAIN_COMPONENT,
}
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
names = st.lists(
    st.lists(st.tuples(st.sampled_from([*KINDS]), texts), min_size=1, max_size=2, unique=True),
    max_size=4,
)


@given(names)
def test_any_name_can_be_sent_and_read_again(name: list[list[tuple[str, str]]]) -> None:
    """By another reader, and to the letter: whose name it is must not be a matter of quotes."""
    text = distinguished_name(name)
    assert text.isascii()
    assert text.isprintable() or not text
    read = x509.Name.from_rfc4514_string(text)
    expected = [sorted((KINDS[kind].dotted_string, value) for kind, value in part) for part in name]
    found = [sorted((a.oid.dotted_string, a.value) for a in part) for part in read.rdns]
    assert found == expected


def test_facts_and_headers() -> None:
    der = bytes(range(256))
    shown = ClientCertificate.of(der, ADA, "0A")
    assert (shown.subject, shown.common_name, shown.serial) == (
        "CN=Ada,O=Engines,C=GB",
        "Ada",
        "0A",
    )
    assert shown.sha256 == sha256(der).hexdigest()
    headers = certificate_headers(shown, ALL)
    assert headers == [
        (b"X-SSL-Client-Verify", b"SUCCESS"),
        (b"X-SSL-Client-Subject", b"CN=Ada,O=Engines,C=GB"),
        (b"X-SSL-Client-Serial", b"0A"),
        (b"X-SSL-Client-Fingerprint", shown.sha256.encode()),
        (b"Client-Cert", headers[-1][1]),
    ]
    encoded = re.fullmatch(rb":(.*):", headers[-1][1])
    assert encoded is not None
    assert b64decode(encoded[1], validate=True) == der

    assert certificate_headers(shown, ("serial", "verify")) == [headers[2], headers[0]]
    assert certificate_headers(shown, ()) == []
    assert certificate_headers(None, ALL) == [(b"X-SSL-Client-Verify", b"NONE")]
    assert certificate_headers(None, ("subject",)) == []
    assert [name for name, _ in certificate_headers(SAMPLE, ALL)] == [name for name, _ in headers]


def test_what_is_too_long_is_left_out_and_not_cut() -> None:
    fits = ClientCertificate.of(b"x" * 4000, ((("commonName", "a" * 1021),),), "1")
    assert len(certificate_headers(fits, ALL)) == 5
    long = ClientCertificate.of(b"x" * 5000, ((("commonName", "a" * 1022),),), "1" * 1025)
    told = [name for name, _ in certificate_headers(long, ALL)]
    assert told == [b"X-SSL-Client-Verify", b"X-SSL-Client-Fingerprint"]
    assert len(long.subject) == 1025


def test_what_cannot_be_known_is_left_out() -> None:
    unknown = ClientCertificate.of(b"x", (), "")
    assert (unknown.subject, unknown.common_name) == ("", "")
    told = [name for name, _ in certificate_headers(unknown, ALL)]
    assert told == [b"X-SSL-Client-Verify", b"X-SSL-Client-Fingerprint", b"Client-Cert"]


@pytest.mark.parametrize(
    "name",
    [
        *[name for name, _ in certificate_headers(SAMPLE, ALL)],
        b"x-ssl-client-verify",
        b"X_SSL_Client_Verify",
        b"X-SSL_CLIENT-S-DN",
        b"CLIENT_CERT",
        b"Client-Cert-Chain",
        b"ssl-client-verify",
        b"X-Forwarded-Client-Cert",
        b"X-Forwarded-Tls-Client-Cert-Info",
        b"X-Amzn-Mtls-Clientcert-Subject",
    ],
)
def test_headers_that_are_no_clients(name: bytes) -> None:
    assert tells_of_certificates(name)


@pytest.mark.parametrize(
    "name", [b"Client", b"X-SSL", b"SSL", b"X-Forwarded-For", b"My-Client-Cert"]
)
def test_other_headers(name: bytes) -> None:
    assert not tells_of_certificates(name)
