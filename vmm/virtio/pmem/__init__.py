"""virtio-pmem: an image as memory (virtio 1.2, 5.19): its record, and its text form."""

from __future__ import annotations

from vmm.faststart.record import dataclass
from vmm.options.syntax import Key, Syntax
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening

SYNTAX = Syntax(
    "pmem",
    "an image as memory (/dev/pmem0, ...), FILE[,ro]; may be repeated",
    (Key("ro", "", "the guest's writes go nowhere", "read_only"),),
    first="FILE",
    of="file",
)


@dataclass(frozen=True)
class PmemConfig(DeviceConfig):
    """An image that the guest maps as memory (``/dev/pmem0``, ...): its pages are those of the host's page cache.

    :ivar path: a raw image file or a block device; a multiple of 2 MiB long, unless it is read-only
    :ivar read_only: the guest's writes go nowhere; many machines may use one image
    """

    path: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str, flag: str = "--pmem") -> PmemConfig:
        """From :data:`SYNTAX`.

        :raises ConfigError: an option that is not known
        """
        values = SYNTAX.parse(text, flag)
        return cls(values.pop("first"), **values)

    @property
    def calls(self) -> int:
        from vmm.native import lib

        return int(lib.SECCOMP_PMEM)

    def open(self, opening: Opening) -> VirtioDevice:
        from vmm.virtio.pmem.device import Pmem

        device = Pmem(self)
        device.thread_name = f"pmem{opening.place}"
        return device
