"""The lab's kernel and initramfs, made once from the distribution's kernel package and kept in a cache.

Nothing is installed: the package is downloaded with `apt-get download` and unpacked with `dpkg-deb -x`.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent

META_PACKAGES = ("linux-image-amd64", "linux-image-generic")
"""Debian's and Ubuntu's package that depends on the newest kernel."""

MODULES = (
    "virtio_console",
    "9p",
    "9pnet_virtio",
    "overlay",
    "kvm_amd",
)
"""What the lab loads at start, dependencies aside. The others load themselves at first use, or with modprobe."""


SIGNATURE_MARK = b"~Module signature appended~\n"


class LabError(Exception):
    """The lab cannot be built, started or talked to; the message says what to do."""


class Kernel(NamedTuple):
    """A kernel in the cache."""

    release: str
    directory: Path  # in the cache: vmlinuz, perhaps vmlinux, modules/ (what /lib/modules/RELEASE holds)

    @property
    def modules(self) -> Path:
        """The module tree."""
        return self.directory / "modules"

    @property
    def file(self) -> Path:
        """What QEMU boots: the unpacked kernel where there is one, since unpacking takes the emulated CPU a second."""
        unpacked = self.directory / "vmlinux"
        return unpacked if unpacked.exists() else self.directory / "vmlinuz"


def cache_dir() -> Path:
    """Where the lab keeps what it builds: ${XDG_CACHE_HOME:-~/.cache}/pyvmm/lab, made when it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "pyvmm" / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the cache directory `path`, so that two labs started at once build one image."""
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_tool(argv: list[str], cwd: Path | None = None) -> str:
    """Run a packaging tool; returns its stdout. Raises LabError with its own words when it fails."""
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise LabError(f"no {argv[0]} here; the lab takes its kernel from a Debian or Ubuntu package") from None
    if done.returncode:
        raise LabError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def kernel_packages() -> list[str]:
    """The packages that hold the newest kernel and its modules, by the names that the package index gives now."""
    for meta in META_PACKAGES:
        try:
            listing = run_tool(["apt-cache", "depends", "--no-recommends", "--no-suggests", meta])
        except LabError:
            continue
        if images := re.findall(r"Depends: (linux-image-\d\S+)", listing):
            image = images[0]
            # Ubuntu has the modules in packages of their own.
            release = image.removeprefix("linux-image-")
            known = run_tool(["apt-cache", "pkgnames", "linux-modules-"]).split()
            wanted = {f"linux-modules-{release}", f"linux-modules-extra-{release}"}
            return [image, *sorted(wanted.intersection(known))]
    raise LabError(f"apt knows none of {', '.join(META_PACKAGES)}; run `apt-get update` as root")


def find_kernel() -> Kernel:
    """The kernel of the lab: the one in the cache, else the newest that the package index has."""
    cache = cache_dir()
    for vmlinuz in sorted(cache.glob("kernel-*/vmlinuz")):
        return Kernel(vmlinuz.parent.name.removeprefix("kernel-"), vmlinuz.parent)
    packages = kernel_packages()
    with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as scratch:
        root = Path(scratch) / "root"
        # apt's own unprivileged user cannot write to our cache.
        run_tool(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages], Path(scratch))
        for package in Path(scratch).glob("*.deb"):
            run_tool(["dpkg-deb", "-x", str(package), str(root)])
        images = list(root.glob("boot/vmlinuz-*"))
        if len(images) != 1:
            raise LabError(f"no kernel in {', '.join(packages)}")
        release = images[0].name.removeprefix("vmlinuz-")
        modules = next(path for path in (root / "usr/lib/modules", root / "lib/modules") if path.is_dir()) / release
        made = Path(scratch) / "kernel"
        made.mkdir()
        shutil.move(images[0], made / "vmlinuz")
        if elf := unpack_kernel((made / "vmlinuz").read_bytes()):
            (made / "vmlinux").write_bytes(elf)
        # depmod wants the tree under lib/modules/RELEASE.
        run_tool(["busybox", "depmod", "-b", str(modules.parents[2]), release])
        shutil.move(modules, made / "modules")
        target = cache / f"kernel-{release}"
        made.rename(target)
    return Kernel(release, target)


def unpack_kernel(image: bytes) -> bytes | None:
    """The ELF inside a bzImage (Documentation/arch/x86/boot.rst, payload_offset), None if we cannot decompress it."""
    setup_sectors = image[0x1F1] or 4
    offset, length = (int.from_bytes(image[at : at + 4], "little") for at in (0x248, 0x24C))
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]  # less the unpacked size that the build appends
    if payload.startswith(b"\x28\xb5\x2f\xfd") and (zstd := shutil.which("zstd")):
        done = subprocess.run([zstd, "-dcq"], input=payload, stdout=subprocess.PIPE)
        elf = done.stdout if done.returncode == 0 else b""
    elif payload.startswith(b"\xfd7zXZ"):
        elf = lzma.decompress(payload)
    else:
        return None
    return elf if elf.startswith(b"\x7fELF") else None


def read_module(path: Path) -> bytes:
    """The uncompressed ELF of a module file (.ko, .ko.xz or .ko.zst), without its signature.

    Checking the signatures would take the emulated CPU longer than everything else that loading a module does.
    """
    if path.suffix == ".xz":
        image = lzma.decompress(path.read_bytes())
    elif path.suffix == ".zst":
        image = subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE, check=True).stdout
    else:
        image = path.read_bytes()
    if image.endswith(SIGNATURE_MARK):  # struct module_signature before it ends with the signature's length
        end = len(image) - len(SIGNATURE_MARK)
        image = image[: end - 12 - int.from_bytes(image[end - 4 : end], "big")]
    return image


class Modules:
    """The modules to load, in an order that meets their dependencies."""

    def __init__(self, tree: Path) -> None:
        self.files = {path.name.split(".ko")[0].replace("-", "_"): path for path in tree.glob("kernel/**/*.ko*")}
        self.builtin = {
            Path(line).name.split(".ko")[0].replace("-", "_")
            for line in (tree / "modules.builtin").read_text().splitlines()
        }
        self.order: dict[str, bytes] = {}

    def add(self, name: str) -> None:
        """Queue `name` after what its own `depends=` names. Raises LabError when there is no such module."""
        if name in self.builtin or name in self.order:
            return
        if name not in self.files:
            raise LabError(f"the lab's kernel has no module {name}")
        image = read_module(self.files[name])
        found = re.search(rb"\0depends=([^\0]*)\0", image)
        for needed in found[1].decode().split(",") if found else ():
            if needed:
                self.add(needed.replace("-", "_"))
        self.order[name] = image


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
    recipe = repr((kernel.release, MODULES, 1)).encode() + binary
    cached = cache_dir() / f"initramfs-{hashlib.sha256(recipe).hexdigest()[:16]}.cpio"
    if cached.exists():
        return cached.read_bytes()
    modules = Modules(kernel.modules)
    for name in MODULES:
        modules.add(name)
    order = "".join(f"{name}.ko\n" for name in modules.order)
    parts = [cpio_entry(name, mode=0o040755) for name in ("bin", "dev", "proc", "sys", "lab", "modules")]
    parts += [
        cpio_entry("dev/console", mode=0o020600, device=(5, 1)),
        cpio_entry("bin/busybox", binary, 0o100755),
        cpio_entry("modules/order", order.encode()),
        *(cpio_entry(f"modules/{name}.ko", image) for name, image in modules.order.items()),
    ]
    archive = b"".join(parts)
    scratch = cached.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(archive)
    scratch.rename(cached)
    return archive


def build(config: str) -> tuple[Kernel, bytes]:
    """The kernel and the whole initramfs of one lab; `config` is the shell text that init.sh reads."""
    cache = cache_dir()
    with locked(cache):
        kernel = find_kernel()
        archive = base_archive(kernel)
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
