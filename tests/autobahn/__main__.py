"""`make autobahn`: all cases both ways, a table, and 1 as exit code if any is worse."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys

import trio

from .run import ROOT, run_both

#: All there are, so that one that is left out is noticed.
ALL = 517
LIMIT = 2 * 3600.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="autobahn", description=__doc__)
    parser.add_argument("--only", help="some cases, like 9.*,12.1.3")
    only = parser.parse_args().only
    folder = ROOT / "build" / "autobahn"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"autobahn: reports and all output go to {folder.relative_to(ROOT)}", file=sys.stderr)
    cases = only.split(",") if only else ["*"]
    run = functools.partial(run_both, folder, cases, parallel=1, within=LIMIT)
    with (folder / "output.log").open("w") as log, contextlib.redirect_stdout(log):
        comparison = trio.run(run)
    print(comparison.table())
    faults = comparison.faults(len(comparison.direct.outcomes) if only else ALL)
    for fault in faults:
        print(f"autobahn: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
