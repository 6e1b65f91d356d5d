"""Whether this machine's own KVM can run an ordinary guest."""

from __future__ import annotations

import os

DEVICE = "/dev/kvm"


def cpu_flags() -> set[str]:
    """The flags of the first CPU in /proc/cpuinfo."""
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def why_unusable() -> str | None:
    """None when guests can run here natively, else the reason in a few words.

    A /dev/kvm on a CPU that shows neither VMX nor SVM belongs to a paravirtual KVM (PVM), which emulates an ordinary
    guest kernel instruction by instruction: it answers every ioctl and still boots nothing.
    """
    if not os.path.exists(DEVICE):
        return f"no {DEVICE}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"no permission on {DEVICE}"
    if not cpu_flags() & {"vmx", "svm"}:
        return "PVM: no vmx or svm"
    return None


if __name__ == "__main__":
    reason = why_unusable()
    print(reason or "usable")
    raise SystemExit(reason is not None)
