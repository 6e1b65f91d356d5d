"""Counts exits and system calls of a virtual machine monitor in the lab's kernel. Needs root, debugfs, tracefs.

Seen from the kernel, so that both programs are measured the same way whatever they say about themselves.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

KVM = Path("/sys/kernel/debug/kvm")
EVENTS = Path("/sys/kernel/tracing/events")
USER_EXITS = EVENTS / "kvm/kvm_userspace_exit"
SYSCALLS = EVENTS / "raw_syscalls/sys_enter"
KEPT = ("exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits", "insn_emulation", "irq_injections", "hypercalls")

EXIT_REASONS = {2: "IO", 5: "HLT", 6: "MMIO", 8: "SHUTDOWN", 10: "INTR", 24: "SYSTEM_EVENT"}
"""KVM_EXIT_* of <linux/kvm.h>."""


def kvm_counters(pid: int) -> dict[str, int]:
    """KVM's counters of the machine that process `pid` has now. They are gone with the machine."""
    found = {}
    for folder in KVM.glob(f"{pid}-*"):
        for name in KEPT:
            with contextlib.suppress(OSError, ValueError):
                found[name] = int((folder / name).read_text())
    return found


class Trace:
    """Counts exits to user space by reason, and system calls by program, in the kernel while it is on.

    Costs each event a few hundred instructions, so what is timed is not traced.
    """

    def __enter__(self) -> Trace:
        (USER_EXITS / "trigger").write_text("hist:keys=reason")
        (SYSCALLS / "trigger").write_text("hist:keys=common_pid.execname,id:size=8192")
        return self

    def __exit__(self, *exc: object) -> None:
        (USER_EXITS / "trigger").write_text("!hist:keys=reason")
        (SYSCALLS / "trigger").write_text("!hist:keys=common_pid.execname,id:size=8192")

    def user_exits(self) -> dict[str, int]:
        """Exits that user space answered, by reason."""
        text = (USER_EXITS / "hist").read_text()
        rows = re.findall(r"reason:\s*(\d+)\s*\} hitcount:\s*(\d+)", text)
        return {EXIT_REASONS.get(int(reason), reason): int(count) for reason, count in rows}

    def syscalls(self, pids: set[int]) -> dict[int, int]:
        """System calls of the threads `pids`, by number."""
        rows = re.findall(
            r"common_pid: \S.*?\[\s*(\d+)\], id:\s*(\d+)\s*\} hitcount:\s*(\d+)", (SYSCALLS / "hist").read_text()
        )
        found: dict[int, int] = {}
        for pid, number, count in rows:
            if int(pid) in pids:
                found[int(number)] = found.get(int(number), 0) + int(count)
        return found


def threads(pid: int) -> set[int]:
    """The threads that process `pid` has now."""
    return {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()}
