"""The Open POSIX test suite: Debian's source package, whose programs are compiled here."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyvmm_sentry.source import fetched
from tests.sentry.conformance.play import Unit
from tools.where import ROOT

PACKAGE = "posixtestsuite"
DIRECTORY = "conformance/interfaces"
DIALECTS = (("-D_POSIX_C_SOURCE=200112L",), ("-D_POSIX_C_SOURCE=200809L", "-D_XOPEN_SOURCE=700"))
"""The first that compiles a program: the suite's own, and that of today's headers."""
SECONDS = 60.0
SKIPPED = ("clock_settime",)
"""Natively, its tests would set the clock of this machine."""
WORDS = {"0": "pass", "1": "fail", "2": "unresolved", "4": "unsupported", "5": "untested"}
PRIVILEGED = ("mq_",)
"""Their queues are longer than an ordinary user may make them."""


def _compile(source: Path, top: Path, target: Path) -> Path | None:
    """The program of a test; None: it has none, or does not compile."""
    missing = target.with_suffix(".none")
    if target.exists() or missing.exists():
        return target if target.exists() else None
    target.parent.mkdir(parents=True, exist_ok=True)
    for dialect in DIALECTS:
        command = [
            "gcc",
            "-O1",
            "-w",
            "-std=gnu99",
            *dialect,
            f"-I{top / 'include'}",
            f"-I{source.parent}",
            str(source),
        ]
        made = target.with_suffix(f".{os.getpid()}")
        if not subprocess.run([*command, "-o", str(made), "-lpthread", "-lrt", "-lm"], capture_output=True).returncode:
            made.rename(target)
            return target
    missing.touch()
    return None


def units() -> list[Unit]:
    """A unit for interfaces whose names begin alike.

    :raises SourceError: the source is not available
    """
    top = fetched(PACKAGE)
    folder = ROOT / "build" / PACKAGE / top.name
    sources = sorted(path for path in (top / DIRECTORY).rglob("[0-9]*-*.c") if "buildonly" not in path.name)
    targets = [folder / path.relative_to(top / DIRECTORY).with_suffix("") for path in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = list(pool.map(_compile, sources, [top] * len(sources), targets))
    groups: dict[str, dict[str, list[str]]] = {}
    for path in filter(None, programs):
        name = str(path.relative_to(folder))
        interface = name.split("/", 1)[0]
        if interface not in SKIPPED:
            groups.setdefault("_".join(interface.split("_")[:2]), {})[name] = [str(path)]
    return [
        Unit(name, {"commands": commands, "words": WORDS}, SECONDS, name.startswith(PRIVILEGED))
        for name, commands in sorted(groups.items())
    ]
