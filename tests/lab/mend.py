"""Repairs two faults of QEMU that crash guests and the lab, in a copy of its program, and a slow place of it.

An interrupt delivered twice. At a VMRUN that injects an interrupt (EVENTINJ, type INTR), QEMU delivers it at once, and
also leaves its vector in `CPUState.exception_index`. If the emulated CPU is then asked to leave its loop for a moment
(a kick that comes late, work for another thread, a new budget of instructions) before the next #VMEXIT or exception,
the vector found there is taken for an exception that waits, and is delivered again: with interrupts disabled, too. A
guest in the middle of handling the first one waits for its own spinlock then. Without the store, the field stays -1, as
everywhere else.

Flags of CPU 0 that are lost. Whichever CPU loads an FPU state (FXRSTOR, XRSTOR, FNINIT) clears IGNNE#, a wire to CPU
0, by a plain `and` on `hflags2` of CPU 0, whose own thread changes it at every CLGI, STGI, VMRUN and #VMEXIT. What it
wrote meanwhile is lost: nested paging of the guest that is just entered, which ends in a triple fault; GIF set by STGI,
after which CPU 0 takes no interrupt any more; GIF cleared by #VMEXIT, and an interrupt finds the guest's GS. Nothing
sets IGNNE# here (a write to port 0xf0 would), so it need not be cleared.

Seen up to 11.1. With the first one mended, guests with two CPUs lived through a lab that was stopped and continued
fifty times a second, where they had stood still within seconds; the second one used to end the lab, or a guest, every
few minutes.

A load that waits for stores. At each jump whose target is looked up, helper_lookup_tb_ptr copies the 16 bytes of a
record that it has just written in parts, which a CPU cannot take from its store buffer: it waits until all stores
before are in the cache. 16 % of the samples of a guest's boot were there. Only the search after a miss reads the copy,
and it finds the same in the record. A program where this is not found runs as it is.
"""

from __future__ import annotations

import contextlib
import io
import re

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

VMRUN, DELIVER, CLEAR_IGNNE = "helper_vmrun", "do_interrupt_x86_hardirq", "cpu_clear_ignne"
REACH = 96
"""How many bytes before the call of DELIVER the store is at most."""
# mov %reg32, disp32(%base) with a negative displacement: CPUState lies before the registers, CPUArchState, and nothing
# else is stored there. A REX prefix may stand before it, and before the NOP that replaces it, where it does nothing.
_BASES = bytes(0x80 | n for n in range(64) if n & 7 != 4)  # ModRM: mod 2, any register, and a base without a SIB byte
STORE = re.compile(b"\x89[" + re.escape(_BASES) + b"]..\xff\xff", re.DOTALL)
NOP = bytes.fromhex("660f1f440000")
"""Of six bytes (Intel's manual, volume 2)."""
LOOKUP = "helper_lookup_tb_ptr"
# movdqa (%rsp), %xmm0, and soon after movaps %xmm0, N(%rsp)
COPY = re.compile(rb"\x66\x0f\x6f\x04\x24(?=.{0,24}?\x0f\x29\x44\x24(.))", re.DOTALL)
# sub $32, %rsp, and soon after movdqa N+32(%rsp), %xmm0
SEARCH = re.compile(rb"\x48\x83\xec\x20.{0,8}?\x66\x0f\x6f\x44\x24(.)", re.DOTALL)
ROOM = 0x20
"""What the search takes of the stack before it reads the copy."""
NOP_5 = bytes.fromhex("0f1f440000")
ENDBR64, RET = bytes.fromhex("f30f1efa"), b"\xc3"


class MendError(Exception):
    """The program does not have the expected code."""


class Place:
    """A function: `address` in memory, `offset` in the file, and its `code`."""

    def __init__(self, elf: ELFFile, program: bytes, name: str) -> None:
        tables = [section for section in elf.iter_sections() if isinstance(section, SymbolTableSection)]
        symbols = [symbol for table in tables for symbol in table.get_symbol_by_name(name) or ()]
        if not symbols:
            raise MendError(f"it does not say where {name} is")
        self.address, size = symbols[0]["st_value"], symbols[0]["st_size"]
        offset = next(elf.address_offsets(self.address, size), None)
        if offset is None or not size:
            raise MendError(f"{name} is not in it")
        self.offset: int = offset
        self.code = program[offset : offset + size]


def mended(program: bytes) -> bytes:
    """The ELF file `program` without the two faults, and without the slow place where it is known.

    :raises MendError: their places are not there, or cannot be told from others
    """
    try:
        elf = ELFFile(io.BytesIO(program))
        vmrun, deliver, clear = (Place(elf, program, name) for name in (VMRUN, DELIVER, CLEAR_IGNNE))
    except ELFError as error:
        raise MendError(f"no ELF file: {error}") from error
    better = bytearray(program)
    at = vmrun.offset + _store(vmrun, deliver)
    better[at : at + len(NOP)] = NOP
    at = clear.offset + (len(ENDBR64) if clear.code.startswith(ENDBR64) else 0)
    better[at : at + len(RET)] = RET
    with contextlib.suppress(MendError):
        _leave_copy_out(better, Place(elf, program, LOOKUP))
    return bytes(better)


def _leave_copy_out(program: bytearray, lookup: Place) -> None:
    """Have the search read the record itself."""
    copies, searches = list(COPY.finditer(lookup.code)), list(SEARCH.finditer(lookup.code))
    if len(copies) != 1 or len(searches) != 1:
        raise MendError(f"{LOOKUP} has {len(copies)} copies and {len(searches)} searches")
    (copy,), (search,) = copies, searches
    if copy[1][0] + ROOM != search[1][0] or lookup.code.count(b"\x0f\x29\x44\x24" + copy[1]) != 1:
        raise MendError(f"{LOOKUP} copies to {copy[1][0]} and reads {search[1][0]}")
    for at in (copy.start(), copy.start(1) - 4):
        program[lookup.offset + at : lookup.offset + at + len(NOP_5)] = NOP_5
    program[lookup.offset + search.start(1)] = ROOM


def _store(vmrun: Place, deliver: Place) -> int:
    """Where in VMRUN's code the vector is stored."""
    found = set()
    for call in re.finditer(rb"\xe8(....)", vmrun.code, re.DOTALL):
        if vmrun.address + call.end() + int.from_bytes(call[1], "little", signed=True) == deliver.address:
            first = max(0, call.start() - REACH)
            found |= {first + store.start() for store in STORE.finditer(vmrun.code[first : call.start()])}
    if len(found) != 1:
        raise MendError(f"{VMRUN} has {len(found)} instructions that could be the one")
    return found.pop()
