"""TLS towards clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from proxy.config.checks import Invalid
from proxy.config.load import parse_config
from proxy.config.model import Config
from proxy.config.tls import Certificate, ListenerTls, Tls
from proxy.errors import ConfigError

CERTIFICATE = Certificate(cert_file=Path("cert.pem"), key_file=Path("key.pem"))


def parse(folder: Path, tls: str = "", defaults: str = "", certificate: str = "") -> Config:
    (folder / "it.pem").touch()
    files = f'cert_file = "it.pem", key_file = "it.pem"{certificate}'
    text = f"""
        [tls]
        {defaults}
        [[listeners]]
        bind = "127.0.0.1:0"
        tls = {{ certificates = [ {{ {files} }} ]{tls} }}
        [[routes]]
        path = "/"
        upstream = "u"
        [upstreams.u]
        nodes = [ "127.0.0.1:1" ]
    """
    return parse_config(text, name="t", folder=folder)


def effective(config: Config) -> Tls:
    tls = config.listeners[0].tls
    assert tls is not None
    return tls.over(config.tls)


def test_there_is_a_certificate() -> None:
    assert ListenerTls(certificates=(CERTIFICATE,)).over(Tls()) == Tls()
    with pytest.raises(ValueError, match="must be"):
        ListenerTls(certificates=())


def test_a_listener_has_all_the_keys_of_the_defaults() -> None:
    """But for what is of the whole process."""
    common = {field.name for field in attrs.fields(Tls)} - {"renewal_interval"}
    own = {field.name: field.default for field in attrs.fields(ListenerTls)}

    assert common <= own.keys()
    assert {own[name] for name in common} == {None}


def test_a_listener_goes_before_the_defaults(tmp_path: Path) -> None:
    config = parse(tmp_path, ", tickets = 0", 'tickets = 3\nminimum_version = "1.3"')

    assert effective(config) == Tls(tickets=0, minimum_version="1.3")


@pytest.mark.parametrize("value", [False, 0])
def test_what_is_off_is_off(value: Any) -> None:
    name = "tickets" if value == 0 and value is not False else "prefer_server_ciphers"
    tls = ListenerTls(certificates=(CERTIFICATE,), **{name: value})

    assert getattr(tls.over(Tls()), name) == value


@pytest.mark.parametrize(
    ("own", "defaults", "fault"),
    [
        (', minimum_version = "1.4"', "", "listeners[0].tls.minimum_version: must be one of"),
        (', minimum_version = "1.3", maximum_version = "1.2"', "", "is older than"),
        ("", 'maximum_version = "1.1"', "tls.maximum_version: is older than minimum_version"),
        (
            ', minimum_version = "1.3"',
            'maximum_version = "1.2"',
            "listeners[0].tls.maximum_version: is older than minimum_version, which is '1.3'",
        ),
        (", tickets = 17", "", "listeners[0].tls.tickets: must be from 0 to 16"),
        ("", "tickets = -1", "tls.tickets: must be from 0 to 16"),
        (", handshake_timeout = 0", "", "listeners[0].tls.handshake_timeout: must be more than 0"),
        ("", "handshake_timeout = inf", "tls.handshake_timeout: must be finite"),
        (', unknown_sni = "ignore"', "", "unknown_sni: must be one of 'default', 'reject'"),
        (", renewal_interval = 1", "", "tls.renewal_interval: unknown key"),
        ("", "renewal_interval = 0", "tls.renewal_interval: must be from 0.01 to 3600"),
        ("", "certificates = []", "tls.certificates: unknown key"),
    ],
)
def test_faults(own: str, defaults: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, own, defaults)

    assert len(caught.value.problems) == 1
    assert fault in caught.value.problems[0]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ('names = ["a.*"]', 'names: must be like "rt.example.org" or "*.example.org"'),
        ('names = ["127.0.0.1"]', "names: must be like"),
        ('passphrase_file = "none"', "passphrase_file: no such file"),
        (
            'passphrase_file = "it.pem", passphrase_env = "KEY"',
            "passphrase_env: is one too many: there is passphrase_file",
        ),
    ],
)
def test_faults_of_certificates(keys: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, certificate=f", {keys}")

    (problem,) = caught.value.problems
    assert problem.startswith("t: listeners[0].tls.certificates[0].")
    assert fault in problem


def test_names_are_in_lower_case() -> None:
    it = attrs.evolve(CERTIFICATE, names=("RT.Example.org",))

    assert it.names == ("rt.example.org",)


def test_versions_in_their_order() -> None:
    Tls(minimum_version="1.0", maximum_version="1.0")
    with pytest.raises(Invalid):
        Tls(minimum_version="1.3", maximum_version="1.2")
