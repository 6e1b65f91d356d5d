"""The suites by their names."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import NamedTuple

from tests.sentry.conformance import posix
from tests.sentry.conformance.play import Unit

MODULES = (
    *(
        "os",
        "posix",
        "posixpath",
        "genericpath",
        "stat",
        "glob",
        "pathlib",
        "shutil",
        "tempfile",
        "filecmp",
        "pwd",
        "grp",
    ),
    *(
        "io",
        "fileio",
        "file",
        "largefile",
        "fcntl",
        "ioctl",
        "mmap",
        "resource",
        "time",
        "mailbox",
        "tarfile",
        "zipfile",
    ),
    *("subprocess", "popen", "fork1", "wait3", "wait4", "signal", "threadsignals", "faulthandler", "cmd_line"),
    *("thread", "threading", "queue", "concurrent_futures"),
    *("multiprocessing_fork", "multiprocessing_spawn", "multiprocessing_forkserver"),
    *("select", "selectors", "poll", "epoll", "pty", "openpty", "termios", "tty", "timeout"),
    *("socket", "socketserver", "asyncio", "httplib", "httpservers", "ftplib", "ssl"),
    *("dbm", "sqlite3", "logging", "venv", "import", "sys", "platform", "uuid", "locale"),
)
"""Of CPython's own tests, those that depend on the system."""
MODULE_SECONDS = 60.0
STRESS_SECONDS = 30.0
STRESSORS = 12
"""In a unit, which has the name of the first."""
STRESS_WORDS = {"0": "pass", "2": "fail", "3": "skip", "4": "skip"}
STRESS_SKIPPED = (
    "bigheap",
    "cpu-online",
    "cyclic",
    "dev-shm",
    "memhotplug",
    "module",
    "oom-pipe",
    "reboot",
    "watchdog",
)
"""Natively, they would disturb this machine."""


class Suite(NamedTuple):
    """
    :param title: of its row
    :param package: of Debian
    :param most: failures of 100 tests that it may have
    """

    title: str
    package: str
    most: float
    units: Callable[[], list[Unit]]


def python_units() -> list[Unit]:
    """A unit for each module."""
    return [Unit(name, {"module": f"test.test_{name}"}, MODULE_SECONDS) for name in MODULES]


def stress_units() -> list[Unit]:
    """Stressors of the class `os`, each for a second, with its checks."""
    listed = subprocess.run(["stress-ng", "--class", "os?"], capture_output=True, text=True).stdout
    names = [name for name in re.sub(r".*:", "", listed).split() if name not in STRESS_SKIPPED]
    commands = {name: ["stress-ng", f"--{name}", "1", "--verify", "-t", "1"] for name in names}
    parts = [names[at : at + STRESSORS] for at in range(0, len(names), STRESSORS)]
    return [
        Unit(part[0], {"commands": {name: commands[name] for name in part}, "words": STRESS_WORDS}, STRESS_SECONDS)
        for part in parts
    ]


SUITES = {
    "python": Suite("CPython's own tests", "libpython3.13-testsuite", 3.0, python_units),
    "posix": Suite("Open POSIX test suite", posix.PACKAGE, 5.0, posix.units),
    "stress": Suite("stress-ng `--class os --verify`", "stress-ng", 5.0, stress_units),
}
