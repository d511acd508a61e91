"""Certificates and their keys: read from their files once, proved to fit, and kept as they were.

Contexts are made of what was read and proved, never of the files again: by then those may be half
of the next renewal.
"""

from __future__ import annotations

import os
import ssl
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

from proxy.config.checks import Invalid
from proxy.config.tls import Certificate

if TYPE_CHECKING:
    from cryptography import x509

    _Extension = TypeVar("_Extension", bound=x509.ExtensionType)

#: What is read of a file; a chain of RSA certificates has some 8 KiB.
MOST_BYTES: Final = 2**20
#: What OpenSSL takes.
_LONGEST_PASSPHRASE: Final = 1024
#: When it is time to renew, in seconds before the end.  Certbot renews 30 days ahead.
AHEAD: Final = 21 * 86_400.0
#: A file as it lies there: whatever takes its place, or is written to it, has another one.
Look = tuple[tuple[int, ...] | None, ...]


@attrs.frozen
class Pair:
    """A certificate with its chain, and its key; alike are those that were read alike."""

    chain: bytes = attrs.field(repr=False)
    key: bytes = attrs.field(repr=False)
    passphrase: str | None = attrs.field(repr=False)
    #: Whom it is for: exact names in lower case, and wildcards for one label.
    names: tuple[str, ...]
    #: Of two for the same name, with different types, a client is shown that which it can check.
    key_type: str
    #: Seconds since the epoch.
    not_before: float
    not_after: float
    #: What is not as it should be, though it works, as `(key, what)`.
    remarks: tuple[tuple[str, str], ...] = attrs.field(eq=False)
    #: How the files were when it was read.
    look: Look = attrs.field(eq=False, repr=False)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have a context show it; one of the same type of key is replaced.

        Raises:
            ssl.SSLError: the two do not belong together, or are not what OpenSSL takes.
            OSError: the key needs a passphrase.
        """
        with _as_file(self.chain) as chain, _as_file(self.key) as key:
            context.load_cert_chain(chain, key, password=self._tell_passphrase)

    def _tell_passphrase(self) -> bytes:
        """Stand in for OpenSSL's question on the terminal, which nobody would answer."""
        if self.passphrase is None:
            raise OSError("the key is protected by a passphrase")
        return self.passphrase.encode("utf-8", "surrogateescape")


def read_pair(config: Certificate) -> Pair:
    """Read a certificate and its key, and prove that they can be used.

    Raises:
        Invalid: they can't; the keys are those of the configuration, "" for the whole.
    """
    # Before the files are read: what changes meanwhile is seen the next time.
    look = look_at(config)
    chain, key = _read(config.cert_file, "cert_file"), _read(config.key_file, "key_file")
    leaf, *rest = _parse(chain, config.cert_file)
    pair = Pair(
        chain=chain,
        key=key,
        passphrase=_passphrase(config),
        names=config.names or _names(leaf),
        key_type=_key_type(leaf),
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        remarks=(*_open_to_all(config.key_file), *_gaps(leaf, rest)),
        look=look,
    )
    try:
        pair.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except (ssl.SSLError, OSError) as exc:
        raise Invalid(_reason(exc, config, pair)) from exc
    return pair


def look_at(config: Certificate) -> Look:
    """Tell a certificate's files from what they were and will be, behind all symbolic links."""
    files = config.cert_file, config.key_file, config.passphrase_file
    return look_at_files(file for file in files if file is not None)


def look_at_files(files: Iterable[Path]) -> Look:
    """Tell files from what they were and will be."""
    return tuple(_look_at(file) for file in files)


def _look_at(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def expiry(pair: Pair, now: float, peers: str = "clients") -> str:
    """Say what is wrong with the time of a certificate, with what to do; empty if nothing is.

    `peers` are those who are shown it.
    """
    if now >= pair.not_after:
        return f"has expired on {day(pair.not_after)}: {peers} refuse it; renew it"
    if now < pair.not_before:
        since = day(pair.not_before)
        return f"is not valid before {since}: {peers} refuse it; check this machine's clock"
    if now >= pair.not_after - AHEAD:
        return f"expires on {day(pair.not_after)}: renew it, and see why that was not done yet"
    return ""


def day(moment: float) -> str:
    """Return a moment, in seconds since the epoch, as text; UTC, as certificates have it."""
    import datetime as dt  # Only where there is TLS.

    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(file: Path, key: str) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as exc:
        raise Invalid((key, f"cannot be read: {exc.strerror or exc}: {file}")) from exc
    if len(data) > MOST_BYTES:
        raise Invalid((key, f"has more than {MOST_BYTES} bytes: {file}"))
    return data


def _passphrase(config: Certificate) -> str | None:
    if config.passphrase_env is not None:
        key, found = "passphrase_env", os.environ.get(config.passphrase_env)
        if found is None:
            raise Invalid((key, f"there is no {config.passphrase_env!r} in the environment"))
    elif config.passphrase_file is not None:
        key = "passphrase_file"
        first, *_ = [*_read(config.passphrase_file, key).splitlines(), b""]
        found = first.decode("utf-8", "surrogateescape")
    else:
        return None
    if len(found.encode("utf-8", "surrogateescape")) > _LONGEST_PASSPHRASE:
        raise Invalid((key, f"is longer than {_LONGEST_PASSPHRASE} bytes"))
    return found


def _parse(chain: bytes, file: Path) -> list[x509.Certificate]:
    # It takes 20 ms and 8 MiB, 2 of them not shared, which a proxy without TLS need not have.
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(chain)
    except ValueError as exc:
        raise Invalid(("cert_file", f"is not a certificate in PEM: {file}")) from exc


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    """Return the names that a client could ask for; the common name counts no more (RFC 9525)."""
    from cryptography import x509

    said = _extension(leaf, x509.SubjectAlternativeName)
    names = said.get_values_for_type(x509.DNSName) if said is not None else ()
    return tuple(dict.fromkeys(map(str.lower, names)))


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """Return an extension, None if it is not there, or cannot be read: then OpenSSL may yet do it.

    One that is odd spoils them all, since they are read together.
    """
    from cryptography import x509

    unreadable = x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError
    with suppress(x509.ExtensionNotFound, *unreadable):
        return certificate.extensions.get_extension_for_class(kind).value
    return None


def _key_type(leaf: x509.Certificate) -> str:
    kinds = {"1.2.840.113549.1.1.1": "RSA", "1.2.840.10045.2.1": "ECDSA", "1.3.101.112": "Ed25519"}
    oid = leaf.public_key_algorithm_oid.dotted_string
    return kinds.get(oid, oid)


def _open_to_all(key_file: Path) -> Iterator[tuple[str, str]]:
    """Tell of a key that every user of this machine could read: no folder above keeps them out."""
    if os.name != "posix":
        return
    with suppress(OSError):
        file = key_file.resolve()
        modes = [folder.stat().st_mode & stat.S_IXOTH for folder in file.parents]
        if file.stat().st_mode & stat.S_IROTH and all(modes):
            yield "key_file", f"may be read by every user of this machine; chmod o-r {file}"


def _gaps(leaf: x509.Certificate, rest: list[x509.Certificate]) -> Iterator[tuple[str, str]]:
    """Tell of a chain that clients could not follow, as far as can be seen from here."""
    from cryptography import x509

    chain = [leaf, *rest]
    for lower, upper in zip(chain, rest, strict=False):
        if lower.issuer != upper.subject:
            name = lower.subject.rfc4514_string() or lower.issuer.rfc4514_string()
            yield "cert_file", f"its chain is broken: {name} is not followed by its issuer's"
            return
    top = chain[-1]
    if top.issuer == top.subject or rest:
        return
    # Who can be asked for the issuer's certificate is not a root, which clients have by themselves.
    access = _extension(top, x509.AuthorityInformationAccess) or ()
    if any(one.access_method.dotted_string == "1.3.6.1.5.5.7.48.2" for one in access):
        yield (
            "cert_file",
            "has no intermediate certificate, without which most clients refuse it; "
            "use the whole chain (certbot: fullchain.pem)",
        )


def _reason(exc: ssl.SSLError | OSError, config: Certificate, pair: Pair) -> tuple[str, str]:
    """Return the key that is to blame, and why."""
    source = "passphrase_env" if config.passphrase_env else "passphrase_file"
    if not isinstance(exc, ssl.SSLError):
        if exc.errno is not None:
            # No fault of theirs: there is no descriptor left, say.
            return "", f"cannot be used: {exc.strerror}"
        return "key_file", f"{exc}: name it with passphrase_file or passphrase_env"
    match getattr(exc, "reason", None):
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH" | "NO_CERTIFICATE_ASSIGNED":
            return "key_file", f"the key does not belong to the certificate: {config.cert_file}"
        case "BAD_DECRYPT" | "BAD_PASSWORD_READ" | "PKCS12_CIPHERFINAL_ERROR":
            return source, "is not the passphrase of the key"
        case None | "" | "NO_START_LINE":
            if pair.passphrase is not None and b"ENCRYPTED" in pair.key:
                return source, "is not the passphrase of the key"
            return "key_file", f"is not a key in PEM: {config.key_file}"
        case reason:
            return "", f"cannot be used: {reason.lower().replace('_', ' ')}"


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Give bytes the name of a file that only this process knows; ssl reads nothing else."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("pem")
        try:
            with open(descriptor, "wb", closefd=False) as memory:
                memory.write(data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pem")
        file.write_bytes(data)
        yield str(file)
