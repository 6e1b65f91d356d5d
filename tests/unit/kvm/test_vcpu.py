"""Tiny guests on the real /dev/kvm, a few instructions each, so that they run on any KVM, an emulating one included;
CPUID; and MSI messages: what reaches a local APIC, and what a VM keeps of them."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.command import descriptors
from tools.where import PYVMM
from vmm import Machine
from vmm.board.vcpu_threads import VcpuThreads
from vmm.bus import Bus, BusDevice
from vmm.errors import ConfigError, GuestError, HostError
from vmm.events import EventFd
from vmm.faststart.record import replace
from vmm.kvm import System, Vcpu, Vm, probe
from vmm.kvm import ioctl as k
from vmm.kvm.cpuid import CpuidTemplate, entries
from vmm.kvm.routing import IOAPIC_PINS, MSI_BASE, MsiRouter
from vmm.kvm.structs import kvm_cpuid2, kvm_cpuid_entry2
from vmm.kvm.structs_state import kvm_lapic_state, kvm_mp_state
from vmm.kvm.vcpu import MP_HALTED
from vmm.lifecycle import EndEvent, Life
from vmm.memory import GuestMemory
from vmm.native import lib
from vmm.options.cpu import CpuConfig, CpuLeaf
from vmm.pci.msix import Msix
from vmm.saving.manifest import read_manifest

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

CODE = 0x1000
EINTR = 4
PATIENCE = 60.0


class Guest:
    """One vCPU in real mode at CODE, one page table-less megabyte, an empty C bus."""

    def __init__(self, code: bytes) -> None:
        self.memory = GuestMemory(1 << 20)
        self.memory.write(CODE, code)
        self.bus = lib.bus_new()
        with System() as system:
            self.vm = system.create_vm()
        self.vm.set_tss_addr(0xFEFF_D000)
        self.vm.create_irqchip()
        self.vm.set_memory(0, 0, self.memory.size, self.memory.host_address)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        self.vcpu.bind(self.bus)
        sregs = self.vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        self.vcpu.set_sregs(sregs)
        regs = self.vcpu.get_regs()
        regs.rip, regs.rflags = CODE, 2
        self.vcpu.set_regs(regs)

    def close(self) -> None:
        self.vcpu.close()
        self.vm.close()
        lib.bus_free(self.bus)
        self.memory.close()


@pytest.fixture
def made() -> Iterator[list[Guest]]:
    guests: list[Guest] = []
    yield guests
    for guest in guests:
        guest.close()


def run_to_end(guest: Guest, pio: Bus | None = None) -> EndEvent:
    """Run *guest* until its run ends; its thread is joined whatever happens."""
    life = Life()
    threads = VcpuThreads([guest.vcpu], pio or Bus("pio"), Bus("mmio"), guest.memory, life)
    threads.start()
    life.wait(PATIENCE)
    threads.end("timeout")
    threads.join()
    assert life.end is not None
    return life.end


def make(made: list[Guest], code: bytes) -> Guest:
    guest = Guest(code)
    made.append(guest)
    return guest


def test_a_port_of_python_comes_back_with_its_data(made: list[Guest]) -> None:
    guest = make(made, b"\xb0\x41\xe6\x10\xf4")  # mov al, 'A'; out 0x10, al
    lib.bus_add_python(guest.bus, lib.BUS_PIO, 0x10, 1)
    assert guest.vcpu.run() == k.EXIT_IO
    io = guest.vcpu.kvm_run.io
    assert (io.port, io.size, io.count, io.direction) == (0x10, 1, 1, 1)
    assert bytes(guest.vcpu.run_bytes(io.data_offset, 1)) == b"A"


def test_what_nobody_claims_reads_as_ones_without_python(made: list[Guest]) -> None:
    # in al, 0x70; mov [0x2000], al; mov ax, [0xc000:0] is RAM here, so use a port only; out 0x10, al
    guest = make(made, b"\xe4\x70\xa2\x00\x20\xe6\x10")
    lib.bus_add_python(guest.bus, lib.BUS_PIO, 0x10, 1)
    assert guest.vcpu.run() == k.EXIT_IO
    assert guest.memory.read(0x2000, 1) == b"\xff"
    counts = guest.vcpu.exit_counts()
    assert counts["c"] == {k.EXIT_IO: 1} and counts["python"] == {k.EXIT_IO: 1} and counts["unclaimed"] == 1


def test_string_output_arrives_whole_and_in_order(made: list[Guest]) -> None:
    # mov si, 0x3000; mov cx, 5; mov dx, 0x10; cld; rep outsb; out 0x11, al
    guest = make(made, b"\xbe\x00\x30\xb9\x05\x00\xba\x10\x00\xfc\xf3\x6e\xe6\x11")
    guest.memory.write(0x3000, b"hello")
    seen = bytearray()

    class Port(BusDevice):
        def write(self, offset: int, size: int, value: int) -> None:
            if offset:
                raise GuestError("the end")
            seen.extend(value.to_bytes(size, "little"))

    pio = Bus("pio")
    pio.add(0x10, 2, Port())
    lib.bus_add_python(guest.bus, lib.BUS_PIO, 0x10, 2)
    assert run_to_end(guest, pio).detail.endswith("the end")
    assert seen == b"hello"


def test_a_kick_ends_a_guest_that_never_exits_and_is_remembered(made: list[Guest]) -> None:
    guest = make(made, b"\xeb\xfe")  # jmp $
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(guest.vcpu.run()))
    thread.start()
    guest.vcpu.kick()
    thread.join(PATIENCE)
    assert results == [-EINTR]
    assert guest.vcpu.run() == -EINTR  # sticky
    guest.vcpu.resume()
    timer = threading.Timer(0.05, guest.vcpu.kick)
    timer.start()
    assert guest.vcpu.run() == -EINTR
    timer.join()


def test_a_device_that_fails_ends_the_run_with_its_exception(made: list[Guest]) -> None:
    guest = make(made, b"\xe6\x10")

    class Broken(BusDevice):
        def write(self, offset: int, size: int, value: int) -> None:
            raise ZeroDivisionError("a bug")

    pio = Bus("pio")
    pio.add(0x10, 1, Broken())
    lib.bus_add_python(guest.bus, lib.BUS_PIO, 0x10, 1)
    event = run_to_end(guest, pio)
    assert event.kind == "error" and isinstance(event.error, ZeroDivisionError)


def test_code_in_no_memory_is_an_error_that_says_where(made: list[Guest]) -> None:
    guest = make(made, b"")
    sregs = guest.vcpu.get_sregs()
    sregs.cs.base = 0x1000_0000
    guest.vcpu.set_sregs(sregs)
    regs = guest.vcpu.get_regs()
    regs.rip = 0
    guest.vcpu.set_regs(regs)
    event = run_to_end(guest)
    assert event.kind == "error" and "rip 0x" in event.detail and "real mode" in event.detail
    assert getattr(event.error, "hint", "")


def test_kvm_counts_exits(made: list[Guest]) -> None:
    guest = make(made, b"\xe6\x10")
    lib.bus_add_python(guest.bus, lib.BUS_PIO, 0x10, 1)
    guest.vcpu.run()
    assert guest.vcpu.stats()["exits"] >= 1
    assert "remote_tlb_flush" in guest.vm.stats()


def test_kvm_that_cannot_be_opened_says_what_to_do(tmp_path: os.PathLike[str]) -> None:
    missing = os.path.join(tmp_path, "kvm")
    with pytest.raises(HostError, match="cannot open") as caught:
        System(missing)
    assert "modprobe" in caught.value.hint
    with pytest.raises(HostError, match="no KVM device"):
        System("/dev/null")


def test_descriptors_are_closed_once_and_all() -> None:
    before = descriptors()
    guest = Guest(b"\xf4")
    guest.close()
    guest.vcpu.close()
    guest.vm.close()
    assert descriptors() <= before


# -- cPUID as a guest of N vCPUs sees it -----------------------------------------------------------------------------


Leaf = tuple[int, int]


def supported() -> kvm_cpuid2:
    """Leaves as KVM reports them on a host with 64 threads."""
    cpuid = kvm_cpuid2()
    for function, index, eax, ebx, ecx, edx in (
        (0x0, 0, 0x1F, 0, 0, 0),
        (0x1, 0, 0x1234, 0x3F400800, 0x8, 1 << 28),
        (0x4, 0, 0xFC00C121, 0, 0, 0),
        (0x4, 3, 0xFC0FC163, 0, 0, 0),
        (0x4, 4, 0, 0, 0, 0),
        (0xB, 0, 1, 2, 0x100, 9),
        (0xB, 1, 6, 64, 0x201, 9),
        (0x40000000, 0, 0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D),
        (0x40000001, 0, 0x01007AFB, 0, 0, 0),
        (0x80000008, 0, 0x3030, 0, 0x603F, 0),
        (0x8000001D, 3, 0x3C163, 0, 0, 0),
        (0x8000001E, 0, 9, 0x104, 0x305, 0),
    ):
        entry = cpuid.entries[cpuid.nent]
        entry.function, entry.index = function, index
        entry.eax, entry.ebx, entry.ecx, entry.edx = eax, ebx, ecx, edx
        cpuid.nent += 1
    return cpuid


def seen(cpus: int, apic_id: int) -> dict[Leaf, kvm_cpuid_entry2]:
    template = CpuidTemplate(supported(), cpus, tsc_khz=2_500_000, tsc_deadline=True)
    for other in range(cpus):  # in the order of a machine being made
        template.for_vcpu(other)
    return {(entry.function, entry.index): entry for entry in entries(template.for_vcpu(apic_id))}


@pytest.mark.parametrize("cpus,apic_id", [(1, 0), (2, 1), (3, 2), (16, 13), (32, 31)])
def test_every_vcpu_has_its_own_apic_id_everywhere(cpus: int, apic_id: int) -> None:
    leaves = seen(cpus, apic_id)
    assert leaves[1, 0].ebx >> 24 == apic_id
    assert [leaves[0xB, index].edx for index in (0, 1)] == [apic_id, apic_id]
    assert leaves[0x1F, 1].edx == apic_id
    assert leaves[0x8000001E, 0].eax == apic_id
    assert leaves[0x8000001E, 0].ebx & 0xFF == apic_id
    assert leaves[0x8000001E, 0].ecx == 0


@pytest.mark.parametrize("cpus,bits", [(1, 0), (2, 1), (3, 2), (4, 2), (16, 4), (32, 5)])
def test_the_topology_is_one_package_of_single_threaded_cores(cpus: int, bits: int) -> None:
    leaves = seen(cpus, 0)
    assert leaves[1, 0].ebx >> 16 & 0xFF == cpus
    assert bool(leaves[1, 0].edx >> 28 & 1) == (cpus > 1)
    smt, core = leaves[0xB, 0], leaves[0xB, 1]
    assert (smt.eax, smt.ebx, smt.ecx) == (0, 1, 0x100)
    assert (core.eax, core.ebx, core.ecx) == (bits, cpus, 0x201)
    assert leaves[0x80000008, 0].ecx & 0xFF == cpus - 1
    assert leaves[0x80000008, 0].ecx >> 12 & 0xF == bits
    assert leaves[4, 3].eax >> 14 & 0xFFF == cpus - 1, "the last-level cache is shared by all"
    assert leaves[4, 0].eax >> 14 & 0xFFF == 0, "the first-level cache by none"
    assert leaves[4, 3].eax >> 26 == cpus - 1
    assert leaves[4, 4].eax == 0


def test_hypervisor_leaves_say_kvm_and_the_tsc_frequency() -> None:
    leaves = seen(2, 0)
    assert leaves[1, 0].ecx >> 31 & 1
    assert leaves[1, 0].ecx >> 24 & 1, "the TSC-deadline timer"
    assert leaves[1, 0].ecx >> 21 & 1, "x2APIC"
    assert not leaves[1, 0].ecx >> 3 & 1, "no MONITOR"
    assert leaves[0x40000000, 0].eax == 0x40000010
    assert leaves[0x40000001, 0].eax == 0x01007AFB, "the paravirtual features of KVM, kvmclock among them, stay"
    assert leaves[0x40000010, 0].eax == 2_500_000


def test_asynchronous_page_faults_are_only_offered_where_every_page_can_be_had() -> None:
    for offered in (True, False):
        cpuid = supported()
        entry = next(cpuid.entries[i] for i in range(cpuid.nent) if cpuid.entries[i].function == 0x4000_0001)
        entry.eax = 0xFFFF_FFFF
        CpuidTemplate(cpuid, 1, tsc_khz=0, tsc_deadline=True, async_pf=offered)
        (found,) = [e.eax for e in map(cpuid.entries.__getitem__, range(cpuid.nent)) if e.function == 0x4000_0001]
        assert found == (0xFFFF_FFFF if offered else 0xFFFF_FFFF & ~(1 << 4 | 1 << 10 | 1 << 14))


@pytest.mark.parametrize("host", [False, True])
def test_counters_and_virtual_machines_are_only_for_a_guest_that_is_like_the_host(host: bool) -> None:
    cpuid = supported()
    for function in (0x7, 0xA, 0x12, 0x14, 0x8000_0001, 0x8000_000A, 0x8000_001F, 0x8000_0022):
        cpuid.entries[cpuid.nent].function = function
        cpuid.nent += 1
    for entry in entries(cpuid):
        if entry.function not in (0, 4, 0xB, 0x1F, 0x8000_0008, 0x8000_001D, 0x8000_001E):
            entry.eax = entry.ebx = entry.ecx = entry.edx = 0xFFFF_FFFF
    CpuidTemplate(cpuid, 1, tsc_khz=0, tsc_deadline=True, host=host)
    leaves = {entry.function: entry for entry in entries(cpuid)}
    for leaf in (0xA, 0x12, 0x14, 0x8000_000A, 0x8000_001F, 0x8000_0022):
        assert bool(leaves[leaf].eax or leaves[leaf].ebx or leaves[leaf].ecx or leaves[leaf].edx) == host
    for bit in (2, 4, 11, 12, 14, 15, 25):  # SGX, transactions, resource control, MPX, traces
        assert bool(leaves[7].ebx >> bit & 1) == host
    for leaf, bits in ((1, (2, 5, 6, 15)), (7, (30,)), (0x8000_0001, (2, 10, 23, 28))):
        for bit in bits:
            assert bool(leaves[leaf].ecx >> bit & 1) == host
    assert leaves[1].ecx >> 28 & 1 and leaves[0x8000_0001].edx == 0xFFFF_FFFF, "AVX, and all else, is the guest's"


# -- a processor as data -----------------------------------------------------------------------------------------------


def template(*leaves: CpuLeaf, **more: int) -> CpuConfig:
    """Of a processor that has these leaves and says whose it is."""
    return CpuConfig((CpuLeaf(0, eax=0x10, ebx=0x756E6547, edx=0x49656E69, ecx=0x6C65746E), *leaves), **more)


def test_a_template_is_what_its_file_says(tmp_path: Path) -> None:
    made = template(CpuLeaf(1, ecx=0x8020_0001), CpuLeaf(7, 1, True, eax=5), arch_capabilities=0x69)
    path = tmp_path / "cpu.json"
    path.write_text(made.text())
    assert CpuConfig.read(str(path)) == made and made.vendor() == "GenuineIntel"
    assert probe.host_cpu().missing_on(probe.host_cpu()) == []


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "Expecting value"),
        ("[]", "no object with leaves"),
        ('{"leaves": {}}', "no object with leaves"),
        ('{"leaves": []}', "1 to 200 leaves"),
        ('{"leaves": [{"eax": "0x1"}]}', "no leaf"),
        ('{"leaves": [{"leaf": "0x0", "exx": "0x1"}]}', "no leaf"),
        ('{"leaves": [{"leaf": "0x0", "eax": 1}]}', "no hexadecimal number"),
        ('{"leaves": [{"leaf": "0x0", "eax": "0x100000000"}]}', "32 bits"),
        ('{"leaves": [{"leaf": "0x1"}]}', "leaf 0x0"),
        ('{"leaves": [{"leaf": "0x0"}, {"leaf": "0x0"}]}', "twice"),
        ('{"leaves": [{"leaf": "0x0"}], "flags": 1}', "no field 'flags'"),
        ('{"leaves": [{"leaf": "0x0"}], "vendor": "AuthenticAMD"}', "leaf 0x0 says"),
        ('{"leaves": [{"leaf": "0x0"}], "arch_capabilities": "0x1ffffffffffffffff"}', "64 bits"),
        ("[" * 100000, "cpu template"),
        (" " * 300000, "more than"),
    ],
)
def test_a_file_that_is_no_template_says_why(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        CpuConfig.read(str(path))
    assert str(path) in str(caught.value)


def test_two_hosts_have_in_common_what_both_have() -> None:
    area = [CpuLeaf(0xD, index, True, eax=size, ebx=at) for index, size, at in ((2, 256, 576), (5, 64, 1088))]
    one = template(
        CpuLeaf(1, eax=0x1234, ecx=0b1110, edx=0b0111),
        CpuLeaf(0xD, 0, True, eax=0x27, ebx=1152, ecx=1152),
        *area,
        CpuLeaf(0x16, eax=3),
        CpuLeaf(0x8000_0008, eax=0x3034),
        arch_capabilities=0b110,
    )
    other = template(
        CpuLeaf(1, eax=0x5678, ecx=0b0111, edx=0b1101),
        CpuLeaf(0xD, 0, True, eax=0x7, ebx=832, ecx=832),
        area[0],
        CpuLeaf(0x8000_0008, eax=0x302E),
        arch_capabilities=0b011,
    )
    both = one.in_common(other)
    leaves = both.by_place()
    assert (leaves[1, 0].eax, leaves[1, 0].ecx, leaves[1, 0].edx) == (0x1234, 0b0110, 0b0101)
    assert (leaves[0xD, 0].eax, leaves[0xD, 0].ecx) == (7, 832) and (0xD, 5) not in leaves and (0x16, 0) not in leaves
    assert leaves[0x8000_0008, 0].eax == 0x302E and both.arch_capabilities == 0b010
    assert both.missing_on(one) == both.missing_on(other) == []
    assert one.missing_on(other) == [
        "leaf 0x1 ecx bits 0x8", "leaf 0x1 edx bits 0x2", "leaf 0xd.0 eax bits 0x20", "leaf 0xd.5 eax",
        "leaf 0xd.5 ebx", "addresses of 52 bits", "arch_capabilities 0x6",
    ]  # fmt: skip
    amd = CpuConfig((CpuLeaf(0, ebx=0x68747541, edx=0x69746E65, ecx=0x444D4163),))
    with pytest.raises(ConfigError, match="GenuineIntel and AuthenticAMD"):
        one.in_common(amd)
    assert amd.missing_on(one) == ["a processor of AuthenticAMD, and this one is of GenuineIntel"]
    moved = template(CpuLeaf(0xD, 0, True, eax=7), CpuLeaf(0xD, 2, True, eax=256, ebx=832))
    with pytest.raises(ConfigError, match=r"leaf 0xd\.2"):
        one.in_common(moved)


# cpuid of leaf 1, and what it has in ECX to the serial port, byte by byte
ASK = b"\xb8\1\0\0\0\x0f\xa2\x89\xc8" + tiny.outb(0x3F8, 0)[:4] + b"\xee" + b"\xc1\xe8\x08\xee" * 3


def test_a_guest_sees_the_processor_of_its_template(tmp_path: Path) -> None:
    """Also when it goes on somewhere else, where the file is not."""
    host = probe.host_cpu()
    leaf = host.by_place()[1, 0]
    bit = next(1 << n for n in range(32) if leaf.ecx >> n & 1 and n not in (21, 24, 31))  # these are the VMM's
    less = replace(host, leaves=tuple(replace(e, ecx=e.ecx & ~bit) if e == leaf else e for e in host.leaves))
    kernel = tiny.make(tmp_path, ASK, tiny.ECHO)
    seen: dict[str, int] = {}
    for name, cpu in (("guest", "guest"), ("template", host), ("less", less)):
        console = tiny.Console()
        with Machine(replace(tiny.config(kernel, console=console.config), cpu=cpu)) as machine:
            machine.start()
            seen[name] = int.from_bytes(console.read(4), "little")
            machine.snapshot(str(tmp_path / name))
        console.close()
    assert seen["template"] == seen["guest"] and seen["less"] == seen["guest"] & ~bit
    with Machine.restore(str(tmp_path / "less")) as clone:
        assert clone.config.cpu == less and clone.console_input(b"\4") == 1
        end = clone.wait(60)
        assert end is not None and end.kind == "poweroff"
    saved = [read_manifest(str(tmp_path / name)).cpu.cpuid for name in seen]
    assert saved[2] not in saved[:2]
    lacking = next(1 << n for n in range(32) if not leaf.ecx >> n & 1)
    more = replace(host, leaves=tuple(replace(e, ecx=e.ecx | lacking) if e == leaf else e for e in host.leaves))
    with pytest.raises(ConfigError, match=rf"cannot have leaf 0x1 ecx bits {lacking:#x}"):
        Machine(replace(tiny.config(kernel), cpu=more))


def test_the_command_makes_and_takes_templates(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([PYVMM, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    here = tmp_path / "here.json"
    here.write_text(run("cpu").stdout)
    assert run("cpu", str(here), str(here)).stdout == here.read_text()
    boot = ("boot", "--kernel", tiny.make(tmp_path, tiny.POWEROFF), "--memory", "32M", "--cpu")
    assert run(*boot, f"template:{here}").returncode == 0
    for what, says in ((f"template:{tmp_path}/none", "No such file"), ("templates", "cpu 'templates'")):
        done = run(*boot, what)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert run("cpu", str(tmp_path / "none")).returncode == 2


# -- messages of MSI ---------------------------------------------------------------------------------------------------

SPURIOUS, REQUESTS, LVT_ERROR = 0xF0, 0x200, 0x370
"""Offsets of registers in the page of a local APIC (Intel SDM vol. 3, table 11-1)."""


class Apic:
    """The local APIC of a vCPU that does not run: messages stay requested."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        state = self._get()
        state.regs[SPURIOUS + 1] |= 1  # bit 8: enabled
        k.ioctl(vcpu.fd, k.KVM_SET_LAPIC, state)

    def _get(self) -> kvm_lapic_state:
        state = kvm_lapic_state()
        k.ioctl(self.vcpu.fd, k.KVM_GET_LAPIC, state)
        return state

    def requested(self) -> set[int]:
        regs = self._get().regs
        return {v for v in range(256) if regs[REQUESTS + v // 32 * 16 + v % 32 // 8] >> v % 8 & 1}

    def wait_for(self, vectors: set[int]) -> None:
        """KVM delivers some of them on a thread of its own."""
        end = time.monotonic() + PATIENCE
        while self.requested() != vectors:
            assert time.monotonic() < end, self.requested()
            time.sleep(0.001)


@pytest.fixture
def vm() -> Iterator[Vm]:
    with System() as system, system.create_vm() as vm:
        vm.set_tss_addr(0xFEFF_D000)
        vm.create_irqchip()
        yield vm


def test_a_vcpu_that_waits_for_a_lock_is_not_offline(vm: Vm) -> None:
    """As Linux waits with interrupts off for a paravirtual spinlock: it has halted, and its local APIC is at work."""
    vcpu = vm.create_vcpu(1)
    state = kvm_lapic_state()
    regs = vcpu.get_regs()
    for masked in (0, 1):
        for interrupts in (0, 1 << 9):
            regs.rflags = 2 | interrupts
            vcpu.set_regs(regs)
            k.ioctl(vcpu.fd, k.KVM_GET_LAPIC, state)
            state.regs[SPURIOUS + 1] |= 1
            state.regs[LVT_ERROR + 2] = masked  # bit 16
            k.ioctl(vcpu.fd, k.KVM_SET_LAPIC, state)
            k.ioctl(vcpu.fd, k.KVM_SET_MP_STATE, kvm_mp_state(mp_state=MP_HALTED))
            assert vcpu.is_offline() == (masked == 1 and not interrupts)
    vcpu.await_startup()
    assert vcpu.is_offline()
    vcpu.close()


@pytest.fixture
def apics(vm: Vm) -> Iterator[list[Apic]]:
    vcpus = [vm.create_vcpu(index) for index in range(2)]
    yield [Apic(vcpu) for vcpu in vcpus]
    for vcpu in vcpus:
        vcpu.close()


def test_a_message_reaches_the_cpu_that_its_address_names(vm: Vm, apics: list[Apic]) -> None:
    router, event = MsiRouter(vm), EventFd()
    gsi = router.connect(event.fd, MSI_BASE | 1 << 12, 0x41)
    assert gsi == IOAPIC_PINS
    event.signal()
    apics[1].wait_for({0x41})
    assert apics[0].requested() == set()
    router.disconnect(event.fd, gsi)
    event.signal()
    assert router.connect(event.fd, MSI_BASE, 0x42) == gsi, "the same route, with another message"
    apics[0].wait_for({0x42})
    event.close()


def test_what_comes_while_a_vector_is_masked_is_pending_and_comes_then(vm: Vm, apics: list[Apic]) -> None:
    msix = Msix(2, MsiRouter(vm))
    for vector in range(2):
        msix.write_table(16 * vector, 4, MSI_BASE)
        msix.write_table(16 * vector + 8, 4, 0x50 + vector)
    msix.set_control(1 << 15)
    msix.write_table(12, 4, 0)
    for event in msix.events:
        event.signal()
    apics[0].wait_for({0x50})
    assert msix.read_pba(0, 8) == 0b10
    msix.write_table(16 + 12, 4, 0)
    apics[0].wait_for({0x50, 0x51})
    assert msix.read_pba(0, 8) == 0
    msix.close()


def test_messages_to_no_local_apic_are_refused(vm: Vm) -> None:
    router, event = MsiRouter(vm), EventFd()
    for address in (0, 0x1000, 0xFEC0_0000, 0xFEF0_0000, MSI_BASE | 1 << 32, (1 << 64) - 4):
        assert router.connect(event.fd, address, 0x41) is None
    event.close()


def test_pins_of_the_io_apic_work_beside(vm: Vm, apics: list[Apic]) -> None:
    """Setting routes replaces all of them."""
    router, event, pin = MsiRouter(vm), EventFd(), EventFd()
    router.connect(event.fd, MSI_BASE, 0x41)
    vm.irqfd(pin.fd, 4)
    pin.signal()  # nobody has programmed it: nothing comes, and nothing fails
    event.signal()
    apics[0].wait_for({0x41})
    for each in (event, pin):
        each.close()


def test_routes_of_vectors_that_are_gone_are_used_again(vm: Vm) -> None:
    router = MsiRouter(vm)
    keep = []
    for _ in range(300):
        msix = Msix(20, router)
        msix.set_control(1 << 15)
        for vector in range(20):
            msix.write_table(16 * vector, 4, MSI_BASE)
            msix.write_table(16 * vector + 12, 4, 0)
        keep.append(EventFd())  # so that descriptors are not the same every time
        msix.close()
    assert len(router._gsis) == len(router._messages) == 0
    for event in keep:
        event.close()
