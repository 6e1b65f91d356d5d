"""What a machine does before its first instruction: the kernel's files into RAM, tables, the state of the vCPUs."""

from __future__ import annotations

from vmm import boot
from vmm.faststart.thread import Task
from vmm.kvm.state import set_boot_state, set_reset_msrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.machine.kvm_vm import Core
    from vmm.machine.slots import Slots
    from vmm.memory import GuestMemory


class Bootstrap:
    """Copies the files in the background from the start on: that takes as long as all the rest, and needs nothing of
    it.

    :param plan: what :func:`vmm.boot.check` found right
    """

    def __init__(self, plan: boot.BootPlan, memory: GuestMemory) -> None:
        self._memory = memory
        self.begin(plan)

    def begin(self, plan: boot.BootPlan) -> None:
        """Begin anew, with other files perhaps; RAM is empty."""
        self._plan = plan
        self._loading = Task(lambda: boot.load_files(plan, self._memory), "loader")

    def finish(self, core: Core, slots: Slots) -> None:
        """All devices are attached: tell the kernel of them, and put the vCPUs where they begin.

        :raises ConfigError: a file has changed since it was checked, or there are too many devices
        """
        state = boot.place_tables(self._plan, self._memory, len(core.vcpus), slots.numbers, slots.windows)
        for vcpu in core.vcpus:
            set_reset_msrs(vcpu)
        set_boot_state(core.vcpus[0], state)  # the others wait for their start-up IPI
        self._loading.join()
        core.wait_for_memory()

    def close(self) -> None:
        """Wait for the copying, whatever came of it.  Harmless when done twice."""
        self._loading.close()
