"""A booted guest that a test talks to through its serial console."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vmm import (
    BootConfig,
    DiskConfig,
    EndEvent,
    MachineConfig,
    MemoryConfig,
    NetConfig,
    ShareConfig,
    VirtioDevice,
    VsockConfig,
)
from vmm.options.sizes import parse_size
from vmm.testing.console import ConsoleGuest

PROMPT = "guest:~# "  # guest-kernel/rootfs.py
# What the guest's shell is told to do: read commands coded as base64 lines up to a ".", and print a mark on both sides
# of what they print. The marks are put together by the guest, so that what is typed never looks like one. A child that
# ends just then, as after `kill $!`, interrupts ash's write(), which loses the mark: it is printed until that succeeds.
SERVE = (
    'stty -echo; dmesg -n 1; while read -r n; do c=; while read -r l && [ "$l" != . ]; do c=$c$l; done; '
    "until printf '~%s-%d\\n' begin $n; do :; done; eval \"$(echo $c | base64 -d)\"; _s=$?; "
    "until printf '~%s-%d %d\\n' end $n $_s; do :; done; done\n"
)
BOOT_TIMEOUT = RUN_TIMEOUT = 240.0 * float(os.environ.get("PYVMM_TEST_PATIENCE", 1))
"""Seconds; more in a hostile lab, and with a distribution's kernel."""


class GuestEnded(AssertionError):
    """The guest ended while the test still wanted something of it."""

    def __init__(self, end: EndEvent) -> None:
        super().__init__(f"the guest ended: {end.kind} {end.detail}".rstrip())
        self.end = end


class Guest(ConsoleGuest):
    """A machine and its console."""

    def __init__(self, config: MachineConfig, devices: tuple[VirtioDevice, ...] = ()) -> None:
        self._commands = 0
        super().__init__(config, devices)
        self.machine.start()

    def _take(self, data: bytes) -> None:
        super()._take(data.replace(b"\r", b""))

    @property
    def console(self) -> str:
        """All that it has printed so far, without carriage returns."""
        return self._printed.decode(errors="replace")

    def _ended(self, end: EndEvent, what: str) -> Exception:
        return GuestEnded(end)

    def drain(self) -> None:
        """Read the guest's output, without waiting."""
        self._read()

    def expect(self, pattern: str, timeout: float = RUN_TIMEOUT) -> None:
        """Wait until the console shows `pattern` (a regular expression) after what was last found there.

        Raises GuestEnded when the guest ended first, TimeoutError after `timeout` seconds.
        """
        self._find(pattern.encode(), repr(pattern), timeout)

    def type(self, text: bytes | str, timeout: float = RUN_TIMEOUT) -> None:
        """Send `text` as typed on the console. Raises TimeoutError when the guest does not take it."""
        super().type(text, timeout)

    def start_shell(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait for the shell and have it serve run(): no echo, no prompt, no kernel messages between the output."""
        self.expect(re.escape(PROMPT), timeout)
        self.type(SERVE)
        self.check("true")

    def run(self, command: str, timeout: float = RUN_TIMEOUT) -> tuple[int, str]:
        """Run a shell command (or several lines) in the guest's one shell; returns its exit status and output.

        `cd` and variables last; `exit` powers the guest off. Raises TimeoutError after `timeout` seconds and GuestEnded
        when the guest ends instead.
        """
        self._commands += 1
        number = self._commands
        self.type(f"{number}\n{base64.encodebytes(command.encode()).decode()}.\n")
        deadline = time.monotonic() + timeout
        _, start = self._find(rb"~begin-%d\n" % number, f"the beginning of {command!r}", timeout)
        left = max(0.0, deadline - time.monotonic())
        end, after = self._find(rb"~end-%d \d+\n" % number, f"the end of {command!r}", left)
        status = int(self._printed[end:after].split()[1])
        return status, self._printed[start:end].decode(errors="replace")

    def check(self, command: str, timeout: float = RUN_TIMEOUT) -> str:
        """run(), for a command that must succeed; returns its output."""
        status, output = self.run(command, timeout)
        assert status == 0, f"{command!r} in the guest: status {status}, output:\n{output}"
        return output

    def wait(self, timeout: float = RUN_TIMEOUT) -> EndEvent:
        """Wait until the guest ends by itself; returns how. Raises TimeoutError when it does not."""
        return super().wait(timeout)

    def power_off(self) -> EndEvent:
        """Have the guest power itself off, and wait for that."""
        with contextlib.suppress(GuestEnded):
            self.run("poweroff; sleep 60")
        return self.wait()


@contextlib.contextmanager
def showing_console(guest: Guest) -> Iterator[None]:
    """An error in the block has the console of *guest* as a note."""
    try:
        yield
    except BaseException as error:
        guest.drain()
        error.add_note(f"console:\n{guest.console}")
        raise


def disk_config(disk: str | Path | DiskConfig) -> DiskConfig:
    """A disk as a path or as pyvmm's own record."""
    return disk if isinstance(disk, DiskConfig) else DiskConfig(str(disk))


def root_config(root: str | Path | DiskConfig | ShareConfig) -> DiskConfig | ShareConfig:
    """The same for a root file system, which may be a directory."""
    if isinstance(root, ShareConfig):
        return root
    return ShareConfig(str(root)) if not isinstance(root, DiskConfig) and Path(root).is_dir() else disk_config(root)


def boot_guest(
    kernel: str,
    *,
    rootfs: str | Path | DiskConfig | ShareConfig | None = None,
    disks: Sequence[str | Path | DiskConfig] = (),
    shares: Sequence[ShareConfig] = (),
    initrd: str | None = None,
    cpus: int = 1,
    memory: str | MemoryConfig = "256M",
    cmdline: str = "",
    entry: str = "auto",
    devices: tuple[VirtioDevice, ...] = (),
    vsock: VsockConfig | None = None,
    transport: str = "mmio",
    nets: Sequence[NetConfig] = (),
    **more: Any,
) -> Guest:
    """A running guest, at its first instruction.  `more` are further fields of MachineConfig."""
    size = memory if isinstance(memory, MemoryConfig) else MemoryConfig(parse_size(memory))
    root = None if rootfs is None else root_config(rootfs)
    if initrd is None and isinstance(root, DiskConfig):  # of a distribution's kernel (tools/kernels.py)
        initrd = os.environ.get("PYVMM_GUEST_INITRD")
    boot = BootConfig(kernel, initrd, cmdline, entry)
    config = MachineConfig(
        boot,
        size,
        cpus,
        root,
        tuple(map(disk_config, disks)),
        shares=tuple(shares),
        vsock=vsock,
        transport=transport,
        nets=tuple(nets),
        **more,
    )
    return Guest(config, devices)
