"""What sslyze finds at a listener for TLS 1.2 and 1.3, and at one for 1.3 alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from .conftest import SSLYZE
from .harness import Certificate, open_proxy
from .program import deadline

pytestmark = pytest.mark.usefixtures("sslyze")

SCAN_TIME = 60.0
CONFIG = """
[log]
access = false
format = "json"
[[listeners]]
name = "both"
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "{cert_file}", key_file = "{key_file}" }} ] }}
[[listeners]]
name = "new"
bind = "127.0.0.1:0"
[listeners.tls]
minimum_version = "1.3"
certificates = [ {{ cert_file = "{cert_file}", key_file = "{key_file}" }} ]
[[routes]]
prefix = "/"
respond = {{ body = "hello" }}
"""
# fmt: off
SCANS = (
    "--certinfo", "--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3",
    "--compression", "--early_data", "--reneg", "--resum", "--fallback", "--heartbleed",
    "--openssl_ccs", "--robot", "--ems",
)
# fmt: on
#: RFC 8446 appendix B.4; OpenSSL's own list leaves out those of small devices.
TLS13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")


class Findings:
    """What was found at one listener."""

    def __init__(self, results: dict[str, Any]) -> None:
        self._results = results

    def of(self, scan: str) -> Any:
        result = self._results[scan]
        assert result["status"] == "COMPLETED", (scan, result["error_reason"])
        return result["result"]

    def ciphers(self, version: str) -> dict[str, bool]:
        """Return what is accepted, and whether it is forward-secret."""
        accepted = self.of(f"{version}_cipher_suites")["accepted_cipher_suites"]
        return {one["cipher_suite"]["name"]: bool(one["ephemeral_key"]) for one in accepted}


async def scan(addresses: list[str], folder: Path) -> list[Findings]:
    report = folder / "report.json"
    with deadline(SCAN_TIME, "sslyze"):
        await trio.run_process(
            [str(SSLYZE), "--json_out", str(report), *SCANS, *addresses],
            capture_stdout=True,
            capture_stderr=True,
        )
    found = json.loads(report.read_text())
    assert found["invalid_server_strings"] == []
    # They come in the order in which they were done.
    by_port = {
        one["server_location"]["port"]: Findings(one["scan_result"])
        for one in found["server_scan_results"]
    }
    return [by_port[int(address.rpartition(":")[2])] for address in addresses]


async def test_what_sslyze_finds(certificate: Certificate, tmp_path: Path) -> None:
    config = CONFIG.format(cert_file=certificate.cert_file, key_file=certificate.key_file)
    async with open_proxy(config) as proxy:
        both, new = await scan([proxy.address("both"), proxy.address("new")], tmp_path)

    for found in (both, new):
        assert {version: found.ciphers(version) for version in OLD} == {key: {} for key in OLD}
        assert found.ciphers("tls_1_3").keys() == TLS13
        assert not found.of("tls_compression")["supports_compression"]
        assert not found.of("tls_1_3_early_data")["supports_early_data"]
        assert not found.of("heartbleed")["is_vulnerable_to_heartbleed"]
        assert not found.of("openssl_ccs_injection")["is_vulnerable_to_ccs_injection"]
        assert found.of("robot")["robot_result"] == "NOT_VULNERABLE_RSA_NOT_SUPPORTED"
        assert found.of("tls_fallback_scsv")["supports_fallback_scsv"]
        assert found.of("tls_extended_master_secret")["supports_ems_extension"]
        renegotiation = found.of("session_renegotiation")
        assert renegotiation["supports_secure_renegotiation"]
        assert renegotiation["client_renegotiations_success_count"] == 0
        check_chain(found)
    assert new.ciphers("tls_1_2") == {}
    check_tls12(both)


def check_chain(found: Findings) -> None:
    """All but the root is there, in order; that it leads to the root is for clients to find."""
    (deployment,) = found.of("certificate_info")["certificate_deployments"]
    chain = deployment["received_certificate_chain"]
    assert deployment["received_chain_has_valid_order"]
    assert len(chain) == 2
    leaf, intermediate = chain
    assert leaf["issuer"]["rfc4514_string"] == intermediate["subject"]["rfc4514_string"]
    assert intermediate["issuer"] != intermediate["subject"]


def check_tls12(found: Findings) -> None:
    ciphers = found.ciphers("tls_1_2")
    assert ciphers
    assert all(ciphers.values()), "a cipher without forward secrecy"
    # AEAD, all of them.
    kinds = ("_AES_128_GCM_", "_AES_256_GCM_", "_CHACHA20_POLY1305_")
    assert all(any(kind in name for kind in kinds) for name in ciphers), ciphers
    resumption = found.of("session_resumption")
    assert resumption["tls_ticket_resumption_result"] == "FULLY_SUPPORTED"
