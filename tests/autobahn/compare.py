"""Two runs of the same cases, and what "worse" means.

A case has two verdicts: on what was exchanged, and on how it was closed.  Each has its scale below;
a case is worse through the proxy if either verdict is further down its scale than without it.  A
better one does not make up for a worse one, and a verdict that is on no scale is an error.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs

#: Best first.  Informational verdicts are on what RFC 6455 leaves open; an error is a case that
#: could not be run, for want of a connection say.
BEHAVIORS: Final = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED", "ERROR")
#: The first two are as above.  Then, by how much of the closing handshake took place: all of it,
#: but the client had to hang up; with a wrong code; cut off; begun by the wrong side or by none.
CLOSES: Final = ("OK", "INFORMATIONAL", "FAILED BY CLIENT", "WRONG CODE", "UNCLEAN", "FAILED")
#: What the echo server alone must come to, since a case that fails already can't become worse.
PASSED: Final = ("OK", "NON-STRICT", "INFORMATIONAL")


@attrs.frozen
class Outcome:
    """The verdicts on one case."""

    behavior: str
    close: str

    @property
    def _ranks(self) -> tuple[int, int]:
        return BEHAVIORS.index(self.behavior), CLOSES.index(self.close)

    @property
    def passed(self) -> bool:
        return self.behavior in PASSED and self.close in PASSED

    def worse_than(self, other: Outcome) -> bool:
        return any(mine > theirs for mine, theirs in zip(self._ranks, other._ranks, strict=True))

    def __str__(self) -> str:
        return f"{self.behavior} / {self.close}"


@attrs.frozen
class Run:
    """What one run of cases came to, and how long it took."""

    outcomes: dict[str, Outcome]
    seconds: float


@attrs.frozen
class Comparison:
    """The same cases without the proxy and through it, and how many sessions the proxy has seen."""

    direct: Run
    proxied: Run
    sessions: int

    @property
    def differing(self) -> list[str]:
        direct, proxied = self.direct.outcomes, self.proxied.outcomes
        return [case for case in direct if case in proxied and direct[case] != proxied[case]]

    @property
    def worse(self) -> list[str]:
        direct, proxied = self.direct.outcomes, self.proxied.outcomes
        return [case for case in self.differing if proxied[case].worse_than(direct[case])]

    def faults(self, count: int) -> list[str]:
        """Return all that is wrong with these runs, which should be of so many cases."""
        direct, proxied = self.direct.outcomes, self.proxied.outcomes
        checks = {
            f"{len(direct)} cases were run without the proxy, not {count}": len(direct) != count,
            "other cases were run through the proxy": direct.keys() != proxied.keys(),
            f"the proxy has seen {self.sessions} sessions, not {count}": self.sessions != count,
        }
        failed = [case for case, outcome in direct.items() if not outcome.passed]
        return [
            *(fault for fault, found in checks.items() if found),
            *(f"{case} fails without the proxy: {direct[case]}" for case in failed),
            *(f"{case} is worse: {proxied[case]}, not {direct[case]}" for case in self.worse),
        ]

    def table(self) -> str:
        """Return the differences, then the totals, as text."""
        direct, proxied = self.direct.outcomes, self.proxied.outcomes
        rows = [_row("", "without", "through the proxy")]
        for case in self.differing:
            remark = "worse" if case in self.worse else "better"
            rows.append(_row(f"case {case}", direct[case], proxied[case], remark))
        rows.append(_row("cases", len(direct), len(proxied)))
        for name, scale in (("behavior", BEHAVIORS), ("close", CLOSES)):
            without = Counter(getattr(outcome, name) for outcome in direct.values())
            through = Counter(getattr(outcome, name) for outcome in proxied.values())
            seen = [verdict for verdict in scale if without[verdict] or through[verdict]]
            rows += [_row(f"{name} {one}", without[one], through[one]) for one in seen]
        rows.append(_row("seconds", round(self.direct.seconds), round(self.proxied.seconds)))
        return "\n".join(rows)


def _row(name: str, direct: object, proxied: object, remark: str = "") -> str:
    return f"{name:<24}{direct!s:>24}{proxied!s:>24}  {remark}".rstrip()
