"""What the log is told of a configuration that works: at the start, and at each reload."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trustme

from proxy import open_proxy, parse_config
from proxy.io.contexts import make_contexts
from proxy.serve.renewal import tell_remarks

TEXT = """
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [ { cert_file = "it.pem", key_file = "it.pem" } ]
KEYS
[[routes]]
path = "/"
respond = {}
"""


async def test_at_the_start_and_at_a_reload(
    tmp_path: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "it.pem")
    quiet = parse_config(TEXT.replace("KEYS", ""), folder=tmp_path)
    loud = parse_config(TEXT.replace("KEYS", 'keylog_file = "keys.log"'), folder=tmp_path)

    def told() -> list[tuple[str, str]]:
        found = [
            (record.levelname, record.__dict__["reason"].partition(":")[0])
            for record in caplog.records
            if record.message == "configuration"
        ]
        caplog.clear()
        return found

    caplog.set_level(logging.INFO, "tidegate")
    warning = [("WARNING", "listeners[0].tls.keylog_file")]
    async with open_proxy(loud) as server:
        assert told() == warning
        await server.reload(quiet)
        assert told() == []
        await server.reload(loud)
        assert told() == warning

    contexts = make_contexts(loud)
    tell_remarks(loud, contexts, told=contexts.peer_remarks)
    assert told() == []
