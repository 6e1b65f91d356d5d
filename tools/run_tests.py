"""`make test`: every test; those that need KVM run in the lab where this machine has no usable one.

usage: python -m tools.run_tests [--native | --guest | --hostile | --long | --long-guest] [PYTEST ARGUMENT]...

Two runs of pytest, and after them a summary line of both in pytest's own form. The exit status is 0 when all tests that
were selected passed.

The lab is an emulator that does not do everything right: it stops at times, or leaves a guest standing. When it stops
it is started again, and the tests go on where they were; a test in which that happens twice has failed. The few tests
that fail, in it or beside others here, run once more by themselves, which is said, and must pass then.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.claims import RACES, file_is_hostile
from tests.journal import Journal
from tools import guest, versions
from tools.step import say, step, with_parent
from tools.where import ROOT, with_kvm

LOG = ROOT / "build" / "guest-recipes.log"
JOURNAL = ROOT / "build" / "test-journal"
"""Where tests/journal.py writes which test ended how; the lab can write there too."""
CLAIMS = ROOT / "build" / "test-claims"
"""Where labs that share the tests say which file is whose."""
SHARING = 3
"""How many labs share them: one has one CPU, which is idle a third of the time."""
HOSTILE_OPTIONS = ("--hostile",)
"""Of one more, which has the files that tests/claims.py lists, and none beside them."""
PATIENCE = 2
"""What a hostile lab's tests may take, times what others may."""
LAB_OPTIONS = ("--cpus", "1")
"""Of the labs that share them. An emulated machine with two CPUs takes half as long again for the same tests, and twice
as long for podman alone: the CPUs interrupt each other to flush TLBs, and wait for locks whose holder does not run."""

FAILURES = 1  # pytest's exit status when tests failed
NO_TESTS = 5  # when nothing was selected
LAB_ENDED = 125  # the lab's
STALLED = -1
STALL = 300.0
"""Seconds without a test that starts or ends after which the lab is taken for stopped; the longest test takes 100."""
LIMIT = 300
"""Seconds for one test (pyproject.toml)."""
PATIENT = {"PYVMM_TEST_PATIENCE": str(PATIENCE)}
HOSTILE_LIMIT = f"faulthandler_timeout={LIMIT * PATIENCE}"
LONG = 1500
"""Seconds for one of the long tests with guests: PostgreSQL's initdb writes a thousand files with a server's starts."""
LONG_LIMIT = f"faulthandler_timeout={LONG}"
LONG_NATIVE = "long and not guest"
LONG_RUNS = {LONG_LIMIT, LONG_NATIVE}
"""Arguments of runs whose tests may take so long."""
UNUSED_BY_GUESTS = tuple(
    word
    for plugin in ("hypothesispytest", "schemathesis", "anyio", "pytest_cov", "platformdirs")
    for word in ("-p", f"no:{plugin}")
)
"""Plugins of pytest that no test with a guest uses: two processes of each lab would import them."""
WORKERS = ("-n", "2")
"""While one waits for something the other has the CPUs, and the tests of a VMM that crashes go on."""
WORKERS_HERE = ("-n", "3")
"""Of tests that need no guest: half of the time they wait for something."""
LABS = 4
"""How many are started, one after another, before it is given up."""
SECOND_CHANCES = 8
"""When more tests than this fail in the lab, it is not the lab's fault."""
SECOND_CHANCES_HERE = 2
"""When more than this fail without a lab, they are no races of tests that run side by side."""
SLOWEST = 20
"""How many tests are listed, and how many files."""
KINDS = ("native", "guest", "hostile", "long", "long-guest")
ORDER = ("failed", "passed", "skipped", "xfailed", "xpassed", "error")


def run_watched(command: Sequence[str], environment: dict[str, str], journal: Path) -> int:
    """Run `command` to its end, or until the journal has stood still for too long; its status, or STALLED."""
    size, since = -1, time.monotonic()
    stall = STALL if not LONG_RUNS.intersection(command) else LONG + 100.0
    if HOSTILE_LIMIT in command:
        stall *= PATIENCE
    with subprocess.Popen(with_parent(command), env=environment, cwd=ROOT) as process:
        while True:
            try:
                return process.wait(5)
            except subprocess.TimeoutExpired:
                pass
            if (now := journal.stat().st_size if journal.exists() else 0) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > stall:
                process.terminate()  # it ends the lab some seconds later, whatever that does
                process.wait()
                return STALLED


def run_in_labs(command: Sequence[str], environment: dict[str, str], journal: Path = JOURNAL) -> int:
    """Run pytest's `command` in the lab, and in another one when that stops; its exit status."""
    for lab in range(1, LABS + 1):
        status = run_watched(command, {**environment, "PYVMM_TEST_JOURNAL": str(journal)}, journal)
        if status not in (LAB_ENDED, STALLED):
            return status
        stopped = ", ".join(Journal(journal).unfinished()) or "before a test"
        say(f"the lab {'stands still' if status == STALLED else 'ended by itself'}: {stopped} (lab {lab} of {LABS})")
    return 1


def in_lab(here: Sequence[str], *, hostile: bool) -> list[str]:
    """The command that runs pytest's command *here* in a lab of one CPU."""
    if not hostile:
        return with_kvm(here, *LAB_OPTIONS)
    limit = [] if LONG_LIMIT in here else ["-o", HOSTILE_LIMIT]
    return with_kvm([*here, *limit], *LAB_OPTIONS, *HOSTILE_OPTIONS)


def run_shared(here: Sequence[str], environment: dict[str, str]) -> int:
    """Have several labs share the tests of pytest's command *here*, file by file; what the first prints is seen at
    once, then that of the others.  One more is a hostile one.  The worst exit status."""
    shutil.rmtree(CLAIMS, ignore_errors=True)
    CLAIMS.mkdir()
    labs = SHARING + 1
    journals = [JOURNAL.with_name(f"{JOURNAL.name}-{number}") for number in range(labs)]
    logs = [ROOT / "build" / f"test-lab-{number}.log" for number in range(labs)]

    def run(number: int) -> int:
        journals[number].unlink(missing_ok=True)
        hostile = number == SHARING
        own = {**environment, "PYVMM_TEST_CLAIMS": f"{CLAIMS}:{'hostile' if hostile else number}"}
        if hostile:
            own = PATIENT | own
        command = in_lab(here, hostile=hostile)
        if number == 0:
            return run_in_labs(command, own, journals[number])
        with_log = ["sh", "-c", 'log=$1; shift; exec "$@" >>"$log" 2>&1', "sh", str(logs[number]), *command]
        logs[number].unlink(missing_ok=True)
        return run_in_labs(with_log, own, journals[number])

    with ThreadPoolExecutor(labs) as threads:
        statuses = list(threads.map(run, range(labs)))
    for log in logs[1:]:
        print(log.read_text(errors="replace") if log.exists() else "", end="", flush=True)
    JOURNAL.write_text("".join(each.read_text() for each in journals if each.exists()))
    return max(0 if status == NO_TESTS else abs(status) for status in statuses)


def run_again(here: Sequence[str], environment: dict[str, str], *, needs_kvm: bool, shared: bool) -> None:
    """Give the few tests that failed a second chance by themselves, in a new lab if they had one, a hostile one if
    theirs was; say how that went."""
    journal = Journal(JOURNAL)
    failed = journal.failed()
    for test in failed:  # at once, since whoever runs this may not wait for the end
        say(f"failed: {test}\n{journal.errors[test]}")
    if not 0 < len(failed) <= (SECOND_CHANCES if needs_kvm else SECOND_CHANCES_HERE):
        return
    say(f"once more, {'in another lab' if needs_kvm else 'one by one'}: {', '.join(failed)}")
    hostile = [test for test in failed if shared and file_is_hostile(test.partition("::")[0])]
    for tests in ([test for test in failed if test not in hostile], hostile):
        if not tests:
            continue
        with JOURNAL.open("a") as file:
            file.writelines(json.dumps({"test": test, "again": True}) + "\n" for test in tests)
        if tests is hostile:
            run_in_labs(in_lab([*here, "-n", "1"], hostile=True), PATIENT | environment)
        elif needs_kvm:
            run_in_labs(with_kvm(here), environment)
        else:
            subprocess.run(with_parent([*here, "-n", "1"]), env=environment, cwd=ROOT)
    still = Journal(JOURNAL).failed()
    for test in failed:
        say(f"{test}: failed, and {'failed again' if test in still else 'passed by itself'}")


def run_pytest(
    title: str, arguments: list[str], *, needs_kvm: bool, whole: bool, hostile: bool = False
) -> tuple[int, dict[str, int], dict[str, str]]:
    """One run of pytest: its exit status (0 for no tests), how many tests had which outcome, and the errors by test.

    :param whole: it is so long that several labs share it
    :param hostile: all of it runs in a hostile lab
    """
    JOURNAL.parent.mkdir(exist_ok=True)
    JOURNAL.unlink(missing_ok=True)
    # Tests that need no guest are dealt out by file; for those that do see tests/guest/conftest.py
    workers = WORKERS if needs_kvm else WORKERS_HERE
    here = [sys.executable, "-m", "pytest", "-p", "tests.journal", *workers, "--dist", "loadfile", *arguments]
    if needs_kvm:
        here += UNUSED_BY_GUESTS
    if os.isatty(1):
        here.append("--color=yes")
    command = here if not needs_kvm else in_lab(here, hostile=True) if hostile else with_kvm(here)
    shared = whole and command != here
    environment = {**(PATIENT if hostile else {}), **os.environ, "PYVMM_TEST_JOURNAL": str(JOURNAL)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the labs would compile each module again
    start = time.monotonic()
    say(f"==> {title}")
    if command == here:
        status = run_watched(command, environment, JOURNAL)
        if status == STALLED:  # pytest-xdist may wait for ever when a test that hung has ended its worker
            say(f"the tests stand still: {', '.join(Journal(JOURNAL).unfinished()) or 'none of them runs'}")
    else:
        status = run_shared([*here, "-n", "1"], environment) if shared else run_in_labs(command, environment)
    if status == FAILURES:  # which of them still fail the journal says
        run_again(here, environment, needs_kvm=command != here, shared=shared)
        status = 0
    journal = Journal(JOURNAL)
    counts = journal.counts()
    for name, seconds in [*journal.slowest(SLOWEST), *journal.slowest_files(SLOWEST)]:
        say(f"{seconds:7.1f} s  {name}")
    failed = status not in (0, NO_TESTS) or any(counts.get(name) for name in ("failed", "error"))
    say(f"<== {title}: {'failed' if failed else 'done'} after {time.monotonic() - start:.1f} s")
    if failed and not counts:
        counts = {"error": 1}  # it did not get as far as a test
    return (max(status, 1) if failed else 0), counts, {test: journal.errors[test] for test in journal.failed()}


def start_recipes() -> subprocess.Popen[bytes]:
    """Begin to make what guests are made of, which takes minutes once, beside the tests that need no guest.

    What it says goes to a file: whoever needs one of them next waits for it, and hears of its errors then.
    """
    LOG.parent.mkdir(exist_ok=True)
    build = [sys.executable, "-m", "tools.guest"]
    with LOG.open("wb") as log:
        # In the background of the tests, and not left behind by a run that is killed
        command = with_parent(["nice", "-n", "10", *build])
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def summary(counts: dict[str, int], seconds: float) -> str:
    """The last line, as pytest words it."""
    parts = [f"{counts[name]} {name}" for name in ORDER if counts.get(name)]
    return f" {', '.join(parts) or 'no tests ran'} in {seconds:.2f}s ".center(80, "=")


def main(arguments: list[str]) -> int:
    """Run what `arguments` select; returns the exit status."""
    start = time.monotonic()
    only = arguments.pop(0) if arguments[:1] in ([f"--{name}"] for name in KINDS) else ""
    runs = []
    for line in versions.programs():
        say(line)
    recipes = start_recipes() if not only else None
    if recipes is not None:
        say(f"making the guest kernel and disks meanwhile, where the cache has none (progress: {LOG})")
    if only not in ("--guest", "--hostile", "--long-guest"):
        which = ["-m", LONG_NATIVE if only == "--long" else "not guest"]
        runs.append(run_pytest("tests", [*which, *arguments], needs_kvm=False, whole=False))
    if only not in ("--native", "--long"):
        with step("guest kernel, root disk and programs"):
            guest.publish(long=only == "--long-guest")
            if recipes is not None:
                recipes.wait()
        for line in versions.of_guests(os.environ["PYVMM_GUEST_KERNEL"]):
            say(line)
        which = ["-m", "long and guest", "-o", LONG_LIMIT] if only == "--long-guest" else ["-m", "guest"]
        files = [f"tests/guest/{name}" for name in sorted(RACES)] if only == "--hostile" else ["tests/guest"]
        where = [] if any(os.path.exists(argument.partition("::")[0]) for argument in arguments) else files
        runs.append(
            run_pytest(
                "guest tests",
                [*which, *where, *arguments],
                needs_kvm=True,
                whole=bool(where) and "-k" not in arguments and only != "--hostile",
                hostile=only == "--hostile",
            )
        )
    total: dict[str, int] = {}
    for _, counts, errors in runs:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
        for test, error in errors.items():  # again, since whoever gets only the end of the output must find them there
            say(f"FAILED {test}\n{error}")
    print(summary(total, time.monotonic() - start), flush=True)
    return max(status for status, _, _ in runs)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
