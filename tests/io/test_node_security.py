"""Sessions with nodes, taken up again: over handshakes, with nodes of both versions."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
import trustme

from proxy.io.node_security import PAUSE, VERIFIED_FOR, NodeSecurity, why_failed

from .in_memory import agree
from .test_client_certificates import VERSIONS


def node(
    ca: trustme.CA, version: ssl.TLSVersion = VERSIONS[1], *, tickets: bool = True
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    ca.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def security(client_tls: ssl.SSLContext) -> NodeSecurity:
    return NodeSecurity(client_tls, "localhost")


def connect(
    security: NodeSecurity, far: ssl.SSLContext, now: float = 0.0, *, answers: bool = True
) -> bool:
    """Shake hands as `dial` does; return whether the session was taken up.

    A node that does not answer has not sent its tickets either.
    """
    to_far, to_near = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = security.session(now)
    near = security.context.wrap_bio(
        to_near, to_far, server_hostname=security.server_name, session=session
    )
    node = far.wrap_bio(to_far, to_near, server_side=True)
    try:
        agree(near, node)
    except ssl.SSLError:
        security.failed()
        raise
    security.shaken(near, now)
    if answers:
        node.write(b"x")
        assert near.read(1) == b"x"
    with suppress(ssl.SSLWantReadError):
        # Without a goodbye it would forget the session.
        node.unwrap()
    return bool(near.session_reused)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tickets", [True, False])
def test_session_is_taken_up_as_often_as_there_is_a_connection(
    ca: trustme.CA, security: NodeSecurity, version: ssl.TLSVersion, *, tickets: bool
) -> None:
    """In TLS 1.2 there are sessions without tickets, which the node remembers."""
    far = node(ca, version, tickets=tickets)
    expected = tickets or version is ssl.TLSVersion.TLSv1_2
    assert [connect(security, far) for _ in range(4)] == [False, *[expected] * 3]


def test_ticket_that_comes_late(ca: trustme.CA, security: NodeSecurity) -> None:
    far = node(ca)
    assert not connect(security, far, 0.0, answers=False)
    # Not there yet, and not looked for again at once.
    assert not connect(security, far, 1.0)
    assert not connect(security, far, 1.0 + PAUSE / 2)
    assert connect(security, far, 1.0 + PAUSE)


@pytest.mark.parametrize("version", VERSIONS)
def test_node_that_was_started_anew(
    ca: trustme.CA, security: NodeSecurity, version: ssl.TLSVersion
) -> None:
    """It cannot read the ticket, shakes hands in full, and nobody notices."""
    before, after = node(ca, version), node(ca, version)
    connect(security, before)
    assert connect(security, before)
    assert [connect(security, after) for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize("version", VERSIONS)
def test_node_that_became_another_one_is_verified(
    ca: trustme.CA, security: NodeSecurity, version: ssl.TLSVersion
) -> None:
    connect(security, node(ca, version))
    assert security.session(0.0)
    stranger = node(trustme.CA(), version)
    for _ in range(2):
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(security, stranger)
        assert security.session(0.0) is None


def test_node_is_verified_again_however_often_its_session_was_taken_up(
    ca: trustme.CA, security: NodeSecurity
) -> None:
    far = node(ca)
    connect(security, far, 0.0)
    times = [VERIFIED_FOR / 2, VERIFIED_FOR - 1, VERIFIED_FOR, VERIFIED_FOR + 1]
    assert [connect(security, far, now) for now in times] == [True, True, False, True]


def test_failure_with_a_session_is_not_repeated(ca: trustme.CA, security: NodeSecurity) -> None:
    connect(security, node(ca))
    assert security.session(0.0)
    security.failed()
    assert security.session(0.0) is None


def test_no_reuse_unless_wanted(ca: trustme.CA, client_tls: ssl.SSLContext) -> None:
    security, far = NodeSecurity(client_tls, "localhost", reuse=False), node(ca)
    assert [connect(security, far) for _ in range(3)] == [False] * 3


def test_why_a_node_is_not_believed(ca: trustme.CA, client_tls: ssl.SSLContext) -> None:
    """OpenSSL ends a sentence with a full stop, or does not."""
    elsewhere = NodeSecurity(client_tls, "other.example.org")
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        connect(elsewhere, node(ca))
    told = why_failed(caught.value)
    assert told.startswith("The node's certificate was not accepted: Hostname mismatch")
    assert told.endswith("'other.example.org'.")
