"""Autobahn's quick cases; `make autobahn` runs all."""

from __future__ import annotations

from pathlib import Path

import pytest

from .run import run_both

#: Those that take no time: all but limits and compression.
QUICK = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
#: Of the others, all that do not send 1000 messages; of those that do, the longest messages as they
#: are, the shortest compressed, with each kind of content and each set of parameters, and one case
#: with compressed messages in fragments.
LONGER = (
    *("9.1.*", "9.2.*", "9.3.*", "9.4.*", "9.5.*", "9.6.*", "9.7.6", "9.8.6"),
    *(f"12.{content}.1" for content in range(1, 6)),
    *(f"13.{parameters}.1" for parameters in range(1, 8)),
    "12.1.11",
)
LIMIT = 240.0


async def test_no_case_is_worse_through_the_proxy(tmp_path: Path) -> None:
    comparison = await run_both(tmp_path, [*QUICK, *LONGER], parallel=4, within=LIMIT)

    assert not (faults := comparison.faults(247 + 57)), "\n".join(faults)


@pytest.mark.parametrize("frames", ["lenient", "tunnel"])
async def test_no_case_is_worse_with_other_rules(frames: str, tmp_path: Path) -> None:
    comparison = await run_both(tmp_path, QUICK, parallel=4, within=LIMIT, frames=frames)

    assert not (faults := comparison.faults(247)), "\n".join(faults)
