"""Work in a container: a tree of files in its root file system and in a volume, and a loop that only computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.boot import say
from tests.bench.child import Child, ChildError
from tests.bench.fs import FILES_PER_FOLDER, make_tree
from tests.bench.row import Row, mean, median

if TYPE_CHECKING:
    from collections.abc import Sequence

VOLUME = "/volume"
PLACES = {"root": "/work", "volume": f"{VOLUME}/work"}
ARCHIVE = "/tree.tar"
FOLDERS = 6
LOOPS = 40_000
TIMEOUT = 900.0
JOBS = {
    "unpack": "tar xf {archive} -C {place}",
    "find": "find {place} -size +100000k",
    "grep": "grep -rF not-in-there {place}",
    "remove": "rm -rf {place}",
}
"""Jobs, each a command for busybox. They run one after the other, without dropping the container's caches."""
RATED = ("unpack", "find", "grep")
LOOP = f"i=0; while [ $i -lt {LOOPS} ]; do i=$((i+1)); done"


def script(jobs: dict[str, str]) -> str:
    """For sh: a line when it begins, and one at the end of each job, which names it."""
    lines = ["echo begin"]
    for name, place in PLACES.items():
        lines += [f"mkdir -p {place}", f"echo {name}"]
        for job, command in jobs.items():
            lines += [command.format(archive=ARCHIVE, place=place), f"echo {name}-{job}"]
    return "; ".join([*lines, LOOP, "echo loop"])


def lines_of(jobs: dict[str, str]) -> list[str]:
    """The lines of :func:`script`, in their order."""
    return [line for name in PLACES for line in (name, *(f"{name}-{job}" for job in jobs))] + ["loop"]


def make_archive(root: Path) -> None:
    """Put the archive into a root file system."""
    make_tree(f"{root}{ARCHIVE}", FOLDERS)


def prepare(bundle: Path) -> None:
    """Put the archive into a container's root file system, and give it a volume."""
    make_archive(bundle / "rootfs")
    (bundle / "volume").mkdir()
    spec = json.loads((bundle / "config.json").read_text())
    mount = {"destination": VOLUME, "type": "bind", "source": str(bundle / "volume"), "options": ["rbind", "rw"]}
    spec["mounts"].append(mount)
    (bundle / "config.json").write_text(json.dumps(spec))


def measure_one(name: str, command: Sequence[str], turns: int, jobs: dict[str, str] = JOBS) -> list[dict[str, int]]:
    """Nanoseconds of each job, for each turn in container c1 but the first."""
    runs = []
    for turn in range(turns + 1):
        with Child([*command, "exec", "c1", "sh", "-c", script(jobs)]) as child:
            last = child.wait_for(b"begin\n", TIMEOUT)
            figures = {}
            for job in lines_of(jobs):
                now = child.wait_for(f"\n{job}\n".encode(), TIMEOUT)
                figures[job], last = now - last, now
            if child.finish(TIMEOUT):
                raise ChildError(f"ended with {child.status}\n{child.last_words()}")
        say(f"{name}: " + ", ".join(f"{job} {ns / 1e6:.1f}" for job, ns in figures.items() if job not in PLACES))
        if turn:
            runs.append(figures)
    return runs


def _row(label: str, job: str, figures: dict[str, Any], peer: str, must: float | None = None) -> Row:
    """The speed in proportion to the peer's."""
    ours, theirs = (median(figures[who]["inside"], job) / 1e6 for who in ("pyvmm", peer))
    return Row(label, theirs / ours, "M instructions, speed", ours, theirs, peer, must, at_least=True)


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    names = {"root": "its root file system", "volume": "a volume"}
    for place, label in names.items():
        for peer, must, unpack in (("runsc", 2.0, 1.2), ("runc", None, None)):
            musts = {"unpack": unpack}
            each = [_row(f"  {job}", f"{place}-{job}", figures, peer, musts.get(job)) for job in RATED]
            name = f"container: files in {label}, speed, geometric mean" if must else "  against runc"
            made.append(Row(name, mean(each), peer_name=peer, must=must, at_least=True))
            made += [replace(row, name=f"  {row.name}") for row in each]
    made.append(_row("container: a loop that computes, speed", "loop", figures, "runc", must=0.9))
    made.append(_row("  against runsc", "loop", figures, "runsc"))
    return made


def files() -> int:
    """How many files the tree has."""
    return FOLDERS * FILES_PER_FOLDER
