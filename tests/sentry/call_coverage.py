"""Which results of system calls the comparing programs provoke, natively and on the Sentry.

``python -m tests.sentry.call_coverage`` prints what is missing; ``--write`` also updates ``call_coverage.txt``.

Each program of :data:`PROGRAMS` runs twice: below ``strace``, and on the Sentry with ``--strace``. A result of a call,
success or an errno, is covered if both runs have it. What the programs print is compared by tests of their own.

What should be covered is in ``errnos.py``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pyvmm_sentry import program as build
from pyvmm_sentry.generate import answered
from tests.sentry.errnos import ERRNOS, excuse_of

HERE = Path(__file__).parent
TABLE = HERE / "call_coverage.txt"
SUCCESS = "success"
NAMESPACES = ("unshare", "--ipc", "--uts", "--mount", "--propagation", "private")
IN_A_FOLDER = (
    *("arguments", "async", "credentials", "descriptors", "events", "execs", "files", "interrupted", "ipc", "limits"),
    *("mounts", "names", "opened", "pipes", "queues", "seccomp", "sends", "sockets", "timers", "tracers", "watches"),
)
"""Programs that work in a new folder, which their argument names."""
PROGRAMS = {
    **dict.fromkeys(IN_A_FOLDER, NAMESPACES),
    **dict.fromkeys(("cpu_time", "datagrams", "errors", "memory", "processes", "pty", "threads", "tty", "inet"), ()),
}
"""How each starts natively."""
ARGUMENTS = {"inet": "alone"}
"""Natively."""
UNTRACED = {"processes", "pty", "seccomp", "tracers"}
"""They trace themselves, and Linux allows one tracer. The results are those of the Sentry, whose output is compared."""
SAME = {"EWOULDBLOCK": "EAGAIN", "ENOTSUP": "EOPNOTSUPP"}
HEAD = r"^(?:\d+ +|\[pid +\d+\] )?"
LINE = re.compile(HEAD + r"(?:<\.\.\. )?(\w+)(?:\(| resumed>).*\) += (-?\w+|\?)(?: (E[A-Z0-9_]+))?", re.MULTILINE)
Results = set[tuple[str, str]]


def results(trace: str) -> Results:
    """The calls in the output of strace, each with ``success`` or an errno."""
    found = set()
    for name, value, error in LINE.findall(trace):
        if error.startswith("ERESTART"):
            error = "EINTR"  # what the program sees, unless the call is made again
        failed = (
            error and value in ("-1", "?") and name != "rt_sigreturn"
        )  # this "returns" what the interrupted call does
        found.add((name, SAME.get(error, error) if failed else SUCCESS))
    return found


def record(name: str, folder: Path) -> tuple[Results, Results]:
    """Run a program natively and on the Sentry; what both traces show."""
    compiled, trace = folder / name, folder / "trace"
    source = HERE / "src" / f"{name}.c"
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-static", "-w", "-o", compiled, source], check=True)
    place = tempfile.mkdtemp(dir="/dev/shm")
    os.rmdir(place)
    words = [str(compiled), *([place] if name not in ARGUMENTS else [])]
    native_words = [*PROGRAMS[name], str(compiled), ARGUMENTS.get(name, place)]
    head = ["strace", "-f", "-qq", "-e", "signal=none", "-s", "0", "-o", str(trace)]
    text = b"abcdefghijklmnop"
    try:
        ours = subprocess.run(
            [build.trap(), "--strace", "--", *words], input=text, capture_output=True, timeout=40
        ).stderr.decode(errors="replace")
        if name in UNTRACED:
            return results(ours), results(ours)
        subprocess.run([*head, *native_words], input=text, capture_output=True, timeout=40)
        return results(trace.read_text(errors="replace")), results(ours)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def record_all(names: tuple[str, ...]) -> dict[str, tuple[Results, Results]]:
    """The results of programs."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: record(name, Path(folder)) for name in names}


def table(recorded: dict[str, tuple[Results, Results]]) -> str:
    """The text of the table: a line for each call, with its results that both runs have."""
    both = set().union(*(native & ours for native, ours in recorded.values()))
    rows = {call.name: sorted(result for name, result in both if name == call.name) for call in answered()}
    return "".join(f"{name}: {' '.join(found)}\n" for name, found in rows.items())


def read(text: str) -> dict[str, set[str]]:
    """The results in a table."""
    return {name: set(words.split()) for name, _, words in (line.partition(":") for line in text.splitlines())}


def missing(covered: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """What is in the list of errnos, neither covered nor excused."""
    for call in answered():
        for result in (SUCCESS, *sorted(ERRNOS[call.name])):
            if result not in covered.get(call.name, ()) and not excuse_of(call.name, result):
                yield call.name, result


def main(argv: list[str]) -> int:
    """Run it; returns 1 if something is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.sentry.call_coverage", description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", nargs="+", choices=sorted(PROGRAMS), help="print what these programs provoke")
    options = parser.parse_args(argv)
    recorded = record_all(tuple(options.only or PROGRAMS))
    for name, (native, ours) in recorded.items():
        for where, pairs in (("native", native - ours), ("sentry", ours - native)):
            print(f"{name}, {where} only: {', '.join(' '.join(pair) for pair in sorted(pairs))}")
    text = table(recorded)
    if options.only:
        print(text)
        return 0
    if options.write:
        TABLE.write_text(text)
    gaps = list(missing(read(text)))
    for name in dict.fromkeys(name for name, _ in gaps):
        print(f"missing: {name}: {' '.join(result for of, result in gaps if of == name)}")
    return 1 if gaps else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
