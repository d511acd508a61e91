"""TLS handshakes in memory, for what only contexts decide."""

from __future__ import annotations

import ssl

import attrs


@attrs.frozen
class Ends:
    """Both ends of a connection that has shaken hands."""

    client: ssl.SSLObject
    server: ssl.SSLObject

    @property
    def shown(self) -> bytes:
        """The certificate that the client was shown, in DER."""
        found = self.client.getpeercert(binary_form=True)
        assert found is not None
        return found

    @property
    def cipher(self) -> str:
        found = self.client.cipher()
        assert found is not None
        return found[0]


def shake(
    client: ssl.SSLContext,
    server: ssl.SSLContext,
    name: str = "localhost",
    session: ssl.SSLSession | None = None,
) -> Ends:
    """Shake hands, and have the tickets that TLS 1.3 sends afterwards come through.

    Raises:
        ssl.SSLError: they have nothing to agree on.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=name, session=session)
    far = server.wrap_bio(up, down, server_side=True)
    waiting = [near, far]
    while waiting:
        for end in [*waiting]:
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    far.write(b"x")
    near.read(1)
    return Ends(near, far)
