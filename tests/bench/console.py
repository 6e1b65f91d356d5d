"""The two consoles of a guest: how fast it prints, and how fast it reads what is typed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from tests.bench import boot, programs
from tests.bench.child import Child
from tests.bench.row import Row, compare, median

if TYPE_CHECKING:
    from tests.bench.inside import Spec

SIZES = {"serial": 32 << 10, "virtio": 1 << 20}
"""Bytes each way.  Fewer for the UART, whose every byte is two exits."""
TIMEOUT = 300.0
COMMAND = (
    "stty raw -echo; echo bench-print; head -c {0} /dev/zero | tr '\\0' x; echo bench-printed; "
    "echo bench-type; head -c {0} >/tmp/typed; echo bench-typed; stty sane"
)


def once(argv: list[str], size: int) -> dict[str, float]:
    """Boot, and measure bytes a second: `print`, `type`."""
    with Child(argv) as child:
        begin = child.wait_for(b"bench-print\n", TIMEOUT)
        end = child.wait_for(b"bench-printed\n", TIMEOUT)
        printed = size / (end - begin) * 1e9
        begin = child.wait_for(b"bench-type\n", TIMEOUT)
        child.write("x" * size)
        end = child.wait_for(b"bench-typed\n", TIMEOUT)
        child.finish(TIMEOUT)
        return {"print": printed, "type": size / (end - begin) * 1e9}


def measure(spec: Spec) -> dict[str, Any]:
    """Both consoles, turn by turn."""
    runs: dict[str, list[dict[str, float]]] = {device: [] for device in SIZES}
    for _ in range(min(spec.turns, 3)):
        for device, size in SIZES.items():
            shutil.copyfile(spec.disk, "/bench/vda-console")
            cmdline = f"{spec.cmdline} root=/dev/vda rw {boot.run_in_guest(COMMAND.format(size))}"
            if device == "virtio":
                cmdline = cmdline.replace("console=ttyS0", "console=hvc0")
            guest = programs.Guest(spec.kernel, cmdline, disk="/bench/vda-console")
            run = once(programs.pyvmm(spec.pyvmm, guest, extra=("--console-device", device)), size)
            boot.say(f"{device}: " + ", ".join(f"{name} {rate / 1024:.0f} KiB/s" for name, rate in run.items()))
            runs[device].append(run)
    return runs


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    for name, label in (("print", "console, printing"), ("type", "console, typing")):
        hvc, uart = (median(figures[device], name) / 1024 for device in ("virtio", "serial"))
        made.append(compare(label, hvc, uart, "KiB/s", peer_name="UART", must=10, at_least=True))
    return made
