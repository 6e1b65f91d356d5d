"""The devices of a configuration: opened, not yet attached; and found again."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.events import Loop
from vmm.virtio.device_config import Opening
from vmm.virtio.spec import ID_BALLOON, ID_CONSOLE, ID_MEM, ID_NET, ID_VSOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from vmm.board.owned import Owned
    from vmm.config import MachineConfig
    from vmm.virtio.balloon.device import Balloon
    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.blk.device import Blk, DiskFiles
    from vmm.virtio.console.device import VirtioConsole
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.device_config import DeviceConfig
    from vmm.virtio.mem.device import HotplugMemory
    from vmm.virtio.net.device import Net
    from vmm.virtio.vsock.device import Vsock
    from vmm.virtio.vsock.vhost import VhostVsock


def open_devices(
    records: Iterable[DeviceConfig],
    config: MachineConfig,
    loop: Loop,
    owned: Owned,
    counts: dict[type, int],
    on_demand: bool,
    ahead: OpenedAhead | None = None,
) -> list[VirtioDevice]:
    """The device of each record, in their order. Opened objects are *owned*, also on errors.

    :param counts: how many devices of each kind of record the machine has had so far; updated here
    :param on_demand: as of :class:`~vmm.virtio.device_config.Opening`
    :param ahead: devices that are open and owned already; used ones are removed from it
    """
    devices: list[VirtioDevice] = []
    for record in records:
        kind = type(record)
        place = counts.get(kind, 0)
        counts[kind] = place + 1
        opening = Opening(config.cpus, config.memory.size, loop, owned, place, on_demand=on_demand)
        device = None if ahead is None else ahead.pop(record)
        devices.append(owned.add(record.open(opening)) if device is None else device)
    return devices


class OpenedAhead:
    """Devices that were opened before the machine that they are for.

    :param config: of a machine that has all of them; those that open quickly are left out
    :param owned: closes them
    """

    def __init__(self, config: MachineConfig, owned: Owned) -> None:
        records = [record for record in (*config.device_configs(), *config.last_configs()) if record.opens_ahead]
        self._owned = owned
        self._devices: list[tuple[DeviceConfig, VirtioDevice]] = []
        if records:
            # None of these has a use for its machine's
            loop = Loop()
            try:
                opened = open_devices(records, config, loop, owned, {}, config.takes_memory_on_demand())
                self._devices += zip(records, opened, strict=True)
            finally:
                loop.close()

    def pop(self, record: DeviceConfig) -> VirtioDevice | None:
        """The one for *record*; None if there is none."""
        for index, (own, device) in enumerate(self._devices):
            if own is record or own == record:
                del self._devices[index]
                return device
        return None

    def give(self, owned: Owned) -> None:
        """From now on *owned* closes them."""
        for _, device in self._devices:
            self._owned.discard(device)
            owned.add(device)
        self._owned = owned

    def close(self) -> None:
        """Those that nobody wanted."""
        while self._devices:
            device = self._devices.pop()[1]
            self._owned.discard(device)
            device.close()


def find(devices: Iterable[VirtioDevice], device_id: int) -> Any:
    """The first device of a kind, or None."""
    for device in devices:
        if device.device_id == device_id:
            return device
    return None


def console_of(devices: Iterable[VirtioDevice]) -> VirtioConsole | None:
    """The virtio console of a machine; None: its console is the UART."""
    found: VirtioConsole | None = find(devices, ID_CONSOLE)
    return found


def vsock_of(devices: Iterable[VirtioDevice]) -> Vsock | VhostVsock:
    """The socket device of a machine.

    :raises ConfigError: it has none
    """
    found: Vsock | VhostVsock | None = find(devices, ID_VSOCK)
    if found is None:
        raise ConfigError("the machine has no vsock", code="vsock-none", hint="MachineConfig(vsock=VsockConfig(...))")
    return found


def nets_of(devices: Iterable[VirtioDevice]) -> list[Net]:
    """The network devices of a machine, in the order of attachment."""
    found: list[Any] = [device for device in devices if device.device_id == ID_NET]
    return found


def balloon_of(devices: Iterable[VirtioDevice]) -> Balloon:
    """The balloon of a machine.

    :raises ConfigError: it has none
    """
    found: Balloon | None = find(devices, ID_BALLOON)
    if found is None:
        raise ConfigError(
            "the machine has no balloon", code="balloon-none", hint="MachineConfig(balloon=BalloonConfig(...))"
        )
    return found


def hotplug_memory_of(devices: Iterable[VirtioDevice]) -> HotplugMemory:
    """The memory device of a machine.

    :raises ConfigError: it has none
    """
    found: HotplugMemory | None = find(devices, ID_MEM)
    if found is None:
        raise ConfigError(
            "the machine has no memory to add",
            code="hotplug-memory-none",
            hint="make it with --hotplug-memory size=SIZE, MachineConfig(hotplug_memory=HotplugMemoryConfig(...))",
        )
    return found


def open_plugged_disk(config: DiskConfig, files: DiskFiles, machine: MachineConfig, place: int) -> Blk:
    """The device of a disk whose files are open; they are closed with it, or now.

    :param place: its number among the disks of the machine, from 0
    :raises ConfigError: the files are not what the record says
    """
    from vmm.virtio.blk import disk_letters
    from vmm.virtio.blk.device import Blk

    try:
        device = Blk(config, cpus=machine.cpus, files=files)
    except BaseException:
        files.close()
        raise
    device.thread_name = f"blk-{disk_letters(place)}-"
    return device
