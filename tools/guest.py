"""Kernels, disks and images for guests of the tests, which recipes make, and programs to run in them.

usage: python -m tools.guest    makes all of it
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools import distribution

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = {
    "build.py": "PYVMM_GUEST_KERNEL",
    "rootfs.py": "PYVMM_GUEST_ROOTFS",
    "debian.py": "PYVMM_GUEST_DEBIAN",
    "container.py": "PYVMM_GUEST_CONTAINER",
    "../examples/kata/linux-guest/image/build.py": "PYVMM_KATA_IMAGE",
}
PROGRAMS = ROOT / "tests" / "guest" / "programs"
"""C files; each is a program for guests of the tests."""
MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "ext4", "virtio_net", "virtio_rng", "virtio_balloon", "virtio_mem"),
    *("virtio_console", "virtio_pmem", "virtiofs", "vmw_vsock_virtio_transport", "overlay", "af_packet"),
    "pvpanic_mmio",  # without it a kernel that panics restarts the machine, and nobody hears why
)
"""Of a distribution's kernel: what guests of the tests use."""
_running: set[subprocess.Popen[str]] = set()
"""Recipes of all threads."""


def make(recipe: str, *options: str) -> str:
    """Run a recipe, a path below guest-kernel, and return the path of what it made; quick when its cache has that.

    Raises SystemExit with the recipe's status when it fails; it has said why on stderr.
    """
    if not options and (path := os.environ.get(VARIABLES[recipe])):
        return path
    command = [sys.executable, str(ROOT / "guest-kernel" / recipe), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        _running.add(process)
        try:
            output, _ = process.communicate()
        except BaseException:
            process.terminate()  # it ends what it has started, which SIGKILL would leave running
            process.wait()
            raise
        finally:
            _running.discard(process)
    if process.returncode:
        raise SystemExit(process.returncode)
    return output.strip()


def kernel() -> str:
    """The path of the guest kernel, an ELF vmlinux."""
    return make("build.py")


def distribution_kernel(*, backports: bool = False) -> tuple[str, str]:
    """The distribution's own kernel, and an initrd with its modules for guests whose root is a disk.

    Raises distribution.DistributionError when the package cannot be had.
    """
    kernel = distribution.find_kernel(backports=backports)
    modules = distribution.write_modules(kernel, MODULES, ROOT / "build")
    files = {modules: "/modules", ROOT / "guest-kernel" / "initrd" / "init": "/init"}
    extra = [word for file, place in files.items() for word in ("--with", f"{file}:{place}")]
    return str(kernel.file), make("rootfs.py", "--kind", "initrd", *extra)


def cached_kernel(*options: str) -> str | None:
    """The path of the guest kernel, or of what build.py makes with `options`, when it need not be built, else None."""
    if not options and (path := os.environ.get(VARIABLES["build.py"])):
        return path
    command = [sys.executable, str(ROOT / "guest-kernel" / "build.py"), "--cached", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def rootfs() -> str:
    """The path of the root disk. It belongs to the cache: write to a copy."""
    return make("rootfs.py")


def debian() -> str:
    """The path of a root disk with Debian; its kernel ``vmlinuz`` and ``initrd.img`` are in the same directory."""
    return make("debian.py")


def container() -> str:
    """The path of an erofs image with a container's Debian; the package ``hello.deb`` is in the same directory."""
    return make("container.py")


def servers() -> str:
    """The path of an erofs image with a Debian that has servers; the package ``hello.deb`` is in the same directory."""
    return os.environ.get("PYVMM_GUEST_SERVERS") or make("container.py", "--kind", "servers")


def kata_image() -> str:
    """The path of the image of the container runtime's guest."""
    return make("../examples/kata/linux-guest/image/build.py")


def programs() -> str:
    """The path of a disk with the programs, static: ``tar xf DEVICE -C /`` in a guest puts them on its PATH.

    Raises CalledProcessError when one does not compile; the compiler has said why on stderr.
    """
    command = [os.environ.get("CC", "gcc"), "-std=gnu11", "-O2", "-static"]
    sources = sorted(PROGRAMS.glob("*.c"))
    digest = hashlib.sha256(" ".join(command).encode())
    for source in [*sources, *sorted(PROGRAMS.glob("*.h"))]:
        digest.update(source.name.encode() + source.read_bytes())
    folder = ROOT / "build" / "guest-programs"
    disk = folder / f"{digest.hexdigest()[:16]}.tar"
    if not disk.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = disk.with_suffix(f".{os.getpid()}")
        with tarfile.open(new, "w") as archive:
            for source in sources:
                program = folder / f"{source.stem}.{os.getpid()}"
                subprocess.run([*command, "-o", str(program), str(source)], check=True)
                archive.add(program, f"usr/local/bin/{source.stem}")
                program.unlink()
        new.rename(disk)
    return str(disk)


def sentry() -> str:
    """The path of the Sentry as a guest kernel.  A lab, which would compile it, takes more than 5 minutes.

    Raises CalledProcessError when it does not compile; the compiler has said why on stderr.
    """
    command = [sys.executable, "-m", "pyvmm_sentry", "kernel"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def wheels() -> str:
    """The path of a folder from which `pip install --no-index --find-links` installs all packages, made now.

    Raises SystemExit when it cannot be made.
    """
    folder = ROOT / "build" / "wheels"
    command = [sys.executable, "-m", "tools.wheels", "--output", str(folder), "--dependencies"]
    if status := subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
        raise SystemExit(status)
    return str(folder)


def publish(*, long: bool = False) -> None:
    """Make all of it, and name in the environment what the recipes made: what this process starts need not look.

    The disks with Debian wait for the network most of the time: they are made while the kernel is compiled.

    :param long: what only the tests marked long need, too
    """
    optional = {"PYVMM_GUEST_DEBIAN": debian, "PYVMM_GUEST_CONTAINER": container}
    if long:
        optional["PYVMM_GUEST_SERVERS"] = servers
        optional["PYVMM_WHEELS"] = wheels
    with ThreadPoolExecutor(1) as thread:
        disks = {variable: thread.submit(recipe) for variable, recipe in optional.items()}
        try:
            os.environ["PYVMM_GUEST_KERNEL"] = kernel()
            os.environ["PYVMM_GUEST_ROOTFS"] = rootfs()
            os.environ["PYVMM_KATA_IMAGE"] = kata_image()
            programs()
            sentry()
            for variable, disk in disks.items():
                # It needs the network and root: its recipe has said what it misses, and the tests are skipped
                with contextlib.suppress(SystemExit):
                    os.environ[variable] = disk.result()
        except BaseException:
            thread.shutdown(wait=False, cancel_futures=True)
            for each in list(_running):
                each.terminate()
            raise


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # make() ends the recipe that runs
    publish()
