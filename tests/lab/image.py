"""The lab's initramfs, made once from the distribution's kernel package and kept in a cache beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tools.distribution import DistributionError, Kernel, Modules, cache_dir, find_kernel, without_signature

HERE = Path(__file__).parent

MODULES = (
    "virtio_console",
    "9p",
    "9pnet_virtio",
    "overlay",
    "fuse",
    "kvm_amd",
)
"""What the lab loads at start, dependencies aside. The others load themselves at first use, or with modprobe."""


class LabError(Exception):
    """The lab cannot be built, started or talked to; the message says what to do."""


def cpio_entry(name: str, data: bytes = b"", mode: int = 0o100644, device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of a cpio archive in the "newc" format (the kernel's initramfs buffer format document)."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def base_archive(kernel: Kernel) -> bytes:
    """The part of the initramfs that depends only on the kernel and on busybox, from the cache when it is there."""
    busybox = shutil.which("busybox") or "/bin/busybox"
    if not os.path.exists(busybox):
        raise LabError("busybox is not installed: apt-get install busybox-static")
    binary = Path(busybox).read_bytes()
    recipe = repr((kernel.directory.name, MODULES, 1)).encode() + binary
    cached = cache_dir() / f"initramfs-{hashlib.sha256(recipe).hexdigest()[:16]}.cpio"
    if cached.exists():
        return cached.read_bytes()
    modules = Modules(kernel.modules, MODULES)
    order = "".join(f"{name}.ko\n" for name in modules.order)
    parts = [cpio_entry(name, mode=0o040755) for name in ("bin", "dev", "proc", "sys", "lab", "modules")]
    parts += [
        cpio_entry("dev/console", mode=0o020600, device=(5, 1)),
        cpio_entry("bin/busybox", binary, 0o100755),
        cpio_entry("modules/order", order.encode()),
        *(cpio_entry(f"modules/{name}.ko", without_signature(image)) for name, image in modules.order.items()),
    ]
    archive = b"".join(parts)
    scratch = cached.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(archive)
    scratch.rename(cached)
    return archive


def build(config: str) -> tuple[Kernel, bytes]:
    """The kernel and the whole initramfs of one lab; `config` is the shell text that init.sh reads. Raises LabError."""
    try:
        kernel = find_kernel()
        archive = base_archive(kernel)
    except DistributionError as error:
        raise LabError(str(error)) from None
    config += f"MODULES_FROM={kernel.modules}\nMODULES_AT=/usr/lib/modules/{kernel.release}\n"
    return kernel, archive + b"".join(
        (
            cpio_entry("init", (HERE / "init.sh").read_bytes(), 0o100755),
            cpio_entry("lab/agent.py", (HERE / "agent.py").read_bytes()),
            cpio_entry("lab/channel.py", (HERE / "channel.py").read_bytes()),
            cpio_entry("lab/config", config.encode()),
            cpio_entry("TRAILER!!!"),
        )
    )
