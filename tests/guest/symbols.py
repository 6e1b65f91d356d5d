"""A file with the symbols of a kernel, for gdb: our vmlinux is stripped, its System.map is not."""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_EXEC, _X86_64 = 2, 62
_SYMTAB, _STRTAB, _NOBITS = 2, 3, 8
_ALLOC_EXECUTE = 2 | 4
_GLOBAL_FUNCTION = 1 << 4 | 2


def write_symbols(system_map: Path, output: Path) -> dict[str, int]:
    """Write an ELF file that has the functions of `system_map` and no code; returns them by name."""
    rows = [line.split() for line in system_map.read_text().splitlines()]
    functions = {name: int(address, 16) for address, kind, name in rows if kind in "tT"}
    functions = {name: address for name, address in functions.items() if address >> 31 == (1 << 33) - 1}
    start, end = min(functions.values()), max(functions.values()) + 4096
    names, symbols = bytearray(b"\0"), bytearray(_SYMBOL.size)
    for name, address in functions.items():
        symbols += _SYMBOL.pack(len(names), _GLOBAL_FUNCTION, 0, 1, address, 0)
        names += name.encode() + b"\0"
    titles = b"\0.text\0.symtab\0.strtab\0"
    at = _HEADER.size
    sections = [
        bytes(_SECTION.size),
        _SECTION.pack(1, _NOBITS, _ALLOC_EXECUTE, start, 0, end - start, 0, 0, 16, 0),
        _SECTION.pack(7, _SYMTAB, 0, 0, at, len(symbols), 3, 1, 8, _SYMBOL.size),
        _SECTION.pack(15, _STRTAB, 0, 0, at + len(symbols), len(names), 0, 0, 1, 0),
        _SECTION.pack(15, _STRTAB, 0, 0, at + len(symbols) + len(names), len(titles), 0, 0, 1, 0),
    ]
    table = at + len(symbols) + len(names) + len(titles)
    header = _HEADER.pack(
        b"\x7fELF\2\1\1".ljust(16, b"\0"), _EXEC, _X86_64, 1, start, 0, table, 0, _HEADER.size, 56, 0, _SECTION.size,
        len(sections), len(sections) - 1,
    )  # fmt: skip
    output.write_bytes(header + symbols + names + titles + b"".join(sections))
    return functions
