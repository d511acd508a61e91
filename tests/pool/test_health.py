"""Whether a node may be asked: what probes say, and what requests have met."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.upstream import ProbeKind, Rest
from proxy.pool.health import Health

from .rig import NOW, probe


class Story:
    """A node's health over time, told in words: see `step`."""

    def __init__(
        self,
        kind: ProbeKind = "tcp",
        *,
        rise: int = 1,
        fall: int = 2,
        rest: Rest = Rest(),  # noqa: B008  # frozen
    ) -> None:
        self.health = Health(probe(kind, rise=rise, fall=fall), rest)
        self.now = NOW

    def step(self, word: str) -> str:
        """Let one thing happen, and return what the node is then.

        A number lets so many seconds pass, "+" and "-" are probes; the rest are requests.
        """
        match word:
            case "+" | "-":
                self.health.probed(self.now, well=word == "+")
            case "refused" | "failed":
                self.health.failed(self.now, unreachable=word == "refused")
            case "answered":
                self.health.answered(self.now)
            case _:
                self.now += float(word)
        return self.state

    @property
    def state(self) -> str:
        health = self.health
        available = health.available(self.now)
        if health.state == "up" and not available:
            return "resting"
        assert available == (health.state == "up")
        return health.state

    def tell(self, story: str) -> str:
        return " ".join(self.step(word) for word in story.split())


@pytest.mark.parametrize(
    ("rise", "fall", "probes", "states"),
    [
        # The first answer decides, whatever is needed later.
        (1, 1, "+", "up"),
        (9, 9, "+", "up"),
        (1, 1, "-", "down"),
        (9, 9, "-", "down"),
        # One in a row.
        (1, 1, "+ - + -", "up down up down"),
        # Several; one of the other kind begins the count again.
        (1, 2, "+ - - +", "up up down up"),
        (1, 2, "+ - + - - +", "up up up up down up"),
        (2, 3, "+ - - + - - -", "up up up up up up down"),
        (2, 3, "- + - + + -", "down down down down up up"),
        (3, 1, "+ - + + - + + +", "up down down down down down down up"),
        # What the first answer was counts for no later one.
        (2, 2, "+ - -", "up up down"),
        (2, 2, "- + +", "down down up"),
    ],
)
def test_rise_and_fall(rise: int, fall: int, probes: str, states: str) -> None:
    story = Story(rise=rise, fall=fall)

    assert story.state == "unknown"
    assert story.tell(probes) == states


def test_without_probes_it_is_up() -> None:
    assert Story("none").state == "up"


@pytest.mark.parametrize(
    ("told", "states"),
    [
        # Refused is down at once; back by probe, at once too.
        ("+ refused", "up down"),
        ("+ refused 0.5 +", "up down down up"),
        ("+ refused 0.5 -", "up down down down"),
        ("+ refused 0.5 - +", "up down down down up"),
        ("+ refused 60", "up down down"),
        ("refused", "down"),
        ("refused +", "down up"),
        # Back by a request, which was asked as the last resort.
        ("+ refused answered", "up down up"),
        ("+ - - answered", "up up down up"),
        # Others count: three within ten seconds.
        ("+ failed failed", "up up up"),
        ("+ failed failed failed", "up up up resting"),
        ("+ failed 5 failed 5 failed", "up up up up up resting"),
        ("+ failed 5 failed 5.1 failed", "up up up up up up"),
        ("+ failed 5 failed 5.1 failed 4 failed", "up up up up up up up resting"),
        ("+ failed failed answered failed", "up up up up up"),
        # Its answers were bad: no probe ends the rest, time does, and so does an answer.
        ("+ failed failed failed + 0.9 + 0.1", "up up up resting resting resting resting up"),
        ("+ failed failed failed answered", "up up up resting up"),
        # Refused while it rests for its answers: it is down, and has both to overcome.
        ("+ failed failed failed refused 0.5 + 0.5", "up up up resting down down resting up"),
        # The probes' count begins again when a request has found it unreachable.
        ("+ - refused 1 +", "up up down down up"),
        ("+ - refused + -", "up up down up up"),
    ],
)
def test_with_probes(told: str, states: str) -> None:
    assert Story(rise=1, fall=2).tell(told) == states


@pytest.mark.parametrize(
    ("told", "states"),
    [
        ("refused", "resting"),
        ("refused 0.99", "resting resting"),
        ("refused 1", "resting up"),
        ("refused answered", "resting up"),
        ("failed failed", "up up"),
        ("failed failed failed", "up up resting"),
        ("failed failed failed 1 failed", "up up resting up up"),
        ("failed failed failed 1 failed failed failed", "up up resting up up up resting"),
        ("failed failed failed 1 refused", "up up resting up resting"),
    ],
)
def test_without_probes(told: str, states: str) -> None:
    assert Story("none").tell(told) == states


def test_bad_probes_before_it_was_refused_are_no_good_ones_after_it() -> None:
    assert Story(rise=2, fall=3).tell("+ - refused + +") == "up up down down up"


def test_one_failure_is_enough_where_it_says_so() -> None:
    assert Story(rest=Rest(failures=1)).tell("+ failed 1") == "up resting up"
    assert Story(rest=Rest(failures=1)).tell("failed + 1") == "unknown resting up"


def rests(story: Story, word: str, times: int) -> list[float]:
    """Let it fail as soon as it may be asked again; return how long it rested each time."""
    result = []
    for _ in range(times):
        story.step(word)
        result.append(story.health.rests_until - story.now)
        story.now = story.health.rests_until
    return result


@pytest.mark.parametrize("word", ["refused", "failed"])
@pytest.mark.parametrize(
    ("first", "longest", "expected"),
    [
        (1.0, 30.0, [1, 2, 4, 8, 16, 30, 30]),
        (0.5, 2.0, [0.5, 1, 2, 2]),
        (5.0, 5.0, [5, 5, 5]),
    ],
)
def test_rest_doubles_up_to_the_longest(
    word: str, first: float, longest: float, expected: list[float]
) -> None:
    story = Story("none", rest=Rest(first=first, longest=longest, failures=1))

    assert rests(story, word, len(expected)) == expected


def test_thousands_of_failures_do_no_harm() -> None:
    assert rests(Story("none"), "refused", 5000)[-1] == 30.0


def test_attempts_that_fail_together_count_once() -> None:
    story = Story("none")
    story.tell("refused refused 0.2 refused 0.7 refused")

    assert story.health.rests == 1
    assert story.health.rests_until == NOW + 1


def test_an_answer_resets_the_doubling() -> None:
    story = Story("none")
    rests(story, "refused", 4)
    story.step("answered")

    assert story.health.rests == 0
    assert rests(story, "refused", 2) == [1.0, 2.0]


def test_a_probe_does_not_reset_the_doubling() -> None:
    """It flaps: probes find it well, requests do not."""
    story = Story()
    story.step("+")
    lengths = []
    for _ in range(4):
        story.step("refused")
        lengths.append(story.health.rests_until - story.now)
        story.tell("0.5 +")
        assert story.state == "up"

    assert lengths == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("told", "suspect"),
    [
        ("+", False),
        ("+ failed", True),
        ("+ refused", True),
        ("+ failed answered", True),
        ("+ failed +", False),
        ("+ failed -", False),
        ("+ refused 5", True),
    ],
)
def test_who_failed_is_probed_at_once(told: str, *, suspect: bool) -> None:
    story = Story()
    story.tell(told)

    assert story.health.suspect is suspect


@pytest.mark.parametrize(
    ("kind", "told", "since"),
    [
        # There from the beginning: nothing to warm up.
        ("tcp", "+", None),
        ("tcp", "2 +", None),
        ("none", "answered", None),
        ("none", "failed answered", None),
        # It was down, and has come back.
        ("tcp", "- 2 +", 2),
        ("tcp", "+ - - 2 +", 2),
        ("tcp", "+ refused 2 + 3 +", 2),
        ("tcp", "+ refused 2 answered", 2),
        ("none", "refused 2 answered 3 answered", 2),
        # Down again, the last time counts.
        ("tcp", "+ refused 2 + refused 5 +", 7),
    ],
)
def test_since_when_it_is_back(kind: ProbeKind, told: str, since: float | None) -> None:
    story = Story(kind)
    story.tell(told)

    assert story.health.back_since == (None if since is None else NOW + since)


@pytest.mark.parametrize(
    ("told", "after"),
    [
        ("2 refused", 2),
        ("+ 2 failed 1 failed 1 failed", 4),
        ("+ 2 - 3 -", 5),
        ("2 - 3 - 3 -", 2),
        # While it rests every failure is a newer one.
        ("2 refused 0.5 refused", 2.5),
    ],
)
def test_when_it_failed_last(told: str, after: float) -> None:
    story = Story()
    story.tell(told)

    assert story.health.failed_at == NOW + after


events = st.sampled_from(["+", "-", "refused", "failed", "answered", "0.3", "1", "7", "40"])


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_probes_alone(results: list[bool], rise: int, fall: int) -> None:
    """Up or down is what the last row that was long enough has said; before it, the first."""
    story = Story(rise=rise, fall=fall)
    for well in results:
        story.step("+" if well else "-")

    expected, row = results[0], 0
    for before, well in itertools.pairwise(results):
        row = row + 1 if well == before else 1
        if row >= (rise if well else fall):
            expected = well
    assert story.state == ("up" if expected else "down")


@given(st.sampled_from(["tcp", "none"]), st.lists(events, max_size=40))
def test_any_story(kind: ProbeKind, words: list[str]) -> None:
    if kind == "none":
        words = [word for word in words if word not in "+-"]
    story = Story(kind)
    for word in words:
        before = story.state
        after = story.step(word)
        # What may not be: to be back without a reason, or out of the pool by one request.
        if before in ("down", "unknown") and after in ("up", "resting"):
            assert word in ("+", "answered")
        if word == "refused":
            assert after == ("resting" if kind == "none" else "down")
        if word == "answered" and before != "unknown":
            assert after == "up"
        if before == "up" and after != "up":
            assert word in ("-", "refused", "failed")
        if kind == "none":
            assert after in ("up", "resting")
        assert story.health.rests_until - story.now <= 30.0


@given(st.lists(st.floats(0, 6), max_size=30), st.integers(1, 4), st.floats(1, 20))
def test_failures_count_within_the_window_only(
    pauses: list[float], failures: int, window: float
) -> None:
    story = Story("none", rest=Rest(failures=failures, window=window))
    times: list[float] = []
    for pause in pauses:
        story.step(str(pause))
        times.append(story.now)
        if story.step("failed") == "resting":
            assert len(times) >= failures
            assert story.now - times[-failures] <= window
            return
        recent = times[-failures:]
        assert len(recent) < failures or story.now - recent[0] > window


def test_what_is_known_outlives_other_settings() -> None:
    story = Story(fall=2, rest=Rest(first=10.0, failures=3))
    assert story.tell("+ failed failed") == "up up up"
    story.health.reconfigure(probe(fall=3), Rest(first=20.0, failures=3), story.now)

    assert story.tell("failed") == "resting"
    assert story.health.rests_until == NOW + 20
    # Two bad ones in a row would have been enough before.
    assert story.tell("- -") == "resting resting"
    assert story.tell("-") == "down"


@pytest.mark.parametrize(("failures", "after"), [(1, "resting"), (2, "resting"), (4, "up")])
def test_failures_of_before_count_towards_another_limit(failures: int, after: str) -> None:
    story = Story(rest=Rest(failures=3))
    story.tell("+ failed failed")
    story.health.reconfigure(probe(), Rest(failures=failures), story.now)

    assert story.step("failed") == after


def test_rest_is_no_longer_than_the_longest_now() -> None:
    story = Story("none", rest=Rest(first=30.0))
    assert story.step("refused") == "resting"
    story.health.reconfigure(probe("none"), Rest(first=1.0, longest=5.0), story.now)

    assert story.tell("4.9 0.1") == "resting up"


@pytest.mark.parametrize("before", ["", "-", "+", "+ refused"])
def test_without_probes_any_more_it_is_up_or_rests(before: str) -> None:
    story = Story()
    story.tell(before)
    story.health.reconfigure(probe("none"), Rest(), story.now)

    assert story.state == ("resting" if "refused" in before else "up")


@pytest.mark.parametrize("before", ["", "refused"])
def test_with_probes_from_now_on_it_is_what_it_was(before: str) -> None:
    story = Story("none")
    story.tell(before)
    state = story.state
    story.health.reconfigure(probe(), Rest(), story.now)

    assert story.state == state
