"""A flush that returned is on the disk: the VMM is killed in the middle, and all that the guest was told is there."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.guest.disk_program import DISKS
from tools import guest as recipes

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("disk_program.py")
SIZE = 64 << 20
RECORD = 4096  # and the rest of what programs/records.c says
ENOUGH = 200
PATIENCE = 240.0


def acknowledged(console: bytes) -> dict[str, int]:
    """The last number that the guest has said of each disk. Only whole lines count."""
    lines = console.replace(b"\r", b"").rpartition(b"\n")[0].decode(errors="replace")
    found: dict[str, int] = {}
    for letter, number in re.findall(r"^([c-f])(\d+)$", lines, re.MULTILINE):
        assert int(number) == found.get(letter, 0) + 1, f"{letter}{number}"
        found[letter] = int(number)
    return found


def test_every_acknowledged_record_is_in_the_image(guest_kernel: str, fresh_disk: Path, tmp_path: Path) -> None:
    for name in DISKS:
        (tmp_path / f"{name}.img").touch()
        os.truncate(tmp_path / f"{name}.img", SIZE)
    arguments = [guest_kernel, str(fresh_disk), recipes.programs(), str(tmp_path)]
    errors = tmp_path / "errors"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    console = b""
    deadline = time.monotonic() + PATIENCE
    try:
        # All of them are in the middle of it when the process is killed
        while not all(acknowledged(console).get(letter, 0) >= ENOUGH for letter in DISKS.values()):
            ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            assert data, f"it ended or hangs\n{console.decode(errors='replace')}\n{errors.read_text()}"
            console += data
    finally:
        process.send_signal(signal.SIGKILL)
        console += process.stdout.read()
        process.wait()
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL

    told = acknowledged(console)
    for name, letter in DISKS.items():
        image = (tmp_path / f"{name}.img").read_bytes()
        for number in range(1, told[letter] + 1):
            record = b"%0*d" % (RECORD, number)
            assert image[number * RECORD : (number + 1) * RECORD] == record, (
                f"{name}: record {number} of {told[letter]}"
            )
    engines = dict(re.findall(r"^(\S+) uring=(\d)$", errors.read_text(), re.MULTILINE))
    assert {name: value for name, value in engines.items() if name.startswith("sync")} == {
        "sync-writeback": "0",
        "sync-writethrough": "0",
    }
