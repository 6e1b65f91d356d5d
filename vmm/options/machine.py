"""The parts of a machine's configuration that name no device, and what the boot loader and devices read of it."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.options.sizes import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class RootFs(Protocol):
        """A disk or a share that is the root file system."""

        @property
        def read_only(self) -> bool: ...

    class Console(Protocol):
        """Where the console goes, and which device the guest has for it."""

        @property
        def device(self) -> str: ...

    class Machine(Protocol):
        """What the boot loader and the records of devices read of a :class:`vmm.config.MachineConfig`."""

        @property
        def boot(self) -> BootConfig: ...

        @property
        def memory(self) -> MemoryConfig: ...

        @property
        def cpus(self) -> int: ...

        @property
        def rootfs(self) -> RootFs | None: ...

        @property
        def console(self) -> Console: ...

        @property
        def hotplug_memory(self) -> object | None: ...

        def all_cpus(self) -> int: ...

        def has_pci(self) -> bool: ...

        def root_tag(self) -> str: ...


ENTRIES = ("auto", "pvh", "linux64")


@dataclass(frozen=True)
class BootConfig:
    """What to boot.

    :ivar kernel: path of an ELF vmlinux or of a bzImage
    :ivar initrd: path of an initial ramdisk, or None
    :ivar cmdline: appended to the default command line
    :ivar entry: ``pvh``, ``linux64``, or ``auto``: PVH where the kernel has its note
    """

    kernel: str
    initrd: str | None = None
    cmdline: str = ""
    entry: str = "auto"

    def __post_init__(self) -> None:
        if self.entry not in ENTRIES:
            raise ConfigError(f"boot entry {self.entry!r}: not one of {', '.join(ENTRIES)}", code="boot-entry")


@dataclass(frozen=True)
class MemoryConfig:
    """Guest RAM: *size* in bytes, and see :class:`vmm.memory.GuestMemory`."""

    size: int = 256 * MIB
    huge_pages: str = "auto"
    prefault: bool = False
    shared: bool = False
