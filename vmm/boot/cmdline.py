"""The kernel's command line."""

from __future__ import annotations

from vmm.boot import layout
from vmm.errors import ConfigError

_SERIAL, _VIRTIO = "console=ttyS0", "console=hvc0"
_QUIET = "quiet"
_PANIC, _REBOOT = "panic=-1", "reboot=a"
_ONE_UART = "8250.nr_uarts=1"
_NO_WATCHDOG = "tsc=nowatchdog"
_LARGE_FOLIOS = "thp_anon=64K-1M:always;2M:inherit"
_NO_PCI = "pci=off"
_HOTPLUG = "memhp_default_state=online memory_hotplug.online_policy=auto-movable"


def default_cmdline(
    *,
    rootfs: bool = False,
    read_only: bool = False,
    share: str = "",
    pci: bool = False,
    hvc: bool = False,
    hotplug: bool = False,
    cpus: int = 0,
) -> str:
    """What a guest is told unless the user says otherwise.

    ``console=ttyS0``
        kernel messages and ``/dev/console`` are the UART; ``console=hvc0``: they are the virtio console
    ``quiet``
        errors only: every character costs two exits; ``--cmdline loglevel=7`` brings all messages back
    ``panic=-1``
        after a panic, which pvpanic reports, reset at once
    ``reboot=a``
        reset through the FADT's reset register, then by the i8042. A kernel that has EFI built in takes a
        hardware-reduced machine for one with EFI, and would reset through the BIOS (:data:`layout.RESET_VECTOR`)
    ``8250.nr_uarts=1``
        a generic kernel does not look for three more UARTs
    ``tsc=nowatchdog``
        where the host's TSC may stand still, as that of most hosts that are guests themselves, the guest's clock is
        kvm-clock, and an idle kernel wakes up twice a second to see how good a clock the TSC would be
    ``thp_anon=64K-1M:always;2M:inherit``
        memory of programs comes in blocks of up to 1 MiB where such a block fits (Linux 6.12 and newer): one fault for
        each, and a buffer is a few segments of a disk's request, not a page each to pin and to describe. Pages of
        2 MiB stay what they are by default, as ``transparent_hugepage`` says
    ``pci=off``
        a generic kernel does not look for a PCI bus where there is none
    ``memhp_default_state=online``, ``memory_hotplug.online_policy=auto-movable``
        where memory may be added: it is used at once, and most of it for what the kernel can move, so that it can be
        taken away again
    ``maxcpus=N``
        where vCPUs may be added: the kernel starts the first ones, and leaves the others offline
    ``root=/dev/vda``, and ``rw`` or ``ro``
        when there is a root disk; ``root=TAG rootfstype=virtiofs`` when it is a directory of the host

    :param rootfs: there is a root file system: the first disk, or
    :param share: the tag of a shared directory
    :param read_only: it cannot be written
    :param pci: the machine has a PCI bus
    :param hvc: the console is the virtio console
    :param hotplug: memory may be added
    :param cpus: with how many CPUs the kernel starts; 0: all that there are
    """
    words = [_VIRTIO if hvc else _SERIAL, _QUIET, _PANIC, _REBOOT, _ONE_UART, _NO_WATCHDOG, _LARGE_FOLIOS]
    if not pci:
        words.append(_NO_PCI)
    if hotplug:
        words.append(_HOTPLUG)
    if cpus:
        words.append(f"maxcpus={cpus}")
    if rootfs:
        words += [f"root={share} rootfstype=virtiofs" if share else "root=/dev/vda", "ro" if read_only else "rw"]
    return " ".join(words)


def merge_cmdline(default: str, own: str) -> str:
    """The user's words *own* behind the *default* ones: where both set the same, Linux takes the last.

    When *own* starts with ``=``, what follows it replaces the default.
    """
    if own.startswith("="):
        return own[1:].strip()
    own = own.strip()
    return f"{default} {own}" if own else default


def encode_cmdline(text: str) -> bytes:
    """The bytes for the guest, without the NUL.

    :raises ConfigError: too long for Linux, or not printable ASCII
    """
    room = layout.CMDLINE_SIZE - 1
    for position, letter in enumerate(text) if not (text.isascii() and text.isprintable()) else ():
        if letter != "\t" and not (letter.isascii() and letter.isprintable()):
            what = {"\0": "a NUL", "\n": "a line break", "\r": "a carriage return"}.get(letter, ascii(letter))
            raise ConfigError(
                f"kernel command line: {what} at position {position}; only printable ASCII can be given",
                code="cmdline-character",
                hint="remove it from --cmdline",
            )
    if len(text) > room:
        raise ConfigError(
            f"kernel command line of {len(text)} bytes: Linux takes {room}, our own words included",
            code="cmdline-too-long",
            hint=f"make --cmdline {len(text) - room} bytes shorter, or start it with = to leave our own words out",
        )
    return text.encode("ascii")
