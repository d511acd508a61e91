"""The demo: the story is told whole, or the exit code says that it was not."""

from __future__ import annotations

import re

import pytest
import trio

from proxy.testing import demo, node
from proxy.testing.demo import Story, tell
from proxy.testing.node import StandInNode

STORY = r"""\* The proxy listens on wss://localhost:\d+/deepstream
  and balances over node anna, 127\.0\.0\.1:\d+
  and balances over node bert, 127\.0\.0\.1:\d+
1 Two clients connect over TLS and log in\.
  node anna has 1 session
  node bert has 1 session
2 bob emits the event tide: "The tide is coming in\."
  ada receives tide: "The tide is coming in\."
3 Node (anna|bert), which serves ada, is killed\.
  ada is back through the other node after \d+ ms, bob noticed nothing
  the record of the lost session: ending=node_lost node=127\.0\.0\.1:\d+
4 bob emits the event tide: "Still here, and so is the subscription\."
  ada receives tide: "Still here, and so is the subscription\."
5 All nodes are killed\. A handshake that comes now waits, with nothing sent\.
  node anna starts again
  HTTP 101 after \d+ ms: a slow try, not a failed one
6 Nobody is left, and nobody comes back\. The next one is answered honestly:
  HTTP 500, Proxy-Status: tidegate; error=destination_unavailable
\* That was the main job\. Every line above has happened on real sockets\.
"""


async def test_story_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(10):
        code = await tell()
    out, err = capsys.readouterr()

    assert code == 0
    assert re.fullmatch(STORY, out), out
    assert err == ""


async def test_expectation_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Story, "_sessions", lambda _: {})
    with trio.fail_after(10):
        code = await tell()
    out = capsys.readouterr().out

    assert code == 1
    assert out.endswith("! This should not have happened: Failed('each node has one session')\n")


async def test_node_that_does_not_die(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(StandInNode, "kill", lambda _: None)
    monkeypatch.setattr(demo, "LIMIT", 0.5)
    with trio.fail_after(10):
        code = await tell()
    out = capsys.readouterr().out

    assert code == 1
    assert "3 Node " in out
    assert out.endswith("! This should not have happened: TooSlowError()\n")


async def test_nodes_that_answer_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node, "PATH", b"/elsewhere")
    with trio.fail_after(10):
        code = await tell()
    out = capsys.readouterr().out

    assert code == 1
    assert out.endswith("! This should not have happened: Rejected('rejected with 500')\n")
