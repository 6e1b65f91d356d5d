"""Leaves out of an ELF kernel what nobody has to load: a third of vmlinux is padding between parts of the kernel."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from recipe import RecipeError

PAGE = 4096
# Shorter runs are loaded: one more segment costs a loader more than copying 64 KiB.
SHORTEST = 16 * PAGE
PT_LOAD = 1
PT_NOTE = 4

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_PROGRAM = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr: type, flags, offset, vaddr, paddr, filesz, memsz, align
# What the linker fills a gap in code with: int3, so that a stray jump traps.
_CODE_PADDING = b"\xcc" * PAGE
_ZEROS = bytes(PAGE)


def _runs(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Long runs of whole pages of one padding: (start, end, padding), in order. `data` begins at a page."""
    at = 0
    while at < len(data):
        page = data[at : at + PAGE]
        end = at + PAGE
        if page in (_ZEROS, _CODE_PADDING):
            while data[end : end + PAGE] == page:
                end += PAGE
            if end - at >= SHORTEST:
                yield at, end, page
        at = end


def _split(data: bytes, memory_size: int) -> Iterator[tuple[int, int, int]]:
    """The parts of a segment that must be loaded: (start, bytes to load, bytes of memory) relative to it.

    A run of zeros is memory without bytes, which ELF says a loader clears; padding in code is no memory of the kernel's
    and is left out.
    """
    start = 0
    for at, end, padding in _runs(data):
        if at > start or padding == _ZEROS:
            yield start, at - start, (end if padding == _ZEROS else at) - start
        start = end
    if start < memory_size:
        yield start, len(data) - start, memory_size - start


def compact(elf: bytes) -> bytes:
    """An ELF executable that loads the same as `elf` (x86-64, from strip), without padding, sections and symbols.

    Raises RecipeError when `elf` is not what this understands.
    """
    if len(elf) < _HEADER.size or elf[:6] != b"\x7fELF\x02\x01":
        raise RecipeError("what the linker made is not a 64-bit little-endian ELF file")
    (ident, kind, machine, version, entry, table, _, flags, _, entry_size, count, _, _, _) = _HEADER.unpack_from(elf)
    if entry_size != _PROGRAM.size or table + count * entry_size > len(elf):
        raise RecipeError("what the linker made has no valid program headers")
    pieces: list[tuple[tuple[int, ...], bytes]] = []
    places: list[tuple[int, int, int]] = []  # of each piece that is loaded: offset in `elf`, size, index in `pieces`
    notes = []
    for index in range(count):
        p_type, p_flags, offset, vaddr, paddr, size, memory, _ = _PROGRAM.unpack_from(elf, table + index * entry_size)
        if offset + size > len(elf):
            raise RecipeError(f"segment {index} of what the linker made goes beyond the file's end")
        if p_type == PT_NOTE:
            notes.append((p_flags, offset, vaddr, paddr, size))
        elif p_type == PT_LOAD:
            if paddr % PAGE:
                raise RecipeError(f"segment {index} of what the linker made does not begin at a page")
            for start, filled, total in _split(elf[offset : offset + size], memory):
                places.append((offset + start, filled, len(pieces)))
                data = elf[offset + start : offset + start + filled]
                pieces.append(((p_flags, vaddr + start, paddr + start, filled, total), data))
    headers, body = [], bytearray()
    begin = -(-(_HEADER.size + (len(pieces) + len(notes)) * _PROGRAM.size) // PAGE) * PAGE
    offsets = []
    for (p_flags, vaddr, paddr, filled, total), data in pieces:
        offsets.append(begin + len(body))
        headers.append(_PROGRAM.pack(PT_LOAD, p_flags, offsets[-1], vaddr, paddr, filled, total, PAGE))
        body += data + bytes(-len(data) % PAGE)
    for p_flags, offset, vaddr, paddr, size in notes:
        inside = [(o, i) for o, filled, i in places if o <= offset and offset + size <= o + filled]
        if not inside:
            raise RecipeError("the notes of what the linker made are in no segment that is loaded")
        where = offsets[inside[0][1]] + offset - inside[0][0]
        headers.append(_PROGRAM.pack(PT_NOTE, p_flags, where, vaddr, paddr, size, size, 4))
    fields = (ident, kind, machine, version, entry, _HEADER.size, 0, flags, _HEADER.size, _PROGRAM.size, len(headers))
    front = _HEADER.pack(*fields, 64, 0, 0) + b"".join(headers)
    return front + bytes(begin - len(front)) + bytes(body)
