"""Client certificates: whether a listener asks for them, and whose it accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

from .checks import Invalid


@attrs.frozen(kw_only=True)
class ClientCertificates:
    """What a listener asks its clients to show.

    A client without a certificate is served where that is `optional`.  One whose certificate is not
    accepted fails in the handshake in either mode: the ssl module has no way to let it through and
    tell the node.  Nor has it one to limit a chain's length, or to tell clients which CAs are
    accepted: a browser offers all certificates that it has.
    """

    # nginx's ssl_verify_client, HAProxy's verify: off
    mode: Literal["off", "optional", "required"] = "required"
    # PEM.  What is in it is trusted, be it a root or just the one below it that signs clients
    ca_file: Path | None = None
    # PEM, revocation lists alone.  One that has expired accepts nobody any more
    crl_file: Path | None = None
    # Whether each CA up to the trusted one needs its list, or just the one that signed the client.
    # nginx, HAProxy: chain
    crl_check: Literal["chain", "leaf"] = "chain"

    def __attrs_post_init__(self) -> None:
        if self.ca_file is None and self.mode != "off":
            raise Invalid(("ca_file", "is missing: it has the CAs whose certificates are accepted"))

    @property
    def files(self) -> tuple[Path, ...]:
        """What decides who is accepted: new contents make a new context (see `io.contexts`)."""
        found = (self.ca_file, self.crl_file)
        return tuple(file for file in found if file is not None and self.mode != "off")
