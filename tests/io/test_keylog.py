"""Keys in a file: only where that was said, and for nobody else to read."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
import trustme

from proxy.config.load import parse_config
from proxy.errors import ConfigError
from proxy.io.contexts import make_contexts
from proxy.io.keylog import write_keys

from .test_client_certificates import shake_hands


def contexts(folder: Path, ca: trustme.CA, keys: str = "") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a node is dialled with, and a listener's."""
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "it.pem")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    text = f"""
        [[listeners]]
        bind = "127.0.0.1:0"
        [listeners.tls]
        certificates = [ {{ cert_file = "it.pem", key_file = "it.pem" }} ]
        {keys}
        [[routes]]
        path = "/"
        upstream = "u"
        [upstreams.u]
        nodes = [ "localhost:1" ]
        [upstreams.u.tls]
        ca_file = "ca.pem"
        {keys}
    """
    made = make_contexts(parse_config(text, name="t", folder=folder))
    (listener,) = made.listeners
    assert listener is not None
    far = listener.choose("")
    assert far is not None
    return made.upstreams["u"], far


def test_keys_of_both_legs(tmp_path: Path, ca: trustme.CA, client_tls: ssl.SSLContext) -> None:
    near, far = contexts(tmp_path, ca, 'keylog_file = "keys.log"')
    log = tmp_path / "keys.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600

    def secrets() -> int:
        return log.read_text().count("\nCLIENT_HANDSHAKE_TRAFFIC_SECRET ")

    shake_hands(near, far)
    both = secrets()
    shake_hands(client_tls, far)
    shake_hands(near, far)
    assert (both, secrets()) == (2, 5)
    # It is added to, not begun anew.
    contexts(tmp_path, ca, 'keylog_file = "keys.log"')
    assert secrets() == 5


def test_without_the_key_there_is_none_whatever_the_environment_says(
    tmp_path: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    # So that this is a test: Python's own context obeys it.
    assert ssl.create_default_context().keylog_filename == str(log)
    log.unlink(missing_ok=True)

    near, far = contexts(tmp_path, ca)
    shake_hands(near, far)
    assert [one.keylog_filename for one in (near, far) if one.keylog_filename] == []
    assert not log.exists()


def test_faults(tmp_path: Path, ca: trustme.CA) -> None:
    with pytest.raises(ConfigError) as caught:
        contexts(tmp_path, ca, 'keylog_file = "none/keys.log"')
    assert caught.value.problems == (
        "config: listeners[0].tls.keylog_file: No such file or directory",
        "config: upstreams.u.tls.keylog_file: No such file or directory",
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_read(tmp_path: Path, mode: int) -> None:
    log = tmp_path / "keys.log"
    log.touch()
    log.chmod(mode)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(OSError, match=r"others may read .*: chmod 600"):
        write_keys(context, log)
    assert not context.keylog_filename
    log.chmod(0o600)
    write_keys(context, log)
    assert context.keylog_filename == str(log)
    write_keys(context, None)
    assert context.keylog_filename == str(log)
