"""What a listener and its clients may agree on: versions, ciphers, curves, tickets."""

from __future__ import annotations

import ssl
import warnings
from typing import Final

from proxy.config.checks import Invalid
from proxy.config.tls import Tls

#: A client that likes ChaCha20 best has no hardware for AES.  The ssl module has no name for it.
_PRIORITIZE_CHACHA: Final = 1 << 21
#: By what they are called in a configuration.
VERSIONS: Final = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
#: As in Mozilla's intermediate recommendation, without its DHE, which no client of today needs.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: What TLS 1.0 and 1.1 can speak of what is forward-secret.
_OLD_CIPHERS: Final = "ECDHE+AES+SHA1"


def agree_on(context: ssl.SSLContext, settings: Tls) -> None:
    """Say which versions, ciphers and curves may be spoken.

    Raises:
        Invalid: OpenSSL knows no such cipher, or the ssl module no such curve.
    """
    with warnings.catch_warnings():
        # Of the old versions, which were asked for by name.
        warnings.simplefilter("ignore", DeprecationWarning)
        for key in ("minimum_version", "maximum_version"):
            try:
                setattr(context, key, VERSIONS[getattr(settings, key)])
            except ValueError as exc:
                raise Invalid((key, "is none that this OpenSSL speaks")) from exc
    old = settings.minimum_version < "1.2"
    ciphers = settings.ciphers or (f"{_CIPHERS}:{_OLD_CIPHERS}" if old else _CIPHERS)
    if old and "@SECLEVEL" not in ciphers:
        # At OpenSSL 3's own level there is no hash that they could be spoken with.
        ciphers += ":@SECLEVEL=0"
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError as exc:
        reason = f"OpenSSL knows no such cipher of TLS 1.2: {settings.ciphers!r}"
        raise Invalid(("ciphers", f"{reason}; those of 1.3 cannot be chosen")) from exc
    try:
        if settings.curve is not None:
            context.set_ecdh_curve(settings.curve)
    except (ssl.SSLError, ValueError) as exc:
        reason = 'must be one curve that this Python can set, like "secp384r1"'
        raise Invalid(("curve", f"{reason}, not {settings.curve!r}")) from exc
    if settings.prefer_server_ciphers:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | _PRIORITIZE_CHACHA
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE


def hand_out_tickets(context: ssl.SSLContext, number: int) -> None:
    """Send a client so many tickets to resume its session with, or none in any version."""
    context.num_tickets = number
    if not number:
        context.options |= ssl.OP_NO_TICKET
