"""Keys that are protected by a passphrase."""

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

from proxy.io.passphrase import Passphrase, load_certificate

FORMATS = [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8]


@pytest.fixture(params=FORMATS, ids=["traditional", "pkcs8"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, ca: trustme.CA) -> Path:
    issued = ca.issue_cert("localhost")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = BestAvailableEncryption("sésame ".encode())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, request.param, locked))
    issued.private_key_pem.write_to_path(tmp_path / "open.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return tmp_path


def load(folder: Path, passphrase: Passphrase, key: str = "key.pem") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, folder / "cert.pem", folder / key, passphrase)
    return context


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nsecond line\n"])
def test_from_a_file(folder: Path, end: str) -> None:
    (folder / "pass").write_text(f"sésame {end}", newline="")
    load(folder, Passphrase(folder / "pass"))


def test_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PASS", "sésame ")
    load(folder, Passphrase(variable="TIDEGATE_PASS"))


def test_key_that_needs_none_asks_for_none(folder: Path) -> None:
    passphrase = Passphrase(folder / "gone")
    load(folder, passphrase, "open.pem")
    assert not passphrase.asked


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, r"passphrase_file .*/pass: No such file"),
        ("", "has 1 to 1024 bytes"),
        ("\nsésame ", "has 1 to 1024 bytes"),
        ("x" * 1025, "has 1 to 1024 bytes"),
        ("wrong", r"passphrase_file .*/pass: is not the key's passphrase"),
        ("x" * 1024, "is not the key's passphrase"),
    ],
)
def test_faults_of_a_file(folder: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (folder / "pass").write_text(text)
    with pytest.raises(OSError, match=reason):
        load(folder, Passphrase(folder / "pass"))


def test_faults_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_PASS", raising=False)
    with pytest.raises(OSError, match="passphrase_env TIDEGATE_PASS: there is no such variable"):
        load(folder, Passphrase(variable="TIDEGATE_PASS"))
    monkeypatch.setenv("TIDEGATE_PASS", "wrong")
    with pytest.raises(OSError, match="passphrase_env TIDEGATE_PASS: is not the key's"):
        load(folder, Passphrase(variable="TIDEGATE_PASS"))


def test_nobody_is_asked_on_the_terminal(folder: Path) -> None:
    with pytest.raises(OSError, match="the key is protected by a passphrase: passphrase_file or"):
        load(folder, Passphrase())


def test_other_faults_are_left_as_they_are(folder: Path, ca: trustme.CA) -> None:
    (folder / "pass").write_text("sésame ")
    (folder / "empty.pem").write_text("")
    with pytest.raises(ssl.SSLError):
        load(folder, Passphrase(folder / "pass"), "empty.pem")
    ca.issue_cert("other").cert_chain_pems[0].write_to_path(folder / "cert.pem")
    with pytest.raises(ssl.SSLError, match="key values mismatch"):
        load(folder, Passphrase(folder / "pass"))
