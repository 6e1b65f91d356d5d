"""`make conformance-sentry`: suites that others wrote, natively and on the Sentry.

Their table is docs/reference/sentry-conformance.md. The exit status is 1 if a suite has more failures than it may have,
a test hangs or ends its process, or a difference has no reason.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.sentry.conformance import journal, report
from tests.sentry.conformance.play import NATIVE, Outcome, Unit, play
from tests.sentry.conformance.suites import SUITES
from tools import documents
from tools.where import ROOT

DOCUMENT = documents.SENTRY_CONFORMANCE
LOST = Outcome("lost", "")
SLOWER = 4
"""How much longer a test may take on the Sentry."""
JOURNAL = ROOT / "build" / "conformance-sentry.jsonl"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 and a usage message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.sentry.conformance", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(SUITES), default=list(SUITES), metavar="SUITE")
    parser.add_argument("--platform", choices=("trap", "ptrace"), default="trap")
    parser.add_argument("-k", default="", metavar="PATTERN", help="units whose whole name is of this pattern")
    parser.add_argument("--journal", type=Path, default=JOURNAL, metavar="FILE", help=f"of results ({JOURNAL})")
    parser.add_argument("--resume", action="store_true", help="play only what the last run has not played")
    parser.add_argument(
        "--again", action="store_true", help="with --resume: play units again that differ on the Sentry"
    )
    parser.add_argument("--report", action="store_true", help="play nothing: write the table of the last results")
    return parser.parse_args(argv)


def play_here(unit: Unit, platform: str, native: dict[str, Outcome]) -> dict[str, Outcome]:
    """Play what passes natively of a unit on a platform, and tests that fail there a second time."""
    wanted = [name for name, outcome in native.items() if outcome.word == "pass"]
    slow = unit._replace(seconds=unit.seconds * SLOWER)
    found = play(slow, platform, wanted) if wanted else {}
    for name in wanted:
        if found.get(name, LOST).word not in ("pass", "skip"):
            found.update(play(slow, platform, [name]))
    return found


def differs(native: dict[str, Outcome], ours: dict[str, Outcome]) -> bool:
    """Whether a test that passes natively does not pass on the Sentry."""
    return any(native[name].word == "pass" and ours.get(name, LOST).word != "pass" for name in native)


def play_all(options: argparse.Namespace) -> None:
    """Play the suites that the command line asks for."""
    options.journal.parent.mkdir(exist_ok=True)
    if not options.resume:
        options.journal.unlink(missing_ok=True)
    for suite in options.only:
        for unit in SUITES[suite].units():
            if options.k and not re.fullmatch(options.k, unit.name):
                continue
            began = time.monotonic()
            found = journal.read(options.journal)
            native = found.get((suite, NATIVE, unit.name))
            if native is None:
                native = play(unit, NATIVE)
                journal.add(options.journal, (suite, NATIVE, unit.name), native)
            ours = found.get((suite, options.platform, unit.name))
            if ours is None or (options.again and differs(native, ours)):
                ours = play_here(unit, options.platform, native)
                journal.add(options.journal, (suite, options.platform, unit.name), ours)
            each = report.count(journal.read(options.journal), suite, options.platform)
            passed = sum(outcome.word == "pass" for outcome in native.values())
            print(
                f"{suite} {unit.name}: {passed} of {len(native)} pass natively ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
            for row in each.rows:
                if row.test in native:
                    print(f"    {row.test}: {row.ours.word}: {row.ours.detail.strip().splitlines()[-1:]}", flush=True)


def main(argv: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    options = parse(argv)
    if not options.report:
        play_all(options)
    found = journal.read(options.journal)
    counts = {suite: report.count(found, suite, options.platform) for suite in options.only}
    print("\n".join(report.table(counts)))
    if not options.k and set(options.only) == set(SUITES):
        commits = journal.commits(options.journal, options.platform)
        DOCUMENT.write_text(report.document(counts, options.platform, commits))
    broken = [
        suite
        for suite, each in counts.items()
        if each.percent > SUITES[suite].most
        or each.words("hang") + each.words("crash")
        or any(row.reason == report.UNKNOWN for row in each.rows)
    ]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
