"""A Sentry in a hundred lines: a static Linux program runs in ring 3 of a virtual CPU, and Python answers its calls.

python examples/sentry/minimal.py /bin/busybox echo hello    # with 64 MiB of memory; no files, no signals
"""

import errno
import os
import struct
import sys
from itertools import accumulate

from elftools.elf.elffile import ELFFile

from vmm import GuestError, GuestMemory
from vmm.kvm import System, Vcpu
from vmm.kvm.structs import kvm_regs
from vmm.native import lib

RAM, STACK, PAGE, PORT, EXIT_IO = 64 << 20, 1 << 20, 4096, 0xF0, 2
PML4, PDPT, PD, ENTRY = 0x1000, 0x2000, 0x3000, 0x4000
STAR, LSTAR, FMASK, FS_BASE = 0xC000_0081, 0xC000_0082, 0xC000_0084, 0xC000_0100


class Sentry:
    def __init__(self, memory: GuestMemory, vcpu: Vcpu, path: str, arguments: tuple[str, ...]) -> None:
        self.memory, self.vcpu, self.maps, self.ended, self.status = memory, vcpu, RAM - STACK, False, 128 + 11
        with open(path, "rb") as file:
            elf = ELFFile(file)
            for segment in (segments := list(elf.iter_segments("PT_LOAD"))):
                memory.write(segment["p_vaddr"], segment.data())
        self.end = -(-(segment["p_vaddr"] + segment["p_memsz"]) // PAGE) * PAGE
        texts = [os.urandom(16), *(word.encode() + b"\0" for word in (path, *arguments))]
        seed, *names = accumulate(map(len, texts[:-1]), initial=RAM - STACK // 2)
        memory.write(seed, b"".join(texts))
        headers = segments[0]["p_vaddr"] + elf["e_phoff"]
        auxv = (3, headers, 4, 56, 5, elf["e_phnum"], 6, PAGE, 25, seed, 0, 0)  # AT_PHDR ... AT_RANDOM, AT_NULL
        words = (len(names), *names, 0, 0, *auxv)
        memory.write(stack := (seed - 8 * len(words)) & -16, struct.pack(f"<{len(words)}Q", *words))
        self.enter_ring_3(elf["e_entry"], stack)

    def enter_ring_3(self, entry: int, stack: int) -> None:
        """Map RAM one to one, the first 2 MiB for ring 0 alone: there, an `out` takes each system call to Python."""
        self.memory.write(PML4, struct.pack("<Q", PDPT | 7))  # 7: present, writable, for ring 3
        self.memory.write(PDPT, struct.pack("<Q", PD | 7))
        self.memory.write(PD, b"".join(struct.pack("<Q", at | (0x87 if at else 0x83)) for at in range(0, RAM, 2 << 20)))
        self.memory.write(ENTRY, bytes((0xE6, PORT, 0x48, 0x0F, 0x07)))  # out PORT, al; sysretq
        sregs = self.vcpu.get_sregs()
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            segment, code = getattr(sregs, name), int(name == "cs")
            segment.selector, segment.type, segment.base, segment.limit = 0x33 if code else 0x2B, 3 + 8 * code, 0, ~0
            segment.dpl, segment.present, segment.s, segment.g, segment.l, segment.db = 3, 1, 1, 1, code, 1 - code
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x8001_0033, PML4, 0x620, 0x501  # paging, SSE, SYSCALL
        self.vcpu.set_sregs(sregs)
        self.vcpu.set_msrs({STAR: 0x23 << 48 | 8 << 32, LSTAR: ENTRY, FMASK: 0x700})
        self.vcpu.set_regs(kvm_regs(rip=entry, rsp=stack, rflags=2))

    def answer(self, number: int, a: int, b: int, c: int) -> int:
        match number:
            case 0 if a == 0:  # read
                self.memory.write(b, data := os.read(0, min(c, STACK)))
                return len(data)
            case 1 if a in (1, 2):  # write
                return os.write(a, self.memory.read(b, c))
            case 9:  # mmap: RAM that nobody has used is zero
                self.maps -= -(-b // PAGE) * PAGE
                return self.maps if self.maps > self.end else -errno.ENOMEM
            case 12:  # brk: never moves, so that the C library uses mmap
                return self.end
            case 63:  # uname
                self.memory.write(a, b"".join(text.encode().ljust(65, b"\0") for text in os.uname()))
            case 158 if a == 0x1002:  # arch_prctl: ARCH_SET_FS
                self.vcpu.set_msrs({FS_BASE: b})
            case 60 | 231:  # exit, exit_group
                self.status, self.ended = a % 256, True
            case _ if number not in (10, 11, 13, 14):  # without effect: mprotect, munmap, sigaction, sigprocmask
                return -errno.ENOSYS
        return 0


def main(path: str, *arguments: str) -> int:
    memory, bus = GuestMemory(RAM), lib.bus_new()
    lib.bus_add_python(bus, lib.BUS_PIO, PORT, 1)
    with System() as system, system.create_vm() as vm:
        vm.set_memory(0, 0, RAM, memory.host_address)
        vcpu = vm.create_vcpu(0)
        vcpu.bind(bus)
        vcpu.set_cpuid(system.supported_cpuid())
        sentry = Sentry(memory, vcpu, path, arguments)
        while not sentry.ended and vcpu.run() == EXIT_IO:  # a fault is another exit: nothing handles it
            regs = vcpu.get_regs()
            try:
                regs.rax = sentry.answer(regs.rax, regs.rdi, regs.rsi, regs.rdx) % 2**64
            except GuestError:  # a pointer to nothing
                regs.rax = 2**64 - errno.EFAULT
            vcpu.set_regs(regs)
    return sentry.status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
