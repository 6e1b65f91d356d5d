"""Machines that are copies of another: clones of a snapshot and children of a fork, with consoles of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.guest.vmfixture import RUN_TIMEOUT, Guest
from vmm import ConsoleConfig, Machine, restore_machine

HANGS = "dmesg | grep -iE 'soft lockup|rcu.*stall|hung task|I/O error' || true"
TROUBLE = f"{HANGS}; dmesg | grep -i unstable || true"


class Clone(Guest):
    """A machine of a snapshot, whose shell serves the same commands as the one that was saved."""

    def __init__(self, path: Path, like: Guest, **changes: Any) -> None:
        self._commands = like._commands

        def make(fd: int) -> Machine:
            made: Any = restore_machine(str(path), console=ConsoleConfig("fd", fd), start=False, **changes)
            return made  # type: ignore[no-any-return]

        self._open(make)
        self.machine.start()


MakeClone = Callable[..., Clone]


class Child(Guest):
    """A machine that was forked, with a console of its own."""

    def __init__(self, of: Guest, **changes: Any) -> None:
        self._commands = of._commands
        self._open(lambda fd: of.machine.fork(console=ConsoleConfig("fd", fd), start=False, **changes)[0])
        self.machine.start()


def prepare_fork(guest: Guest) -> None:
    """Have its next child put into a machine that was made ahead."""
    guest.machine.prepare_forks(1)
    deadline = time.monotonic() + RUN_TIMEOUT
    while not guest.machine.prepared_forks:
        assert time.monotonic() < deadline
        time.sleep(0.01)
