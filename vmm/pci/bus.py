"""PCI bus 0: the ECAM window, the place of each function, and the BARs that decode."""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.errors import ConfigError
from vmm.faststart.thread import RLock
from vmm.pci import spec
from vmm.pci.config import ConfigSpace
from vmm.saveable import Schema, State, mismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BAR_STRIDE = 1 << 20
"""The BARs that we assign are so far apart."""
_SCHEMA = Schema("pci-bus", 1, {"functions": ["u8"], "bridge": "bytes"})


class Function:
    """A function at a device number of the bus.

    :ivar config: its configuration space; C answers most reads from its page
    """

    config: ConfigSpace

    def config_read(self, register: int, size: int) -> int:
        """The guest's read; a function whose reads have effects overrides it."""
        return int.from_bytes(self.config.page[register : register + size], "little")

    def config_write(self, register: int, size: int, value: int) -> None:
        """The guest's write of *size* bytes, inside the space."""
        self.config.write(register, size, value)

    def reset(self) -> None:
        """The bus is reset, as at power-on; the bus itself resets the command register and the BARs."""


class HostBridge(Function):
    """The root of the bus, device 0."""

    def __init__(self) -> None:
        self.config = ConfigSpace(spec.INTEL, spec.Q35_MCH, spec.CLASS_BRIDGE_HOST)


class PciBus(BusDevice):
    """The bus, and its ECAM window as a device of the MMIO bus (PCI Firmware 3.3, 4.1).  Any thread may call anything.

    A BAR decodes while its function has memory accesses enabled and it lies completely in the host bridge's window. Of
    overlapping BARs, the earlier one decodes.

    :param window: first address and size of the window that the host bridge forwards to 32-bit BARs
    :param on_map: called when a BAR begins to decode, with the function, the BAR's number and the address
    :param on_unmap: called with the same when it stops, before it moves or its function is removed
    :ivar windows: first address and size of the window for 64-bit BARs, with their initial addresses
    """

    name = "pci"

    def __init__(
        self,
        window: tuple[int, int],
        on_map: Callable[[Function, int, int], None],
        on_unmap: Callable[[Function, int, int], None],
    ) -> None:
        self._start = window[0]
        self._window = window
        self._on_map = on_map
        self._on_unmap = on_unmap
        self._lock = RLock()
        self.functions: dict[int, Function] = {}
        self.windows: list[tuple[int, int]] = []
        self._first: dict[tuple[int, int], int] = {}
        """Of each BAR, by device and number: where we put it."""
        self._mapped: dict[tuple[int, int], tuple[int, int]] = {}
        """Of each BAR that decodes: first address and the one behind its last."""

    def add(self, function: Function, window: int = 0) -> int:
        """Put *function* at the lowest free device number, its BAR at an address of its own.

        :param window: the address of its 64-bit BAR, if it has one; a multiple of its size
        :returns: the device number
        :raises ConfigError: all are taken
        """
        with self._lock:
            slot = self.check_room()
            assert function.config.bars.get(0, 0) <= BAR_STRIDE
            for number, size in function.config.bars.items():
                if number:
                    self.windows.append((window, size))
                self._first[slot, number] = window if number else self._start + slot * BAR_STRIDE
            self.functions[slot] = function
            self._place(slot)
            return slot

    def _place(self, slot: int) -> None:
        config = self.functions[slot].config
        for number in config.bars:
            config.place_bar(number, self._first[slot, number])

    def reset(self) -> None:
        """Nothing decodes; BARs have their initial addresses."""
        with self._lock:
            for slot, function in self.functions.items():
                function.reset()
                function.config_write(spec.COMMAND, 2, 0)
                self._unmap(slot)
                self._place(slot)

    def look_again(self) -> None:
        """Apply the configuration spaces, after they were loaded from a snapshot."""
        with self._lock:
            self._remap()

    saving = _SCHEMA

    def save(self) -> State:
        """The functions, and the guest's writes to the host bridge. Other functions save their own state."""
        with self._lock:
            return _SCHEMA.make(functions=sorted(self.functions), bridge=self.functions[0].config.save())

    def restore(self, state: State) -> None:
        """The functions are attached and restored; their BARs decode from now on."""
        payload = _SCHEMA.read(state, self.name)
        with self._lock:
            bridge = self.functions[0].config
            if payload["functions"] != sorted(self.functions) or not bridge.is_like(payload["bridge"]):
                raise mismatch(self.name, f"functions {payload['functions']} where {sorted(self.functions)} are")
            bridge.put(0, payload["bridge"])
            self._remap()

    def check_room(self) -> int:
        """
        :returns: the lowest free device number
        :raises ConfigError: none is free
        """
        slot = next((number for number in range(spec.DEVICES) if number not in self.functions), None)
        if slot is None:
            raise ConfigError(
                f"all {spec.DEVICES} device numbers of the PCI bus are taken",
                code="pci-slots",
                hint="use fewer devices",
            )
        return slot

    def remove(self, slot: int) -> Function | None:
        """Remove a function from the bus; None if there was none."""
        with self._lock:
            function = self.functions.get(slot)
            if function is not None:
                self._unmap(slot)
                del self.functions[slot]
                self._remap()
            return function

    # -- the guest's side ----------------------------------------------------------------------------------------

    def _find(self, offset: int, size: int) -> tuple[Function | None, int]:
        register = offset % spec.CONFIG_SIZE
        function = self.functions.get(offset >> spec.ECAM_SHIFT)
        # Device numbers are 32 KiB apart, for eight functions each; ours have only the first
        if offset % (1 << spec.ECAM_SHIFT) >= spec.CONFIG_SIZE or register + size > spec.CONFIG_SIZE:
            function = None
        return function, register

    def read(self, offset: int, size: int) -> int:
        with self._lock:
            function, register = self._find(offset, size)
            return (1 << 8 * size) - 1 if function is None else function.config_read(register, size)

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            function, register = self._find(offset, size)
            if function is not None:
                function.config_write(register, size, value)
                self._remap()

    # -- what decodes --------------------------------------------------------------------------------------------

    def _wanted(self, slot: int, number: int) -> tuple[int, int] | None:
        """The address at which a BAR would decode if no other did."""
        config = self.functions[slot].config
        bar = config.bar(number)
        if bar is None:
            return None
        end = bar + config.bars[number]
        windows = self.windows if number else [self._window]
        return (bar, end) if any(start <= bar and end <= start + size for start, size in windows) else None

    def _unmap(self, slot: int, number: int | None = None) -> None:
        """One BAR of a device, or all."""
        for key in [each for each in self._mapped if each[0] == slot and number in (None, each[1])]:
            self._on_unmap(self.functions[slot], key[1], self._mapped.pop(key)[0])

    def _remap(self) -> None:
        for key in list(self._mapped):
            if self._mapped[key] != self._wanted(*key):
                self._unmap(*key)
        for slot, function in self.functions.items():
            for number in function.config.bars:
                wanted = self._wanted(slot, number)
                if (slot, number) in self._mapped or wanted is None:
                    continue
                if all(wanted[1] <= start or end <= wanted[0] for start, end in self._mapped.values()):
                    self._mapped[slot, number] = wanted
                    self._on_map(function, number, wanted[0])
