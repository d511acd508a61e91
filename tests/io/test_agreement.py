"""What clients of several kinds agree on with a listener."""

from __future__ import annotations

import functools
import ssl
import warnings
from typing import Any

import pytest
import trustme
from trustme import KeyType

from proxy.config.checks import Invalid
from proxy.config.tls import Tls
from proxy.io.agreement import agree_on, hand_out_tickets

from .in_memory import shake


def server(ca: trustme.CA, **settings: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = Tls(**settings)
    agree_on(context, tls)
    hand_out_tickets(context, tls.tickets)
    for certificate in issued(ca):
        certificate.configure_cert(context)
    return context


@functools.cache
def issued(ca: trustme.CA) -> list[trustme.LeafCert]:
    return [ca.issue_cert("localhost", key_type=kind) for kind in (KeyType.RSA, KeyType.ECDSA)]


def client(
    ca: trustme.CA,
    version: ssl.TLSVersion | None = None,
    ciphers: str = "",
    curve: str = "",
) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if version is not None:
            context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    if curve:
        context.set_ecdh_curve(curve)
    return context


TLS10, TLS11, TLS12, TLS13 = (
    ssl.TLSVersion.TLSv1,
    ssl.TLSVersion.TLSv1_1,
    ssl.TLSVersion.TLSv1_2,
    ssl.TLSVersion.TLSv1_3,
)
VERSIONS = {"1.0": TLS10, "1.1": TLS11, "1.2": TLS12, "1.3": TLS13}


@pytest.mark.parametrize(
    ("minimum", "maximum"),
    [("1.2", "1.3"), ("1.3", "1.3"), ("1.2", "1.2"), ("1.0", "1.3"), ("1.1", "1.1")],
)
def test_versions(minimum: str, maximum: str, ca: trustme.CA) -> None:
    context = server(ca, minimum_version=minimum, maximum_version=maximum)
    agreed = set()
    for name, version in VERSIONS.items():
        try:
            ends = shake(client(ca, version, ciphers="DEFAULT:@SECLEVEL=0"), context)
        except ssl.SSLError:
            continue
        assert ends.client.version() == {"1.0": "TLSv1"}.get(name, f"TLSv{name}")
        agreed.add(name)

    assert agreed == {name for name in VERSIONS if minimum <= name <= maximum}


@pytest.mark.parametrize(
    "cipher",
    [
        "ECDHE-RSA-AES128-SHA256",  # CBC
        "ECDHE-ECDSA-AES256-SHA",
        "AES128-GCM-SHA256",  # no forward secrecy
    ],
)
def test_no_weak_cipher_by_default(cipher: str, ca: trustme.CA) -> None:
    weak = client(ca, TLS12, f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(weak, server(ca))

    assert shake(weak, server(ca, ciphers=cipher)).cipher == cipher


def test_all_of_the_default_are_of_today(ca: trustme.CA) -> None:
    names = {one["name"] for one in server(ca).get_ciphers()}
    old = {name for name in names if not name.startswith("TLS_")}

    assert len(old) == 6
    assert all(name.startswith("ECDHE-") for name in old)
    assert all("GCM" in name or "POLY1305" in name for name in old)


AES, CHACHA = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"
AES256 = "ECDHE-ECDSA-AES256-GCM-SHA384"


@pytest.mark.parametrize(
    ("ours", "wanted", "agreed"),
    [
        (True, f"{AES}:{AES256}", AES256),
        (False, f"{AES}:{AES256}", AES),
        # It has no hardware for AES.
        (True, f"{CHACHA}:{AES256}", CHACHA),
        (True, f"{AES}:{CHACHA}:{AES256}", AES256),
    ],
)
def test_preference(ours: bool, wanted: str, agreed: str, ca: trustme.CA) -> None:
    context = server(ca, prefer_server_ciphers=ours)

    assert shake(client(ca, TLS12, wanted), context).cipher == agreed


def test_curve(ca: trustme.CA) -> None:
    context = server(ca, curve="secp384r1")
    shake(client(ca, curve="secp384r1"), context)
    with pytest.raises(ssl.SSLError):
        shake(client(ca, curve="prime256v1"), context)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_clients_resume_with_a_ticket(version: ssl.TLSVersion, ca: trustme.CA) -> None:
    near, context = client(ca, version), server(ca)
    session = shake(near, context).client.session
    assert session is not None
    assert session.has_ticket
    assert shake(near, context, session=session).client.session_reused


def test_no_tickets(ca: trustme.CA) -> None:
    context = server(ca, tickets=0)
    for version in (TLS12, TLS13):
        session = shake(client(ca, version), context).client.session
        assert session is None or not session.has_ticket
    near = client(ca, TLS13)
    session = shake(near, context).client.session
    assert not shake(near, context, session=session).client.session_reused


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        ({"ciphers": "nonsense"}, "ciphers", "OpenSSL knows no such cipher of TLS 1.2: 'nonsense'"),
        ({"curve": "nonsense"}, "curve", "must be one curve that this Python can set, like"),
        ({"curve": "secp384r1:prime256v1"}, "curve", "must be one curve"),
    ],
)
def test_faults(settings: dict[str, str], key: str, reason: str, ca: trustme.CA) -> None:
    with pytest.raises(Invalid) as caught:
        server(ca, **settings)

    ((where, why),) = caught.value.faults
    assert where == key
    assert why.startswith(reason)
