"""What the configuration records of all devices have in common: the interface that a machine uses, and the arguments of
opening."""

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
        """Closes the given objects, in the reverse order."""

        def add(self, thing: T) -> T: ...


class Opening:
    """The arguments with which a record opens its device.

    :ivar cpus: number of the machine's vCPUs
    :ivar ram: bytes of guest memory
    :ivar loop: the machine's control loop
    :ivar owned: closes the parts of a device; the caller closes the device itself
    :ivar place: index of the device among those of its kind in this machine, from 0
    :ivar on_demand: guest RAM is filled when it is touched, or may be after a fork
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

    :cvar many_files: the device may have thousands of descriptors open in this process
    :cvar takes_memory_on_demand: the process that maps guest RAM supports filling it page by page
    :cvar opens_ahead: opening it takes long, needs nothing of the machine, and is possible while another machine uses
        the same record
    """

    many_files: bool = False
    opens_ahead: bool = False
    takes_memory_on_demand: bool = False

    @property
    def shares_memory(self) -> bool:
        """Another process maps guest RAM, so it must be shared memory."""
        return False

    @property
    def opens_files(self) -> str:
        """Why this process opens files while the guest runs, which a jail and a list of system calls forbid; empty: it
        does not."""
        return ""

    @property
    def calls(self) -> int:
        """Kinds of system calls (``SECCOMP_*``) that the device needs beyond those of every worker and machine: for its
        worker in a jail, and for the Python code that serves it."""
        return 0

    @classmethod
    def parse(cls, text: str, flag: str) -> Self:
        """From what users type.

        :param flag: for messages
        :raises ConfigError: an unknown option, or an invalid value
        """
        raise NotImplementedError(f"{cls.__name__} is not typed by users")

    @classmethod
    def parse_all(cls, texts: list[str], flag: str) -> tuple[Self, ...]:
        """All devices of a command line that gives *flag* several times.

        :raises ConfigError: as :meth:`parse`
        """
        return tuple([cls.parse(text, flag) for text in texts])

    def of_child(self, number: int) -> Self:
        """The record for child *number* of a fork: without resources that only one machine can have, such as host ports
        and socket paths."""
        return self

    def check(self, machine: Machine) -> None:
        """Can *machine* have it?

        :raises ConfigError: it cannot
        """

    def open(self, opening: Opening) -> VirtioDevice:
        """The device, not yet attached.

        :raises ConfigError: its backend is missing, in use, or invalid
        :raises HostError: the host refuses
        """
        raise NotImplementedError(f"{type(self).__name__} opens no device")
