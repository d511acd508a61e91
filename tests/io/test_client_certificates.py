"""Who is asked for a certificate, who is accepted, and what comes of tickets: over handshakes."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.config.checks import Invalid
from proxy.config.client_certificates import ClientCertificates
from proxy.io.client_certificates import ask_for_certificates, contents, warnings

from .certificates import NOW, WEEK, revoked

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    """The CA of the clients' certificates."""
    return trustme.CA()


@pytest.fixture(scope="module")
def ada(clients: trustme.CA) -> trustme.LeafCert:
    return clients.issue_cert("ada@example.org", common_name="Ada")


@pytest.fixture(params=VERSIONS, ids=["1.2", "1.3"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    found: ssl.TLSVersion = request.param
    return found


def listener(
    ca: trustme.CA, config: ClientCertificates, version: ssl.TLSVersion = VERSIONS[1]
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    ca.issue_cert("localhost").configure_cert(context)
    ask_for_certificates(context, config)
    return context


def client(ca: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def shake_hands(
    near: ssl.SSLContext, far: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return both ends once each has heard from the other; the client's has its ticket then."""
    to_far, to_near = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        near.wrap_bio(to_near, to_far, server_hostname="localhost", session=session),
        far.wrap_bio(to_far, to_near, server_side=True),
    )
    left = [*ends]
    while left:
        for end in list(left):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(end)
    ends[1].write(b"x")
    assert ends[0].read(1) == b"x"
    return ends


def write(folder: Path, name: str, *parts: bytes) -> Path:
    (folder / name).write_bytes(b"".join(parts))
    return folder / name


def test_nobody_is_asked_by_default(tmp_path: Path, ca: trustme.CA, ada: trustme.LeafCert) -> None:
    file = write(tmp_path, "ca.pem", ca.cert_pem.bytes())
    for config in (None, ClientCertificates(mode="off", ca_file=file)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ask_for_certificates(context, config)
        assert context.verify_mode == ssl.CERT_NONE
        ca.issue_cert("localhost").configure_cert(context)
        assert shake_hands(client(ca, ada), context)[1].getpeercert() is None


def test_modes(
    tmp_path: Path,
    ca: trustme.CA,
    clients: trustme.CA,
    ada: trustme.LeafCert,
    version: ssl.TLSVersion,
) -> None:
    file = write(tmp_path, "ca.pem", clients.cert_pem.bytes())
    optional = listener(ca, ClientCertificates(mode="optional", ca_file=file), version)
    required = listener(ca, ClientCertificates(ca_file=file), version)

    assert not shake_hands(client(ca), optional)[1].getpeercert()
    for context in (optional, required):
        assert shake_hands(client(ca, ada), context)[1].getpeercert()
        with pytest.raises(ssl.SSLCertVerificationError, match=r"local issuer|self.signed"):
            shake_hands(client(ca, ca.issue_cert("eve@example.org")), context)
    with pytest.raises(ssl.SSLError, match="peer did not return a certificate"):
        shake_hands(client(ca), required)


def test_what_is_in_the_file_is_trusted_and_not_what_has_signed_it(
    tmp_path: Path, ca: trustme.CA
) -> None:
    root = trustme.CA()
    here, there = root.create_child_ca(), root.create_child_ca()
    file = write(tmp_path, "ca.pem", here.cert_pem.bytes())
    context = listener(ca, ClientCertificates(ca_file=file))

    assert shake_hands(client(ca, here.issue_cert("ada@example.org")), context)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client(ca, there.issue_cert("ada@example.org")), context)


def test_revoked(
    tmp_path: Path,
    ca: trustme.CA,
    clients: trustme.CA,
    ada: trustme.LeafCert,
    version: ssl.TLSVersion,
) -> None:
    file = write(tmp_path, "ca.pem", clients.cert_pem.bytes())
    crl = write(tmp_path, "crl.pem", revoked(clients, ada))
    context = listener(ca, ClientCertificates(ca_file=file, crl_file=crl), version)

    assert shake_hands(client(ca, clients.issue_cert("bob@example.org")), context)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(client(ca, ada), context)


def test_lists_of_the_whole_chain_or_of_the_last_ca(tmp_path: Path, ca: trustme.CA) -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    ada, bob = middle.issue_cert("ada@example.org"), middle.issue_cert("bob@example.org")
    last = revoked(middle, ada)

    def accepts(who: trustme.LeafCert, crl: bytes, *authorities: trustme.CA, check: Any) -> str:
        config = ClientCertificates(
            ca_file=write(tmp_path, "ca.pem", *(one.cert_pem.bytes() for one in authorities)),
            crl_file=write(tmp_path, "crl.pem", crl),
            crl_check=check,
        )
        told = [text for _, text in warnings(config, NOW)]
        try:
            shake_hands(client(ca, who), listener(ca, config))
        except ssl.SSLCertVerificationError as exc:
            return f"{exc.verify_message}: {'; '.join(told)}"
        assert told == []
        return "yes"

    both = last + revoked(root)
    assert accepts(bob, both, root, check="chain") == "yes"
    assert accepts(ada, both, root, check="chain") == "certificate revoked: "
    assert accepts(bob, both, root, middle, check="chain") == "yes"
    assert (
        accepts(bob, last + revoked(root, middle), root, check="chain") == "certificate revoked: "
    )
    # What is missing is warned of where it can be seen.
    for authorities in ((root,), (root, middle)):
        told = accepts(bob, last, *authorities, check="chain")
        assert told.startswith("unable to get certificate CRL: has no list of ")
    assert "has no root" in accepts(bob, last, middle, check="chain")
    for authorities in ((root,), (middle,), (root, middle)):
        assert accepts(bob, last, *authorities, check="leaf") == "yes"
        assert accepts(ada, last, *authorities, check="leaf") == "certificate revoked: "


def test_list_that_has_expired_refuses_everybody(
    tmp_path: Path, ca: trustme.CA, clients: trustme.CA, ada: trustme.LeafCert
) -> None:
    stale = revoked(clients, until=NOW - timedelta(seconds=1))
    config = ClientCertificates(
        ca_file=write(tmp_path, "ca.pem", clients.cert_pem.bytes()),
        crl_file=write(tmp_path, "crl.pem", stale),
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="CRL has expired"):
        shake_hands(client(ca, ada), listener(ca, config))
    ((key, text),) = warnings(config, NOW)
    assert key == "crl_file"
    assert text.startswith("the list of ")
    assert f"has expired, on {NOW - timedelta(seconds=1):%Y-%m-%d %H:%M} UTC" in text
    assert [*warnings(config, NOW - WEEK)] == []

    # One that is good beside it is enough.
    write(tmp_path, "crl.pem", stale, revoked(clients))
    assert [*warnings(config, NOW)] == []
    assert shake_hands(client(ca, ada), listener(ca, config))


@pytest.mark.parametrize(
    ("ca_file", "crl_file", "key", "reason"),
    [
        (b"", b"list", "ca_file", "is no PEM file of such"),
        (b"list", b"list", "ca_file", "has no certificate"),
        (b"ca", b"", "crl_file", "is no PEM file of such"),
        (b"ca", b"ca", "crl_file", "has no revocation list"),
        (b"ca", b"other", "crl_file", "has certificates, which belong in ca_file"),
        (b"ca", None, "crl_file", "No such file"),
    ],
)
def test_faults(
    ca_file: bytes,
    crl_file: bytes | None,
    key: str,
    reason: str,
    tmp_path: Path,
    clients: trustme.CA,
) -> None:
    parts = {b"ca": clients.cert_pem.bytes(), b"list": revoked(clients), b"": b""}
    parts[b"other"] = trustme.CA().cert_pem.bytes() + revoked(clients)
    config = ClientCertificates(
        ca_file=write(tmp_path, "ca.pem", parts[ca_file]),
        crl_file=write(tmp_path, "crl.pem", parts[crl_file])
        if crl_file is not None
        else tmp_path / "no",
    )
    with pytest.raises(Invalid) as caught:
        ask_for_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config)
    ((found, text),) = caught.value.faults
    assert (found, text.startswith(reason)) == (key, True), text
    # Which is no reason to raise here.
    assert all(len(warning) == 2 for warning in warnings(config, NOW))


def test_who_was_revoked_does_not_come_back_with_a_ticket(
    tmp_path: Path,
    ca: trustme.CA,
    clients: trustme.CA,
    ada: trustme.LeafCert,
    version: ssl.TLSVersion,
) -> None:
    """Within one context a ticket is as good as the certificate; a new list is a new context."""
    file = write(tmp_path, "ca.pem", clients.cert_pem.bytes())
    crl = write(tmp_path, "crl.pem", revoked(clients))
    config = ClientCertificates(ca_file=file, crl_file=crl)
    before, near = listener(ca, config, version), client(ca, ada)
    session = shake_hands(near, before)[0].session
    again, far = shake_hands(near, before, session)
    assert again.session_reused
    assert far.getpeercert()

    write(tmp_path, "crl.pem", revoked(clients, ada))
    after = listener(ca, config, version)
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(near, after, session)


def test_contents(tmp_path: Path) -> None:
    file, crl = write(tmp_path, "ca.pem", b"ca"), write(tmp_path, "crl.pem", b"1")
    config = ClientCertificates(ca_file=file, crl_file=crl)
    assert contents(config) == (b"ca", b"1")
    write(tmp_path, "crl.pem", b"2")
    assert contents(config) == (b"ca", b"2")
    crl.unlink()
    with pytest.raises(Invalid, match="No such file"):
        contents(config)
    assert contents(None) == contents(ClientCertificates(mode="off", ca_file=file)) == ()


def test_a_ticket_is_of_its_listener(
    tmp_path: Path, ca: trustme.CA, clients: trustme.CA, version: ssl.TLSVersion
) -> None:
    """Nor does one without certificate open where one is required."""
    file = write(tmp_path, "ca.pem", clients.cert_pem.bytes())
    required = listener(ca, ClientCertificates(ca_file=file), version)
    plain = listener(ca, ClientCertificates(mode="off"), version)
    optional = listener(ca, ClientCertificates(mode="optional", ca_file=file), version)
    near = client(ca)
    for other in (plain, optional):
        session = shake_hands(near, other)[0].session
        assert shake_hands(near, other, session)[0].session_reused
        with pytest.raises(ssl.SSLError, match="peer did not return a certificate"):
            shake_hands(near, required, session)
