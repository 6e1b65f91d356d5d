"""Runs a program in a virtual machine whose kernel is the Sentry."""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path

from vmm import BootConfig, ConsoleConfig, HostError, Machine, MachineConfig, MemoryConfig, ShareConfig

MIB = 1 << 20
ENDED = re.compile(rb"sentry: the program (exited with|was ended by signal) (\d+)\n\Z")
REFUSED = re.compile(rb"sentry: ([^\n]*)\n\Z")
_LONGEST = 256
"""Of the line with which the kernel ends."""
CANNOT_RUN = 126


class _Output:
    """Copies the console to standard output, but for the kernel's last line."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.last = b""
        self._thread = threading.Thread(target=self._copy)
        self._thread.start()

    def _copy(self) -> None:
        while data := os.read(self.reader, 1 << 16):
            self.last += data
            # A line that can be the last one stays until more follows it.
            kept = self.last.rfind(b"sentry: ", max(len(self.last) - _LONGEST, 0))
            shown = len(self.last) if kept < 0 else kept
            self._show(self.last[:shown])
            self.last = self.last[shown:]

    def _show(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def close(self) -> int:
        """Show the rest; returns the exit status of the program."""
        os.close(self.writer)
        self._thread.join()
        os.close(self.reader)
        end, refused = ENDED.search(self.last), REFUSED.search(self.last)
        if end:
            self._show(self.last[: end.start()])
            return int(end[2]) + (128 if end[1].startswith(b"was") else 0)
        if refused:
            self._show(self.last[: refused.start()])
            sys.stderr.write(f"pyvmm-runsc: {refused[1].decode(errors='replace')}\n")
            return CANNOT_RUN
        self._show(self.last)
        return 0


def _copy_input(machine: Machine) -> None:
    """Until its end, which the console has no other sign for than the key."""
    while data := os.read(0, 4096):
        machine.console_input(data)
    machine.console_input(b"\x04")


def run(kernel: Path, path: str, words: list[str], memory: int, *, root: str | None = None, read_only: bool) -> int:
    """Run a program; returns its exit status, or 128 and the signal that ended it.

    :param words: its name and arguments, without spaces
    :param memory: MiB
    :param root: a directory of the host as the root, in which the program is then
    :param read_only: the server refuses all changes of that directory (EROFS)
    :raises VmmError: the machine cannot be made, or does not power off
    """
    output = _Output()
    try:
        shares = () if root is None else (ShareConfig(root, read_only=read_only, cache="always", locks="guest"),)
        config = MachineConfig(
            BootConfig(str(kernel), path if root is None else None, f"quiet -- {' '.join(words)}"),
            MemoryConfig(memory * MIB),
            console=ConsoleConfig("fd", output.writer),
            shares=shares,
        )
        with Machine(config) as machine:
            machine.start()
            threading.Thread(target=_copy_input, args=(machine,), daemon=True).start()
            end = machine.wait()
    finally:
        status = output.close()
    if not status and end and end.kind != "poweroff":
        raise HostError(f"the machine has ended without a result: {end.kind} {end.detail}".rstrip())
    return status
