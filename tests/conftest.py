"""Async tests run on Trio; a fixture that is a clock becomes the run's clock."""

from __future__ import annotations

import functools
import inspect
import ssl

import pytest
import trio
import trustme
from hypothesis import settings

# Deterministic, so that a failure in CI is a failure anywhere; no deadline, machines are shared.
settings.register_profile("tidegate", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tidegate")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    args = {name: pyfuncitem.funcargs[name] for name in names}
    clocks = [value for value in args.values() if isinstance(value, trio.abc.Clock)]
    trio.run(functools.partial(pyfuncitem.obj, **args), clock=clocks[0] if clocks else None)
    return True


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Time that jumps ahead when nothing else can happen."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def exact_tls(ca: trustme.CA) -> ssl.SSLContext:
    """A client's, for which an end without close_notify is a broken connection."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    # Python sets this by itself.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context
