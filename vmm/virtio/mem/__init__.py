"""virtio-mem: memory that is added while the guest runs (virtio 1.2, 5.15): its record, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.memory.layout import ADDRESSES_END, HUGE_2M, hotplug_base
from vmm.options.syntax import Key, Syntax, size
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.options.machine import Machine
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening

PIECE = 128 << 20
"""In no smaller pieces does Linux add memory on a PC."""
BLOCK_MOST = PIECE
SYNTAX = Syntax(
    "hotplug-memory",
    "memory that may be added later by pyvmm resize: size=SIZE (see below)",
    (
        Key("size", "SIZE", "the largest amount, a multiple of 128 MiB", convert=size),
        Key("block", "SIZE", "size of the blocks, 2M (default) to 128M", convert=size),
    ),
)


@dataclass(frozen=True)
class HotplugMemoryConfig(DeviceConfig):
    """Memory that a guest may get while it runs, in addition to its initial memory.

    It costs the host nothing until the guest has it and touches it; see
    :meth:`vmm.machine.machine.Machine.resize_memory`.

    :ivar size: the largest number of bytes, a multiple of 128 MiB
    :ivar block: bytes of the blocks in which the guest takes and returns it, a power of two
    """

    size: int
    block: int = HUGE_2M

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % PIECE:
            raise ConfigError(
                f"{self.size} bytes of memory to add: not a multiple of 128 MiB",
                code="hotplug-memory-size",
                hint="guests add memory in pieces of that size: size=128M, size=1G, ...",
            )
        if self.block & (self.block - 1) or not HUGE_2M <= self.block <= BLOCK_MOST:
            raise ConfigError(
                f"blocks of {self.block} bytes: not a power of two from 2 MiB to 128 MiB", code="hotplug-memory-block"
            )

    @classmethod
    def parse(cls, text: str, flag: str = "--hotplug-memory") -> HotplugMemoryConfig:
        """From :data:`SYNTAX`.

        :raises ConfigError: an unknown option, an invalid value, or no size
        """
        values = SYNTAX.parse(text, flag)
        if "size" not in values:
            raise ConfigError(f"{flag} {text}: no size", code="hotplug-memory-size", hint="give it: size=1G")
        return cls(**values)

    def check(self, machine: Machine) -> None:
        ram = machine.memory
        if machine.hotplug_memory is not self:
            raise ConfigError(
                "memory to add cannot be plugged in, or be one of more_devices",
                code="hotplug-memory-place",
                hint="set it when the machine is made: --hotplug-memory, MachineConfig(hotplug_memory=...)",
            )
        if ram.huge_pages == "hugetlb":
            raise ConfigError(
                "no memory can be added to hugetlb pages, which are reserved",
                code="hotplug-memory-hugetlb",
                hint="use huge pages auto or thp",
            )
        if ram.size % HUGE_2M:
            raise ConfigError(
                f"memory size {ram.size} is not a multiple of 2 MiB, which added memory requires",
                code="memory-size",
            )
        if hotplug_base(ram.size) + self.size > ADDRESSES_END:
            raise ConfigError(
                f"{self.size >> 20} MiB of memory to add to {ram.size >> 20} are more than a guest can address",
                code="hotplug-memory-size",
                hint=f"all of it must end below {ADDRESSES_END >> 30} GiB",
            )

    def open(self, opening: Opening) -> VirtioDevice:
        from vmm.virtio.mem.device import HotplugMemory

        return HotplugMemory(self, hotplug_base(opening.ram))
