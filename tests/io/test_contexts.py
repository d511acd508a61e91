"""TLS contexts, and what is said of files that cannot make one."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.config.load import parse_config
from proxy.config.model import Config
from proxy.errors import ConfigError
from proxy.io.contexts import Contexts, make_contexts, remarks

from .handshakes import shake
from .test_client_certificates import shake_hands


@pytest.fixture
def folder(tmp_path: Path, ca: trustme.CA) -> Path:
    write(tmp_path, ca, "cert.pem", "key.pem", "localhost")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("other").private_key_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / "empty.pem").write_text("")
    return tmp_path


def write(folder: Path, ca: trustme.CA, cert: str, key: str, *names: str) -> None:
    issued = ca.issue_cert(*names)
    issued.private_key_pem.write_to_path(folder / key)
    issued.cert_chain_pems[0].write_to_path(folder / cert)


def configure(
    folder: Path,
    cert: str = "cert.pem",
    key: str = "key.pem",
    ca: str = "",
    *,
    more: str = "",
    defaults: str = "",
) -> Config:
    text = f"""
        [tls]
        {defaults}
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = {{ certificates = [ {{ cert_file = "{cert}", key_file = "{key}" }} ]{more} }}
        [[listeners]]
        bind = "127.0.0.1:0"
        [[routes]]
        path = "/"
        upstream = "u"
        [upstreams.u]
        nodes = [ "127.0.0.1:1" ]
        tls = {{ {f'ca_file = "{ca}"' if ca else ""} }}
    """
    return parse_config(text, name="test", folder=folder)


def shown_by(contexts: Contexts) -> ssl.SSLContext:
    (listener, _) = contexts.listeners
    assert listener is not None
    found = listener.choose("localhost")
    assert found is not None
    return found


def test_contexts(folder: Path) -> None:
    contexts = make_contexts(configure(folder, ca="ca.pem"))
    listener, plain = contexts.listeners

    assert plain is None
    assert listener is not None
    tls = listener.choose("")
    assert tls is not None
    assert tls.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.options & ssl.OP_NO_RENEGOTIATION
    upstream = contexts.upstreams["u"]
    assert upstream.verify_mode == ssl.CERT_REQUIRED
    assert upstream.check_hostname
    assert len(upstream.get_ca_certs()) == 1
    for context in (tls, upstream):
        assert context.options & ssl.OP_IGNORE_UNEXPECTED_EOF, "not all Pythons do"


def test_faults_of_certificates(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_contexts(configure(folder, "cert.pem", "empty.pem"), "file.toml")

    (problem,) = caught.value.problems
    where = "file.toml: listeners[0].tls.certificates[0].key_file"
    assert problem == f"{where}: is not a key in PEM: {folder / 'empty.pem'}"


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"more": ", ciphers = 'no'"}, "listeners[0].tls.ciphers: OpenSSL knows no such cipher"),
        ({"defaults": "ciphers = 'no'"}, "tls.ciphers: OpenSSL knows no such cipher"),
        ({"more": ", curve = 'no'"}, "listeners[0].tls.curve: must be one curve"),
        ({"defaults": "curve = 'no'"}, "tls.curve: must be one curve"),
    ],
)
def test_faults_of_settings(keys: dict[str, str], fault: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_contexts(configure(folder, **keys), "file.toml")

    (problem,) = caught.value.problems
    assert problem.startswith(f"file.toml: {fault}")


def test_two_certificates_for_one_name(folder: Path) -> None:
    files = "{ cert_file = 'cert.pem', key_file = 'key.pem' }"
    text = f"[[listeners]]\nbind = '127.0.0.1:0'\ntls.certificates = [ {files}, {files} ]\n"
    respond = "[[routes]]\nprefix = '/'\nrespond = { status = 200 }\n"
    with pytest.raises(ConfigError, match=r"certificates\[1\]: is for 'localhost' with ECDSA"):
        make_contexts(parse_config(text + respond, folder=folder))


def test_rejecting_everybody_is_a_fault(folder: Path, ca: trustme.CA) -> None:
    write(folder, ca, "address.pem", "address-key.pem", "127.0.0.1")
    config = configure(folder, "address.pem", "address-key.pem", more=", unknown_sni = 'reject'")
    with pytest.raises(ConfigError, match=r"tls\.unknown_sni: refuses everybody"):
        make_contexts(config)


def test_what_a_listener_is_told(folder: Path) -> None:
    more = ", unknown_sni = 'reject', handshake_timeout = 3"
    listener, _ = make_contexts(configure(folder, more=more)).listeners
    assert listener is not None
    assert listener.handshake_timeout == 3.0
    assert listener.choose("other") is None
    assert listener.choose("localhost") is not None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"defaults": "tickets = 1"}, True),
        ({"more": ", handshake_timeout = 3"}, True),
        ({"more": ", unknown_sni = 'reject'"}, True),
        ({"more": ", tickets = 2"}, False),
        ({"defaults": "maximum_version = '1.2'"}, False),
    ],
)
def test_contexts_that_would_be_the_same_stay(
    change: dict[str, str], same: bool, folder: Path, client_tls: ssl.SSLContext
) -> None:
    """So what tickets are sealed with stays, and clients resume across a reload."""
    before = make_contexts(configure(folder))
    session = shake(client_tls, shown_by(before)).client.session
    after = make_contexts(configure(folder, **change), before=before)

    assert (shown_by(after) is shown_by(before)) == same
    assert shake(client_tls, shown_by(after), session=session).client.session_reused == same


def test_a_renewed_certificate_has_a_context_of_its_own(folder: Path, ca: trustme.CA) -> None:
    before = make_contexts(configure(folder))
    write(folder, ca, "cert.pem", "key.pem", "localhost")

    assert shown_by(make_contexts(configure(folder), before=before)) is not shown_by(before)


def test_processes_that_are_made_later_resume_each_others_sessions(
    folder: Path, client_tls: ssl.SSLContext
) -> None:
    """What tickets are sealed with is made with the context, and a fork takes it along."""
    server = shown_by(make_contexts(configure(folder)))
    ends = [socket.socketpair() for _ in range(2)]
    children = [_serve_in_a_child(server, far) for _, far in ends]
    session, resumed = None, []
    for near, far in ends:
        far.close()
        with client_tls.wrap_socket(near, server_hostname="localhost", session=session) as client:
            assert client.recv(1) == b"x"
            resumed.append(client.session_reused)
            session = client.session

    assert resumed == [False, True]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def _serve_in_a_child(tls: ssl.SSLContext, sock: socket.socket) -> int:
    if child := os.fork():
        return child
    try:
        with tls.wrap_socket(sock, server_side=True) as served:
            served.send(b"x")
    finally:
        # Nothing of pytest's must run twice.
        os._exit(0)


def test_remarks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(folder, more=", minimum_version = '1.1'")
    contexts = make_contexts(config)
    (old,) = remarks(config, contexts)
    assert old.startswith("listeners[0].tls.minimum_version: 1.1 is deprecated (RFC 8996)")
    _, late = remarks(config, contexts, now=10**11)
    assert late.startswith("listeners[0].tls.certificates[0].cert_file: has expired on ")


def test_faults_of_both_legs_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_contexts(configure(folder, key="other.pem", ca="empty.pem"), "file.toml")

    assert len(caught.value.problems) == 2
    assert "upstreams.u.tls.ca_file" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ("", False),
        ('host = "localhost"', False),
        ('host = "other.example.org"', True),
        # How deep it goes is not said.
        ('host = "*.example.org"', False),
        ('host = "other.example.org"\nlistener = "plain"', False),
        ('host = "other.example.org"\nlistener = "secure"', True),
    ],
)
def test_hosts_that_no_certificate_is_for(route: str, told: bool, folder: Path) -> None:
    files = 'cert_file = "cert.pem", key_file = "key.pem"'
    text = f"""
        [[listeners]]
        name = "plain"
        bind = "127.0.0.1:0"
        [[listeners]]
        name = "secure"
        bind = "127.0.0.1:0"
        tls.certificates = [ {{ {files} }} ]
        [[routes]]
        prefix = "/"
        respond = {{ status = 200 }}
        {route}
    """
    config = parse_config(text, folder=folder)
    said = list(remarks(config, make_contexts(config)))

    assert len(said) == told
    start = "routes[0].host: no certificate is for 'other.example.org': "
    assert all(one.startswith(start) for one in said)


def test_upstreams_that_trust_the_same_share_what_was_loaded(folder: Path) -> None:
    tls = {
        "a": 'ca_file = "ca.pem"',
        "b": 'ca_file = "ca.pem", server_name = "n"',
        "c": 'ca_file = "cert.pem"',
    }
    text = "".join(
        f'[upstreams.{name}]\nnodes = [ "127.0.0.1:1" ]\ntls = {{ {keys} }}\n'
        for name, keys in tls.items()
    )
    route = '[[routes]]\npath = "/"\nupstream = "a"\n'
    config = parse_config(f'[[listeners]]\nbind = "127.0.0.1:0"\n{route}{text}', folder=folder)
    contexts = make_contexts(config).upstreams

    assert contexts["a"] is contexts["b"]
    assert contexts["a"] is not contexts["c"]
    # The next time the files are read again.
    assert make_contexts(config).upstreams["a"] is not contexts["a"]


def towards(folder: Path, tls: str) -> ssl.SSLContext:
    text = f"""
        [[listeners]]
        bind = "127.0.0.1:0"
        [[routes]]
        path = "/"
        upstream = "u"
        [upstreams.u]
        nodes = [ "localhost:1" ]
        tls = {{ {tls} }}
    """
    return make_contexts(parse_config(text, folder=folder), "t").upstreams["u"]


def test_versions_towards_nodes(folder: Path) -> None:
    context = towards(folder, "")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.maximum_version == ssl.TLSVersion.TLSv1_3
    context = towards(folder, 'minimum_version = "1.3"')
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    context = towards(folder, 'maximum_version = "1.2"')
    assert context.maximum_version == ssl.TLSVersion.TLSv1_2


def test_nodes_are_verified_whatever_is_said(folder: Path, ca: trustme.CA) -> None:
    for context in (towards(folder, ""), towards(folder, 'ca_file = "ca.pem"')):
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("localhost").configure_cert(stranger)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(context, stranger)
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("other.example").configure_cert(other)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(context, other)


def test_a_nodes_own_certificate_can_be_trusted(folder: Path, ca: trustme.CA) -> None:
    """Whoever has signed it, if anybody; and then no other one of that name."""
    context = towards(folder, 'ca_file = "cert.pem"')
    node, other = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
    node.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    ca.issue_cert("localhost").configure_cert(other)

    assert shake_hands(context, node)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, other)


def test_passphrase_of_what_nodes_are_shown(folder: Path) -> None:
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    # As it may stand in a file of any age.
    secret = "é".encode("latin-1")
    locked = BestAvailableEncryption(secret)
    (folder / "locked.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    )
    (folder / "pass").write_bytes(secret + b"\n")
    files = 'cert_file = "cert.pem", key_file = "locked.pem"'
    towards(folder, f'{files}, passphrase_file = "pass"')
    for more, key_, reason in (
        ("", "key_file", "the key is protected by a passphrase"),
        (', passphrase_file = "key.pem"', "passphrase_file", ""),
        (', passphrase_env = "NO_SUCH_ONE"', "passphrase_env", "there is no 'NO_SUCH_ONE' in"),
    ):
        with pytest.raises(ConfigError) as caught:
            towards(folder, files + more)
        (problem,) = caught.value.problems
        assert problem.startswith(f"t: upstreams.u.tls.{key_}: {reason}")
