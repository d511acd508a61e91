"""A certificate and its key, which a passphrase may protect."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

#: OpenSSL takes no more (PEM_BUFSIZE), in bytes.
_LONGEST: Final = 1024


class Passphrase:
    """What `SSLContext.load_cert_chain` may ask for as `password`, read when it asks.

    It is the first line of a file, or the value of an environment variable.
    """

    def __init__(self, file: Path | None = None, variable: str | None = None) -> None:
        self._file = file
        self._variable = variable
        #: Whether the key has turned out to need one.
        self.asked = False

    def __call__(self) -> bytes:
        """Return the passphrase; without this OpenSSL would ask on the terminal.

        Raises:
            OSError: there is none, or it is no passphrase.
        """
        self.asked = True
        if self._file is None and self._variable is None:
            needs = "passphrase_file or passphrase_env has to say it"
            raise OSError(f"the key is protected by a passphrase: {needs}")
        value = _first_line(self._file) if self._file else _value_of(self._variable or "")
        if not 0 < len(value) <= _LONGEST:
            raise OSError(f"{self._name}: a passphrase has 1 to {_LONGEST} bytes")
        return value

    @property
    def _name(self) -> str:
        return f"passphrase_file {self._file}" if self._file else f"passphrase_env {self._variable}"

    @property
    def fault(self) -> str:
        """What to say of a key that could not be read with it."""
        return f"{self._name}: is not the key's passphrase"


def _first_line(file: Path) -> bytes:
    try:
        with file.open("rb") as lines:
            return lines.readline(_LONGEST + 2).rstrip(b"\r\n")
    except OSError as exc:
        raise OSError(f"passphrase_file {file}: {exc.strerror}") from exc


def _value_of(variable: str) -> bytes:
    value = os.environ.get(variable)
    if value is None:
        raise OSError(f"passphrase_env {variable}: there is no such variable in the environment")
    return value.encode("utf-8", "surrogateescape")


def load_certificate(
    context: ssl.SSLContext, cert_file: Path, key_file: Path, passphrase: Passphrase
) -> None:
    """Have a context show this certificate, with what stands below it in the same file.

    Raises:
        OSError: a file or the passphrase cannot be had, or that is not the key's passphrase.
        ssl.SSLError: these are no PEM files, or do not belong together.
    """
    try:
        context.load_cert_chain(cert_file, key_file, password=passphrase)
    except ssl.SSLError as exc:
        # Of one that does not fit OpenSSL says no more than of a file that is no key.
        reason: str | None = exc.reason  # typeshed leaves out that there may be none
        if passphrase.asked and not reason:
            raise OSError(passphrase.fault) from exc
        raise
