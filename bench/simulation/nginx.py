"""nginx's defaults: round robin, passive health, every other peer is tried.

From nginx 1.31's source, `src/http/ngx_http_upstream_round_robin.c` and `ngx_http_upstream.c`, and
nginx.org's documentation of `upstream` and `proxy`; one worker, or a `zone`:

- `max_fails=1 fail_timeout=10s`: one failed attempt, and for ten seconds the peer is not chosen.
  Times are whole seconds.  After that it is chosen once; its failure is forgotten when *an attempt
  or session that went well ends*.  For a WebSocket that is when the client leaves, so until then
  a peer that is back gets one session in eleven seconds.
- `proxy_next_upstream error timeout`: the next peer is tried when a peer refused, could not be
  reached in `proxy_connect_timeout 60s`, hung up before an answer or did not answer within
  `proxy_read_timeout 60s`; each peer once (`proxy_next_upstream_tries 0`).
- When no peer is left: 502, "no live upstreams".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from .clients import Client, Request
from .nodes import Ending, Node, Outcome, Patience

if TYPE_CHECKING:
    from .world import World

__all__ = ["Nginx"]

_MAX_FAILS: Final = 1
_FAIL_TIMEOUT: Final = 10
_PATIENCE: Final = Patience(connect=60.0, answer=60.0)


@attrs.define(eq=False)
class _Peer:
    node: Node
    fails: int = 0
    accessed: int = 0
    checked: int = 0
    effective_weight: int = 1
    current_weight: int = 0

    def rests(self, now: int) -> bool:
        return self.fails >= _MAX_FAILS and now - self.checked <= _FAIL_TIMEOUT


@attrs.define(eq=False)
class _Tries:
    request: Request
    tried: set[_Peer] = attrs.field(factory=set)


class Nginx:
    """A model of it."""

    # The client's own: nginx just relays its Close and hangs up on neither side.
    close_wait = 30.0

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._peers = [_Peer(node) for node in world.nodes]

    def start(self) -> None:
        """Have nothing to begin: nobody is probed."""

    def adopt(self, client: Client, node: Node) -> None:
        """Have nothing to note: sessions are not counted."""

    def ask(self, request: Request) -> None:
        self._next(_Tries(request))

    def ended(self, _client: Client, node: Node, _how: Ending) -> None:
        self._free(self._peers[node.index])

    def uses(self, node: Node) -> bool:
        return not self._peers[node.index].rests(int(self._clock.now))

    def _next(self, tries: _Tries) -> None:
        peer = self._choose(tries.tried)
        if peer is None:
            tries.request.failed()
            return
        then = partial(self._asked, tries, peer)
        peer.node.dial(_PATIENCE, then, wrong_path=tries.request.wrong_path)

    def _asked(self, tries: _Tries, peer: _Peer, outcome: Outcome) -> None:
        if outcome is Outcome.OPENED:
            tries.request.opened(peer.node)
        else:
            self._fail(peer)
            self._next(tries)

    def _choose(self, tried: set[_Peer]) -> _Peer | None:
        """Do as `ngx_http_upstream_get_peer` does; every weight is 1."""
        now, total = int(self._clock.now), 0
        best: _Peer | None = None
        for peer in self._peers:
            if peer in tried or peer.rests(now):
                continue
            peer.current_weight += peer.effective_weight
            total += peer.effective_weight
            if peer.effective_weight < 1:
                peer.effective_weight += 1
            if best is None or peer.current_weight > best.current_weight:
                best = peer
        if best is not None:
            best.current_weight -= total
            tried.add(best)
            if now - best.checked > _FAIL_TIMEOUT:
                best.checked = now
        return best

    def _fail(self, peer: _Peer) -> None:
        peer.fails += 1
        peer.accessed = peer.checked = int(self._clock.now)
        peer.effective_weight = max(0, peer.effective_weight - 1 // _MAX_FAILS)

    @staticmethod
    def _free(peer: _Peer) -> None:
        if peer.accessed < peer.checked:
            peer.fails = 0
