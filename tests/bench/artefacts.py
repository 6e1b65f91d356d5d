"""What the benchmark runs on, made or found on the host: kernel, initramfs, root disk with fio, and the stage."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench import fs, kata, programs, sentry_files, sentry_net
from tests.bench.stage import Stage, python_files, venv_base
from tests.sentry import servers
from tools import guest

HERE = Path(__file__).resolve().parent
FIO_DISK_SIZE = "96M"
THREADS = "/lib/x86_64-linux-gnu/libgcc_s.so.1"
"""A library that the C library loads only when iperf3 ends a thread."""


@dataclass(frozen=True)
class Artefacts:
    """Paths on the host."""

    kernel: str
    initrd: str
    disk: str
    fio_disk: str
    net_disk: str
    kata_image: str


def make(kernel: str | None) -> Artefacts:
    """Make or find everything; `kernel` is one to use instead of the project's."""
    fio_disk = guest.make("rootfs.py", "--size", FIO_DISK_SIZE, "--program", "fio")
    net_disk = guest.make("rootfs.py", "--program", "iperf3", "--with", f"{THREADS}:{THREADS}")
    initrd = guest.make("rootfs.py", "--kind", "initrd")
    return Artefacts(kernel or guest.kernel(), initrd, guest.rootfs(), fio_disk, net_disk, guest.kata_image())


def make_stage(archive: Path, pyvmm: Path, artefacts: Artefacts, *, native: bool, tools: bool) -> None:
    """Write the tar file of the root that everything runs from in the lab; with `native`, fio for the host; with
    `tools`, what a container's root has for git and pip."""
    base = venv_base()
    stdlib, extensions = python_files(base)
    stage = Stage(archive)
    prefix = pyvmm.parent.parent
    stage.add_program(base)
    stage.add(f"/usr/bin/python{sys.version_info[0]}") if base.startswith("/usr/bin/") else None
    stage.add(stdlib)
    stage.add(prefix)
    stage.add_libraries([*extensions, *(str(path) for path in sorted(prefix.rglob("*.so")))])
    stage.add_program("/bin/sh")
    stage.add_program(shutil.which("readlink") or "/usr/bin/readlink")
    stage.add_program(programs.QEMU)
    stage.add_program(fs.VIRTIOFSD)
    for name in ("bios-microvm.bin", "qboot.rom", "pvh.bin", "linuxboot_dma.bin", "kvmvapic.bin"):
        for folder in ("/usr/share/seabios", "/usr/share/qemu"):
            if os.path.exists(f"{folder}/{name}"):
                stage.add(f"{folder}/{name}")
    stage.add("/etc/ld.so.cache")
    if os.path.isdir("/usr/lib/locale/C.utf8"):
        stage.add("/usr/lib/locale/C.utf8")
    for name, path in (("vmlinux", artefacts.kernel), ("initrd", artefacts.initrd), ("disk", artefacts.disk)):
        stage.add(os.path.realpath(path), at=f"bench/{name}")
    stage.add(os.path.realpath(artefacts.fio_disk), at="bench/fio-disk")
    stage.add(os.path.realpath(artefacts.net_disk), at="bench/net-disk")
    if native:
        stage.add_program(shutil.which("fio") or "/usr/bin/fio")
    stage.add_program(shutil.which("iperf3") or "/usr/bin/iperf3")
    stage.add_program(THREADS)
    stage.add(os.path.realpath(artefacts.kata_image), at="bench/kata-image")
    for program in (kata.RUNSC[0], kata.RUNC, kata.RUNC_SHIM):
        stage.add_program(program)
    for program in (sentry_net.IP, servers.NGINX[0]):
        stage.add_program(program)
    stage.add(shutil.which("busybox") or "/bin/busybox", at="bin/busybox")
    for program in ("runner.py", "snapshot_runner.py", "pod_client.py"):
        stage.add(HERE / program, at=f"bench/{program}")
    disk = guest.programs()
    stage.add(disk, at="bench/programs")
    with tarfile.open(disk) as tar, tempfile.TemporaryDirectory() as folder:
        tar.extract("usr/local/bin/vsocktool", folder, filter="data")
        stage.add(Path(folder) / "usr/local/bin/vsocktool", at="bench/vsocktool")
        compiler = [os.environ.get("CC", "gcc"), "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", f"{folder}/open.so"]
        subprocess.run(compiler, input=programs.OPEN_SOURCE.encode(), check=True)
        stage.add(Path(folder) / "open.so", at=programs.OPEN)
        exchange = ["gcc", "-O1", "-static", "-o", f"{folder}/exchange", str(sentry_net.SOURCE)]
        subprocess.run(exchange, check=True)
        stage.add(Path(folder) / "exchange", at=sentry_net.EXCHANGE)
        if tools:
            sentry_files.add_tools(Path(folder) / "tools.tar")
            stage.add(Path(folder) / "tools.tar", at=sentry_files.TOOLS_ROOT)
            stage.add(sentry_files.make_image(Path(folder)), at=sentry_files.IMAGE)
    stage.close()
