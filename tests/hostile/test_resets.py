"""Resets of devices by a driver, on a vCPU's thread and at any time: Linux resets all of them when it powers off.

Each device is driven by a thread that has a vCPU's list of system calls: a call that is not on it ends the process.
Every round begins with requests under way, and with what outlives a request: connections, open files, locks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.where import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes what takes a privilege")

DRIVE = """
import sys
from pathlib import Path
from threading import Thread
from tests.blk_driver import BlkGuest
from tests.driver import Guest
from tests.fs_driver import FsGuest
from tests.net_driver import MAC, NetGuest
from tests.netns import ip, own_network
from tests.unit.virtio.test_fs_dax import DaxGuest
from tests.vsock_driver import VsockGuest, works
from vmm import BalloonConfig, PmemConfig, RngConfig
from vmm.native import lib
from vmm.virtio.balloon.device import Balloon
from vmm.virtio.blk import device as blk
from vmm.virtio.console.device import VirtioConsole
from vmm.virtio.net.device import Net
from vmm.virtio.net.tap import Tap
from vmm.virtio.pmem.device import Pmem
from vmm.virtio.rng.device import Rng
from vmm.virtio.vsock import device as vsock

kind, folder = sys.argv[1], Path(sys.argv[2])
image = folder / "image"
image.write_bytes(bytes(2 << 20))
kept = []


def blk_of(**options):
    return lambda: BlkGuest(image, **options)


def blk_requests(guest):
    guest.start()
    guest.write_disk(8, b"r" * 512)
    for sector in range(16):
        guest.submit(blk.BLK_T_OUT, sector, data=b"w" * 512)
    guest.submit(blk.BLK_T_FLUSH)
    guest.kicks[0].signal()


def vsock_requests(guest):
    guest.begin()
    works(guest)
    guest.expect(vsock.VSOCK_OP_SHUTDOWN)
    program, port, src = guest.from_guest(1000)
    for _ in range(20):
        guest.send(vsock.VSOCK_OP_RW, port, src, b"unread" * 100)
    client, port, src = guest.from_host()
    guest.send(vsock.VSOCK_OP_RW, port, src, b"unread")
    message, port, src = guest.from_guest(1001, 6, vsock.VSOCK_TYPE_SEQPACKET)
    half, port, src = guest.from_guest(1002, 7)
    guest.send(vsock.VSOCK_OP_SHUTDOWN, port, src, flags=vsock.VSOCK_SHUTDOWN_SEND)
    kept.extend((program, client, message, half, guest.client(b"CONN"), guest.client(b"CONNECT 77\\n")))
    for number in (1000, 1001, 1002):
        Path(f"{guest.uds}_{number}").unlink()


def net_requests(guest):
    guest.begin()
    guest.send(b"frame")
    for _ in range(10):
        guest.far.send(b"f" * 60)


def tap_requests(guest):
    guest.begin()
    guest.send(b"\\xff" * 60)


def fs_requests(guest):
    guest.start()
    guest.mount()
    name = f"file{len(kept)}"
    entry, handle = guest.create(name)
    kept.append(name)
    guest.write_file(handle, b"x" * 4096)
    guest.lock(entry.node, handle, 1, 1)
    for _ in range(8):
        guest.submit(15, entry.node, bytes(40))


def dax_requests(guest):
    guest.start()
    guest.mount()
    name = f"file{len(kept)}"
    entry, handle = guest.create(name)
    kept.append(name)
    guest.write_file(handle, b"x" * 4096)
    assert guest.map(entry.node, 0, 4096) == 0
    assert bytes(guest.window[:4096]) == b"x" * 4096


def pmem_requests(guest):
    queue = guest.start()
    queue.offer(queue.chain([guest.data(bytes(4)), guest.room(4)]))
    queue.kick()


def queues(*contents):
    def requests(guest):
        guest.start()
        for queue in guest.queues.values():
            for content in contents:
                queue.offer(queue.chain([guest.data(content) if content else guest.room(64)]))
            queue.kick()
    return requests


MAKE = {
    "blk": (blk_of(io_uring=False), blk_requests),
    "blk-uring": (blk_of(io_uring=True), blk_requests),
    "blk-overlay": (blk_of(overlay=str(folder / "overlay"), cow="overlay"), blk_requests),
    "vsock": (lambda: VsockGuest(folder, start=False), vsock_requests),
    "net": (lambda: NetGuest(start=False), net_requests),
    "tap": (lambda: NetGuest(card=Net(Tap("tap0"), mac=MAC), start=False), tap_requests),
    "fs": (lambda: FsGuest(folder, isolation="process", mount=False), fs_requests),
    "fs-dax": (lambda: DaxGuest(folder, "process"), dax_requests),
    "console": (lambda: Guest(VirtioConsole(out_fd=1)), queues(b"")),
    "pmem": (lambda: Guest(Pmem(PmemConfig(str(image)))), pmem_requests),
    "rng": (lambda: Guest(Rng(RngConfig())), queues(b"")),
    "balloon": (lambda: Guest(Balloon(BalloonConfig(), 16 << 20)), queues(bytes(8))),
}
make, requests = MAKE[kind]
if kind == "tap":
    context = own_network()
    context.__enter__()
    ip("tuntap add dev tap0 mode tap")
    ip("link set tap0 up")
assert lib.seccomp_starter_begin() == 0
guest = make()


def vcpu():
    lib.thread_set_name(b"vcpu0")
    assert lib.seccomp_enter_thread(lib.SECCOMP_VCPU | lib.SECCOMP_CHILD) == 0
    guest.reset()
    resets.append(guest.status)


resets = []
for turn in range(4):
    requests(guest)
    thread = Thread(target=vcpu)
    thread.start()
    thread.join()
requests(guest)
guest.close()
print("resets:", resets)
"""


@pytest.mark.parametrize(
    "kind",
    ["blk", "blk-uring", "blk-overlay", "vsock", "net", "tap", "fs", "fs-dax", "console", "pmem", "rng", "balloon"],
)
def test_a_reset_with_requests_under_way_makes_calls_of_a_vcpu_alone(tmp_path: Path, kind: str) -> None:
    """And the device works afterwards."""
    command = [sys.executable, "-c", DRIVE, kind, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.splitlines()[-1:] == ["resets: [0, 0, 0, 0]"], done.stderr
