"""TLS contexts, and what is said of files that cannot make one."""

from __future__ import annotations

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
from proxy.io.contexts import make_contexts

from .test_client_certificates import shake_hands


@pytest.fixture
def folder(tmp_path: Path, ca: trustme.CA) -> Path:
    issued = ca.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("other").private_key_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / "empty.pem").write_text("")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = BestAvailableEncryption(b"secret")
    (tmp_path / "locked.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, locked)
    )
    return tmp_path


def configure(folder: Path, cert: str = "cert.pem", key: str = "key.pem", ca: str = "") -> Config:
    text = f"""
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = {{ certificates = [ {{ cert_file = "{cert}", key_file = "{key}" }} ] }}
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


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        ("cert.pem", "other.pem", "the key does not belong to the certificate"),
        ("empty.pem", "key.pem", "not a PEM certificate and key"),
        ("cert.pem", "empty.pem", "not a PEM certificate and key"),
        (
            "cert.pem",
            "locked.pem",
            "the key is protected by a passphrase: passphrase_file or passphrase_env has to say it",
        ),
    ],
)
def test_faults_of_certificates(folder: Path, cert: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_contexts(configure(folder, cert, key), "file.toml")

    assert caught.value.problems == (f"file.toml: listeners[0].tls.certificates[0]: {reason}",)


def test_faults_of_both_legs_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_contexts(configure(folder, key="other.pem", ca="empty.pem"), "file.toml")

    assert len(caught.value.problems) == 2
    assert "upstreams.u.tls.ca_file" in caught.value.problems[1]


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
    (folder / "pass").write_text("secret\n")
    locked = 'cert_file = "cert.pem", key_file = "locked.pem"'
    towards(folder, f'{locked}, passphrase_file = "pass"')
    for more, reason in (
        ("", "the key is protected by a passphrase: passphrase_file or passphrase_env has to say"),
        (', passphrase_file = "key.pem"', f"passphrase_file {folder}/key.pem: is not the key's"),
        (', passphrase_env = "NO_SUCH_ONE"', "passphrase_env NO_SUCH_ONE: there is no such"),
    ):
        with pytest.raises(ConfigError) as caught:
            towards(folder, locked + more)
        (problem,) = caught.value.problems
        assert problem.startswith(f"t: upstreams.u.tls.cert_file: {reason}")
