"""`make conformance`: the suites, in the lab where this machine has no usable KVM.

Their table is docs/reference/conformance.md.

A *scene* is played with each runtime and gives an observation; the *cases* of the scene say what is demanded of it:
what the specifications ask of a container runtime, and what users see. The exit status is 1 when a case failed that is
demanded. A lab that stops is started again and goes on where it was.
"""

from __future__ import annotations

import argparse
import compileall
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conformance import report, runtimes
from tests.conformance.inside import chosen
from tests.conformance.journal import Journal
from tests.conformance.suites import SUITES
from tools import documents, guest
from tools.step import say, step
from tools.where import ROOT, with_kvm

DOCUMENT = documents.CONFORMANCE
JOURNAL = ROOT / "build" / "conformance.jsonl"
LAB_ENDED = 125
LABS = 4
"""How many are started for a suite before it is given up."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 and a usage message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(SUITES), default=sorted(SUITES), metavar="SUITE")
    parser.add_argument(
        "--runtimes", nargs="+", choices=(*runtimes.ALL, runtimes.SENTRY), default=list(runtimes.ALL), metavar="NAME"
    )
    parser.add_argument("-k", default="", metavar="PATTERN", help="scenes that, or a case of which, are called so")
    parser.add_argument("--third", action="store_true", help="the third that runs with the tests")
    parser.add_argument(
        "--shards", type=int, default=1, metavar="N", help="scenes played at once with each kind of runtime"
    )
    parser.add_argument("--memory", default="6G", metavar="SIZE", help="of the lab")
    parser.add_argument("--journal", type=Path, default=JOURNAL, metavar="FILE", help=f"of results ({JOURNAL})")
    parser.add_argument("--resume", action="store_true", help="keep the results of the last run")
    parser.add_argument("--report", action="store_true", help="play nothing: write the table of the last results")
    return parser.parse_args(argv)


def play(suite: str, options: argparse.Namespace, journal: Journal) -> None:
    """Play a suite in a lab, and in another one when that stops."""
    names = [name for name in options.runtimes if name in SUITES[suite].runtimes]
    command = [sys.executable, "-m", "tests.conformance.inside", str(journal.path), suite, *names, "-k", options.k]
    command += ["--shards", str(options.shards), *(["--third"] if options.third else [])]
    command = with_kvm(command)
    if command[1:4] == ["-m", "tests.lab", "run"]:
        command[4:4] = ["--memory", options.memory]
    for _ in range(LABS):
        if subprocess.run(command, cwd=ROOT).returncode != LAB_ENDED:
            return
        say("the lab ended by itself; going on in another")


def play_all(options: argparse.Namespace, journal: Journal) -> None:
    """Play the suites that the command line asks for."""
    with step("guest kernel and image"):
        os.environ["PYVMM_GUEST_KERNEL"] = guest.kernel()
        os.environ["PYVMM_KATA_IMAGE"] = guest.kata_image()
    # The lab writes no bytecode: each start of a program there would compile what has none
    for folder in ("vmm", "examples/kata/pyvmm_kata", "tests"):
        compileall.compile_dir(ROOT / folder, quiet=1)
    journal.path.parent.mkdir(exist_ok=True)
    if not options.resume:
        journal.path.unlink(missing_ok=True)
    for suite in options.only:
        with step(f"conformance: {SUITES[suite].title}"):
            play(suite, options, journal)


def main(argv: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    options = parse(argv)
    began = time.monotonic()
    journal = Journal(options.journal)
    if not options.report:
        play_all(options, journal)
    scenes = {suite: chosen(suite, options.k, third=options.third) for suite in options.only}
    found = report.rows(journal.results(), options.runtimes, scenes)
    failures = [row for row in found if row.is_failure]
    for row in found:
        if any(verdict != "pass" for verdict in row.verdicts.values()):
            print(report.detail(row, options.runtimes), end="\n\n")
    print(report.table(found, options.runtimes))
    print(f"({time.monotonic() - began:.0f} s)")
    some = options.k or options.third or set(options.only) != set(SUITES)
    if not some and set(options.runtimes) == set(runtimes.ALL):
        versions = {name: runtimes.version(name) for name in options.runtimes}
        report.write(DOCUMENT, report.document(found, options.runtimes, versions))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
