"""Mends a fault of QEMU that lets guests of the lab stand still: a copy of its program with one instruction less.

At a VMRUN that injects an interrupt (EVENTINJ, type INTR), QEMU delivers it at once, and also leaves its vector in
`CPUState.exception_index`. If the emulated CPU is then asked to leave its loop for a moment (a kick that comes late,
work for another thread, a new budget of instructions) before the next #VMEXIT or exception, the vector found there is
taken for an exception that waits, and is delivered a second time: with interrupts disabled, too. A guest in the middle
of handling the first one waits for its own spinlock then. Without the store, the field stays -1, as everywhere else.

Seen up to 11.1. Stopping and continuing the lab fifty times a second, guests with two CPUs stood still within seconds,
and no longer with the copy.
"""

from __future__ import annotations

import io
import re

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

FUNCTION, CALLED = "helper_vmrun", "do_interrupt_x86_hardirq"
REACH = 96
"""How many bytes before the call the store is at most."""
# mov %reg32, disp32(%base) with a negative displacement: CPUState lies before the registers, CPUArchState, and nothing
# else is stored there. A REX prefix may stand before it, and before the NOP that replaces it, where it does nothing.
_BASES = bytes(0x80 | n for n in range(64) if n & 7 != 4)  # ModRM: mod 2, any register, and a base without a SIB byte
STORE = re.compile(b"\x89[" + re.escape(_BASES) + b"]..\xff\xff", re.DOTALL)
NOP = bytes.fromhex("660f1f440000")
"""Of six bytes (Intel's manual, volume 2)."""


class MendError(Exception):
    """The program does not look as expected."""


def mended(program: bytes) -> bytes:
    """The ELF file `program` without that store.

    :raises MendError: it is not there, or not where it can be told from others
    """
    try:
        return _mended(program)
    except ELFError as error:
        raise MendError(f"no ELF file: {error}") from error


def _mended(program: bytes) -> bytes:
    elf = ELFFile(io.BytesIO(program))
    places = {}
    for table in elf.iter_sections():
        if isinstance(table, SymbolTableSection):
            for name in (FUNCTION, CALLED):
                for symbol in table.get_symbol_by_name(name) or ():
                    places[name] = (symbol["st_value"], symbol["st_size"])
    if len(places) < 2:
        raise MendError(f"it does not say where {FUNCTION} and {CALLED} are")
    begin, size = places[FUNCTION]
    offset = next(elf.address_offsets(begin, size), None)
    if offset is None:
        raise MendError(f"{FUNCTION} is in no segment")
    code = program[offset : offset + size]
    found = set()
    for call in re.finditer(rb"\xe8(....)", code, re.DOTALL):
        if begin + call.end() + int.from_bytes(call[1], "little", signed=True) == places[CALLED][0]:
            first = max(0, call.start() - REACH)
            found |= {first + store.start() for store in STORE.finditer(code[first : call.start()])}
    if len(found) != 1:
        raise MendError(f"{FUNCTION} has {len(found)} instructions that could be the one")
    at = offset + found.pop()
    return program[:at] + NOP + program[at + len(NOP) :]
