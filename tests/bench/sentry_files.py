"""Files in a container on the Sentry in a machine, beside the same container in our own virtual machine, on runsc
(gVisor) and on runc.

The jobs are those of :mod:`tests.bench.kata_inside`: a tree of files in the container's root and in a volume.  As in
:mod:`tests.bench.kata`, all programs run from the stage, and one instruction is one nanosecond.  Of runsc's platforms,
the faster one counts, job by job.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import kata, kata_inside
from tests.bench.row import Row, compare, median

if TYPE_CHECKING:
    from tests.bench.inside import Spec

RUNSC_MUST, VM_MUST = 0.5, 1.11
"""The most, in proportion to the peer: twice runsc's speed, 0.9 of the virtual machine's."""
PLATFORMS = ("systrap", "ptrace")
TITLES = {"unpack": "untar", "find": "find", "grep": "grep", "remove": "rm -r"}
PLACES = {"root": "its root", "volume": "a volume"}


def measure(spec: Spec) -> dict[str, Any]:
    """`files`: how many; for each system, nanoseconds of each job in each turn."""
    kata.HERE.mkdir(exist_ok=True)
    pyvmm = str(Path(spec.pyvmm).with_name("pyvmm-oci"))
    bundle = kata.make_bundle("sentry-files", pyvmm, ["sleep", "100000"])
    kata_inside.prepare(Path(bundle))
    programs = kata.commands(pyvmm, spec)
    systems = {"sentry": [*programs["pyvmm"], "--isolation", "sentry"], "vm": programs["pyvmm"]}
    systems |= {f"runsc-{platform}": [*programs["runsc"], f"--platform={platform}"] for platform in PLATFORMS}
    systems["runc"] = programs["runc"]
    figures: dict[str, Any] = {"files": kata_inside.files()}
    for name, command in systems.items():
        try:
            kata.sleep_in(command, "c1", bundle)
            figures[name] = kata_inside.measure_one(name, command, min(spec.boots, kata.INSIDE_TURNS))
        finally:
            subprocess.run([*command, "delete", "--force", "c1"], capture_output=True, timeout=kata.TIMEOUT)
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    for place, where in PLACES.items():
        for job, title in TITLES.items():
            took = {name: median(figures[name], f"{place}-{job}") / 1e6 for name in figures if name != "files"}
            name, unit = f"container on the Sentry: {title} in {where}", "M instructions"
            runsc = min(took[f"runsc-{platform}"] for platform in PLATFORMS)
            made.append(compare(name, took["sentry"], runsc, unit, peer_name="runsc", must=RUNSC_MUST))
            made.append(compare("  beside our VM", took["sentry"], took["vm"], unit, peer_name="VM", must=VM_MUST))
            made.append(compare("  beside runc", took["sentry"], took["runc"], unit, peer_name="runc"))
    return made
