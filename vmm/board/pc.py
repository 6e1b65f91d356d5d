"""The parts of every machine besides RAM, vCPUs and virtio devices: buses, a serial port, power registers and a
button."""

from __future__ import annotations

from vmm.board.owned import Native
from vmm.board.slots import NOWHERE
from vmm.boot import layout
from vmm.bus import Bus
from vmm.devices import Serial, power_devices
from vmm.errors import ConfigError
from vmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.board.kvm_vm import Core
    from vmm.board.owned import Owned
    from vmm.bus import BusDevice
    from vmm.events import Loop
    from vmm.saveable import Saveable
    from vmm.virtio.console import ConsoleConfig
    from vmm.virtio.device import VirtioDevice


class Platform:
    """Made in two steps: the buses, which vCPUs need, and their devices, which need vCPUs.

    :ivar pio: the control plane's side of the I/O ports, and :attr:`mmio` of memory
    :ivar native: the C bus (cdata ``struct bus *``)
    :param end_of_ram: the first address for windows of devices
    :param owned: of the machine
    """

    def __init__(self, end_of_ram: int, owned: Owned) -> None:
        self.pio, self.mmio = Bus("pio"), Bus("mmio")
        self._owned = owned
        self._more_saved: list[Saveable] = []
        self._address_end = end_of_ram
        self.native = lib.bus_new()
        owned.add(Native(self.native, lib.bus_free))

    def add_devices(self, core: Core, loop: Loop, console: ConsoleConfig, on_power: Callable[[str], None]) -> None:
        """The serial port, with its output according to *console*; the power registers, which report to *on_power*; the
        button."""
        self._core = core
        self.serial = Serial(core.irq_line(layout.COM1_GSI), out_fd=console.fd, drop=console.drop)
        self._owned.add(self.serial)
        lib.bus_add_uart(self.native, layout.COM1, self.serial.native)
        self.serial.attach(loop)
        self.generation = core.irq_line(layout.VM_GENERATION_GSI)
        self.power_button = core.irq_line(layout.POWER_BUTTON_GSI)
        ports = {"i8042": layout.I8042_COMMAND, "acpi_pm": layout.ACPI_SLEEP_CONTROL, "pvpanic": layout.PVPANIC}
        for base, size, device in power_devices(on_power, **ports):
            self.add_pio(base, size, device)

    @property
    def saved(self) -> list[Saveable]:
        """The saved state: only the serial port has one."""
        return [self.serial, *self._more_saved]

    def keep(self, thing: Saveable) -> None:
        """Add it to the saved state."""
        self._more_saved.append(thing)

    def add_pio(self, base: int, size: int, device: BusDevice) -> None:
        """Python answers these ports."""
        self.pio.add(base, size, device)
        lib.bus_add_python(self.native, lib.BUS_PIO, base, size)

    def place_windows(self, device: VirtioDevice, *, bars: bool = False) -> None:
        """Assign addresses to the windows of *device*, after RAM and earlier windows.

        :param bars: they are BARs, which their bus maps when the guest enables them; only addresses are assigned
        :raises ConfigError: there are too many
        """
        for region in device.regions.values():
            size = region.size
            if bars:
                from vmm.virtio.pci_layout import bar_size

                size = bar_size(size)
            # A BAR lies at a multiple of its size
            region.gpa = layout.window_base(self._address_end, size, size if bars else 0)
            self._address_end = region.gpa + size
            if not bars:
                self._core.map_window(region.gpa, region.size, region.host_address, read_only=region.read_only)
            if region.add(self.native, region.native, NOWHERE if bars else region.gpa, region.size) < 0:
                raise ConfigError("a machine has at most 8 windows of shares (dax=) and pmem images", code="windows")
