"""Async tests run on Trio; a fixture that is a clock becomes the run's clock."""

from __future__ import annotations

import functools
import inspect
import ssl

import pytest
import trio
import trustme
from hypothesis import settings

from proxy.config.load import parse_config
from proxy.io.contexts import make_contexts

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
def server_tls(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A listener's, as the proxy makes it."""
    folder = tmp_path_factory.mktemp("tls")
    certificate = ca.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "it.pem"))
    config = parse_config(
        """
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = { certificates = [ { cert_file = "it.pem", key_file = "it.pem" } ] }
        [[routes]]
        path = "/"
        upstream = "u"
        [upstreams.u]
        nodes = [ "127.0.0.1:1" ]
        proxy_protocol = "v2"
        """,
        folder=folder,
    )
    (tls,) = make_contexts(config).listeners
    assert tls is not None
    context = tls.choose("localhost")
    assert context is not None
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
    # Some builds of Python set this by themselves.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context
