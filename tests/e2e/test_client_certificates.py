"""Real clients with certificates, or without, before real nodes, and a list that changes."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import attrs
import pytest
import trio
import trustme

from tests.io.certificates import revoked

from .harness import Certificate, Node, Proxy, config_for, open_clients, open_nodes, open_proxy
from .test_differential import open_http_node

ADDED = """
[forwarding]
client_certificates = ["verify", "subject", "serial", "fingerprint", "certificate"]

[[routes]]
prefix = "/seen"
upstream = "http"

[upstreams.http]
nodes = [ "{http}" ]
"""
ASKING = ', client_certificates = {{ ca_file = "{0}/ca.pem", crl_file = "{0}/crl.pem" }} }}'
FORGED = ("X-SSL-Client-Verify: SUCCESS", "X_SSL_Client_Subject: CN=Eve", "Client-Cert: :AAAA:")


@attrs.frozen
class People:
    """The CA of the clients' certificates, and these as files."""

    folder: Path
    ca: trustme.CA
    issued: dict[str, trustme.LeafCert]

    @classmethod
    def of(cls, folder: Path, *names: str) -> People:
        people = cls(folder, ca := trustme.CA(), {})
        ca.cert_pem.write_to_path(folder / "ca.pem")
        for name in names:
            leaf = people.issued[name] = ca.issue_cert(f"{name}@example.org", common_name=name)
            leaf.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
        people.revoke()
        return people

    def revoke(self, *names: str) -> None:
        listed = revoked(self.ca, *(self.issued[name] for name in names))
        (self.folder / "crl.pem").write_bytes(listed)

    def options(self, name: str, certificate: Certificate) -> dict[str, dict[str, str]]:
        """What has a deepstream client show a certificate."""
        pem = (self.folder / f"{name}.pem").read_text()
        ca = Path(certificate.ca_file).read_text()
        return {"socketOptions": {"ca": ca, "cert": pem, "key": pem}}


def configured(certificate: Certificate, nodes: list[Node], http: str, people: People) -> str:
    text = config_for(certificate, nodes)
    asking = ASKING.format(people.folder)
    return re.sub(r"\] \}\n", f"] {asking}\n", text, count=1) + ADDED.format(http=http)


async def curl(
    proxy: Proxy, certificate: Certificate, *options: str
) -> tuple[int, dict[str, list[str]]]:
    """Ask what a node has seen; return curl's exit code and the headers, by their names."""
    url = f"https://{proxy.address()}/seen"
    lines = [word for line in FORGED for word in ("-H", line)]
    command = ["curl", "-sS", "--max-time", "10", "--cacert", certificate.ca_file, *lines, *options]
    done = await trio.run_process([*command, url], capture_stdout=True, check=False)
    if done.returncode:
        return done.returncode, {}
    raw = json.loads(done.stdout)["rawHeaders"]
    headers: dict[str, list[str]] = {}
    for name, value in zip(raw[::2], raw[1::2], strict=True):
        headers.setdefault(name.lower(), []).append(value)
    return 0, headers


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_real_clients_with_certificates(
    version: str, certificate: Certificate, tmp_path: Path
) -> None:
    people = People.of(tmp_path, "ada", "bob")
    tls = ("--tls-max", version)
    show = {name: ("--cert", str(tmp_path / f"{name}.pem")) for name in people.issued}
    async with (
        open_http_node() as http,
        open_nodes(1) as nodes,
        open_proxy(configured(certificate, nodes, http, people)) as proxy,
        open_clients(certificate) as clients,
    ):
        code, headers = await curl(proxy, certificate, *tls, *show["ada"])
        assert code == 0
        assert headers["x-ssl-client-verify"] == ["SUCCESS"]
        assert headers["x-ssl-client-subject"][0].startswith("CN=ada,OU=")
        assert len(headers["client-cert"]) == len(headers["x-ssl-client-fingerprint"]) == 1
        assert "Eve" not in str(headers)
        assert headers["client-cert"] != [":AAAA:"]
        code, _ = await curl(proxy, certificate, *tls)
        assert code != 0

        url = proxy.url()
        ada, bob = (people.options(name, certificate) for name in ("ada", "bob"))
        names = await clients.connect(url, 2, "ada", **ada)
        names += await clients.connect(url, 1, "bob", **bob)
        await nodes[0].until_users(3)

        people.revoke("bob")
        proxy.program.process.send_signal(signal.SIGHUP)
        await proxy.program.until(lambda: bool(proxy.program.named("reloaded")), "the reload")
        code, _ = await curl(proxy, certificate, *tls, *show["bob"])
        assert code != 0
        assert (await curl(proxy, certificate, *tls, *show["ada"]))[0] == 0
        # Who is here stays; who comes is judged.
        assert await clients.errors(names) == []
        await nodes[0].until_users(3)

        why = {str(record.get("detail")) for record in proxy.records() if "detail" in record}
        assert why == {
            "The client has shown no certificate.",
            "The client's certificate was not accepted: certificate revoked.",
        }
        subjects = [str(record.get("client_subject", ""))[:6] for record in proxy.records()]
        assert sorted(filter(None, subjects)) == ["CN=ada", "CN=ada"]
