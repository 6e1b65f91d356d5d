"""What the tasks of a container do in the core, as ``pyvmm-runsc debug --stacks`` prints it.

The core reports addresses (core/control/stacks.c); its program has the symbols for them.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

REFERENCE = "stacks_put"
"""A function whose address the core reports: another build of it has that elsewhere."""
MOST = 1 << 20
_SYMBOL = struct.Struct("<IBBHQQ")
"""Of a 64-bit ELF file: name, type, visibility, section, address, size (elf.h, Elf64_Sym)."""
_FUNCTION = 2


class Symbols:
    """The functions of a program.

    :param file: an ELF file
    :raises ELFError: it is none
    """

    def __init__(self, file: BinaryIO) -> None:
        elf = ELFFile(file)
        section = elf.get_section_by_name(".symtab")
        found: dict[int, tuple[int, int]] = {}
        self._names = b""
        if isinstance(section, SymbolTableSection):
            self._names = section.stringtable.data()
            # pyelftools' own iterator takes 0.4 s here, and much longer in an emulated lab
            for name, info, _, place, start, size in _SYMBOL.iter_unpack(section.data()):
                if info & 15 == _FUNCTION and place:
                    found.setdefault(start, (size, name))
        self._starts = sorted(found)
        self._found = found

    def _text(self, at: int) -> str:
        return self._names[at : self._names.index(b"\0", at)].decode()

    def has(self, name: str, address: int) -> bool:
        """Whether a function is there."""
        return address in self._found and self._text(self._found[address][1]) == name

    def name(self, address: int) -> str:
        """``function+0x1f``, or the address alone."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0:
            start = self._starts[index]
            size, name = self._found[start]
            # A call that does not return may be the last instruction
            if address <= start + size:
                return f"{self._text(name)}+{address - start:#x}"
        return f"{address:#x}"


def _symbols(reference: int, programs: Iterable[str]) -> Symbols | None:
    for path in programs:
        try:
            with open(path, "rb") as file:
                found = Symbols(file)
        except (OSError, ELFError):
            continue
        if found.has(REFERENCE, reference):
            return found
    return None


def describe(report: bytes, programs: Iterable[str]) -> str:
    """The text for a report of the core.

    :param programs: paths of the core's programs, of which the one that has written the report is used
    :raises ValueError: it is no such report, which a guest can send
    """
    if len(report) > MOST:
        raise ValueError(f"it has {len(report)} bytes")
    lines = report.decode("ascii").split("\n")
    if lines[-2:] != ["end", ""]:
        raise ValueError("its last line is missing")
    return "\n".join(_described(lines[:-2], programs)) + "\n"


def _described(lines: list[str], programs: Iterable[str]) -> Iterator[str]:
    first, *rest = [line.split(" ") for line in lines] or [[]]
    if len(first) != 2 or first[0] != "core":
        raise ValueError("it has no address of the core")
    symbols = _symbols(int(first[1], 16), programs)
    if symbols is None:
        yield "another build of the core runs than the installed one: its functions are shown as addresses"
    for kind, *words in rest:
        if kind == "task" and len(words) == 4:
            pid, tid, state, name = int(words[0]), int(words[1]), words[2], words[3]
            yield f"process {pid}, task {tid} ({_plain(name)}): {_plain(state)}"
        elif kind == "call" and words:
            yield f"    call {_plain(words[0])}({', '.join(f'{int(word, 16):#x}' for word in words[1:])})"
        elif kind == "program" and len(words) == 2:
            yield f"    program at {int(words[0], 16):#x}, stack {int(words[1], 16):#x}"
        elif kind == "frames":
            addresses = [int(word, 16) for word in words]
            yield from (f"    {symbols.name(each) if symbols else f'{each:#x}'}" for each in addresses)
        else:
            raise ValueError(f"a line begins with {kind!r:.20}")


def _plain(word: str) -> str:
    if not word.isprintable():
        raise ValueError("a word cannot be printed")
    return word
