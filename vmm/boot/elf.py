"""ELF kernels: parse a vmlinux with pyelftools.

The file is not trusted. The header is checked before pyelftools reads it. pyelftools sees only headers and notes, and
any failure on damaged ones becomes a :class:`ConfigError`.
"""

from __future__ import annotations

import os
import struct

from vmm.boot.image import MAX_SEGMENTS, Identity, KernelImage, Segment, check_image
from vmm.errors import ConfigError
from vmm.memory.layout import HOLE_START, PAGE
from vmm.memory.on_demand import MAX_CONSTANT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR_SIZE = 56
_ET_NAMES = {
    0: "of no type",
    1: "an object file (.o or .ko)",
    3: "a position-independent program or library",
    4: "a core dump",
}
_ET_EXEC = 2
_EM_X86_64 = 62
_EM_NAMES = {3: "32-bit x86", 8: "MIPS", 20: "PowerPC", 21: "64-bit PowerPC", 22: "S/390", 40: "32-bit Arm"}
_EM_NAMES |= {183: "64-bit Arm", 243: "RISC-V", 258: "LoongArch"}
_MAX_NOTES = 64 << 10
"""More bytes of notes than any kernel has."""
_XEN_ELFNOTE_PHYS32_ENTRY = 18
"""The PVH entry: Xen's public ``elfnote.h``."""
_NT_GNU_BUILD_ID = 3
"""``<elf.h>``."""
_PHDR = struct.Struct("<IIQQQQQQ")
_NHDR = struct.Struct("<III")
_PT_LOAD, _PT_NOTE, _PF_W = 1, 4, 2
_STEP = 1 << 20
_KEXEC = b"kexec_load_disabled"
"""The name of a sysctl that a kernel has if it can start another one: CONFIG_KEXEC_CORE."""

_VMLINUX = "a bzImage (/boot/vmlinuz-*) or an ELF vmlinux is needed: the one at the top of the kernel's build tree"
_MAGICS: tuple[tuple[int, bytes, str, str], ...] = (
    (0x38, b"ARM\x64", "a kernel image for 64-bit Arm", _VMLINUX),
    (0, b"\x1f\x8b", "compressed by gzip", "unpack it first: gzip -dc FILE > vmlinux"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it first: zstd -dc FILE > vmlinux"),
    (0, b"\xfd7zXZ\0", "compressed by xz", "unpack it first: xz -dc FILE > vmlinux"),
    (0, b"BZh", "compressed by bzip2", "unpack it first: bzip2 -dc FILE > vmlinux"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4", "unpack it first: lz4 -dc FILE > vmlinux"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image", _VMLINUX),
    (0, b"MZ", "an EFI or Windows program", _VMLINUX),
    (0, b"070701", "a cpio archive", "is it the initrd? that goes to --initrd"),
    (0, b"QFI\xfb", "a qcow2 disk image", "is it the root disk? that goes to --rootfs, as a raw image"),
    (0x438, b"\x53\xef", "an ext2/3/4 disk image", "is it the root disk? that goes to --rootfs"),
    (0, b"hsqs", "a squashfs image", "is it the root disk? that goes to --rootfs"),
    (0, b"#!", "a script", _VMLINUX),
)


def _not_elf(path: str, head: bytes) -> ConfigError:
    for offset, magic, what, hint in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return ConfigError(f"kernel {path} is {what}, not an ELF file", code="kernel-format", hint=hint)
    if not head:
        return ConfigError(f"kernel {path} is empty", code="kernel-format", hint=_VMLINUX)
    start = head[:4].hex(" ")
    text = f"kernel {path} is not an ELF file (it starts with {start})"
    return ConfigError(text, code="kernel-format", hint=_VMLINUX)


def _check_header(path: str, fd: int, size: int) -> None:
    """
    :raises ConfigError: not an ELF file for x86-64 with complete headers
    """
    head = os.pread(fd, 2048, 0)
    where = f"kernel {path}"
    if head[:4] != b"\x7fELF":
        raise _not_elf(path, head)
    if len(head) < _EHDR.size:
        raise ConfigError(
            f"{where} is truncated: {len(head)} bytes, an ELF header has {_EHDR.size}",
            code="kernel-truncated",
            hint="copy or build the file again",
        )
    if head[5] != 1 or head[4] != 2:
        what = "big-endian" if head[5] == 2 else "32-bit" if head[4] == 1 else "of an unknown kind"
        raise ConfigError(
            f"{where} is an ELF file, but {what}", code="kernel-machine", hint="build the kernel for x86-64"
        )
    _, kind, machine, _, _, phoff, _, _, _, phentsize, phnum, _, _, _ = _EHDR.unpack_from(head)
    if machine != _EM_X86_64:
        raise ConfigError(
            f"{where} is an ELF file for {_EM_NAMES.get(machine, f'machine {machine}')}, not for x86-64",
            code="kernel-machine",
            hint="build the kernel for x86-64",
        )
    if kind != _ET_EXEC:
        raise ConfigError(
            f"{where} is {_ET_NAMES.get(kind, f'an ELF file of type {kind}')}, not an executable linked at an address",
            code="kernel-type",
            hint=_VMLINUX,
        )
    if phnum > MAX_SEGMENTS or (phnum and phentsize != _PHDR_SIZE):
        raise ConfigError(
            f"{where}: {phnum} program headers of {phentsize} bytes; up to {MAX_SEGMENTS} of {_PHDR_SIZE} are expected",
            code="kernel-headers",
            hint="this is no kernel, or a damaged one",
        )
    if phoff + phnum * _PHDR_SIZE > size:
        raise ConfigError(
            f"{where} is truncated: its program headers end at byte {phoff + phnum * _PHDR_SIZE},"
            f" the file has {size} bytes",
            code="kernel-truncated",
            hint="copy or build the file again",
        )


class _Window:
    """A file for pyelftools that bounds the cost of each read, and of reads beyond *limit*."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._position = 0
        self.limit = size

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self.limit)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        room = max(self.limit - self._position, 0)
        count = min(_MAX_NOTES, room if count < 0 else min(count, room))
        data = os.pread(self._fd, count, self._position) if count else b""
        self._position += len(data)
        return data


def _pvh_entry(elf: Any, window: _Window, notes: list[tuple[int, int]]) -> int | None:
    """The address in the note ``Xen``, 18, if one of the ranges *notes* (offset, size) has it."""
    from elftools.elf.notes import iter_notes

    for offset, size in notes:
        window.limit = offset + size
        note: Any
        for note in iter_notes(elf, offset, size):
            if note["n_name"] == "Xen" and note["n_type"] == _XEN_ELFNOTE_PHYS32_ENTRY:
                return int.from_bytes(note["n_descdata"][:8], "little")
    return None


def _parse(path: str, fd: int, identity: Identity) -> KernelImage:
    from elftools.common.utils import struct_parse
    from elftools.elf.elffile import ELFFile

    size = identity[2]
    window = _Window(fd, size)
    stream: Any = window
    elf: Any = ELFFile(stream)
    segments: list[Segment] = []
    virtual: list[tuple[int, Segment]] = []
    notes: list[tuple[int, int]] = []
    # Not elf.iter_segments(): it makes objects that look into sections, of which a hostile file may have billions
    for index in range(elf["e_phnum"]):
        header = struct_parse(elf.structs.Elf_Phdr, stream, stream_pos=elf["e_phoff"] + index * _PHDR_SIZE)
        if header["p_type"] == "PT_INTERP":
            raise ConfigError(
                f"kernel {path} is a dynamically linked program, not a kernel", code="kernel-type", hint=_VMLINUX
            )
        if header["p_type"] == "PT_NOTE":
            notes.append((header["p_offset"], header["p_filesz"]))
        elif header["p_type"] == "PT_LOAD" and (header["p_memsz"] or header["p_filesz"]):
            segment = Segment(header["p_offset"], header["p_filesz"], header["p_memsz"], header["p_paddr"])
            segments.append(segment)
            virtual.append((header["p_vaddr"], segment))
    total = sum(length for _, length in notes)
    if total > _MAX_NOTES or any(offset + length > size for offset, length in notes):
        raise ConfigError(
            f"kernel {path}: its notes take {total} bytes: more than the file has there, or than {_MAX_NOTES}",
            code="kernel-notes",
            hint="the ELF file is truncated or damaged: copy or build it again",
        )
    pvh = _pvh_entry(elf, window, notes)
    image = KernelImage(
        path, identity, tuple(sorted(segments, key=lambda s: s.paddr)), _entry64(elf["e_entry"], virtual), pvh
    )
    check_image(image)
    return image


def _entry64(entry: int, segments: list[tuple[int, Segment]]) -> int | None:
    """The physical address of the ELF entry (Linux stores that; others may store a virtual one); None if it is
    neither."""
    if any(segment.paddr <= entry < segment.end for _, segment in segments):
        return entry
    for start, segment in segments:
        if start <= entry < start + segment.memsz:
            return entry - start + segment.paddr
    return None


def parse(path: str, fd: int, identity: Identity) -> KernelImage:
    """Parse the open kernel file *fd*.

    :param path: its name, for messages
    :raises ConfigError: it is not a 64-bit x86 ELF executable, is damaged, or has no supported entry
    """
    _check_header(path, fd, identity[2])
    try:
        return _parse(path, fd, identity)
    except ConfigError:
        raise
    except Exception as error:  # pyelftools promises nothing about damaged files
        raise ConfigError(
            f"kernel {path}: its ELF headers or notes are damaged ({type(error).__name__}: {error})",
            code="kernel-elf",
            hint="copy or build the file again",
        ) from error


def constant(path: str, ram: int) -> tuple[tuple[int, int], ...]:
    """The ranges of code and constants in a guest that has booted the kernel *path*: guest physical addresses,
    half-open, of whole pages. Linux writes them only to patch code, by the CPU, and gives no device access to them.

    Empty where that is not certain: the file is not an ELF file, is not the booted one (by its build ID in the guest's
    memory), or its kernel can start another one in its place (kexec). It does not use pyelftools: the process that
    saves a machine may be unable to import anything.

    :param ram: a descriptor of the guest's RAM in a file
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = os.fstat(fd).st_size
            _check_header(path, fd, size)
            return () if _has_kexec(fd, size) else _constant(fd, size, ram)
        finally:
            os.close(fd)
    except (OSError, ConfigError):
        return ()


def _has_kexec(fd: int, size: int) -> bool:
    more = len(_KEXEC) - 1
    return any(_KEXEC in os.pread(fd, _STEP + more, at) for at in range(0, size, _STEP))


def _constant(fd: int, size: int, ram: int) -> tuple[tuple[int, int], ...]:
    ehdr = _EHDR.unpack(os.pread(fd, _EHDR.size, 0))
    found: list[tuple[int, int]] = []
    same = False
    for kind, flags, offset, _, start, length, *_ in _PHDR.iter_unpack(os.pread(fd, ehdr[10] * _PHDR_SIZE, ehdr[5])):
        if offset + length > size or start > HOLE_START:
            return ()
        if kind == _PT_NOTE and length <= _MAX_NOTES:
            notes = os.pread(fd, length, offset)
            same = same or (_has_build_id(notes) and os.pread(ram, length, start) == notes)
        elif kind == _PT_LOAD and not flags & _PF_W:
            found += _filled_pages(fd, offset, length, start)
    largest = sorted(found, key=lambda each: each[0] - each[1])[:MAX_CONSTANT]
    return tuple(sorted(largest)) if same else ()


def _has_build_id(notes: bytes) -> bool:
    at = 0
    while at + _NHDR.size <= len(notes):
        name, data, kind = _NHDR.unpack_from(notes, at)
        at += _NHDR.size
        if kind == _NT_GNU_BUILD_ID and notes[at : at + name] == b"GNU\0" and data:
            return True
        at += -(-name // 4) * 4 + -(-data // 4) * 4
    return False


def _filled_pages(fd: int, offset: int, length: int, start: int) -> list[tuple[int, int]]:
    """Runs of whole pages of a segment that are not all zeros: Linux reuses the pages between sections."""
    zeros = bytes(PAGE)
    found: list[tuple[int, int]] = []
    first = -start % PAGE
    for at in range(first, length - PAGE + 1, PAGE):
        if os.pread(fd, PAGE, offset + at) == zeros:
            continue
        if found and found[-1][1] == start + at:
            found[-1] = found[-1][0], start + at + PAGE
        else:
            found.append((start + at, start + at + PAGE))
    return found
