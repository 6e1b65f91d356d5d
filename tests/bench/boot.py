"""Cold boot: from the start of the process to the first line of the guest's init, in instructions; and with Debian's
own kernel, initrd and systemd on PCI: seconds from the start of the process to systemd's ``running``."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import counters, programs
from tests.bench.child import Child, wait_for_image
from tests.bench.row import Row, absolute, compare, median
from tests.filesystems import sparse_copy

if TYPE_CHECKING:
    from tests.bench.inside import Spec

HELLO = b"pyvmm-init: hello"
TIMEOUT = 300.0

DEBIAN = "/bench/debian"
DEBIAN_FILES = ("vmlinuz", "initrd.img", "root.ext4")
DEBIAN_TURNS = 3


def say(text: str) -> None:
    """One line of progress."""
    os.write(2, f"    {text}\n".encode())


def run_in_guest(command: str) -> str:
    """The words of the kernel command line that make the guest's init run `command` and power off."""
    return "pyvmm.quiet pyvmm.run64=" + base64.b64encode(command.encode()).decode()


def boot_once(argv: list[str]) -> dict[str, Any]:
    """Boot once: `ns` to the first line, KVM's counters until then, and pyvmm's own statistics."""
    with Child(argv) as child:
        hello = child.wait_for(HELLO, TIMEOUT)
        kvm = counters.kvm_counters(child.pid)
        status = child.finish(TIMEOUT)
        figures: dict[str, Any] = {"ns": hello - child.started, "kvm": kvm, "status": status}
        for line in child.errors().splitlines():
            if line.startswith('{"event": "poweroff"'):
                stats = figures["stats"] = json.loads(line)["stats"]
                first_run = round((stats["began"] + stats["phases"]["first-run"]) * 1e9) - child.started
                figures |= {"first_run_ns": first_run, "guest_ns": figures["ns"] - first_run}
        return figures


def boot_traced(argv: list[str]) -> dict[str, Any]:
    """Boot once and count exits and system calls until the first line."""
    with counters.Trace() as trace, Child(argv) as child:
        child.wait_for(HELLO, TIMEOUT)
        calls = trace.syscalls(counters.threads(child.pid))
        figures = {"user_exits": trace.user_exits(), "syscalls": sum(calls.values()), "syscalls_by_number": calls}
        child.finish(TIMEOUT)
        return figures


def measure(spec: Spec) -> dict[str, Any]:
    """All programs with an initramfs, with a root disk and with one on PCI, turn by turn, after one boot each that is
    not counted.

    `qemu-tuned` is QEMU with another firmware; `pyvmm-told` is a boot that tells of itself, which costs something: it
    is none of those that are compared; `pyvmm-unjailed` is one with `--jail=off`. A disk has a copy for each program,
    since guests write to it.
    """
    tail = run_in_guest("true")
    figures: dict[str, Any] = {}
    for kind in ("initrd", "disk", "pci"):
        argvs: dict[str, list[str]] = {}
        for name in ("qemu", "pyvmm") if kind == "pci" else ("qemu", "pyvmm", "qemu-tuned"):
            if kind == "initrd":
                guest = programs.Guest(spec.kernel, f"{spec.cmdline} {tail}", initrd=spec.initrd)
            else:
                shutil.copyfile(spec.disk, f"/bench/vda-{name}")
                words = programs.with_pci(spec.cmdline) if kind == "pci" else spec.cmdline
                guest = programs.Guest(
                    spec.kernel, f"{words} root=/dev/vda rw {tail}", disk=f"/bench/vda-{name}", pci=kind == "pci"
                )
            if name == "pyvmm":
                argvs[name] = programs.pyvmm(spec.pyvmm, guest)
                told = programs.pyvmm(spec.pyvmm, guest, extra=("--stats", "--json"))
                if kind == "initrd":
                    argvs["pyvmm-unjailed"] = programs.pyvmm(spec.pyvmm, guest, extra=("--jail=off",))
            else:
                argvs[name] = programs.qemu(guest, extra=programs.TUNED if name == "qemu-tuned" else ())
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in argvs}
        for turn in range(spec.boots + 1):
            for name, argv in argvs.items():
                wait_for_image()
                run = boot_once(argv)
                say(f"{kind} {name}: {run['ns'] / 1e6:.1f} M instructions{' (not counted)' if turn == 0 else ''}")
                if turn:
                    runs[name].append(run)
        figures[kind] = {name: {"runs": runs[name], "traced": boot_traced(argvs[name])} for name in argvs}
        wait_for_image()
        figures[kind]["pyvmm-told"] = boot_once(told)
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    unit = "M instructions"
    for kind, label in (("initrd", "initramfs"), ("disk", "root disk")):
        programs = figures[kind]
        ours, theirs, tuned = (median(programs[name]["runs"], "ns") / 1e6 for name in ("pyvmm", "qemu", "qemu-tuned"))
        made.append(compare(f"cold boot, {label}", ours, theirs, unit, must=0.50, aim=0.35))
        made.append(compare("  against QEMU with its faster firmware", ours, tuned, unit, peer_name="qboot"))
        if "pyvmm-unjailed" in programs:
            unjailed = median(programs["pyvmm-unjailed"]["runs"], "ns") / 1e6
            made.append(compare("  against --jail=off", ours, unjailed, unit, peer_name="pyvmm", must=1.10))
        told = programs["pyvmm-told"]
        made.append(absolute("  before the first KVM_RUN, when it tells of itself", told["first_run_ns"] / 1e6, unit))
        made.append(absolute("  the guest, with its faults and exits", told["guest_ns"] / 1e6, unit))
        ours, theirs = (median([run["kvm"] for run in programs[name]["runs"]], "exits") for name in ("pyvmm", "qemu"))
        made.append(compare("  exits", ours, theirs))
        ours, theirs = (float(sum(programs[name]["traced"]["user_exits"].values())) for name in ("pyvmm", "qemu"))
        made.append(compare("  exits to user space", ours, theirs))
        ours, theirs = (float(programs[name]["traced"]["syscalls"]) for name in ("pyvmm", "qemu"))
        made.append(compare("  system calls", ours, theirs))
        made.append(absolute("  exits answered by Python, power-off included", told["stats"]["exits"]["python"]))
    if "pci" in figures:
        on_pci = {name: figures["pci"][name]["runs"] for name in ("pyvmm", "qemu")}
        ours, theirs = (median(on_pci[name], "ns") / 1e6 for name in ("pyvmm", "qemu"))
        made.append(compare("cold boot, root disk on PCI", ours, theirs, unit, peer_name="QEMU, pcie=on"))
        mmio = figures["disk"]["pyvmm"]["runs"]
        made.append(compare("  against virtio-mmio", ours, median(mmio, "ns") / 1e6, unit, peer_name="pyvmm"))
        ours, theirs = (median([run["kvm"] for run in runs], "exits") for runs in (on_pci["pyvmm"], mmio))
        made.append(compare("  exits against virtio-mmio", ours, theirs, peer_name="pyvmm"))
    return made


def carry_debian(source: str, root: str) -> None:
    """Copy the disk, with the files beside it, to their places below `root`: holes stay, which tar would fill."""
    folder = Path(root + DEBIAN)
    folder.mkdir(parents=True)
    for name in DEBIAN_FILES:
        sparse_copy(Path(source).parent / name, folder / name)


def boot_debian(argv: list[str]) -> dict[str, float]:
    """Boot: seconds until it asks for a login, and until systemd has nothing left to start."""
    with Child(argv) as child:
        login = child.wait_for(b"login: ", TIMEOUT)
        child.write("root\n")
        child.wait_for(b"root@debian:~# ", TIMEOUT)
        typed = len(child.output)
        child.write("systemctl is-system-running --wait\n")
        # Not at the start of a line: bash has written the end of its bracketed paste there
        running = child.wait_for(b"running\r\n", TIMEOUT, typed)
        return {"login": (login - child.started) / 1e9, "running": (running - child.started) / 1e9}


def measure_debian(spec: Spec) -> dict[str, Any]:
    """Both programs, turn by turn, each with a fresh copy of the disk, after one boot each that is not counted."""
    cmdline = f"{programs.with_pci(spec.cmdline)} root=/dev/vda rw systemd.show_status=0"
    runs: dict[str, list[dict[str, float]]] = {"qemu": [], "pyvmm": []}
    for turn in range(min(spec.turns, DEBIAN_TURNS) + 1):
        for name, counted in runs.items():
            disk = sparse_copy(Path(DEBIAN, "root.ext4"), Path(DEBIAN, "vda"))
            guest = programs.Guest(
                f"{DEBIAN}/vmlinuz", cmdline, initrd=f"{DEBIAN}/initrd.img", disk=str(disk), memory=768, pci=True
            )
            argv = programs.qemu(guest) if name == "qemu" else programs.pyvmm(spec.pyvmm, guest)
            run = boot_debian(argv)
            say(f"{name}: running after {run['running']:.1f} s{' (not counted)' if turn == 0 else ''}")
            if turn:
                counted.append(run)
    return runs


def debian_rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    for key, label in (("running", "Debian's kernel to systemd's `running`, on PCI"), ("login", "  to the login")):
        ours, theirs = (median(figures[who], key) for who in ("pyvmm", "qemu"))
        made.append(compare(label, ours, theirs, "s", peer_name="QEMU, pcie=on"))
    return made
