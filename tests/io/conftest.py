"""A relay of each kind, for tests of what all of them do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from .rig import Rig, open_rig

OpenRig = Callable[..., AbstractAsyncContextManager[Rig]]
SOCKETS = ["splice", "splice-tls", "pump", "pump-tls"]


@pytest.fixture
def open_kind(client_tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> OpenRig:
    """Return what opens a rig, to be told its kind."""
    return partial(open_rig, tls=(client_tls, server_tls))


@pytest.fixture(params=[*SOCKETS, "memory"])
def rig(request: pytest.FixtureRequest, open_kind: OpenRig) -> OpenRig:
    """Every way of relaying."""
    return partial(open_kind, request.param)


@pytest.fixture(params=SOCKETS)
def socket_rig(request: pytest.FixtureRequest, open_kind: OpenRig) -> OpenRig:
    """Those over sockets, which fill when nobody reads; memory never does."""
    return partial(open_kind, request.param)


@pytest.fixture
def memory_rig(open_kind: OpenRig) -> OpenRig:
    """The one that keeps to a clock that jumps."""
    return partial(open_kind, "memory")
