"""What the configuration records of all devices have in common: what a machine asks of a record, and opens it with."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, Self, TypeVar

    from vmm.events import Loop
    from vmm.options.machine import Machine
    from vmm.virtio.device import VirtioDevice

    class Closable(Protocol):
        """Has a ``close`` whose second call does nothing."""

        def close(self) -> None: ...

    T = TypeVar("T", bound=Closable)

    class Owner(Protocol):
        """Closes what it was given, in the opposite order."""

        def add(self, thing: T) -> T: ...


class Opening:
    """What the device of a record is opened with.

    :ivar cpus: number of the machine's vCPUs
    :ivar ram: bytes of guest memory
    :ivar loop: the machine's control loop
    :ivar owned: closes what a device is made of; the caller closes the device itself
    :ivar place: number of the device among those of its kind in this machine, from 0
    :ivar on_demand: guest RAM is filled when it is touched, or may be when the machine has been forked
    """

    __slots__ = ("cpus", "loop", "on_demand", "owned", "place", "ram")

    def __init__(
        self, cpus: int, ram: int, loop: Loop, owned: Owner, place: int = 0, *, on_demand: bool = False
    ) -> None:
        self.on_demand = on_demand
        self.cpus = cpus
        self.ram = ram
        self.loop = loop
        self.owned = owned
        self.place = place


class DeviceConfig:
    """The base of the configuration record of each device.

    :cvar many_files: the device may hold thousands of descriptors of this process
    :cvar takes_memory_on_demand: the process that maps guest RAM can do so while it is filled page by page
    :cvar opens_ahead: opening it takes long, needs nothing of the machine, and can be done while another machine has
        one of the same record
    """

    many_files: bool = False
    opens_ahead: bool = False
    takes_memory_on_demand: bool = False

    @property
    def shares_memory(self) -> bool:
        """Another process maps guest RAM, which has to be shared memory then."""
        return False

    @property
    def opens_files(self) -> str:
        """Why this process opens files while the guest runs, which neither a jail nor a list of system calls allows;
        empty: it opens none."""
        return ""

    @property
    def calls(self) -> int:
        """Kinds of system calls (``SECCOMP_*``) that the device has, beyond what every worker has, and every machine:
        of its worker in its jail, and of Python that serves it."""
        return 0

    @classmethod
    def parse(cls, text: str, flag: str) -> Self:
        """From what users type.

        :param flag: for messages
        :raises ConfigError: an option that is not known, or a bad value
        """
        raise NotImplementedError(f"{cls.__name__} is not typed by users")

    @classmethod
    def parse_all(cls, texts: list[str], flag: str) -> tuple[Self, ...]:
        """All devices of a command line that gives *flag* so often.

        :raises ConfigError: as :meth:`parse`
        """
        return tuple([cls.parse(text, flag) for text in texts])

    def of_child(self, number: int) -> Self:
        """The record of child *number* of a fork of the machine: without what both cannot have, ports of the host and
        paths of sockets."""
        return self

    def check(self, machine: Machine) -> None:
        """Can *machine* have it?

        :raises ConfigError: it cannot
        """

    def open(self, opening: Opening) -> VirtioDevice:
        """The device, not yet attached.

        :raises ConfigError: what it stands on is missing, in use, or not right
        :raises HostError: the host refuses
        """
        raise NotImplementedError(f"{type(self).__name__} opens no device")
