"""Ask clients for certificates, and say what is wrong with the files that judge them.

Theory.  A certificate is verified in full handshakes only; who comes back with a ticket is believed
to be who it was, until its certificate expires (`io.client_tls`).  OpenSSL keeps a ticket's
certificate in it, and the keys of tickets in the context.  So a new list of revoked certificates is
worth something only in a new context: no ticket from before opens there, and whoever was revoked
has to show its certificate again.  For the same reason a ticket of one listener is worth nothing at
another one, which may ask for more.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.config.checks import Invalid
from proxy.config.client_certificates import ClientCertificates

if TYPE_CHECKING:
    from cryptography import x509

_MODES: Final = {"optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_CRL_CHECKS: Final = {
    "chain": ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN,
    "leaf": ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF,
}
_PEM_END: Final = b"-----END X509 CRL-----"


def ask_for_certificates(context: ssl.SSLContext, config: ClientCertificates | None) -> None:
    """Have a listener's context ask its clients for certificates, and judge them.

    Raises:
        Invalid: a file cannot be used; the key is that of `config`.
    """
    if config is None or config.mode == "off" or config.ca_file is None:
        return
    context.verify_mode = _MODES[config.mode]
    if not _load(context, "ca_file", config.ca_file)["x509"]:
        raise Invalid(("ca_file", f"has no certificate: {config.ca_file}"))
    if config.crl_file is not None:
        _know_revoked(context, config.crl_file)
        context.verify_flags |= _CRL_CHECKS[config.crl_check]
    if config.crl_file is None or config.crl_check == "leaf":
        # Else to name one CA would be to name the root above it, and all that this has signed.
        # With lists for the whole chain that has to be: the root's own is among them.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _know_revoked(context: ssl.SSLContext, file: Path) -> None:
    known = context.cert_store_stats()
    found = _load(context, "crl_file", file)
    if found["x509"] > known["x509"]:
        # They would be trusted.
        raise Invalid(("crl_file", f"has certificates, which belong in ca_file: {file}"))
    if found["crl"] == known["crl"]:
        raise Invalid(("crl_file", f"has no revocation list: {file}"))


def _load(context: ssl.SSLContext, key: str, file: Path) -> dict[str, int]:
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as exc:
        raise Invalid((key, f"is no PEM file of such: {file}")) from exc
    except OSError as exc:
        raise Invalid((key, f"{exc.strerror}: {file}")) from exc
    return context.cert_store_stats()


def contents(config: ClientCertificates | None) -> tuple[bytes, ...]:
    """Return what the files hold that judge clients: with anything else it is another context.

    Raises:
        Invalid: they cannot be read.
    """
    try:
        return tuple(file.read_bytes() for file in config.files) if config is not None else ()
    except OSError as exc:
        raise Invalid(("", f"{exc.strerror}: {exc.filename}")) from exc


def warnings(config: ClientCertificates | None, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield, by the key of `config`, what has clients refused though all files can be read.

    `now` knows its time zone.  Of files that cannot be read any more nothing is said.
    """
    if config is None or config.mode == "off" or not (config.ca_file and config.crl_file):
        return
    from cryptography import x509

    try:
        authorities = x509.load_pem_x509_certificates(config.ca_file.read_bytes())
        lists = _lists(config.crl_file.read_bytes())
    except (OSError, ValueError):
        return
    for issuer, until in lists.items():
        if until is not None and until <= now:
            which = f"the list of {issuer.rfc4514_string()} has expired, on {until:%Y-%m-%d %H:%M}"
            yield "crl_file", f"{which} UTC: the certificates that it signed are refused"
    if config.crl_check == "leaf":
        return
    for one in authorities:
        if one.subject not in lists:
            which = f"has no list of {one.subject.rfc4514_string()}"
            yield "crl_file", f"{which}: the certificates that it signed are refused"
    if not any(one.subject == one.issuer for one in authorities):
        yield "ca_file", 'has no root, which crl_check = "chain" asks for: all are refused'


def _lists(pem: bytes) -> dict[x509.Name, datetime | None]:
    """Return until when there is a list, by who signed it; the newest of each counts."""
    from cryptography import x509

    found: dict[x509.Name, datetime | None] = {}
    for part in pem.split(_PEM_END)[:-1]:
        one = x509.load_pem_x509_crl(part + _PEM_END)
        until = one.next_update_utc
        known = found.get(one.issuer, until)
        found[one.issuer] = None if until is None or known is None else max(until, known)
    return found
