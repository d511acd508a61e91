"""Ways to feed a tunnel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.wire.tunnel import Side, Tunnel

from .peers import feed_bytes, feed_whole

Feed = Callable[[Tunnel, Side, bytes], None]


@pytest.fixture(params=[feed_whole, feed_bytes], ids=["whole", "bytewise"])
def feed(request: pytest.FixtureRequest) -> Feed:
    result: Feed = request.param
    return result
