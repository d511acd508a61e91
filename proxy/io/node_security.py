"""TLS towards one node, and its last session, to be taken up again.

Theory.  A session that is taken up spares this side the verification of the node's certificate,
which is most of what a handshake costs here, and the node its signature.  To ask OpenSSL for a
session costs a third of what that saves, so it is done once for each verified handshake, and the
session is offered many times: nodes that want each ticket used once just shake hands in full.
In TLS 1.3 tickets come with the first bytes of an answer, so the session is looked for not when
hands were shaken, but when the next connection needs it.

Whoever takes up a session is not verified again, and each time may get a new ticket.  So a session
is forgotten some time after the handshake in which the node was verified, whatever the tickets say.
"""

from __future__ import annotations

import ssl
from typing import Final

import attrs

#: A node is verified again after this, in seconds: OpenSSL's tickets would be good for twice that.
VERIFIED_FOR: Final = 3600.0
#: A node that has sent no ticket may never do: it is looked for again after this, in seconds.
PAUSE: Final = 1.0


def why_failed(cause: BaseException | None) -> str:
    """Return why there is no TLS with a node, by what the ssl module says, if it says anything."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"The node's certificate was not accepted: {cause.verify_message.removesuffix('.')}."
    if isinstance(cause, ssl.SSLError):
        return f"TLS to the node failed: {cause.reason or cause}."
    return "The node closed the connection during the TLS handshake."


@attrs.define(eq=False)
class NodeSecurity:
    """TLS towards a node: the context, and the name to ask for and to check.

    It holds one session with the node, or one connection, which has ended or not, to take it from.
    """

    context: ssl.SSLContext
    server_name: str
    reuse: bool = True
    _session: ssl.SSLSession | None = attrs.field(init=False, default=None)
    #: The last one in which the node was verified, if the session is still to be had from it.
    _verified: ssl.SSLObject | None = attrs.field(init=False, default=None)
    _verified_at: float = attrs.field(init=False, default=0.0)
    _look_at: float = attrs.field(init=False, default=0.0)

    def session(self, now: float) -> ssl.SSLSession | None:
        """Return what to offer to the node at this time, None: nothing."""
        if self._verified is not None and now >= self._look_at:
            session = self._verified.session
            if session is not None and (session.has_ticket or session.id):
                self._session, self._verified = session, None
            else:
                self._look_at = now + PAUSE
        if self._session is not None and now >= self._verified_at + VERIFIED_FOR:
            self._session = None
        return self._session

    def shaken(self, tls: ssl.SSLObject, now: float) -> None:
        """Learn that hands were shaken."""
        if self.reuse and not tls.session_reused:
            self._session, self._verified, self._verified_at = None, tls, now

    def failed(self) -> None:
        """Learn that they were not: nothing is offered the next time."""
        self._session = self._verified = None
