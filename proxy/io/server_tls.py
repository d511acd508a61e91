"""TLS as one listener speaks it: which certificate a client is shown."""

from __future__ import annotations

import ssl

import attrs


@attrs.frozen
class ServerTls:
    """What the clients of a listener shake hands with."""

    _context: ssl.SSLContext

    def choose(self, name: str) -> ssl.SSLContext | None:  # one certificate so far
        """Return what a client that asks for a name shakes hands with.

        `name` is in lower case, and empty if it asks for none.  None: it is to be refused.
        """
        return self._context
