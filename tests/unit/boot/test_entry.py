"""Both entries on a real vCPU: tiny kernels look at what they were given and power off, or reset if it is wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.boot.elfs import MIB, kernel
from vmm.machine.config import BootConfig, MachineConfig, MemoryConfig
from vmm.machine.machine import Machine

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

END = """
good:
    mov $0x600, %dx
    mov $0x34, %al
    out %al, %dx
    hlt
bad:
    mov $0x602, %dx
    mov $1, %al
    out %al, %dx
    hlt
"""
PVH = """
.code32
    mov %cr0, %eax
    and $0x80000001, %eax
    cmp $1, %eax                    # protected mode, no paging
    jne bad
    mov %cr4, %eax
    test %eax, %eax
    jnz bad
    cmpl $0x336ec578, (%ebx)        # the start info
    jne bad
    movl 24(%ebx), %esi
    cmpl $0x6c6c6568, (%esi)        # the command line: "hell..."
    jne bad
    movl 32(%ebx), %esi
    cmpl $0x20445352, (%esi)        # the RSDP: "RSD "
    jne bad
    movl 40(%ebx), %esi
    cmpl $1, 16(%esi)               # the memory map begins with RAM
    jne bad
    mov $0x18, %ax                  # the GDT has what the registers have
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    ljmp $0x10, $0x1000000 + reloaded
reloaded:
    cmpl $0x336ec578, (%ebx)
    jne bad
"""
LINUX64 = """
.code64
    cmpl $0x53726448, 0x202(%rsi)   # boot_params: "HdrS"
    jne bad
    mov 0x228(%rsi), %eax
    cmpl $0x6c6c6568, (%rax)        # the command line
    jne bad
    mov 0x70(%rsi), %rax
    cmpl $0x20445352, (%rax)        # the RSDP
    jne bad
    mov $0x3ffff00, %rsp            # high in RAM, on the page tables that were given
    mov $0x123456789abcdef, %rax
    push %rax
    cmp %rax, 0x3fffef8
    jne bad
    mov $0x18, %ax
    mov %ax, %ds
    mov %ax, %ss
    pushq $0x10
    lea reloaded(%rip), %rax
    push %rax
    lretq                           # the GDT has 64-bit code at 0x10
reloaded:
    cmpl $0x53726448, 0x202(%rsi)
    jne bad
"""


@pytest.mark.parametrize("entry, source", [("pvh", PVH), ("linux64", LINUX64)])
def test_kernel_finds_what_its_protocol_promises(tmp_path: Path, entry: str, source: str) -> None:
    bits = "--32" if entry == "pvh" else "--64"
    (tmp_path / "code.s").write_text(source + END)
    subprocess.run(["as", bits, "-o", "code.o", "code.s"], cwd=tmp_path, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", "code.o", "code"], cwd=tmp_path, check=True)
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(kernel((tmp_path / "code").read_bytes()))
    config = MachineConfig(BootConfig(str(vmlinux), None, "=hello", entry), MemoryConfig(64 * MIB), cpus=2)
    with Machine(config) as machine:
        assert machine.run(timeout=30).kind == "poweroff"
