"""Shells: empty machines that are prepared before children of a fork are put into them."""

from __future__ import annotations

from vmm.board.kvm_vm import new_core
from vmm.board.open_devices import OpenedAhead
from vmm.board.owned import Native, Owned
from vmm.events import Loop
from vmm.faststart.thread import ThreadAhead
from vmm.memory import GuestMemory
from vmm.native import lib
from vmm.virtio.register_page import PagesAhead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vmm.board.kvm_vm import Core
    from vmm.board.slots import Attached
    from vmm.config import MachineConfig
    from vmm.memory.layers import Layer


class Shell:
    """An empty machine: what KVM keeps of one, RAM that no guest has touched, servers of shares, and threads and pages
    of registers for devices.

    :param like: of a machine that has the same lines
    :param attached: the devices of that machine
    :param exactly: RAM is filled page by page when it is touched, so that :attr:`first` has each
    :ivar first: the pages that its guest touches first, without those of :meth:`fill_early`
    :ivar filled: :meth:`fill_early` has filled some
    :ivar threads: those that nobody has taken end when this is closed
    :ivar vcpu_threads: one for each vCPU that runs
    :raises HostError: the host refuses
    """

    def __init__(
        self,
        config: MachineConfig,
        like: Core,
        attached: Sequence[Attached],
        *,
        shared: bool,
        exactly: bool = False,
    ) -> None:
        self._kind = _kind(config, shared)
        self._owned = Owned()
        self.filled = False
        try:
            ram = config.memory
            self.loop = self._owned.add(Loop())
            self.memory = self._owned.add(
                GuestMemory(
                    config.all_memory(), huge_pages=ram.huge_pages, shared=shared, hotplug=config.hotplug_size()
                )
            )
            if shared and config.takes_memory_on_demand() and not ram.prefault and ram.huge_pages != "hugetlb":
                self.memory.fill.prepare(exactly=exactly)
            self.first = self.memory.fill.record_first()
            self.core = self._owned.add(new_core(config))
            self.core.async_pf = like.async_pf
            self.core.make_vcpus(self.memory)
            self.core.make_lines(like)
            self.devices = OpenedAhead(config, self._owned)
            self.threads = self._owned.branch()
            self.pages = self._owned.add(PagesAhead(map(_page_place, attached)))
            self.vcpu_threads = [self._owned.add(ThreadAhead(f"vcpu{index}")) for index in range(config.cpus)]
            for each in attached:
                for spare in each.device.spares():
                    self.threads.add(Native(spare, lib.spare_free))
            self.core.wait_for_memory()
        except BaseException:
            self._owned.close()
            raise

    def fill_early(self, layers: Sequence[Layer], pages: Collection[int]) -> None:
        """Fill pages of RAM and map them for the guest: when a child is put into this, those that have changed by then
        are copied once more, and its guest takes no fault for any.

        :param layers: what its RAM would be filled from now
        :param pages: numbers of pages
        :raises OSError: the host has not enough memory; this must be closed
        """
        bits = self.memory.bits_of(pages)
        self.filled = self.memory.fill.fill_early(layers, bits)
        if self.filled:
            self.core.vcpus[0].map_pages(self.memory, bits)  # where this KVM cannot, the guest takes its exits

    def fits(self, config: MachineConfig, *, shared: bool) -> bool:
        """A machine with this configuration can be put into it."""
        return self._kind == _kind(config, shared)

    def close(self) -> None:
        """It is not wanted.  A second call does nothing."""
        self._owned.close()


def _kind(config: MachineConfig, shared: bool) -> tuple[object, ...]:
    return config.cpus, config.all_cpus(), config.cpu, config.memory, config.hotplug_memory, shared


def _page_place(attached: Attached) -> tuple[int, bool]:
    return attached.transport.registers.status_place[1], attached.device.shares_memory
