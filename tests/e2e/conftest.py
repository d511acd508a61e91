"""What the end-to-end tests need on the machine, and the files they share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .balancers import NGINX_STREAM
from .harness import Certificate, make_certificate

ROOT = Path(__file__).parent.parent.parent
#: In an environment of its own, since it holds back what the proxy's tests use.
SSLYZE = ROOT / ".venv-sslyze" / "bin" / "sslyze"
MODULES = Path(__file__).parent / "node_modules" / "@deepstream"


def require(present: object, reason: str) -> None:
    """Skip without a requirement; fail where CI is set, which has to have it."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True, scope="session")
def deepstream() -> None:
    """The real deepstream server and client."""
    require(shutil.which("node"), "node is not installed")
    packages = ("server", "client", "clusternode-redis")
    require(
        all((MODULES / package / "package.json").exists() for package in packages),
        "the packages of tests/e2e are not installed: run npm ci there",
    )


@pytest.fixture(scope="session")
def redis() -> None:
    """A redis server, which joins deepstream nodes to a cluster."""
    require(shutil.which("redis-server"), "redis-server is not installed")


@pytest.fixture(scope="session")
def haproxy() -> None:
    """HAProxy, before the proxy or as its node."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    require(shutil.which("haproxy", path=path), "haproxy is not installed")


@pytest.fixture(scope="session")
def nginx() -> None:
    """nginx with its module for streams, before the proxy or as its node."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    require(shutil.which("nginx", path=path), "nginx is not installed")
    require(NGINX_STREAM.exists(), "nginx's module for streams is not installed")


@pytest.fixture(scope="session")
def sslyze() -> None:
    """The scanner of TLS configurations."""
    require(SSLYZE.exists(), "sslyze is not installed: run make .venv-sslyze/.ready")


@pytest.fixture(scope="session")
def chromium() -> None:
    """A browser without a window."""
    require(shutil.which("chromium"), "chromium is not installed")


@pytest.fixture(scope="session")
def curl() -> None:
    require(shutil.which("curl"), "curl is not installed")


@pytest.fixture(scope="session")
def openssl() -> None:
    """OpenSSL's command."""
    require(shutil.which("openssl"), "openssl is not installed")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for this machine from a CA that only the test trusts."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
