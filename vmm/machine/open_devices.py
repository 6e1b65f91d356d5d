"""The devices that a configuration asks for: opened, not yet attached."""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.virtio.blk.config import DiskConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmm.events import Loop
    from vmm.machine.config import ConsoleConfig, MachineConfig
    from vmm.machine.owned import Owned
    from vmm.machine.slots import Attached
    from vmm.virtio.balloon.device import Balloon
    from vmm.virtio.console.device import VirtioConsole
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.fs.device import Fs
    from vmm.virtio.vsock.config import VsockConfig
    from vmm.virtio.vsock.device import Vsock
    from vmm.virtio.vsock.vhost import VhostVsock


def open_devices(config: MachineConfig, owned: Owned) -> list[VirtioDevice]:
    """The devices of *config*, in the order of their slots.  What was opened is *owned*, also on errors."""
    return [
        *_open_disks(config, owned),
        *_open_shares(config, owned),
        *_open_nets(config, owned),
        *_open_more(config, owned),
    ]


def _open_disks(config: MachineConfig, owned: Owned) -> list[VirtioDevice]:
    wanted = (config.rootfs, *config.disks) if isinstance(config.rootfs, DiskConfig) else config.disks
    if not wanted:
        return []
    from vmm.virtio.blk.device import Blk

    disks: list[VirtioDevice] = []
    for index, disk in enumerate(wanted):
        device = Blk(disk, cpus=config.cpus)
        device.thread_name = f"blk-{disk_letters(index)}-"
        owned.add(device)
        disks.append(device)
    return disks


def disk_letters(index: int) -> str:
    """Linux's name of a disk: vda, ..., vdz, vdaa (``virtblk_name_format()`` in drivers/block/virtio_blk.c)."""
    name = ""
    while index >= 0:
        name = chr(ord("a") + index % 26) + name
        index = index // 26 - 1
    return f"vd{name}"


def _open_shares(config: MachineConfig, owned: Owned) -> list[VirtioDevice]:
    shares: list[VirtioDevice] = []
    for tag, share in config.tagged_shares():
        kind: type[Fs]
        if share.isolation == "process":
            from vmm.virtio.fs.process import FsProcess as kind
        else:
            from vmm.virtio.fs.device import Fs as kind

        device = kind(share, tag, cpus=config.cpus)
        device.thread_name = f"fs-{tag[:8]}-"
        owned.add(device)
        shares.append(device)
    return shares


def _open_nets(config: MachineConfig, owned: Owned) -> list[VirtioDevice]:
    nets: list[VirtioDevice] = []
    for index, net in enumerate(config.nets):
        from vmm.virtio.net.device import Backend, Net, stable_mac

        backend: Backend
        if net.kind == "tap":
            from vmm.virtio.net.tap import Tap

            backend = Tap(net.tap, net.queues, net.mtu)
            mac = net.mac_bytes() if net.mac else stable_mac(backend.identity)
        else:
            from vmm.virtio.net.passt import Passt

            mac = net.mac_bytes() if net.mac else stable_mac(f"user {index}")
            backend = Passt(mac, net.publish, net.mtu)
        owned.add(backend)
        device = Net(backend, mac=mac, limit=net.limit)
        device.thread_name = f"net{index}-"
        owned.add(device)
        nets.append(device)
    return nets


def _open_more(config: MachineConfig, owned: Owned) -> list[VirtioDevice]:
    devices: list[VirtioDevice] = []
    if config.pmems:
        from vmm.virtio.pmem.device import Pmem

        for image in config.pmems:
            device = Pmem(image)
            device.thread_name = f"pmem{len(devices)}"
            owned.add(device)
            devices.append(device)
    if config.balloon is not None:
        from vmm.virtio.balloon.device import Balloon

        devices.append(Balloon(config.balloon, config.memory.size))
    return devices


def open_console(config: ConsoleConfig, loop: Loop, owned: Owned) -> VirtioConsole | None:
    """The virtio console of *config*; None: its console is the UART."""
    if config.device != "virtio":
        return None
    from vmm.virtio.console.device import VirtioConsole

    console = VirtioConsole(out_fd=config.fd, drop=config.drop)
    owned.add(console)
    console.attach_host(loop)
    return console


def vsock_of(vsock: Vsock | VhostVsock | None) -> Vsock | VhostVsock:
    """The socket device of a machine.

    :raises ConfigError: it has none
    """
    if vsock is None:
        raise ConfigError("the machine has no vsock", code="vsock-none", hint="MachineConfig(vsock=VsockConfig(...))")
    return vsock


def balloon_of(attached: Iterable[Attached]) -> Balloon:
    """The balloon among a machine's devices.

    :raises ConfigError: the machine was configured without one
    """
    from vmm.virtio.balloon.device import Balloon

    for slot in attached:
        if isinstance(slot.device, Balloon):
            return slot.device
    raise ConfigError(
        "the machine has no balloon", code="balloon-none", hint="MachineConfig(balloon=BalloonConfig(...))"
    )


def open_vsock(config: VsockConfig, owned: Owned) -> Vsock | VhostVsock:
    """The socket device of *config*."""
    device: Vsock | VhostVsock
    if config.backend == "vhost":
        from vmm.virtio.vsock.vhost import VhostVsock

        device = VhostVsock(config)
    else:
        from vmm.virtio.vsock.device import Vsock

        device = Vsock(config)
    owned.add(device)
    return device
