"""What runs where guests can run: `python -m tests.conformance.inside JOURNAL SUITE`.

The scenes of a suite are played with our runtime by one process, and with the references by another at the same time;
with `--shards`, by so many of each.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from tests.conformance import runtimes
from tests.conformance.journal import Journal
from tests.conformance.suite import Observation, Result, Scene
from tests.conformance.suites import SUITES

LIMIT = 1200
"""Seconds for a scene; what it has made is cleared then."""


class SceneTimeout(BaseException):
    """A scene took too long. Not an Exception, so that no scene takes it for an answer of its runtime's."""


class Stage(Protocol):
    """What each suite's stage is."""

    def play(self, play: Any) -> Observation: ...

    def close(self) -> None: ...


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raise SceneTimeout in this thread, the main one, after some seconds."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise SceneTimeout

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def play(stage: Stage, scene: Scene) -> Result:
    """Play a scene; what goes wrong is in its result."""
    began = time.monotonic()
    seen: Observation = {}
    problem = ""
    try:
        with limit(LIMIT):
            seen = stage.play(scene.play)
    except SceneTimeout:
        seen = getattr(stage, "seen", {})
        problem = f"it did not end within {LIMIT} s"
    except Exception as error:  # of the runtime's making, most of the time: its output was not what it has to be
        place = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    return Result(seen, problem, time.monotonic() - began)


def chosen(suite: str, pattern: str, *, third: bool) -> list[Scene]:
    """The scenes of a suite whose name, or a case's, has the pattern."""
    return [
        scene
        for scene in SUITES[suite].scenes
        if (scene.third or not third)
        and (re.search(pattern, scene.name) or any(re.search(pattern, case.name) for case in scene.cases))
    ]


def prepare() -> None:
    """What runtimes need of the host, in namespaces of this process: lo, links that a lab lacks, a range of ids, shared
    memory, in which a podman would take another's lock for its own before that has a size, and get SIGBUS."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "shm", "/dev/shm"], check=True)
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        if path.exists() and "containers:" not in (text := path.read_text()):
            with tempfile.NamedTemporaryFile("w", delete=False) as file:
                file.write(f"{text}containers:200000:200000\n")
            Path(file.name).chmod(0o644)
            subprocess.run(["mount", "--bind", file.name, str(path)], check=True)


def work(options: argparse.Namespace) -> None:
    """Play what the journal does not have."""
    journal = Journal(Path(options.journal))
    done = journal.results()
    for runtime in options.runtimes:
        wanted = [
            scene
            for scene in chosen(options.suite, options.k, third=options.third)[options.shard :: options.shards]
            if (options.suite, runtime, scene.name) not in done
        ]
        if not wanted:
            continue
        with tempfile.TemporaryDirectory(prefix=f"{runtime}-", ignore_cleanup_errors=True) as name:
            stage = SUITES[options.suite].stage(runtime, Path(name))
            try:
                for scene in wanted:
                    key = (options.suite, runtime, scene.name)
                    journal.begin(key)
                    result = play(stage, scene)
                    journal.end(key, result)
                    note = f": {result.problem}" if result.problem else ""
                    print(
                        f"    {options.suite} {runtime} {scene.name} {result.seconds:.1f} s{note}",
                        file=sys.stderr,
                        flush=True,
                    )
            finally:
                stage.close()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.inside", description=__doc__)
    parser.add_argument("journal")
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("runtimes", nargs="*", default=list(runtimes.ALL))
    parser.add_argument("-k", default="", metavar="PATTERN")
    parser.add_argument("--third", action="store_true")
    parser.add_argument(
        "--shards", type=int, default=1, metavar="N", help="processes of each kind that share the scenes"
    )
    parser.add_argument("--shard", type=int, default=-1, metavar="I", help="play this one, in this process")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run what the command line says; returns the exit status."""
    options = parse(argv)
    if options.shard >= 0:
        prepare()
        work(options)
        return 0
    groups = [[name for name in options.runtimes if (name == runtimes.OURS) is ours] for ours in (True, False)]
    # A network and mounts of its own for each: they do not meet
    command = ["unshare", "--net", "--mount", "--propagation", "slave", sys.executable]
    command += ["-m", "tests.conformance.inside", options.journal, options.suite]
    flags = ["-k", options.k, *(["--third"] if options.third else []), "--shards", str(options.shards), "--shard"]
    workers = [
        subprocess.Popen([*command, *group, *flags, str(shard)])
        for group in groups
        if group
        for shard in range(options.shards)
    ]
    return max(worker.wait() for worker in workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
