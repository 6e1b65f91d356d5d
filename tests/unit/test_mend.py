"""The mending of the lab's QEMU, tried on a library that has its functions in the form that compilers give them."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from tests.lab.mend import MendError, mended

# The CPU's registers are at 0, what lies before them is at -0x200.
SOURCE = """
    .globl helper_vmrun, do_interrupt_x86_hardirq, cpu_clear_ignne, flags
    .type cpu_clear_ignne, @function
    .type helper_vmrun, @function
    .type do_interrupt_x86_hardirq, @function
do_interrupt_x86_hardirq:
    movl %edx, 0x88(%rdi)
    ret
    .size do_interrupt_x86_hardirq, . - do_interrupt_x86_hardirq
another:
    ret
helper_vmrun:
    pushq %rbx
    pushq %r12
    movq %rdi, %rbx
    movl %esi, %r12d
    movl %r12d, 0x80(%rbx)
    {store}
    movl $0, 0x84(%rbx)
    movl $1, %edx
    call {called}
    popq %r12
    popq %rbx
    ret
    .size helper_vmrun, . - helper_vmrun
cpu_clear_ignne:
    {start}
    andl $0, flags(%rip)
    ret
    .size cpu_clear_ignne, . - cpu_clear_ignne
    .data
    .type flags, @object
flags:
    .long 5
    .size flags, . - flags
"""
SHORT, LONG = "movl %esi, -0x200(%rbx)", "movl %r12d, -0x200(%rbx)"
UNTOUCHED = 0x5A5A5A5A


def build(folder: Path, store: str = SHORT, called: str = "do_interrupt_x86_hardirq", start: str = "endbr64") -> Path:
    source, library = folder / "fake.s", folder / "fake.so"
    source.write_text(SOURCE.format(store=store, called=called, start=start))
    command = ["gcc", "-shared", "-nostdlib", "-Wl,-Bsymbolic", "-Wl,-z,noexecstack", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library


def inject(library: Path, vector: int) -> tuple[int, int, int, int]:
    """Call the function; what it left in `exception_index`, in two other fields, and what the one it calls did."""
    memory = (ctypes.c_uint32 * 1024)(*[UNTOUCHED] * 1024)
    ctypes.CDLL(str(library)).helper_vmrun(ctypes.c_void_p(ctypes.addressof(memory) + 0x400), vector)
    return memory[0x200 // 4], memory[0x480 // 4], memory[0x484 // 4], memory[0x488 // 4]


@pytest.mark.parametrize("store", [SHORT, LONG])
def test_the_vector_is_delivered_and_not_kept(tmp_path: Path, store: str) -> None:
    library = build(tmp_path, store)
    assert inject(library, 0x77) == (0x77, 0x77, 0, 1)
    better = tmp_path / "better.so"
    better.write_bytes(mended(library.read_bytes()))
    assert inject(better, 0x77) == (UNTOUCHED, 0x77, 0, 1)


@pytest.mark.parametrize("start", ["endbr64", "nop"])
def test_the_flags_of_cpu_0_are_left_alone(tmp_path: Path, start: str) -> None:
    better = tmp_path / "better.so"
    better.write_bytes(mended(build(tmp_path, start=start).read_bytes()))
    for library, left in ((tmp_path / "fake.so", 0), (better, 5)):
        loaded = ctypes.CDLL(str(library))
        loaded.cpu_clear_ignne()
        assert ctypes.c_int.in_dll(loaded, "flags").value == left


@pytest.mark.parametrize(
    "store, called, words",
    [
        ("nop", "do_interrupt_x86_hardirq", "has 0 instructions"),
        (f"{SHORT}\n{LONG}", "do_interrupt_x86_hardirq", "has 2 instructions"),
        (SHORT, "another", "has 0 instructions"),
    ],
)
def test_what_looks_otherwise_is_left_alone(tmp_path: Path, store: str, called: str, words: str) -> None:
    with pytest.raises(MendError, match=words):
        mended(build(tmp_path, store, called).read_bytes())


@pytest.mark.parametrize("program", [b"", b"#!/bin/sh\n", b"\x7fELF", Path("/bin/sh").read_bytes()])
def test_other_programs_are_refused(program: bytes) -> None:
    with pytest.raises(MendError):
        mended(program)
