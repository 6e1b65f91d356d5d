"""A virtio device in pure Python: an entropy source that is not random at all, driven by Linux's own virtio-rng.

python examples/custom_device.py VMLINUX ROOTFS [COMMAND LINE]

In the guest, ``head -c 12 /dev/hwrng`` prints the text in this file. A device like this one is slower than one with a C
worker (every kick goes through the control loop), but this file is all the code it needs.
"""

from __future__ import annotations

import sys

from vmm import BootConfig, ConsoleConfig, DiskConfig, Machine, MachineConfig, Queue, VirtioDevice

MAX_REQUEST = 4096


class Pattern(VirtioDevice):
    """Repeats *text* for ever."""

    device_id = 4  # an entropy device (virtio 1.2, 5.4): one queue, no configuration
    queue_sizes = (64,)
    name = "pattern"

    def __init__(self, text: bytes = b"hello guest\n") -> None:
        self.text = text
        self.served = 0

    def process(self, queue: Queue) -> None:
        for chain in queue:
            size = min(chain.room, MAX_REQUEST)
            start = self.served % len(self.text)
            chain.write((self.text * (size // len(self.text) + 2))[start : start + size])
            queue.push(chain)
            self.served += size


def main(kernel: str, rootfs: str, cmdline: str = "") -> int:
    config = MachineConfig(
        boot=BootConfig(kernel, cmdline=cmdline),
        rootfs=DiskConfig(rootfs),
        console=ConsoleConfig("fd", sys.stdout.fileno()),
    )
    device = Pattern()
    with Machine(config, devices=(device,)) as machine:
        end = machine.run(timeout=120)
    print(f"the machine ended: {end.kind}; the guest read {device.served} bytes of the pattern")
    return 0 if end.kind == "poweroff" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
