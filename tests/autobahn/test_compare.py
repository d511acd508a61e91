"""What counts as worse, and what else is found wrong with two runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .compare import Comparison, Outcome, Run
from .run import read_outcomes

FINE = Outcome("OK", "OK")
LOOSE = Outcome("NON-STRICT", "OK")


def comparison(
    direct: dict[str, Outcome], proxied: dict[str, Outcome], sessions: int | None = None
) -> Comparison:
    seen = len(proxied) if sessions is None else sessions
    return Comparison(Run(direct, 1.4), Run(proxied, 2.6), seen)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (FINE, LOOSE),
        (LOOSE, Outcome("INFORMATIONAL", "OK")),
        (Outcome("INFORMATIONAL", "OK"), Outcome("UNIMPLEMENTED", "OK")),
        (Outcome("UNIMPLEMENTED", "OK"), Outcome("FAILED", "OK")),
        (Outcome("FAILED", "OK"), Outcome("ERROR", "OK")),
        (FINE, Outcome("OK", "INFORMATIONAL")),
        (Outcome("OK", "INFORMATIONAL"), Outcome("OK", "FAILED BY CLIENT")),
        (Outcome("OK", "FAILED BY CLIENT"), Outcome("OK", "WRONG CODE")),
        (Outcome("OK", "WRONG CODE"), Outcome("OK", "UNCLEAN")),
        (Outcome("OK", "UNCLEAN"), Outcome("OK", "FAILED")),
    ],
    ids=str,
)
def test_scales(better: Outcome, worse: Outcome) -> None:
    assert worse.worse_than(better)
    assert not better.worse_than(worse)
    assert not better.worse_than(better)


def test_a_better_verdict_does_not_make_up_for_a_worse_one() -> None:
    assert Outcome("OK", "WRONG CODE").worse_than(LOOSE)
    assert LOOSE.worse_than(Outcome("OK", "WRONG CODE"))


def test_a_verdict_that_is_on_no_scale_is_an_error() -> None:
    with pytest.raises(ValueError):
        FINE.worse_than(Outcome("SPLENDID", "OK"))


def test_nothing_is_wrong() -> None:
    both = comparison({"1.1": LOOSE, "1.2": FINE}, {"1.1": FINE, "1.2": FINE})

    assert both.faults(2) == []


@pytest.mark.parametrize(
    ("both", "fault"),
    [
        (comparison({"1.1": FINE}, {"1.1": LOOSE}), "1.1 is worse: NON-STRICT / OK, not OK / OK"),
        (comparison({"1.1": FINE}, {"1.2": FINE}), "other cases were run through the proxy"),
        (comparison({"1.1": FINE}, {"1.1": FINE}, 0), "the proxy has seen 0 sessions, not 1"),
    ],
)
def test_one_thing_is_wrong(both: Comparison, fault: str) -> None:
    assert both.faults(1) == [fault]


def test_cases_are_missing() -> None:
    both = comparison({"1.1": FINE}, {"1.1": FINE}, 2)

    assert both.faults(2) == ["1 cases were run without the proxy, not 2"]


def test_what_fails_already_cannot_be_compared() -> None:
    bad = Outcome("FAILED", "OK")

    assert comparison({"1.1": bad}, {"1.1": bad}).faults(1) == [
        "1.1 fails without the proxy: FAILED / OK"
    ]


def test_table() -> None:
    both = comparison(
        {"1.1": FINE, "1.2": LOOSE, "1.3": FINE}, {"1.1": LOOSE, "1.2": FINE, "1.3": FINE}
    )

    assert [" ".join(line.split()) for line in both.table().splitlines()] == [
        "without through the proxy",
        "case 1.1 OK / OK NON-STRICT / OK worse",
        "case 1.2 NON-STRICT / OK OK / OK better",
        "cases 3 3",
        "behavior OK 2 2",
        "behavior NON-STRICT 1 1",
        "close OK 3 3",
        "seconds 1 3",
    ]


def test_outcomes_are_read_in_order_whatever_the_server_calls_itself(tmp_path: Path) -> None:
    fine = {"behavior": "OK", "behaviorClose": "OK"}
    index = {"127.0.0.1": {"1.10": fine, "1.9": fine}, "wsproto": {"1.1": fine}}
    (tmp_path / "index.json").write_text(json.dumps(index))

    assert list(read_outcomes(tmp_path).items()) == [("1.1", FINE), ("1.9", FINE), ("1.10", FINE)]
