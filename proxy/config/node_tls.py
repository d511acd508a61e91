"""TLS towards nodes: whom to believe, and what to show them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs
from attrs import validators

from .checks import Invalid, NewFile, host_name, lower, passphrase_faults
from .tls import Certificate


@attrs.frozen(kw_only=True)
class NodeTls:
    """TLS towards nodes.  Verification cannot be switched off: name the CA that signed them."""

    # PEM; a node's own certificate will do, if nobody has signed it.  Default: the system's
    ca_file: Path | None = None
    # The name to ask for and to check, both: the ssl module cannot check another one than it asks
    # for.  Default: the node's host.  nginx: proxy_ssl_name, and off; HAProxy: sni, verifyhost
    server_name: str | None = attrs.field(
        default=None, converter=lower, validator=validators.optional(host_name)
    )
    # What to show a node that asks for a certificate.
    cert_file: Path | None = None
    key_file: Path | None = None
    # Where the key's passphrase is: a file's first line, or an environment variable.
    passphrase_file: Path | None = None
    passphrase_env: str | None = None
    # nginx 1.2 and 1.3, HAProxy 1.2 and 1.3
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    maximum_version: Literal["1.2", "1.3"] = "1.3"
    # Take up the last session with a node where it agrees, which spares both a verification and
    # signatures.  nginx on, HAProxy on
    session_reuse: bool = True
    # Where to write the keys of all connections, for Wireshark and the like: whoever reads this
    # file reads them all.  nginx: proxy_ssl_key_log, none
    keylog_file: NewFile | None = None

    def __attrs_post_init__(self) -> None:
        faults = passphrase_faults(self.key_file, self.passphrase_file, self.passphrase_env)
        if (self.cert_file is None) != (self.key_file is None):
            faults.append(("", "cert_file and key_file belong together"))
        if self.maximum_version < self.minimum_version:
            reason = f"must be at least minimum_version ({self.minimum_version})"
            faults.append(("maximum_version", reason))
        if faults:
            raise Invalid(*faults)

    @property
    def certificate(self) -> Certificate | None:
        """What nodes are shown."""
        if self.cert_file is None or self.key_file is None:
            return None
        return Certificate(
            cert_file=self.cert_file,
            key_file=self.key_file,
            passphrase_file=self.passphrase_file,
            passphrase_env=self.passphrase_env,
        )
