"""KVM's part of a machine: the VM, its vCPUs, memory slots and interrupt lines."""

from __future__ import annotations

import time

from vmm.boot import layout
from vmm.errors import ConfigError
from vmm.events import EventFd
from vmm.faststart.thread import Task
from vmm.kvm import System
from vmm.kvm import ioctl as k
from vmm.kvm.cpuid import CpuidTemplate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.config import MachineConfig
    from vmm.kvm import Vcpu, Vm
    from vmm.kvm.saved import VcpuState, VmState
    from vmm.memory import GuestMemory
    from vmm.options.cpu import CpuConfig

PAGE = 4096
_PAGE_SLOTS = 8
"""KVM memory slots from here on are read-only pages; those below are RAM."""
_WINDOW_SLOTS = 64
"""And from here on windows of devices."""


class Core:
    """Owns the VM and its vCPUs. Made in steps, since some of them mostly wait.

    :param cpus: how many vCPUs
    :param host_cpu: they get everything that KVM offers, see :class:`~vmm.kvm.cpuid.CpuidTemplate`
    :param cpu: the template of their processor
    :ivar async_pf: of their processors, see :class:`~vmm.kvm.cpuid.CpuidTemplate`; set before :meth:`make_vcpus`
    :raises ConfigError: more vCPUs than this host's KVM supports, or another processor
    :raises HostError: no usable KVM
    """

    def __init__(self, cpus: int, *, host_cpu: bool = False, cpu: CpuConfig | None = None) -> None:
        self.vcpus: list[Vcpu] = []
        self._host_cpu = host_cpu
        self._cpu = cpu
        self._cpus = cpus
        self._tasks: list[Task] = []
        self._irqs: list[tuple[EventFd, int]] = []
        self._kicks: list[tuple[int, int, int, int]] = []
        self._windows: dict[int, tuple[int, int, int, bool]] = {}
        self._ready_irqs: dict[int, list[EventFd]] = {}
        self._ready_kicks: dict[tuple[int, int, int], EventFd] = {}
        self._bound: set[int] = set()
        """Eventfds of kicks that KVM knows already."""
        self.async_pf = True
        self.cpuid_is_own = True
        """vCPUs have the CPUID that they were made with, and not that of a state."""
        self._make_vm()

    def _make_vm(self) -> None:
        with System() as system:
            limit = system.check_extension(k.CAP_MAX_VCPUS) or 4
            if self._cpus > limit:
                raise ConfigError(f"{self._cpus} vCPUs: this host's KVM has at most {limit}", code="cpus")
            self.read_only_slots = bool(system.check_extension(k.CAP_READONLY_MEM))
            self.any_length = bool(system.check_extension(k.CAP_IOEVENTFD_ANY_LENGTH))
            """Match kicks of any size: some CPUs then report them without decoding the instruction."""
            self._tsc_deadline = bool(system.check_extension(k.CAP_TSC_DEADLINE_TIMER))
            self._cpuid = system.supported_cpuid()
            if self._cpu is not None:
                from vmm.kvm.cpuid import fit

                fit(self._cpuid, self._cpu)
            self._msrs = system.msr_indexes()
            self.vm: Vm = system.create_vm()
        try:
            self.vm.set_tss_addr(layout.KVM_TSS)
            self.vm.set_identity_map_addr(layout.KVM_IDENTITY_MAP)
            if not self._host_cpu:
                self.vm.disable_pmu()
            # Making interrupt controllers waits for a grace period of the host's kernel
            self._irqchip = self._task(self.vm.create_irqchip, "irqchip")
        except BaseException:
            self.close()
            raise

    def _task(self, work: Any, name: str) -> Task:
        task = Task(work, name)
        self._tasks.append(task)
        return task

    def make_vcpus(self, memory: GuestMemory) -> None:
        """The vCPUs; and RAM, registered in the background.  :meth:`bind` follows."""
        self._irqchip.join()
        # Each memory slot waits for such a grace period too, some milliseconds
        self._mapping = self._task(lambda: self._map_memory(memory), "memory")
        template: CpuidTemplate | None = None
        self.cpuid_is_own = True
        for index in range(self._cpus):
            vcpu = self.vm.create_vcpu(index)
            self.vcpus.append(vcpu)
            if template is None:
                template = CpuidTemplate(
                    self._cpuid,
                    self._cpus,
                    tsc_khz=vcpu.tsc_khz(),
                    tsc_deadline=self._tsc_deadline,
                    async_pf=self.async_pf,
                    host=self._host_cpu or self._cpu is not None,
                )
                self._template = template
            vcpu.set_cpuid(template.for_vcpu(index))
            if self._cpu is not None and self._cpu.arch_capabilities >= 0:
                from vmm.kvm.cpuid import set_arch_capabilities

                set_arch_capabilities(vcpu, self._cpu.arch_capabilities)

    def bind(self, bus: Any) -> None:
        """Set *bus* (cdata ``struct bus *``) to answer the exits of the vCPUs."""
        for vcpu in self.vcpus:
            vcpu.bind(bus)

    def _map_memory(self, memory: GuestMemory) -> None:
        for slot, region in enumerate(memory.regions):
            self.vm.set_memory(slot, region.gpa, region.size, memory.host_address + region.offset)

    def wait_for_memory(self) -> None:
        """Wait until RAM is registered for the guest."""
        self._mapping.join()

    def map_page(self, index: int, gpa: int, host_address: int) -> None:
        """Map a page of the VMM at *gpa* that the guest reads as memory, without an exit; writes still come as MMIO."""
        self.vm.set_memory(_PAGE_SLOTS + index, gpa, PAGE, host_address, read_only=True)

    def map_window(self, gpa: int, size: int, host_address: int, read_only: bool = False) -> None:
        """Give the guest a window of a device, in which the device may map anything, also while the guest runs."""
        number = next(each for each in range(len(self._windows) + 1) if each not in self._windows)
        self.vm.set_memory(_WINDOW_SLOTS + number, gpa, size, host_address, read_only=read_only)
        self._windows[number] = gpa, size, host_address, read_only

    def unmap_window(self, gpa: int) -> None:
        """Remove the window that begins there from the bus."""
        number = next(each for each, window in self._windows.items() if window[0] == gpa)
        _, _, host_address, _ = self._windows.pop(number)
        self.vm.set_memory(_WINDOW_SLOTS + number, gpa, 0, host_address)

    def irq_line(self, gsi: int) -> EventFd:
        """A descriptor that raises *gsi*, as an edge. Owned by this object."""
        ready = self._ready_irqs.get(gsi)
        made = ready.pop() if ready else None
        irq = made or EventFd()
        self._irqs.append((irq, gsi))
        if made is None:
            self.vm.irqfd(irq.fd, gsi)
        return irq

    def new_kick(self, address: int, size: int, value: int) -> EventFd:
        """An eventfd for :meth:`kick_line`, owned by the caller."""
        return self._ready_kicks.pop((address, size, value), None) or EventFd()

    def kick_line(self, fd: int, address: int, size: int, value: int) -> None:
        """From now on a guest's write of *value* to MMIO *address* signals the eventfd *fd* inside the kernel."""
        self._kicks.append((fd, address, size, value))
        if fd in self._bound:
            self._bound.discard(fd)
        else:
            self.vm.ioeventfd(fd, address, size, value)

    def make_lines(self, like: Core) -> None:
        """Prepare the lines of another machine for :meth:`irq_line`, :meth:`new_kick` and :meth:`kick_line`: KVM waits
        for its readers at each."""
        for _, gsi in tuple(like._irqs):
            irq = EventFd()
            self._ready_irqs.setdefault(gsi, []).append(irq)
            self.vm.irqfd(irq.fd, gsi)
        for _, address, size, value in tuple(like._kicks):
            kick = self._ready_kicks[address, size, value] = EventFd()
            self.vm.ioeventfd(kick.fd, address, size, value)
            self._bound.add(kick.fd)

    def drop_lines(self) -> None:
        """Those that nobody wanted."""
        for irqs in self._ready_irqs.values():
            while irqs:
                irqs.pop().close()
        for (address, size, value), kick in self._ready_kicks.items():
            if self.vm.fd >= 0:
                self.vm.ioeventfd(kick.fd, address, size, value, assign=False)
            kick.close()
        self._ready_kicks.clear()
        self._bound.clear()

    def remake(self, bus: Any, memory: GuestMemory) -> None:
        """Replace the VM by a new one with new vCPUs and the same lines, :meth:`make_vcpus` included. No vCPU runs.

        So nothing of the old one can be left, whatever KVM stores for a vCPU now or in future versions.
        """
        self._close_vm()
        self._make_vm()
        self._irqchip.join()
        for irq, gsi in self._irqs:
            irq.clear()
            self.vm.irqfd(irq.fd, gsi)
        for kick in self._kicks:
            self.vm.ioeventfd(*kick)
        for number, (gpa, size, host_address, read_only) in self._windows.items():
            self.vm.set_memory(_WINDOW_SLOTS + number, gpa, size, host_address, read_only=read_only)
        self.make_vcpus(memory)
        self.bind(bus)

    # -- snapshots: no vCPU runs, and the last exit of each is completed -----------------------------------------------

    def cpuid(self) -> str:
        """The identity of the processor that vCPU 0 sees: SHA-256 of its leaves."""
        from vmm.kvm.cpuid import fingerprint

        return fingerprint(self._template.for_vcpu(0))

    def save(self, *, own: bool = False) -> tuple[list[VcpuState], VmState]:
        """KVM's state of the machine, without memory slots and routes.

        :param own: for this process, see :func:`vmm.kvm.saved.save_vcpu`
        """
        from vmm.kvm import saved

        msrs, size = saved.wanted_msrs(self._msrs), saved.xsave_size(self.vm)
        vcpus = [saved.save_vcpu(vcpu, msrs, size, own=own) for vcpu in self.vcpus]
        return vcpus, saved.save_vm(self.vm, self.vcpus[0])

    def restore(
        self,
        vcpus: list[VcpuState],
        vm: VmState,
        *,
        advance_clock: bool,
        same_cpuid: bool = False,
        own: bool = False,
    ) -> int:
        """Restore what :meth:`save` returned into fresh vCPUs; returns by how many ns the clocks were advanced.

        :param same_cpuid: they already have the CPUID of the state
        :param own: this process has just saved it
        :raises ConfigError: it has another number of vCPUs, or is not such a state
        :raises HostError: this host's KVM does not accept it
        """
        from vmm.kvm import saved

        if len(vcpus) != len(self.vcpus):
            raise ConfigError(f"the state of {len(vcpus)} vCPUs for {len(self.vcpus)}", code="snapshot-state")
        elapsed = max(time.time_ns() - vm.realtime, 0) if advance_clock else 0
        clocks = saved.Clocks(vm, self.vcpus[0], vcpus[0].tsc_khz, elapsed)
        for vcpu, state in zip(self.vcpus, vcpus, strict=True):
            saved.restore_vcpu(vcpu, state, clocks.tsc_delta, same_cpuid=same_cpuid, own=own)
        self.cpuid_is_own = same_cpuid
        saved.restore_vm(self.vm, vm, clocks)
        return elapsed

    def continue_clocks(self, vcpus: tuple[VcpuState, ...], vm: VmState) -> None:
        """After :meth:`restore` of the same, before the first instruction: the clocks continue from the saved time now.

        :raises HostError: this host's KVM does not accept it
        """
        from vmm.kvm import saved

        saved.continue_clocks(self.vm, self.vcpus, vcpus, vm)

    def _close_vm(self) -> None:
        while self._tasks:
            self._tasks.pop().close()
        while self.vcpus:
            self.vcpus.pop().close()
        self.vm.close()

    def close(self) -> None:
        """Free all of it, while no vCPU runs.  A second call does nothing."""
        self._close_vm()
        self.drop_lines()
        while self._irqs:
            self._irqs.pop()[0].close()


def new_core(config: MachineConfig) -> Core:
    """That of a machine.

    :raises ConfigError: see :class:`Core`
    :raises HostError: the same
    """
    cpu = config.cpu
    return Core(config.all_cpus(), host_cpu=cpu == "host", cpu=None if isinstance(cpu, str) else cpu)
