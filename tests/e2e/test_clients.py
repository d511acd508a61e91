"""Clients of many kinds, through the proxy with TLS: each brings a library and habits of its own.

All of them but the browser verify the certificate, by the root of a CA of which the proxy shows the
leaf and the intermediate.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
import websockets.sync.client
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .harness import Certificate, Proxy, open_nodes, open_proxy
from .nodes import HERE
from .program import DEADLINE, deadline, open_program
from .raw import CHALLENGE, LOGIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VERSIONS = ["1.2", "1.3"]
#: What a node answers to CHALLENGE and LOGIN.
ACCEPTED = bytes.fromhex("06 1002 1a02 0804")
LOGGED_IN = bytes.fromhex("06 1003 1a02 0803")
CONFIG = """
[log]
format = "json"
[[listeners]]
name = "public"
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "{cert_file}", key_file = "{key_file}" }} ] }}
[[routes]]
path = "/deepstream"
websocket = true
upstream = "deepstream"
[[routes]]
path = "/health-check"
upstream = "deepstream"
[[routes]]
path = "/page"
respond = {{ file = "{page}" }}
[[routes]]
path = "/told"
respond = {{ status = 204 }}
[upstreams.deepstream]
nodes = [ "{node}" ]
"""


@contextlib.asynccontextmanager
async def open_public(certificate: Certificate) -> AsyncIterator[Proxy]:
    """Run a deepstream node, and the proxy before it."""
    async with open_nodes(1) as (node,):
        config = CONFIG.format(
            cert_file=certificate.cert_file,
            key_file=certificate.key_file,
            page=Path(HERE, "page.html"),
            node=node.address,
        )
        async with open_proxy(config) as proxy:
            yield proxy


async def run(*command: str, sent: bytes = b"", status: int = 0) -> str:
    """Run a command that ends by itself, and return what it says."""
    with deadline(DEADLINE, command[0]):
        done = await trio.run_process(
            command, stdin=sent, capture_stdout=True, capture_stderr=True, check=False, cwd=HERE
        )
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == status, output
    return output


@pytest.mark.parametrize("version", VERSIONS)
async def test_ws_of_node(version: str, certificate: Certificate) -> None:
    async with open_public(certificate) as proxy:
        command = ["node", "ws.js", proxy.url(), certificate.ca_file, f"TLSv{version}"]
        found = json.loads(await run(*command, CHALLENGE.hex()))
        (record,) = await proxy.until_records(1, route="/deepstream")

    assert found == {"answer": ACCEPTED.hex(), "code": 1000}
    assert (record["ended_by"], record["close_from_client"]) == ("client", 1000)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_websockets_of_python(version: ssl.TLSVersion, certificate: Certificate) -> None:
    context = ssl.create_default_context(cafile=certificate.ca_file)
    context.minimum_version = context.maximum_version = version

    def talk(url: str) -> list[object]:
        with websockets.sync.client.connect(url, ssl=context, open_timeout=DEADLINE) as session:
            answers: list[object] = []
            for question in (CHALLENGE, LOGIN):
                session.send(question)
                answers.append(session.recv(timeout=DEADLINE))
        return answers

    async with open_public(certificate) as proxy:
        assert await trio.to_thread.run_sync(talk, proxy.url()) == [ACCEPTED, LOGGED_IN]
        (record,) = await proxy.until_records(1, route="/deepstream")

    assert (record["ended_by"], record["close_from_client"]) == ("client", 1000)


@pytest.mark.usefixtures("curl")
@pytest.mark.parametrize("version", VERSIONS)
async def test_curl(version: str, certificate: Certificate) -> None:
    """It offers HTTP/2 besides, and asks twice on one connection."""
    async with open_public(certificate) as proxy:
        url = f"https://{proxy.address()}/health-check"
        said = "%{http_code} %{http_version} %{ssl_verify_result} %{num_connects}\\n"
        tls = ["--cacert", certificate.ca_file, f"--tlsv{version}", "--tls-max", version]
        once = ["--silent", "--show-error", "--output", "/dev/null", "--write-out", said]
        output = await run("curl", *tls, *once, url, "--next", *tls, *once, url)
        upgrade = await run(
            *("curl", "--silent", "--include", "--max-time", "1", *tls, "--http1.1"),
            *("-H", "Connection: Upgrade", "-H", "Upgrade: websocket"),
            *("-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: " + "A" * 22 + "=="),
            f"https://{proxy.address()}/deepstream",
            # The session is there until its time is over.
            status=28,
        )

    assert output.split() == ["200", "1.1", "0", "1", "200", "1.1", "0", "0"]
    assert upgrade.startswith("HTTP/1.1 101 ")


@pytest.mark.usefixtures("curl")
async def test_curl_without_tls(certificate: Certificate) -> None:
    async with open_public(certificate) as proxy:
        output = await run("curl", "--silent", "--include", f"http://{proxy.address()}/deepstream")
        (record,) = await proxy.until_records(1, status=400)

    assert output.startswith("HTTP/1.1 400 ")
    assert "This port speaks TLS: use https:// or wss://." in output
    assert record["target"] == "/deepstream"


def s_client(proxy: Proxy, certificate: Certificate, version: str, *more: str) -> list[str]:
    name = f"-tls{version.replace('.', '_')}"
    return [
        *("openssl", "s_client", "-connect", proxy.address(), "-servername", "localhost", name),
        *("-CAfile", certificate.ca_file, "-verify_return_error", *more),
    ]


REQUEST = b"GET /health-check HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.usefixtures("openssl")
@pytest.mark.parametrize("version", VERSIONS)
async def test_s_client_comes_back(version: str, certificate: Certificate, tmp_path: Path) -> None:
    """With the ticket that it was given, which spares both of them half of the handshake."""
    ticket = str(tmp_path / "ticket")
    async with open_public(certificate) as proxy:
        command = s_client(proxy, certificate, version, "-ign_eof")
        first = await run(*command, "-sess_out", ticket, sent=REQUEST)
        again = await run(*command, "-sess_in", ticket, sent=REQUEST)

    for output in (first, again):
        assert "HTTP/1.1 200 OK" in output
        assert "Verify return code: 0 (ok)" in output
        # Which is said by a close_notify, and nothing else.
        assert "unexpected eof" not in output
    assert f"New, TLSv{version}" in first
    assert f"Reused, TLSv{version}" in again


@pytest.mark.usefixtures("openssl")
async def test_s_client_reconnects(certificate: Certificate) -> None:
    async with open_public(certificate) as proxy:
        output = await run(*s_client(proxy, certificate, "1.2", "-reconnect"))

    assert output.count("Reused, TLSv1.2") == 5


@pytest.mark.usefixtures("openssl")
async def test_s_client_may_not_renegotiate(certificate: Certificate) -> None:
    """It is told so, and goes; who asks again and again costs what a message costs."""
    async with open_public(certificate) as proxy:
        output = await run(*s_client(proxy, certificate, "1.2"), sent=b"R\n", status=1)
        (record,) = await proxy.until_records(1)
        healthy = await run(*s_client(proxy, certificate, "1.2", "-ign_eof"), sent=REQUEST)

    assert "RENEGOTIATING" in output
    assert "no renegotiation" in output
    assert record["ending"] == "client_lost"
    assert "HTTP/1.1 200 OK" in healthy


def fingerprint(certificate: Certificate) -> str:
    """Return the leaf's public key as a browser names it (RFC 7469 section 2.4)."""
    leaf = x509.load_pem_x509_certificate(Path(certificate.cert_file).read_bytes())
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@pytest.mark.usefixtures("chromium")
async def test_a_page_in_chromium(certificate: Certificate) -> None:
    """Page and session come through the proxy, and so does what the page has heard.

    Of the certificate's CA it knows nothing: it is told which key to trust.
    """
    async with open_public(certificate) as proxy:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            command = [
                "chromium",
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                *("--disable-component-update", "--disable-dev-shm-usage"),
                f"--user-data-dir={folder}",
                f"--ignore-certificate-errors-spki-list={fingerprint(certificate)}",
                f"https://{proxy.address()}/page",
            ]
            async with open_program("chromium", command, cwd=folder):
                (told,) = await proxy.until_records(1, route="/told", within=60.0)
        (session,) = await proxy.until_records(1, route="/deepstream")

    heard = parse_qs(urlsplit(told["target"]).query)
    assert heard == {"code": ["1000"], "answers": [f"{ACCEPTED.hex()},{LOGGED_IN.hex()}"]}
    assert (session["messages_from_client"], session["close_from_client"]) == (2, 1000)
