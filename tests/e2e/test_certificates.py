"""Which certificate clients are shown by a running proxy, and by whom they are refused."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from .harness import open_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """
[log]
format = "json"
[tls]
tickets = 0
[[listeners]]
name = "public"
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [
    {{ cert_file = "first.pem", key_file = "first.key" }},
    {{ cert_file = "rsa.pem", key_file = "rsa.key", names = ["both.example.org"] }},
    {{ cert_file = "both.pem", key_file = "both.key", passphrase_file = "secret" }},
    {{ cert_file = "wild.pem", key_file = "wild.key" }},
]
{more}
[[routes]]
prefix = "/"
respond = {{ status = 200 }}
"""


def configure(folder: Path, more: str = "") -> str:
    """Return a configuration for a file that is elsewhere."""
    text = CONFIG.format(more=more)
    return re.sub(r'(\w+_file = ")', rf"\g<1>{folder}/", text)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A CA with an intermediate one, which clients know nothing of, and its certificates."""
    root = trustme.CA()
    root.cert_pem.write_to_path(tmp_path / "ca.pem")
    between = root.create_child_ca()
    rsa = trustme.KeyType.RSA
    issued = {
        "first": between.issue_cert("first.example.org"),
        "rsa": between.issue_cert("rsa.example.org", "both.example.org", key_type=rsa),
        "both": between.issue_cert("both.example.org"),
        "wild": between.issue_cert("*.example.org"),
    }
    for name, leaf in issued.items():
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        (tmp_path / f"{name}.pem").write_bytes(chain)
        leaf.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    key = load_pem_private_key(issued["both"].private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x y"))
    (tmp_path / "both.key").write_bytes(locked)
    (tmp_path / "secret").write_text("x y\n")
    return root


@contextlib.contextmanager
def connected(address: str, tls: ssl.SSLContext, name: str | None) -> Iterator[ssl.SSLSocket]:
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        tls.wrap_socket(plain, server_hostname=name) as stream,
    ):
        yield stream


def ask(address: str, ca: trustme.CA, name: str | None, kind: str = "") -> tuple[str, ...]:
    """Return the names of the certificate that is shown to whoever asks for a name, or for none.

    The chain is followed up to the CA, which has not signed it itself.
    """
    tls = ssl.create_default_context()
    tls.check_hostname = False
    ca.configure_trust(tls)
    if kind:
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
        tls.set_ciphers(f"ECDHE-{kind}-AES256-GCM-SHA384")
    with connected(address, tls, name) as stream:
        shown = stream.getpeercert(binary_form=True)
    assert shown is not None
    names = x509.load_der_x509_certificate(shown).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return tuple(names.value.get_values_for_type(x509.DNSName))


FIRST, BOTH, WILD = ("first.example.org",), ("both.example.org",), ("*.example.org",)


async def test_certificates_by_name(authority: trustme.CA, tmp_path: Path) -> None:
    asked = [
        (None, "", FIRST),
        ("first.example.org", "", FIRST),
        ("other.example.com", "", FIRST),
        ("x.y.example.org", "", FIRST),
        ("BOTH.example.org", "", BOTH),
        ("both.example.org", "ECDSA", BOTH),
        ("both.example.org", "RSA", ("rsa.example.org", "both.example.org")),
        # It is not for the name that it has, but for those that the configuration gives it.
        ("rsa.example.org", "", WILD),
        ("any.example.org", "", WILD),
    ]
    async with open_proxy(configure(tmp_path)) as proxy:
        for name, kind, names in asked:
            shown = await trio.to_thread.run_sync(ask, proxy.address(), authority, name, kind)
            assert shown == names, name


async def test_unknown_names_are_refused(authority: trustme.CA, tmp_path: Path) -> None:
    async with open_proxy(configure(tmp_path, 'unknown_sni = "reject"')) as proxy:
        for name in (None, "other.example.com"):
            with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
                await trio.to_thread.run_sync(ask, proxy.address(), authority, name)
        shown = await trio.to_thread.run_sync(ask, proxy.address(), authority, FIRST[0])
        assert shown == FIRST
        told = [record["detail"] for record in await proxy.until_records(3)]
        why = "The TLS handshake failed: No certificate is for"
        assert told[:2] == [
            f"{why} those who ask for no name.",
            f"{why} 'other.example.com', which it asks for.",
        ]
        assert why not in told[2]
