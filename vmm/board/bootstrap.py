"""The steps before the first instruction: the kernel's files into RAM, tables, the state of the vCPUs."""

from __future__ import annotations

import posix

from vmm import boot
from vmm.boot import layout
from vmm.faststart.thread import Task
from vmm.kvm.state import set_boot_state, set_reset_msrs
from vmm.memory import GuestMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from vmm.board.kvm_vm import Core
    from vmm.board.pc import Platform
    from vmm.board.shell import Shell
    from vmm.board.slots import Slots
    from vmm.config import MachineConfig, MemoryConfig

    class Origin(Protocol):
        """What a machine starts from: its kernel's entry point, or a snapshot.

        :ivar event: the kind of the event that reports the start
        :ivar restores: :meth:`finish` restores the state of each device
        """

        event: str
        restores: bool

        def make_memory(self, ram: MemoryConfig, *, shared: bool, on_demand: bool, hotplug: int) -> GuestMemory:
            """RAM with the guest's initial content, once :meth:`finish` has been called.

            :param hotplug: bytes after it that the guest may get later
            :param on_demand: shared memory may be filled when it is touched
            """

        def take_shell(self) -> Shell | None:
            """The shell prepared for this machine, from which :meth:`make_memory` has already taken the RAM."""

        def begin(self, memory: GuestMemory) -> None:
            """*memory* exists: start the slow steps in the background."""

        def finish(self, core: Core, slots: Slots, platform: Platform) -> None:
            """All devices are attached: set the state that the guest will find.

            :raises ConfigError: it cannot be
            """

        def go_on(self, slots: Slots) -> None:
            """Start what continues from before, such as workers of devices. After :meth:`finish`, when the process has
            given up what a running machine does not need; opens nothing. The guest runs already."""

        def release(self, core: Core) -> None:
            """The vCPUs, which were held since the start, are about to run."""

        def close(self) -> None:
            """Wait for the background work. A second call does nothing."""


def new_generation(memory: GuestMemory) -> None:
    """Give the machine a unique VM generation ID."""
    memory.write(layout.VM_GENERATION_ID, posix.urandom(16))


class Bootstrap:
    """From the kernel's entry point. Copies the files in the background from the start on: that takes as long as all
    other steps, and does not depend on them.

    :param config: what is booted
    :raises ConfigError: it cannot be booted
    """

    event = "started"
    restores = False

    def __init__(self, config: MachineConfig) -> None:
        self._plan = boot.check(config)
        self._loading: Task | None = None

    def make_memory(self, ram: MemoryConfig, *, shared: bool, on_demand: bool, hotplug: int) -> GuestMemory:
        """Empty RAM."""
        return GuestMemory(
            ram.size + hotplug, huge_pages=ram.huge_pages, prefault=ram.prefault, shared=shared, hotplug=hotplug
        )

    def take_shell(self) -> None:
        """Nothing was."""

    def begin(self, memory: GuestMemory) -> None:
        """Copy the files; RAM is empty."""
        self._memory = memory
        self._loading = Task(lambda: boot.load_files(self._plan, memory), "loader")

    def finish(self, core: Core, slots: Slots, platform: Platform) -> None:
        """All devices are attached: describe them to the kernel, and set the initial state of the vCPUs.

        :raises ConfigError: a file has changed since it was checked, or there are too many devices
        """
        state = boot.place_tables(self._plan, self._memory, len(core.vcpus), slots.numbers, slots.windows)
        new_generation(self._memory)
        for vcpu in core.vcpus:
            set_reset_msrs(vcpu)
        set_boot_state(core.vcpus[0], state)  # the others wait for their start-up IPI
        assert self._loading is not None
        self._loading.join()
        core.wait_for_memory()

    def go_on(self, slots: Slots) -> None:
        """There is nothing yet."""

    def release(self, core: Core) -> None:
        """Its clocks began when it was made."""

    def close(self) -> None:
        """Wait for the copying, whatever its result. A second call does nothing."""
        if self._loading is not None:
            self._loading.close()
