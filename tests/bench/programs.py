"""The command lines of the two programs that are compared, for the same machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

QEMU = "/usr/bin/qemu-system-x86_64"

MICROVM = "microvm,accel=kvm,isa-serial=on,rtc=on,pic=off"
"""The peer: QEMU's machine without PCI. `pit=off` hangs where one instruction is one nanosecond."""

TUNED = ("-bios", "/usr/share/qemu/qboot.rom")
"""QEMU's firmware for fast boots, which is not the default."""

# microvm's virtio devices speak the legacy interface unless told otherwise; both programs get the modern one.
MODERN = ("-global", "virtio-mmio.force-legacy=false")


OPEN = "/bench/open.so"
"""Loaded before pyvmm, it makes a filter of system calls hold for nothing: what the filters cost is the difference."""
OPEN_SOURCE = """
#include <errno.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

long syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long ret = nr;

	if (nr == SYS_seccomp && a == SECCOMP_SET_MODE_FILTER)
		return 0;
	__asm__ volatile("syscall"
		: "+a"(ret) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	if (ret >= 0 || ret < -4095)
		return ret;
	errno = (int)-ret;
	return -1;
}
"""


@dataclass(frozen=True)
class Guest:
    """One machine, for the command line of either program.

    `cmdline` is the whole kernel command line. `disk` is /dev/vda and holds the root; `data` is /dev/vdb; `tap` is the
    tap device behind its network card.
    `vhost`: the host's kernel serves the network card's queues.
    `pci`: they are on a PCI bus, with MSI-X, instead of virtio-mmio.
    """

    kernel: str
    cmdline: str
    memory: int = 256
    cpus: int = 1
    initrd: str = ""
    disk: str = ""
    data: str = ""
    tap: str = ""
    vhost: bool = False
    pci: bool = False


def with_pci(cmdline: str) -> str:
    """The default kernel command line `cmdline` for a machine that has a PCI bus."""
    return cmdline.replace(" pci=off", "")


def _qemu_disk(name: str, path: str, iothread: bool, pci: bool) -> list[str]:
    # The page cache of the host is used and a write is complete when it is in there: pyvmm's default too.
    drive = f"driver=file,filename={path},node-name={name}-file,aio=io_uring,cache.direct=off,cache.no-flush=off"
    device = f"virtio-blk-{'pci-non-transitional' if pci else 'device'},drive={name},write-cache=on" + (
        ",iothread=io0" if iothread else ""
    )
    return ["-blockdev", drive, "-blockdev", f"driver=raw,file={name}-file,node-name={name}", "-device", device]


def qemu(guest: Guest, *, extra: Sequence[str] = (), poll: bool = True, iothread: bool = True) -> list[str]:
    """QEMU's command line. Its disks are served by an iothread unless that is false: then by its main loop.
    It polls a while before it sleeps unless `poll` is false: on a single CPU that only takes time from the guest.

    Its RAM is what QEMU takes by itself, anonymous memory with huge pages; with a memfd it boots slower.
    """
    argv = [QEMU, "-M", MICROVM + (",pcie=on" if guest.pci else ""), "-cpu", "host"]
    argv += ["-smp", str(guest.cpus), "-m", str(guest.memory), "-nodefaults", "-no-user-config", "-no-reboot"]
    argv += ["-display", "none", "-serial", "stdio", *MODERN, "-kernel", guest.kernel, "-append", guest.cmdline]
    if guest.initrd:
        argv += ["-initrd", guest.initrd]
    if iothread and (guest.disk or guest.data):
        argv += ["-object", "iothread,id=io0" + ("" if poll else ",poll-max-ns=0")]
    for name, path in (("vda", guest.disk), ("vdb", guest.data)):
        if path:
            argv += _qemu_disk(name, path, iothread, guest.pci)
    if guest.tap:
        vhost = "on" if guest.vhost else "off"
        argv += ["-netdev", f"tap,id=net0,ifname={guest.tap},script=no,downscript=no,vhost={vhost}"]
        argv += ["-device", f"virtio-net-{'pci-non-transitional' if guest.pci else 'device'},netdev=net0"]
    return [*argv, *extra]


def pyvmm(command: str, guest: Guest, *, extra: Sequence[str] = ()) -> list[str]:
    """pyvmm's command line; a kernel command line that begins with `=` replaces pyvmm's defaults."""
    argv = [command, "boot", "--kernel", guest.kernel, "--memory", f"{guest.memory}M", "--cpus", str(guest.cpus)]
    argv += ["--cmdline", "=" + guest.cmdline]
    if guest.initrd:
        argv += ["--initrd", guest.initrd]
    if guest.disk:
        argv += ["--rootfs", guest.disk]
    if guest.data:
        argv += ["--disk", guest.data]
    if guest.tap:
        argv += ["--net", f"tap={guest.tap}" + (",backend=vhost" if guest.vhost else "")]
    if guest.pci:
        argv += ["--transport", "pci"]
    return [*argv, *extra]
