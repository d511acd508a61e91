"""What is said of a configuration that works."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import trustme

from proxy.config.load import parse_config
from proxy.io.contexts import make_contexts, remarks
from proxy.io.peer_remarks import peer_remarks

from .certificates import NOW, WEEK, revoked

TEXT = """
[[listeners]]
bind = "127.0.0.1:0"
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [ { cert_file = "it.pem", key_file = "it.pem" } ]
client_certificates = { ca_file = "it.pem", crl_file = "crl.pem" }
keylog_file = "keys.log"
[[routes]]
path = "/"
upstream = "u"
[upstreams.u]
nodes = [ "localhost:1" ]
tls = { ca_file = "it.pem", keylog_file = "keys.log" }
[upstreams.plain]
nodes = [ "localhost:1" ]
"""


def test_each_with_its_key(tmp_path: Path) -> None:
    ca = trustme.CA()
    pem = ca.private_key_pem.bytes() + ca.cert_pem.bytes()
    (tmp_path / "it.pem").write_bytes(pem)
    (tmp_path / "crl.pem").write_bytes(revoked(ca, until=NOW + WEEK))
    config = parse_config(TEXT, folder=tmp_path)

    keys = f"the keys of all connections are written to {tmp_path}/keys.log: who reads it can read"
    logged = [
        f"listeners[1].tls.keylog_file: {keys} them all",
        f"upstreams.u.tls.keylog_file: {keys} them all",
    ]
    assert [*peer_remarks(config, NOW.timestamp())] == logged
    contexts = make_contexts(config)
    assert [*remarks(config, contexts)] == logged

    later = (NOW + WEEK + timedelta(seconds=1)).timestamp()
    expired, *rest = peer_remarks(config, later)
    assert expired.startswith("listeners[1].tls.client_certificates.crl_file: the list of ")
    assert rest == logged


def test_what_nodes_are_shown(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("proxy.example.org", not_after=NOW + WEEK)
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    text = """
        [[listeners]]
        bind = "127.0.0.1:0"
        [[routes]]
        path = "/"
        upstream = "u"
        [upstreams.u]
        nodes = [ "localhost:1" ]
        tls = { cert_file = "own.pem", key_file = "own.pem" }
    """
    config = parse_config(text, folder=tmp_path)
    assert not [*peer_remarks(config, (NOW - 4 * WEEK).timestamp())]
    (soon,) = peer_remarks(config, NOW.timestamp())
    assert soon.startswith("upstreams.u.tls.cert_file: expires on ")
    (late,) = peer_remarks(config, (NOW + 2 * WEEK).timestamp())
    assert "nodes refuse it" in late
    (tmp_path / "own.pem").unlink()
    assert not [*peer_remarks(config, NOW.timestamp())]
