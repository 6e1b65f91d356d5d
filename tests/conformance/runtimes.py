"""The runtimes that the suites are run with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.guest.kata_tools import BIN, write_settings

OURS = "pyvmm"
REFERENCES = ("crun", "runc")
"""What both of them do is what is demanded of us."""
ALL = (OURS, *REFERENCES, "runsc")
SENTRY = "sentry"
"""Ours with containers on the Sentry: on request, since it also runs where no guest can."""
TITLES = {OURS: "pyvmm-oci", SENTRY: "pyvmm-oci --isolation sentry", "crun": "crun", "runc": "runc", "runsc": "runsc"}


def command(name: str, folder: Path) -> list[str]:
    """The command line of a runtime, without `--root`; its settings are in a folder of its own."""
    if name == OURS:
        return [str(BIN / "pyvmm-oci"), "--config", str(write_settings(folder / "kata.toml"))]
    if name == SENTRY:
        return [str(BIN / "pyvmm-oci"), "--isolation", "sentry"]
    found = shutil.which(name) or name
    # Its own network stack wants interfaces in the namespace
    return [found, "--network", "none"] if name == "runsc" else [found]


def version(name: str) -> str:
    """What it says of itself, in a line."""
    program = str(BIN / "pyvmm-oci") if name in (OURS, SENTRY) else shutil.which(name)
    if program is None:
        return "not installed"
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    return done.stdout.splitlines()[0].removeprefix(f"{name} version ").strip() if done.stdout else "unknown"
