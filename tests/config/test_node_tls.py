"""TLS towards nodes: its defaults, and every fault with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.config.checks import Invalid, NewFile
from proxy.config.load import parse_config
from proxy.config.model import Config
from proxy.config.node_tls import NodeTls
from proxy.errors import ConfigError


def parse(tls: str, folder: Path | None = None) -> Config:
    text = f"""
        [[listeners]]
        bind = "127.0.0.1:0"
        [[routes]]
        path = "/"
        upstream = "u"
        [upstreams.u]
        nodes = [ "node.example:1" ]
        tls = {{ {tls} }}
    """
    return parse_config(text, name="t", folder=folder)


def test_defaults() -> None:
    assert parse("").upstreams["u"].tls == NodeTls(
        ca_file=None,
        server_name=None,
        cert_file=None,
        key_file=None,
        passphrase_file=None,
        passphrase_env=None,
        minimum_version="1.2",
        maximum_version="1.3",
        session_reuse=True,
        keylog_file=None,
    )


def test_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("")
    (tmp_path / "keys").mkdir()
    text = """
        ca_file = "it", server_name = "node.example", cert_file = "it", key_file = "it",
        passphrase_env = "PASS", minimum_version = "1.3", maximum_version = "1.3",
        session_reuse = false, keylog_file = "keys/new"
    """
    it = tmp_path / "it"
    assert parse(text.replace("\n", " "), tmp_path).upstreams["u"].tls == NodeTls(
        ca_file=it,
        server_name="node.example",
        cert_file=it,
        key_file=it,
        passphrase_env="PASS",
        minimum_version="1.3",
        maximum_version="1.3",
        session_reuse=False,
        keylog_file=NewFile(tmp_path / "keys" / "new"),
    )


@pytest.mark.parametrize("name", [".example", "a:443", "*.example", "[::1]"])
def test_server_name_is_a_host(name: str) -> None:
    with pytest.raises(ValueError, match="must be a host name"):
        NodeTls(server_name=name)


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"cert_file": Path("c")}, [("", "cert_file and key_file belong together")]),
        ({"key_file": Path("k")}, [("", "cert_file and key_file belong together")]),
        ({"passphrase_env": "P"}, [("passphrase_env", "means nothing without key_file")]),
        ({"passphrase_file": Path("p")}, [("passphrase_file", "means nothing without key_file")]),
        (
            {"minimum_version": "1.3", "maximum_version": "1.2"},
            [("maximum_version", "must be at least minimum_version (1.3)")],
        ),
        (
            {"key_file": Path("k"), "passphrase_file": Path("p"), "passphrase_env": "P"},
            [
                ("passphrase_env", "stands beside passphrase_file: say one of them"),
                ("", "cert_file and key_file belong together"),
            ],
        ),
    ],
)
def test_keys_that_contradict_each_other(
    options: dict[str, Any], faults: list[tuple[str, str]]
) -> None:
    with pytest.raises(Invalid) as caught:
        NodeTls(**options)
    assert [*caught.value.faults] == faults


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_what_cannot_be_a_variable(name: str) -> None:
    with pytest.raises(Invalid, match="cannot be a variable's name"):
        NodeTls(cert_file=Path("c"), key_file=Path("k"), passphrase_env=name)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('minimum_version = "1.1"', "minimum_version: must be one of '1.2', '1.3'"),
        ("keylog_file = true", "keylog_file: must be a string"),
        ('ca_file = "gone.pem"', "ca_file: no such file"),
        ("verify = false", "verify: unknown key; allowed here: ca_file"),
    ],
)
def test_faults_in_a_file(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    (problem,) = caught.value.problems
    assert problem.startswith(f"t: upstreams.u.tls.{key}")
