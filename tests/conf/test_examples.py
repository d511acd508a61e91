"""The configurations in conf/ work as they stand, and the reference is complete and true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme

from proxy.config import http as http_module
from proxy.config import route as route_module
from proxy.config import tls as tls_module
from proxy.config import upstream as upstream_module
from proxy.config.http import Redirect, Respond
from proxy.config.load import parse_config
from proxy.config.model import Config, Limits, Timeouts
from proxy.config.route import Route
from proxy.config.upstream import Probe, Rebalance, Upstream
from proxy.io.contexts import make_contexts

CONF = Path(__file__).parent.parent.parent / "conf"


@pytest.fixture
def load(tmp_path: Path, ca: trustme.CA) -> Any:
    """Load an example, with a certificate in the place where it expects one."""
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")

    def load(path: Path) -> Config:
        text = path.read_text()
        for name in ("/etc/ssl/certs/yourcert.crt", "/etc/ssl/certs/yourkey.key"):
            text = text.replace(name, "both.pem")
        config = parse_config(text, name=path.name, folder=tmp_path)
        make_contexts(config, path.name)
        return config

    return load


@pytest.mark.parametrize("path", sorted(CONF.glob("*.toml")), ids=lambda path: path.name)
def test_example_loads(path: Path, load: Any) -> None:
    config = load(path)

    assert config.upstreams["deepstream"].nodes
    assert any(route.kind in ("websocket", "tcp") for route in config.routes)


def test_what_a_stream_has_commented_out_loads_too(load: Any, tmp_path: Path) -> None:
    text = (CONF / "stream.toml").read_text()
    head, more = text.split("# [[listeners]]")
    more = "\n".join(line.removeprefix("#").removeprefix(" ") for line in more.splitlines())
    whole = tmp_path / "whole.toml"
    whole.write_text(f"{head}[[listeners]]{more}")
    config = load(whole)

    assert [route.name for route in config.routes] == ["tcp:public", "tcp:mqtt"]


def test_reference_gives_the_defaults(load: Any) -> None:
    config: Config = load(CONF / "reference.toml")

    for section in ("timeouts", "limits", "forwarding", "shutdown", "log", "tls", "workers"):
        (field,) = (one for one in attrs.fields(Config) if one.name == section)
        default = field.default.factory() if section != "workers" else field.default  # type: ignore[union-attr]
        assert getattr(config, section) == default
    route, *others = config.routes
    assert route.has_sessions
    assert not any(other.has_sessions for other in others)
    assert config.error_pages == {}
    passage = others[-1]
    assert passage == Route(upstream=passage.upstream, listener=passage.listener, sni=passage.sni)
    assert route == Route(
        path=route.path,
        upstream=route.upstream,
        host=route.host,
        listener=route.listener,
        websocket=True,
        origins=route.origins,
    )
    upstream = config.upstreams["deepstream"]
    assert upstream == Upstream(
        nodes=upstream.nodes,
        tls=upstream.tls,
        # Those that are off without being named, as they are when they are.
        probe=Probe(kind="deepstream", path="/deepstream"),
        rebalance=Rebalance(),
    )


def test_reference_names_every_key() -> None:
    text = (CONF / "reference.toml").read_text()
    classes = [
        Config,
        *vars(http_module).values(),
        *vars(route_module).values(),
        *vars(tls_module).values(),
        *vars(upstream_module).values(),
    ]
    names = {
        field.name
        for one in classes
        if isinstance(one, type) and attrs.has(one)
        for field in attrs.fields(one)
    } - {"path", "host", "srv", "port", "range"}
    for section in ("timeouts", "limits", "forwarding", "shutdown", "log", "tls"):
        (field,) = (one for one in attrs.fields(Config) if one.name == section)
        names |= {inner.name for inner in attrs.fields(field.default.factory)}  # type: ignore[union-attr]

    assert not {name for name in names if name not in text}


def test_reference_shows_the_defaults_of_answers(load: Any) -> None:
    """Those that cannot stand with the others of a route are in routes of their own."""
    _, api, old, health, _ = load(CONF / "reference.toml").routes

    assert (api.response_timeout, api.body_timeout) == (Timeouts().response, Timeouts().body)
    assert api.body_bytes == Limits().body_bytes
    assert old.redirect == Redirect(host=old.redirect.host, scheme="https", port=443)
    assert health.respond == Respond(body="ok\n", content_type=Respond(body="ok\n").media_type)
