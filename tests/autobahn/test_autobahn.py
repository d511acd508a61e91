"""Autobahn's quick cases; `make autobahn` runs all."""

from __future__ import annotations

from pathlib import Path

from .run import run_both

#: All but the 216 with compression, which take nearly all of the time.  Of those one of each group:
#: short messages with each kind of content, messages in fragments with each set of parameters.
CASES = (
    *("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"),
    *(f"12.{content}.1" for content in range(1, 6)),
    *(f"13.{parameters}.11" for parameters in range(1, 8)),
)
COUNT = 301 + 12


async def test_no_case_is_worse_through_the_proxy(tmp_path: Path) -> None:
    comparison = await run_both(tmp_path, CASES, parallel=4, within=120.0)

    assert not (faults := comparison.faults(COUNT)), "\n".join(faults)
