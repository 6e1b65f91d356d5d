"""Tiny guests on the real /dev/kvm: a few instructions each, so that they run on any KVM, an emulating one included."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from vmm.bus import Bus, BusDevice
from vmm.errors import GuestError, HostError
from vmm.kvm import System, Vcpu
from vmm.kvm import ioctl as k
from vmm.machine.lifecycle import EndEvent, Life
from vmm.machine.vcpu_threads import VcpuThreads
from vmm.memory import GuestMemory
from vmm.native import lib

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

CODE = 0x1000
EINTR = 4


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
    life.wait(20)
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
    thread.join(20)
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
    before = len(os.listdir("/proc/self/fd"))
    guest = Guest(b"\xf4")
    guest.close()
    guest.vcpu.close()
    guest.vm.close()
    assert len(os.listdir("/proc/self/fd")) == before
