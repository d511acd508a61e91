"""Certificates, and all that can be wrong with their files."""

from __future__ import annotations

import datetime as dt
import errno
import os
import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from trustme import KeyType

from proxy.config.checks import Invalid
from proxy.config.tls import Certificate
from proxy.io.certificates import MOST_BYTES, Pair, expiry, look_at, read_pair

SECRET = b"correct horse"
DAY = 86_400.0


@pytest.fixture
def folder(tmp_path: Path, ca: trustme.CA) -> Path:
    issued = ca.issue_cert("RT.example.org", "*.example.org", "127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    ca.issue_cert("other").private_key_pem.write_to_path(tmp_path / "other.pem")
    rsa = ca.issue_cert("other", key_type=KeyType.RSA)
    rsa.private_key_pem.write_to_path(tmp_path / "rsa-key.pem")
    rsa.cert_chain_pems[0].write_to_path(tmp_path / "rsa.pem")
    (tmp_path / "empty.pem").touch()
    (tmp_path / "large.pem").write_bytes(b"x" * (MOST_BYTES + 1))
    (tmp_path / "secret").write_bytes(SECRET + b"\nthe second line counts for nothing\n")
    (tmp_path / "wrong").write_text("wrong")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    for name, kind in (
        ("locked.pem", PrivateFormat.TraditionalOpenSSL),
        ("pkcs8.pem", PrivateFormat.PKCS8),
    ):
        locked = BestAvailableEncryption(SECRET)
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, kind, locked))
    return tmp_path


def certificate(
    folder: Path, cert: str = "cert.pem", key: str = "key.pem", **more: Any
) -> Certificate:
    return Certificate(cert_file=folder / cert, key_file=folder / key, **more)


def test_what_is_read(folder: Path) -> None:
    pair = read_pair(certificate(folder))

    assert pair.names == ("rt.example.org", "*.example.org")
    assert pair.key_type == "ECDSA"
    assert pair.not_before < dt.datetime.now(dt.UTC).timestamp() < pair.not_after
    assert pair.remarks == ()
    assert read_pair(certificate(folder, "rsa.pem", "rsa-key.pem")).key_type == "RSA"


def test_names_that_the_operator_gives(folder: Path) -> None:
    pair = read_pair(certificate(folder, names=("Other.example.org",)))

    assert pair.names == ("other.example.org",)


@pytest.mark.parametrize(
    ("oids", "content"),
    [
        # An x400Address, and one extension twice.
        (["2.5.29.17"], b"\x30\x04\xa3\x02\x30\x00"),
        (["1.2.3.4", "1.2.3.5"], b"\x05\x00"),
    ],
)
def test_odd_extensions_are_passed_over(oids: list[str], content: bytes, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd.example.org")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now)
    for oid in oids:
        odd = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), content)
        builder = builder.add_extension(odd, critical=False)
    der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    der = der.replace(b"\x06\x03\x2a\x03\x05", b"\x06\x03\x2a\x03\x04")
    (tmp_path / "cert.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )

    assert read_pair(certificate(tmp_path)).names == ()
    given = read_pair(certificate(tmp_path, names=("odd.example.org",)))
    assert given.names == ("odd.example.org",)


def test_no_descriptor_left_is_not_the_files_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", exhausted)
    with pytest.raises(Invalid) as raised:
        read_pair(certificate(folder))
    assert raised.value.faults == (("", "cannot be used: Too many open files"),)


def test_secrets_are_not_shown(folder: Path) -> None:
    text = repr(read_pair(certificate(folder, key="locked.pem", passphrase_file=folder / "secret")))

    assert "BEGIN" not in text
    assert SECRET.decode() not in text


@pytest.mark.parametrize("key", ["locked.pem", "pkcs8.pem"])
@pytest.mark.parametrize("source", ["file", "env"])
def test_passphrase(key: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_KEY", SECRET.decode())
    said: dict[str, Any] = (
        {"passphrase_file": folder / "secret"}
        if source == "file"
        else {"passphrase_env": "TIDEGATE_KEY"}
    )
    pair = read_pair(certificate(folder, key=key, **said))

    pair.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


BELONGS = "the key does not belong to the certificate: "
PROTECTED = "the key is protected by a passphrase: name it with passphrase_file or passphrase_env"
WRONG = "is not the passphrase of the key"


@pytest.mark.parametrize(
    ("files", "passphrase", "key", "reason"),
    [
        ({"key": "other.pem"}, "", "key_file", BELONGS),
        ({"key": "rsa-key.pem"}, "", "key_file", BELONGS),
        ({"cert": "empty.pem"}, "", "cert_file", "is not a certificate in PEM: "),
        ({"cert": "key.pem"}, "", "cert_file", "is not a certificate in PEM: "),
        ({"cert": "none.pem"}, "", "cert_file", "cannot be read: No such file or directory: "),
        ({"cert": "large.pem"}, "", "cert_file", f"has more than {MOST_BYTES} bytes: "),
        ({"key": "empty.pem"}, "", "key_file", "is not a key in PEM: "),
        ({"key": "cert.pem"}, "", "key_file", "is not a key in PEM: "),
        ({"key": "none.pem"}, "", "key_file", "cannot be read: No such file or directory: "),
        ({"key": "locked.pem"}, "", "key_file", PROTECTED),
        ({"key": "pkcs8.pem"}, "", "key_file", PROTECTED),
        ({"key": "locked.pem"}, "wrong", "passphrase_file", WRONG),
        ({"key": "pkcs8.pem"}, "wrong", "passphrase_file", WRONG),
        ({"key": "locked.pem"}, "empty.pem", "passphrase_file", WRONG),
        ({"key": "locked.pem"}, "none", "passphrase_file", "cannot be read: No such file"),
        ({"key": "locked.pem"}, "large.pem", "passphrase_file", "has more than "),
        ({"key": "locked.pem"}, "$HOME", "passphrase_env", WRONG),
        ({"key": "locked.pem"}, "$LONG", "passphrase_env", "is longer than 1024 bytes"),
        ({"key": "locked.pem"}, "$NOT_SET", "passphrase_env", "there is no 'NOT_SET' in the envi"),
    ],
)
def test_faults(
    files: dict[str, str],
    passphrase: str,
    key: str,
    reason: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "wrong")
    monkeypatch.setenv("LONG", "x" * 1025)
    more: dict[str, Any] = {}
    if passphrase.startswith("$"):
        more = {"passphrase_env": passphrase[1:]}
    elif passphrase:
        more = {"passphrase_file": folder / passphrase}
    with pytest.raises(Invalid) as caught:
        read_pair(certificate(folder, **files, **more))

    ((where, why),) = caught.value.faults
    assert where == key
    assert why.startswith(reason)


def test_without_files_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on other systems than Linux."""
    monkeypatch.delattr(os, "memfd_create")

    assert read_pair(certificate(folder)) == read_pair(certificate(folder))


def test_a_folder_that_keeps_others_out_is_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "key.pem").chmod(0o644)
    folder.chmod(0o700)
    assert read_pair(certificate(folder)).remarks == ()
    # pytest's own folders keep others out too.
    monkeypatch.setattr(Path, "parents", (Path("/"),))
    ((key, what),) = read_pair(certificate(folder)).remarks
    assert key == "key_file"
    assert what == f"may be read by every user of this machine; chmod o-r {folder / 'key.pem'}"
    (folder / "key.pem").chmod(0o640)
    assert read_pair(certificate(folder)).remarks == ()


def issue(subject: str, issuer: str, *, aia: bool = False) -> tuple[bytes, bytes]:
    """Make a certificate that names its issuer; nobody here looks at who has signed it."""
    key = ec.generate_private_key(ec.SECP256R1())
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=90))
    )
    if aia:
        url = x509.UniformResourceIdentifier("http://ca.example.org/r3.der")
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, url)
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return signed.public_bytes(Encoding.PEM), pem


@pytest.mark.parametrize(
    ("aia", "above", "remark"),
    [
        (True, [], "has no intermediate certificate"),
        (False, [], ""),
        (True, [("R3", "Root")], ""),
        (True, [("R3", "Root"), ("Root", "Root")], ""),
        (True, [("R4", "Root")], "its chain is broken: CN=rt is not followed by its issuer's"),
        (False, [("R3", "Root"), ("R3", "Root")], "its chain is broken: CN=R3 is not followed"),
    ],
)
def test_chains(aia: bool, above: list[tuple[str, str]], remark: str, tmp_path: Path) -> None:
    leaf, key = issue("rt", "R3", aia=aia)
    (tmp_path / "cert.pem").write_bytes(leaf + b"".join(issue(*one)[0] for one in above))
    (tmp_path / "key.pem").write_bytes(key)
    pair = read_pair(certificate(tmp_path))

    assert [key for key, _ in pair.remarks] == ["cert_file"] * bool(remark)
    assert not remark or pair.remarks[0][1].startswith(remark)
    assert pair.names == (), "the common name counts no more"


def pair_of(not_before: float, not_after: float) -> Pair:
    return Pair(
        chain=b"",
        key=b"",
        passphrase=None,
        names=(),
        key_type="RSA",
        not_before=not_before,
        not_after=not_after,
        remarks=(),
        look=(),
    )


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (-1.0, "is not valid before 1970-01-01T00:00:00Z: clients refuse it; check this machine's"),
        (0.0, ""),
        (79 * DAY - 1, ""),
        (79 * DAY, "expires on 1970-04-11T00:00:00Z: renew it, and see why that was not done yet"),
        (100 * DAY - 1, "expires on "),
        (100 * DAY, "has expired on 1970-04-11T00:00:00Z: clients refuse it; renew it"),
    ],
)
def test_expiry(now: float, said: str) -> None:
    text = expiry(pair_of(0.0, 100 * DAY), now)

    assert text.startswith(said)
    assert bool(text) == bool(said)


def test_looks_are_behind_links(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    for name in ("first", "second"):
        (tmp_path / name / "cert.pem").touch()
    (tmp_path / "..data").symlink_to("first")
    config = certificate(tmp_path, "..data/cert.pem", passphrase_file=folder / "secret")
    look = look_at(config)
    assert look_at(config) == look
    (tmp_path / "new").symlink_to("second")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert look_at(config)[0] != look[0]
    assert look_at(config)[1:] == look[1:]
    (tmp_path / "..data").unlink()
    assert look_at(config)[0] is None


def test_what_was_read_alike_is_alike(folder: Path) -> None:
    pair = read_pair(certificate(folder))
    text = (folder / "cert.pem").read_bytes()
    (folder / "cert.pem").write_bytes(text)
    again = read_pair(certificate(folder))

    assert again == pair
    assert hash(again) == hash(pair)
    assert again.look != pair.look
    (folder / "cert.pem").write_bytes(text + b"\n")
    assert read_pair(certificate(folder)) != pair
    assert attrs.evolve(pair, passphrase="x") != pair
