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
    name: str | None = "localhost",
    session: ssl.SSLSession | None = None,
) -> Ends:
    """Shake hands, and have the tickets that TLS 1.3 sends afterwards come through.

    Raises:
        ssl.SSLError: they have nothing to agree on.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=name, session=session)
    far = server.wrap_bio(up, down, server_side=True)
    agree(near, far)
    far.write(b"x")
    assert near.read(1) == b"x"
    return Ends(near, far)


def agree(*ends: ssl.SSLObject) -> None:
    """Have both ends of a connection do their handshakes, whoever has to wait for the other.

    Raises:
        ssl.SSLError: they have nothing to agree on.
    """
    waiting = [*ends]
    while waiting:
        for end in [*waiting]:
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
