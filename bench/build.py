"""Compile the generator, and make the certificate that all proxies show."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import trustme

from .peers import HERE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["build_load", "make_certificate"]

_FLAGS = ["-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror"]
_ADVICE = "gcc and OpenSSL's headers are needed: apt-get install gcc libc6-dev libssl-dev"


def build_load() -> Path:
    """Return the compiled `bench/load/`, compiling it if a source is newer."""
    sources = sorted((HERE / "load").glob("*.[ch]"))
    program = HERE / "build" / "load"
    newest = max(source.stat().st_mtime for source in sources)
    if program.exists() and program.stat().st_mtime > newest:
        return program
    program.parent.mkdir(exist_ok=True)
    units = [str(source) for source in sources if source.suffix == ".c"]
    command = ["gcc", *_FLAGS, "-o", str(program), *units, "-lssl", "-lcrypto"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise SystemExit(f"bench: the generator can't be compiled ({exc}). {_ADVICE}") from exc
    return program


def make_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Write an ECDSA P-256 certificate: the chain, the key, and both in one file."""
    issued = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("localhost", "127.0.0.1")
    cert, key, pem = folder / "cert.pem", folder / "key.pem", folder / "both.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    issued.private_key_and_cert_chain_pem.write_to_path(str(pem))
    return cert, key, pem
