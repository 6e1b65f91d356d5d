"""The built-in devices: one line for each.

A line holds what must be known before any code of the device is imported: its package, the flag of ``pyvmm boot``, and
the name of its configuration record.  Everything else is in the package: the record, a
:class:`~vmm.virtio.device_config.DeviceConfig`; ``SYNTAX``, the table of what users type for it; and the device. The
command line, ``--help``, completion, the names that ``vmm`` exports and the opening of devices come from these.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.options.syntax import Syntax
    from vmm.virtio.device_config import DeviceConfig


class BuiltIn:
    """A built-in device.

    :param package: its folder in ``vmm/virtio``
    :param flag: of ``pyvmm boot``
    :param record: name of its configuration record
    :param field: of :class:`~vmm.config.MachineConfig`
    :param one: a machine has at most one, and the field is that one, or None; otherwise the field is a tuple
    :param names: further exports of its package
    """

    __slots__ = ("field", "flag", "names", "one", "package", "record")

    def __init__(
        self,
        package: str,
        flag: str,
        record: str,
        field: str = "more_devices",
        *,
        one: bool = False,
        names: tuple[str, ...] = (),
    ) -> None:
        self.package = package
        self.flag = flag
        self.record = record
        self.field = field
        self.one = one
        self.names = (record, *names)

    @property
    def module(self) -> str:
        """Name of the module with the record and the syntax."""
        return f"vmm.virtio.{self.package}"

    def load(self) -> type[DeviceConfig]:
        """Its record."""
        found: type[DeviceConfig] = getattr(__import__(self.module, fromlist=(self.record,)), self.record)
        return found

    def syntax(self) -> Syntax:
        """What users type for it."""
        found: Syntax = __import__(self.module, fromlist=("SYNTAX",)).SYNTAX
        return found


BUILT_IN = (
    BuiltIn("blk", "--disk", "DiskConfig", "disks"),
    BuiltIn("fs", "--share", "ShareConfig", "shares"),
    BuiltIn("net", "--net", "NetConfig", "nets", names=("Publish",)),
    BuiltIn("vsock", "--vsock", "VsockConfig", "vsock", one=True),
    BuiltIn("pmem", "--pmem", "PmemConfig", "pmems"),
    BuiltIn("balloon", "--balloon", "BalloonConfig", "balloon", one=True),
    BuiltIn("mem", "--hotplug-memory", "HotplugMemoryConfig", "hotplug_memory", one=True),
    BuiltIn("rng", "--rng", "RngConfig", "rng", one=True),
    BuiltIn("console", "--console-device", "ConsoleConfig", "console", one=True),
)
"""In the order of ``--help``."""


def home_of(name: str) -> str:
    """The module with an exported name of a built-in device; empty: there is none."""
    for each in BUILT_IN:
        if name in each.names:
            return each.module
    return ""
