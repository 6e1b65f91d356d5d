"""Debian's own kernel, initrd and systemd on PCI: seconds from the start of the process to systemd's ``running``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import boot, programs
from tests.bench.child import Child
from tests.bench.row import Row, compare, median
from tests.filesystems import sparse_copy

if TYPE_CHECKING:
    from tests.bench.inside import Spec

FOLDER = "/bench/debian"
FILES = ("vmlinuz", "initrd.img", "root.ext4")
TURNS = 3
TIMEOUT = 300.0


def carry(source: str, root: str) -> None:
    """Copy the disk, with the files beside it, to their places below `root`: holes stay, which tar would fill."""
    folder = Path(root + FOLDER)
    folder.mkdir(parents=True)
    for name in FILES:
        sparse_copy(Path(source).parent / name, folder / name)


def once(argv: list[str]) -> dict[str, float]:
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


def measure(spec: Spec) -> dict[str, Any]:
    """Both programs, turn by turn, each with a fresh copy of the disk, after one boot each that is not counted."""
    cmdline = f"{programs.with_pci(spec.cmdline)} root=/dev/vda rw systemd.show_status=0"
    runs: dict[str, list[dict[str, float]]] = {"qemu": [], "pyvmm": []}
    for turn in range(min(spec.turns, TURNS) + 1):
        for name, counted in runs.items():
            disk = sparse_copy(Path(FOLDER, "root.ext4"), Path(FOLDER, "vda"))
            guest = programs.Guest(
                f"{FOLDER}/vmlinuz", cmdline, initrd=f"{FOLDER}/initrd.img", disk=str(disk), memory=768, pci=True
            )
            argv = programs.qemu(guest) if name == "qemu" else programs.pyvmm(spec.pyvmm, guest)
            run = once(argv)
            boot.say(f"{name}: running after {run['running']:.1f} s{' (not counted)' if turn == 0 else ''}")
            if turn:
                counted.append(run)
    return runs


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    for key, label in (("running", "Debian's kernel to systemd's `running`, on PCI"), ("login", "  to the login")):
        ours, theirs = (median(figures[who], key) for who in ("pyvmm", "qemu"))
        made.append(compare(label, ours, theirs, "s", peer_name="QEMU, pcie=on"))
    return made
