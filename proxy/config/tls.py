"""TLS towards clients: what a listener shows, and what it accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import attrs
from attrs import validators

from .checks import Invalid, NewFile, above, count, seconds, server_name, within
from .client_certificates import ClientCertificates

Version = Literal["1.0", "1.1", "1.2", "1.3"]
UnknownSni = Literal["default", "reject"]
#: How many tickets for later a client of TLS 1.3 may be sent; OpenSSL itself has no limit.
_MOST_TICKETS: Final = 16


@attrs.frozen(kw_only=True)
class Tls:
    """What holds for every listener that does not say otherwise."""

    # nginx, HAProxy, Caddy: 1.2.  RFC 8996 forbids the older ones
    minimum_version: Version = "1.2"
    maximum_version: Version = "1.3"
    # Those of TLS 1.2 and before, in OpenSSL's words; the default are forward-secret and AEAD, as
    # in Mozilla's intermediate.  Of TLS 1.3 the ssl module cannot choose.  nginx HIGH:!aNULL:!MD5
    ciphers: str | None = None
    # OpenSSL's name, like "secp384r1"; the ssl module takes just one.  Default: OpenSSL's own list,
    # X25519 first.  nginx auto
    curve: str | None = None
    # nginx off, HAProxy on.  Either way a client that likes ChaCha20 best gets it
    prefer_server_ciphers: bool = True
    # For resumption; 0: none, in TLS 1.2 either.  OpenSSL 2, of which one is never used: every
    # resumption brings a new one
    tickets: int = count(1, low=0, high=_MOST_TICKETS)
    # Of timeouts.handshake, that of TLS.  HAProxy, nginx: 60
    handshake_timeout: float = seconds(10.0)
    # A client that asks for a name which no certificate is for, or for none.  nginx: default
    # (ssl_reject_handshake), HAProxy: default (strict-sni)
    unknown_sni: UnknownSni = "default"
    # How often it is looked whether files of certificates have changed.  controller-runtime 10
    renewal_interval: float = attrs.field(default=1.0, validator=within(0.01, 3600.0))
    # Off without it.
    client_certificates: ClientCertificates | None = None
    # Where to write the keys of all connections, for Wireshark and the like: whoever reads this
    # file reads them all.  HAProxy: tune.ssl.keylog, off
    keylog_file: NewFile | None = None

    def __attrs_post_init__(self) -> None:
        # As text they are in their order.
        if self.minimum_version > self.maximum_version:
            reason = f"is older than minimum_version, which is {self.minimum_version!r}"
            raise Invalid(("maximum_version", reason))


def _names(field: object, kind: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for name in value:
        server_name(field, kind, name)


def _lowered(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


@attrs.frozen(kw_only=True)
class Certificate:
    """A certificate and its key, in PEM."""

    #: The certificate first, then its intermediates.
    cert_file: Path
    key_file: Path
    #: What the key is protected by: the first line of a file, or a variable of the environment.
    passphrase_file: Path | None = None
    passphrase_env: str | None = None
    # Whom it is for.  Default: the DNS names in the certificate.  HAProxy: the same (SNI filters)
    names: tuple[str, ...] = attrs.field(default=(), converter=_lowered, validator=_names)

    def __attrs_post_init__(self) -> None:
        if self.passphrase_file is not None and self.passphrase_env is not None:
            raise Invalid(("passphrase_env", "is one too many: there is passphrase_file"))


@attrs.frozen(kw_only=True)
class ListenerTls:
    """TLS towards the clients of a listener; what is None is as `[tls]` says."""

    #: The first one is for whoever asks for another name, or for none.
    certificates: tuple[Certificate, ...] = attrs.field(validator=validators.min_len(1))
    minimum_version: Version | None = None
    maximum_version: Version | None = None
    ciphers: str | None = None
    curve: str | None = None
    prefer_server_ciphers: bool | None = None
    tickets: int | None = attrs.field(
        default=None, validator=validators.optional(within(0, _MOST_TICKETS))
    )
    handshake_timeout: float | None = attrs.field(
        default=None, validator=validators.optional(above(0))
    )
    unknown_sni: UnknownSni | None = None
    client_certificates: ClientCertificates | None = None
    keylog_file: NewFile | None = None

    def over(self, defaults: Tls) -> Tls:
        """Return what holds for this listener.

        Raises:
            Invalid: its own keys and the defaults contradict each other.
        """
        own = {field.name: getattr(self, field.name, None) for field in attrs.fields(Tls)}
        return attrs.evolve(
            defaults, **{name: value for name, value in own.items() if value is not None}
        )
