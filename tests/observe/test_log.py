"""The log as an operator and as an embedding program see it."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config.model import Log
from proxy.observe.log import ACCESS, LOG, access, configure
from proxy.observe.record import Record

PACKAGE = Path(__file__).parents[2] / "proxy"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave no logger as a test has made it."""
    loggers = [logging.getLogger(), LOG, ACCESS]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


def make_record() -> Record:
    record = Record(id="r1", client="192.0.2.1:5000", status=101, target="/a b", dial_time=0.25)
    record.detail = 'said "no"\nand left'
    return record


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines(capsys)]


def fail() -> None:
    try:
        raise ExceptionGroup("two things", [ValueError("this one"), KeyError("that one")])
    except* Exception as group:
        LOG.error("bug", exc_info=group)


def test_record_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Log(format="json"))
    access(make_record())
    [event] = json_lines(capsys)
    known = make_record().fields()

    assert (event["event"], event["level"]) == ("exchange", "info")
    assert str(event["timestamp"]).endswith("Z")
    assert {name: event[name] for name in known} == known
    assert set(event) == {*known, "event", "level", "timestamp"}


def test_record_as_keys_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Log(format="keyvalue"))
    access(make_record())
    [line] = lines(capsys)

    assert line.startswith("timestamp=")
    assert " level=info event=exchange id=r1 client=192.0.2.1:5000 " in line
    assert ' target="/a b" ' in line
    assert r' detail="said \"no\"\nand left" ' in line
    assert line.endswith(" dial_time=0.25")


def test_exception_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Log(format="json"))
    fail()
    [event] = json_lines(capsys)

    assert (event["event"], event["level"]) == ("bug", "error")
    for text in ("Traceback", "in fail", "ValueError: this one", "KeyError: 'that one'"):
        assert text in str(event["exception"])


def test_exception_as_keys_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Log(format="keyvalue"))
    fail()
    [line] = lines(capsys)

    assert " level=error event=bug exception=" in line
    for text in ("Traceback", "in fail", "ValueError: this one", "KeyError: 'that one'"):
        assert text in line


@pytest.mark.parametrize("log", [Log(format="json", access=False), Log(access=False)])
def test_access_can_be_silenced(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    configure(log)
    access(make_record())
    LOG.info("ready")
    [line] = lines(capsys)

    assert "ready" in line


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")],
)
def test_level(level: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(format="json", level=level)  # type: ignore[arg-type]
    configure(log)
    for log_it in (LOG.debug, LOG.info, LOG.warning, LOG.error):
        log_it(log_it.__name__[0])

    assert [event["event"] for event in json_lines(capsys)] == list(expected)


def test_access_has_no_level_but_its_own_switch(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Log(format="json", level="error"))
    access(make_record())

    assert [event["event"] for event in json_lines(capsys)] == ["exchange"]


def test_other_libraries_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Log(format="json"))
    logging.getLogger("other").info("chatter")
    logging.getLogger("other").warning("trouble")

    assert [event["event"] for event in json_lines(capsys)] == ["trouble"]


def test_configured_twice_is_configured_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Log())
    configure(Log(format="json"))
    LOG.info("ready")

    assert [event["event"] for event in json_lines(capsys)] == ["ready"]


def test_library_adds_no_handler(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tidegate"):
        access(make_record())
    [seen] = caplog.records

    assert (seen.name, seen.message) == ("tidegate.access", "exchange")
    assert vars(seen)["status"] == 101
    assert not LOG.handlers
    assert not ACCESS.handlers


def extras() -> Iterator[tuple[str, str]]:
    """Yield file and key of every fact that is logged with a literal `extra`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "extra" for target in node.targets
            ):
                values = [node.value]
            elif isinstance(node, ast.Call):
                values = [word.value for word in node.keywords if word.arg == "extra"]
            else:
                continue
            for value in values:
                if isinstance(value, ast.Dict):
                    keys = [key for key in value.keys if isinstance(key, ast.Constant)]
                    yield from ((path.name, str(key.value)) for key in keys)


def test_no_extra_is_an_attribute_of_log_records() -> None:
    taken = {*vars(logging.makeLogRecord({})), "message", "asctime", "event", "level", "timestamp"}
    found = list(extras())

    assert len(found) > 5
    assert not [(file, key) for file, key in found if key in taken]
