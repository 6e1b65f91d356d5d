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
    """The default kernel command line.

    ``console=ttyS0``
        kernel messages and ``/dev/console`` use the UART; ``console=hvc0``: the virtio console
    ``quiet``
        print errors only: every character costs two exits; ``--cmdline loglevel=7`` enables all messages
    ``panic=-1``
        reset at once after a panic, which pvpanic reports
    ``reboot=a``
        reset through the FADT's reset register, then by the i8042. A kernel with EFI built in assumes EFI on a
        hardware-reduced machine, and would reset through the BIOS (:data:`layout.RESET_VECTOR`)
    ``8250.nr_uarts=1``
        a generic kernel does not probe three more UARTs
    ``tsc=nowatchdog``
        for hosts whose TSC may stop, as in most hosts that are guests themselves. The guest's clock is kvm-clock
        there, and an idle kernel would wake up twice a second to check the TSC
    ``thp_anon=64K-1M:always;2M:inherit``
        anonymous memory uses blocks of up to 1 MiB where they fit (Linux 6.12 and newer): one fault for each, and a
        buffer is a few segments of a disk's request. Pages of 2 MiB follow ``transparent_hugepage``, the default
    ``pci=off``
        a generic kernel does not probe a PCI bus that does not exist
    ``memhp_default_state=online``, ``memory_hotplug.online_policy=auto-movable``
        where memory may be added: it is used at once, mostly for movable data, so that it can be removed again
    ``maxcpus=N``
        where vCPUs may be added: the kernel starts the first ones, and leaves the others offline
    ``root=/dev/vda``, and ``rw`` or ``ro``
        for a root disk; ``root=TAG rootfstype=virtiofs`` for a directory of the host

    :param rootfs: there is a root file system: the first disk, or
    :param share: the tag of a shared directory
    :param read_only: it cannot be written
    :param pci: the machine has a PCI bus
    :param hvc: the console is the virtio console
    :param hotplug: memory may be added
    :param cpus: with how many CPUs the kernel starts; 0: all
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
    """The user's words *own* after the *default* ones: Linux uses the last one of each.

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
