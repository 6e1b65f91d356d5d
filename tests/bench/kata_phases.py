"""The time of each step of `pyvmm-oci run`, from the log of `--debug`; and a picture of it."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape

from tests.bench.boot import say
from tests.bench.child import Child, ChildError, wait_for_image
from tests.bench.row import Row, absolute

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT = 300.0
PROCESS_1 = re.compile(r"guest: agent: (\d+) ns from its start to the first connection")


class Step(NamedTuple):
    """A step; it begins at the end of the one before."""

    phase: str
    label: str
    end: str
    """The log message at its end."""


STEPS = (
    Step("command", "sh, Python, modules", "command"),
    Step("command", "bundle, state, the monitor's process", "monitor"),
    Step("command", "control group, namespaces", "namespaces"),
    Step("VMM", "share, modules of vmm", "machine: made"),
    Step("VMM", "memory, KVM, devices, kernel's file", "machine: first-run"),
    Step("kernel", "first KVM_RUN to process 1", "process 1"),
    Step("agent", "mounts, listens, is connected to", "connected"),
    Step("agent", "sandbox: mounts the share", "sandbox"),
    Step("container", "made by crun", "container"),
    Step("container", "the command asks for its start", "start"),
    Step("container", "runs and ends", "exited"),
    Step("end", "power off, machine closed", "closed"),
    Step("end", "deleted, end of the command", "end"),
)
OF_CLONE = tuple(step for step in STEPS if step.end != "process 1")
"""The steps of a machine that is a clone of a template: its kernel and agent run from the start."""
PHASES = {
    "command": "before the machine",
    "VMM": "the VMM, to the first KVM_RUN",
    "kernel": "the guest's kernel, to process 1",
    "agent": "the agent, to its sandbox",
    "container": "the container, to its end",
    "end": "the end of the machine and of the command",
}


def measure(
    command: Sequence[str], bundle: str, turns: int, log: Path, wanted: Sequence[Step] = STEPS
) -> list[dict[str, int]]:
    """Nanoseconds from the start to the end of each step, for each run of a bundle; the first run is not counted.

    Writing the notes is counted, too: `end` is a bit later than without them.
    """
    runs = []
    for turn in range(turns + 1):
        log.unlink(missing_ok=True)
        debug = ["--debug", "--log", str(log), "--log-format", "json"]
        wait_for_image()
        with Child([*command, *debug, "run", "--bundle", bundle, "c1"]) as child:
            if child.finish(TIMEOUT):
                raise ChildError(f"ended with {child.status}\n{child.last_words()}")
            ended = child.ended
        if turn:
            ends = [step.end for step in wanted]
            marks = _marks(log.read_text(), child.started, ends) | {"end": ended - child.started}
            runs.append({end: marks[end] for end in ends})
    say("steps: " + ", ".join(f"{label} {ns / 1e6:.1f}" for label, ns in steps(runs).items()) + " M instructions")
    return runs


def _marks(log: str, began: int, wanted: Sequence[str]) -> dict[str, int]:
    """The times of the log messages, in nanoseconds since `began`."""
    marks: dict[str, int] = {}
    took = None
    for line in log.splitlines():
        note = json.loads(line)
        if found := PROCESS_1.search(note["msg"]):
            took = int(found[1])
        else:
            marks[note["msg"]] = round(note["monotonic"] * 1e9) - began
    if took is None and "process 1" in wanted:
        raise ChildError(f"the agent did not tell how long it took:\n{log}")
    return marks | ({"process 1": marks["connected"] - took} if took is not None else {})


def steps(runs: list[dict[str, int]]) -> dict[str, float]:
    """The median duration of each step in nanoseconds, by the message at its end."""
    before = [dict(zip(run, (0, *run.values()), strict=False)) for run in runs]
    return {
        end: statistics.median(run[end] - start[end] for run, start in zip(runs, before, strict=True))
        for end in runs[0]
    }


def rows(runs: list[dict[str, int]]) -> list[Row]:
    """The lines of the table."""
    took = steps(runs)
    return [
        absolute(f"  {label}", sum(took[step.end] for step in within) / 1e6, "M instructions")
        for phase, label in PHASES.items()
        if (within := [step for step in STEPS if step.phase == phase and step.end in took])
    ]


# -- the picture -----------------------------------------------------------------------------------------------------

COLOURS = {
    "command": "#8b949e",
    "VMM": "#4c8dd6",
    "kernel": "#c9a227",
    "agent": "#2a9d55",
    "container": "#9a5fc9",
    "end": "#8b949e",
}
WIDTH, LEFT, RIGHT, TOP, LINE = 920, 330, 90, 58, 22


def draw(figures: dict[str, Any], path: Path) -> str:
    """Draw the steps, and beneath them what the peers take for the same, as SVG; returns a line that says so."""
    took = steps(figures["phases"])
    whole = {name: statistics.median(figures[name]["run"]) for name in ("pyvmm", "runsc", "runc")}
    scale = (WIDTH - LEFT - RIGHT) / max(sum(took.values()), *whole.values())
    shapes: list[str] = []
    line = 0

    def bar(label: str, start: float, ns: float, colour: str, *, bold: bool = False) -> None:
        nonlocal line
        y = TOP + line * LINE
        x, width = LEFT + start * scale, max(ns * scale, 1)
        weight = ' font-weight="bold"' if bold else ""
        shapes.append(f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end"{weight}>{escape(label)}</text>')
        shapes.append(f'<rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{LINE - 7}" fill="{colour}"/>')
        shapes.append(f'<text x="{x + width + 5:.1f}" y="{y + 14}"{weight}>{ns / 1e6:.1f}</text>')
        line += 1

    at = 0.0
    for step in STEPS:
        bar(f"{step.phase}: {step.label}", at, took[step.end], COLOURS[step.phase])
        at += took[step.end]
    line += 1
    bar("pyvmm-oci run, without these notes", 0, whole.pop("pyvmm"), "#4c8dd6", bold=True)
    for name, ns in whole.items():
        bar(f"{name} run", 0, ns, "#c9d1d9")
    height = TOP + line * LINE + 16
    title = "pyvmm-oci run of busybox true, a cold machine: where the time goes"
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img">\n<title>{title}</title>\n<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>\n'
        f'<g font-family="system-ui,Segoe UI,Helvetica,Arial,sans-serif" font-size="13" fill="#24292f">\n'
        f'<text x="16" y="26" font-size="15" font-weight="bold">{title}</text>\n'
        f'<text x="16" y="46" fill="#57606a">millions of instructions of guest and host together, median</text>\n'
        + "\n".join(shapes)
        + "\n</g>\n</svg>\n"
    )
    return f"start-up of a container: {path}"
