"""A guest's Linux kernel for drgn: by its own types, from outside.

Needs drgn (``pip install drgn``) and the kernel's debug information (``vmlinux.debug``, or a vmlinux with
DWARF).

drgn reads from a crash dump's VMCOREINFO where page tables are and which version it is. Here that is built from the
symbols, for a kernel that runs where it was linked.
"""

from __future__ import annotations

from vmm.errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from vmm.machine.machine import Machine

_KERNEL_MAP = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map: kernel text at physical 0 would be here."""


def open_machine(machine: Machine, vmlinux: str) -> Any:
    """A ``drgn.Program`` on the live guest of this process; see :func:`open_program`."""
    memory = machine.memory
    regions = [(region.gpa, region.size) for region in memory.regions]
    return open_program(lambda address, size: machine.memory.read(address, size), regions, vmlinux)


def open_program(read: Callable[[int, int], bytes], regions: Iterable[tuple[int, int]], vmlinux: str) -> Any:
    """A ``drgn.Program`` whose memory is read by ``read(physical address, bytes)``.

    :param regions: where RAM is
    :param vmlinux: a file with the kernel's symbols and types
    :raises HostError: drgn is not installed
    :raises ConfigError: no such file, one without symbols, or one of another kernel than the guest's
    """
    try:
        import drgn
    except ImportError as error:
        raise HostError("drgn is not installed", code="drgn", hint="pip install drgn") from error
    symbols, build_id = _symbols(vmlinux)
    try:
        banner = read(symbols["linux_banner"] - _KERNEL_MAP, 64)
    except Exception:
        banner = b""
    if not banner.startswith(b"Linux version "):
        raise ConfigError(
            f"the guest does not run the kernel of {vmlinux}, or has not booted far enough",
            code="debug-kernel",
            hint="vmlinux.debug must be of the very same build, and the kernel must run where it is linked (nokaslr)",
        )
    info = [f"OSRELEASE={banner.split()[2].decode()}", "PAGESIZE=4096", "KERNELOFFSET=0", "NUMBER(phys_base)=0"]
    info += [f"SYMBOL({name})={symbols[name]:x}" for name in ("swapper_pg_dir", "_stext")]
    info += ["NUMBER(pgtable_l5_enabled)=0", *([f"BUILD-ID={build_id}"] if build_id else [])]
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    for start, size in regions:
        program.add_memory_segment(start, size, lambda at, count, _offset, _physical: read(at, count), physical=True)
    program.set_linux_kernel_custom("\n".join(info) + "\n", is_live=True)
    try:
        program.load_debug_info([vmlinux])
    except Exception as error:
        raise ConfigError(f"{vmlinux}: drgn cannot use it: {error}", code="debug-kernel") from error
    return program


def _symbols(path: str) -> tuple[dict[str, int], str]:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            table: Any = elf.get_section_by_name(".symtab")
            found = {}
            for name in ("linux_banner", "swapper_pg_dir", "init_top_pgt", "_stext"):
                entries = table.get_symbol_by_name(name) if table is not None else None
                if entries:
                    found[name] = int(entries[0]["st_value"])
            build_id = ""
            notes: list[Any] = list(elf.iter_sections("SHT_NOTE"))
            for section in notes:
                for note in section.iter_notes():
                    if note["n_type"] == "NT_GNU_BUILD_ID":
                        build_id = str(note["n_desc"])
    except (OSError, ELFError) as error:
        raise ConfigError(
            f"vmlinux {path}: {getattr(error, 'strerror', None) or error}", code="debug-kernel"
        ) from error
    # On x86-64 swapper_pg_dir is another name of init_top_pgt, a macro
    found.setdefault("swapper_pg_dir", found.get("init_top_pgt", 0))
    if not all(found.get(name) for name in ("linux_banner", "swapper_pg_dir", "_stext")):
        raise ConfigError(
            f"vmlinux {path} has no symbols",
            code="debug-kernel",
            hint='the guest kernel with symbols: make guest-kernel ARGS="--config guest-kernel/debug.config"; its '
            "vmlinux.debug is beside its vmlinux",
        )
    return found, build_id
