"""From a kernel file to a CPU that is about to run it.

:func:`check` validates what the user gave, before anything is made; :func:`load_files` copies kernel and initrd;
:func:`place_tables` writes the rest and returns the registers of the boot CPU; :func:`prepare` does all three.

A guest that reboots needs fresh RAM: nothing here clears it.
"""

from __future__ import annotations

import posix

from vmm.boot import acpi, cpu, layout, pvh
from vmm.boot.cmdline import default_cmdline, encode_cmdline, merge_cmdline
from vmm.boot.cpu import CpuState
from vmm.boot.image import Identity, KernelImage, check_placement, early_pieces, initrd_address
from vmm.boot.loader import find_kernel, load_initrd, load_kernel, open_file
from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.memory.layout import regions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm.memory import GuestMemory
    from vmm.options.machine import Machine

__all__ = [
    "BootPlan",
    "CpuState",
    "check",
    "default_cmdline",
    "load_files",
    "merge_cmdline",
    "place_tables",
    "prepare",
]

PVH = "pvh"
LINUX64 = "linux64"


@dataclass(frozen=True)
class BootPlan:
    """What :func:`check` found right.

    :ivar entry: :data:`PVH` or :data:`LINUX64`
    :ivar cmdline: the whole command line
    :ivar initrd: path, state of the file, and the address that it is loaded at
    :ivar memory_map: ``(address, size, type)``
    :ivar pci: there is a PCI bus
    """

    image: KernelImage
    entry: str
    cmdline: bytes
    initrd: tuple[str, Identity, int] | None
    memory_map: tuple[tuple[int, int, int], ...]
    pci: bool = False


def check(config: Machine) -> BootPlan:
    """Find every error of *config* that concerns booting, without changing anything.

    :raises ConfigError: a kernel or initrd that cannot be read, is invalid or does not fit; a command line that is too
        long; too little memory
    """
    boot = config.boot
    ram = regions(config.memory.size)
    pci = config.has_pci()
    memory_map = layout.memory_map(ram, pci=pci)
    rootfs = config.rootfs
    default = default_cmdline(
        rootfs=rootfs is not None,
        read_only=rootfs is not None and rootfs.read_only,
        share=config.root_tag(),
        pci=pci,
        hvc=config.console.device == "virtio",
        hotplug=config.hotplug_memory is not None,
        cpus=config.cpus if config.all_cpus() > config.cpus else 0,
    )
    cmdline = encode_cmdline(merge_cmdline(default, boot.cmdline))
    image = find_kernel(boot.kernel, unpack=boot.entry != LINUX64)
    check_placement(image, ram)
    entry = _entry(image, boot.entry)
    initrd = None
    if boot.initrd is not None:
        fd, state = open_file(boot.initrd, "initrd")
        posix.close(fd)
        if not state[2]:
            raise ConfigError(
                f"initrd {boot.initrd} is empty", code="initrd-file", hint="omit --initrd, or build it again"
            )
        initrd = (boot.initrd, state, initrd_address(boot.initrd, state[2], image, ram))
    return BootPlan(image, entry, cmdline, initrd, memory_map, pci)


def _entry(image: KernelImage, wanted: str) -> str:
    if wanted == LINUX64 or (wanted == "auto" and image.pvh_entry is None):
        if image.entry64 is None:
            raise ConfigError(
                f"kernel {image.path}: its ELF entry is outside the loaded segments, so it has no 64-bit entry",
                code="kernel-entry",
                hint="use --entry pvh",
            )
        return LINUX64
    if image.pvh_entry is None:
        raise ConfigError(
            f"kernel {image.path} has no PVH entry (no Xen note of type 18)",
            code="kernel-entry",
            hint="build it with CONFIG_PVH=y, or use --entry linux64",
        )
    if image.pvh_entry >= 1 << 32:
        raise ConfigError(
            f"kernel {image.path}: its PVH entry {image.pvh_entry:#x} is above 4 GiB, which a 32-bit CPU cannot reach",
            code="kernel-entry",
            hint="link it lower, or use --entry linux64",
        )
    return PVH


def load_files(plan: BootPlan, memory: GuestMemory) -> None:
    """Copy kernel and initrd into *memory*, fresh and of the size that was checked.

    :raises ConfigError: a file changed since :func:`check`, or cannot be read
    """
    address, size = (0, 0) if plan.initrd is None else (plan.initrd[2], plan.initrd[1][2])
    if memory.can_make_huge:
        memory.make_huge(early_pieces(plan.image, (address, address + size), memory.first))
    load_kernel(memory, plan.image)
    if plan.initrd is not None:
        path, identity, address = plan.initrd
        load_initrd(memory, path, identity, address)


def place_tables(
    plan: BootPlan,
    memory: GuestMemory,
    cpus: int,
    slots: Sequence[int] = (),
    windows: Sequence[tuple[int, int]] = (),
) -> CpuState:
    """Write the tables that describe the machine to the kernel, and return the state of the boot CPU.

    :param cpus: how many; their APIC ids are 0, 1, 2, ...
    :param slots: numbers of the virtio-mmio devices that exist
    :param windows: address and size of the window that a PCI host bridge forwards to 64-bit BARs
    :raises ConfigError: there are too many devices
    """
    layout.check_slots(slots)
    image = plan.image
    initrd = None if plan.initrd is None else (plan.initrd[2], plan.initrd[1][2])
    if plan.pci:
        from vmm.boot import acpi_pci

        tables = acpi.tables(range(cpus), slots, terms=acpi_pci.terms(windows), more=[acpi_pci.mcfg()])
    else:
        tables = acpi.tables(range(cpus), slots)
    memory.write(layout.ACPI, tables)
    memory.write(layout.RESET_VECTOR, cpu.reset_code())
    if plan.entry == LINUX64:
        assert image.entry64 is not None
        from vmm.boot import linux

        state = cpu.linux64_state(image.entry64)
        page = linux.boot_params(plan.memory_map, initrd=initrd, setup=image.setup, setup_data=layout.SETUP_DATA)
        memory.write(layout.BOOT_PARAMS, page)
        memory.write(layout.PML4, cpu.page_tables())
    else:
        assert image.pvh_entry is not None
        state = cpu.pvh_state(image.pvh_entry)
    # The start info is there for both: it costs nothing, and the command line lies behind it
    memory.write(layout.BOOT_PAGE, pvh.boot_page(cpu.gdt(state), plan.memory_map, plan.cmdline, initrd=initrd))
    if plan.entry == LINUX64:
        memory.write(layout.SETUP_DATA, linux.rng_seed(posix.urandom(linux.SEED_SIZE)))
    return state


def prepare(config: Machine, memory: GuestMemory, slots: Sequence[int] = ()) -> CpuState:
    """:func:`check`, :func:`load_files` and :func:`place_tables`."""
    plan = check(config)
    load_files(plan, memory)
    return place_tables(plan, memory, config.all_cpus(), slots)
