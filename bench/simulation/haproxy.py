"""HAProxy's defaults, with `check` on every server, and with the time-outs of its manual.

From the configuration manual 3.5 and `src/backend.c`, `src/check.c`:

- `balance`: two servers are drawn, the one with fewer sessions is taken ("random", the default
  since 3.3; before it was "roundrobin", here the variant with no draws).
- `check`: a TCP connect, `inter 2s` (which is its time-out too), `fall 3`, `rise 2`; the checks of
  a farm are spread over the interval.  A server that comes back has its full share at once.
- `retries 3`, to the same server, since `option redispatch` has to be asked for; after a refusal
  with a turn-around of a second.  `retry-on conn-failure`: never after the connection is there.
- `timeout connect 5s`, `timeout server 50s`: the manual's example; without them it warns.
- When no server is up: 503, at once.  There is no queue where there is no maxconn.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from .clients import Client, Request
from .nodes import Ending, Node, Outcome, Patience

if TYPE_CHECKING:
    from .world import World

__all__ = ["HAProxy"]

_INTER: Final = 2.0
_FALL: Final = 3
_RISE: Final = 2
_RETRIES: Final = 3
_TURN_AROUND: Final = 1.0
_PATIENCE: Final = Patience(connect=5.0, answer=50.0)


@attrs.define(eq=False)
class _Server:
    node: Node
    up: bool = True
    in_a_row: int = 0
    #: Sessions and handshakes under way.
    served: int = 0

    def checked(self, *, well: bool) -> None:
        if well == self.up:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self.in_a_row >= (_FALL if self.up else _RISE):
            self.up, self.in_a_row = well, 0


class HAProxy:
    """A model of it."""

    # The client's own: HAProxy relays its Close, and waits for both sides to hang up.
    close_wait = 30.0

    def __init__(self, world: World, draws: int = 2) -> None:
        self._clock = world.clock
        self._random = world.random("haproxy")
        self._servers = [_Server(node) for node in world.nodes]
        self._draws = draws
        self._turn = 0

    def start(self) -> None:
        for index, server in enumerate(self._servers):
            self._clock.after(_INTER * index / len(self._servers), self._check, server)

    def adopt(self, client: Client, node: Node) -> None:
        self._servers[node.index].served += 1

    def ask(self, request: Request) -> None:
        up = [server for server in self._servers if server.up]
        if not up:
            request.failed()
            return
        server = self._choose(up)
        server.served += 1
        self._try(request, server, 0)

    def ended(self, _client: Client, node: Node, _how: Ending) -> None:
        self._servers[node.index].served -= 1

    def uses(self, node: Node) -> bool:
        return self._servers[node.index].up

    def _check(self, server: _Server) -> None:
        server.checked(well=server.node.accepts)
        self._clock.after(_INTER, self._check, server)

    def _choose(self, up: list[_Server]) -> _Server:
        if self._draws:
            drawn = [self._random.choice(up) for _ in range(self._draws)]
            return min(drawn, key=lambda server: server.served)
        self._turn += 1
        return up[self._turn % len(up)]

    def _try(self, request: Request, server: _Server, retries: int) -> None:
        then = partial(self._asked, request, server, retries)
        server.node.dial(_PATIENCE, then, wrong_path=request.wrong_path)

    def _asked(self, request: Request, server: _Server, retries: int, outcome: Outcome) -> None:
        if outcome is Outcome.OPENED:
            request.opened(server.node)
        elif retries < _RETRIES and outcome is Outcome.REFUSED:
            self._clock.after(_TURN_AROUND, self._try, request, server, retries + 1)
        elif retries < _RETRIES and outcome is Outcome.UNREACHED:
            self._try(request, server, retries + 1)
        else:
            server.served -= 1
            request.failed()
