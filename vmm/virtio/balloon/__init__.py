"""virtio-balloon: memory that is returned to the host (virtio 1.2, 5.5): its record, and its text form."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.options.syntax import Key, Syntax, size, switch
from vmm.virtio.device_config import DeviceConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.options.machine import Machine
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import Opening

SYNTAX = Syntax(
    "balloon",
    "a memory balloon: on, or size=SIZE,free-page-reporting=on (see below)",
    (
        Key("on", "", "alone: an empty balloon"),
        Key("size", "SIZE", "memory that the guest gives up from the start", convert=size),
        Key("free-page-reporting", "on|off", "return memory that the guest does not use", convert=switch),
        Key("free-page-hinting", "on|off", "return free memory once per Machine.start_hinting()", convert=switch),
        Key("deflate-on-oom", "on|off", "off: a guest that is short of memory gets none back", convert=switch),
    ),
)


@dataclass(frozen=True)
class BalloonConfig(DeviceConfig):
    """A memory balloon: guest memory that is returned to the host.

    :ivar size: bytes that the guest gives up from the start
    :ivar free_page_reporting: the guest reports free memory, and the host takes it back until it is used
    :ivar free_page_hinting: the same, once for each call of :meth:`vmm.Machine.start_hinting`
    :ivar deflate_on_oom: the guest may take memory out of the balloon before it kills a process for lack of memory
    """

    size: int = 0
    free_page_reporting: bool = False
    deflate_on_oom: bool = True
    free_page_hinting: bool = False

    def __post_init__(self) -> None:
        if self.size < 0 or self.size % 4096:
            raise ConfigError(f"balloon of {self.size} bytes: not a multiple of 4096", code="balloon-size")

    @classmethod
    def parse(cls, text: str, flag: str = "--balloon") -> BalloonConfig:
        """From :data:`SYNTAX`.

        :raises ConfigError: an unknown option, or an invalid value
        """
        values = SYNTAX.parse(text, flag)
        values.pop("on", None)
        return cls(**values)

    def check(self, machine: Machine) -> None:
        if machine.memory.huge_pages == "hugetlb":
            raise ConfigError(
                "a balloon cannot return hugetlb pages, which are reserved",
                code="balloon-hugetlb",
                hint="use huge pages auto or thp",
            )

    def open(self, opening: Opening) -> VirtioDevice:
        from vmm.virtio.balloon.device import Balloon

        return Balloon(self, opening.ram)
