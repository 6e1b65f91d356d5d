"""The machine that the API's sections describe, as the records of :mod:`vmm`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pyvmm_firecracker import cpu
from pyvmm_firecracker.fault import Fault
from vmm import (
    BalloonConfig,
    BootConfig,
    DiskConfig,
    HotplugMemoryConfig,
    LimitConfig,
    MachineConfig,
    MemoryConfig,
    NetConfig,
    PmemConfig,
    RngConfig,
    VmmError,
    VsockConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from vmm import ConsoleConfig, DeviceConfig

    Body = dict[str, Any]

MIB = 1 << 20
SLOT_MIB, BLOCK_MIB = 128, 2
"""Of memory that is plugged in, unless a request names others."""
DEFAULT_MACHINE = {
    "vcpu_count": 1,
    "mem_size_mib": 128,
    "smt": False,
    "track_dirty_pages": False,
    "huge_pages": "None",
}
_HUGE_PAGES = {"None": "auto", "Transparent": "thp", "2M": "hugetlb"}


@contextlib.contextmanager
def _faults_for(what: str) -> Iterator[None]:
    """Answer a configuration that :mod:`vmm` rejects as the API does, with the hint if there is one."""
    try:
        yield
    except VmmError as error:
        raise Fault(f"{what}: {error}." + (f" Hint: {error.hint}." if error.hint else "")) from error


def _bucket(bucket: Body | None) -> tuple[int, int]:
    """Its rate a second and its size; 0: no limit."""
    if not bucket or not bucket["size"] or not bucket["refill_time"]:
        return 0, 0
    return max(bucket["size"] * 1000 // bucket["refill_time"], 1), bucket["size"]


def limit(limiter: Body | None) -> LimitConfig | None:
    """A rate limiter.  Its ``one_time_burst`` has no counterpart.

    :raises Fault: a rate is out of range
    """
    limiter = limiter or {}
    numbers = (*_bucket(limiter.get("bandwidth")), *_bucket(limiter.get("ops")))
    with _faults_for("Invalid rate limiter"):
        return LimitConfig(*numbers) if any(numbers) else None


def disk(drive: Body) -> DiskConfig:
    """
    :raises Fault: it cannot be
    """
    if drive.get("socket"):
        raise Fault("Unable to create the block device: vhost-user devices are not supported.")
    if not drive.get("path_on_host"):
        raise Fault("Unable to create the block device: `path_on_host` is missing.")
    return DiskConfig(
        drive["path_on_host"],
        read_only=drive.get("is_read_only", False),
        serial=drive["drive_id"][:20],
        limit=limit(drive.get("rate_limiter")),
    )


def net(interface: Body, responder: Body | None = None) -> NetConfig:
    """
    :param responder: more fields, of a card that reaches the metadata service
    :raises Fault: it cannot be
    """
    limits = [limit(interface.get(f"{direction}_rate_limiter")) for direction in ("rx", "tx")]
    if limits[0] != limits[1]:
        raise Fault("Unable to create the network device: both directions have the same rate limiter, or none.")
    return NetConfig(
        "tap",
        tap=interface["host_dev_name"],
        mac=interface.get("guest_mac", ""),
        mtu=interface.get("mtu", 0),
        limit=limits[0],
        **responder or {},
    )


def pmem(device: Body) -> PmemConfig:
    """
    :raises Fault: it cannot be
    """
    if limit(device.get("rate_limiter")):
        raise Fault("Unable to create the pmem device: rate limiters are not supported.")
    return PmemConfig(device["path_on_host"], read_only=device.get("read_only", False))


DEVICES: dict[str, Callable[[Body], DeviceConfig]] = {"drives": disk, "network-interfaces": net, "pmem": pmem}


def device(kind: str, body: Body) -> DeviceConfig:
    """The record of a device with a name.

    :param kind: the section
    :raises Fault: it cannot be
    """
    with _faults_for("Invalid device"):
        return DEVICES[kind](body)


def balloon(body: Body) -> BalloonConfig:
    """
    :raises Fault: it cannot be
    """
    return BalloonConfig(
        body["amount_mib"] * MIB,
        free_page_reporting=body.get("free_page_reporting", False),
        deflate_on_oom=body["deflate_on_oom"],
        free_page_hinting=body.get("free_page_hinting", False),
    )


def _words(sections: Body, root: Body | None) -> str:
    """The end of the kernel's command line: the user's words, and the root where that is no first disk."""
    words = [sections["boot-source"].get("boot_args", "")]
    if root and root.get("partuuid"):
        words += [f"root=PARTUUID={root['partuuid']}", "ro" if root.get("is_read_only") else "rw"]
    for number, each in enumerate(sections["pmem"].values()):
        if each.get("root_device"):
            words += [f"root=/dev/pmem{number}", "ro" if each.get("read_only") else "rw"]
    return " ".join(word for word in words if word)


def _nets(sections: Body, mmds: str) -> tuple[NetConfig, ...]:
    config = sections.get("mmds-config") or {"network_interfaces": ()}
    responder = {"responder": mmds, "responder_address": config.get("ipv4_address", "")} if mmds else {}
    return tuple(
        net(each, responder if name in config["network_interfaces"] else None)
        for name, each in sections["network-interfaces"].items()
    )


def machine_config(
    sections: Body, console: ConsoleConfig, *, transport: str, isolation: str, mmds: str = ""
) -> MachineConfig:
    """The whole machine.

    :param sections: as ``GET /vm/config`` has them, but devices with a name by that name
    :param mmds: path of the metadata service's socket; empty: there is none
    :raises Fault: it cannot be
    """
    if not sections.get("boot-source"):
        raise Fault("Cannot start microvm without kernel configuration.")
    source, machine = sections["boot-source"], sections["machine-config"]
    drives = list(sections["drives"].values())
    root = next((each for each in drives if each["is_root_device"]), None)
    memory = sections.get("memory-hotplug")
    vsock = sections.get("vsock")
    entropy = sections.get("entropy")
    with _faults_for("Invalid configuration"):
        return MachineConfig(
            boot=BootConfig(source["kernel_image_path"], source.get("initrd_path"), _words(sections, root)),
            memory=MemoryConfig(machine["mem_size_mib"] * MIB, _HUGE_PAGES[machine["huge_pages"]]),
            cpus=machine["vcpu_count"],
            cpu=cpu.processor(sections.get("cpu-config")),
            rootfs=disk(root) if root else None,
            disks=tuple(disk(each) for each in drives if each is not root),
            nets=_nets(sections, mmds),
            pmems=tuple(pmem(each) for each in sections["pmem"].values()),
            vsock=VsockConfig(vsock["guest_cid"], vsock["uds_path"]) if vsock else None,
            balloon=balloon(sections["balloon"]) if sections.get("balloon") else None,
            hotplug_memory=_hotplug(memory) if memory else None,
            rng=RngConfig(limit=limit(entropy.get("rate_limiter"))) if entropy is not None else None,
            console=console,
            transport=transport,
            isolation=isolation,
        )


def check_hotplug(memory: Body) -> None:
    """
    :raises Fault: the sizes do not fit to each other
    """
    block, slot = memory.get("block_size_mib", BLOCK_MIB), memory.get("slot_size_mib", SLOT_MIB)
    total = memory["total_size_mib"]
    for is_wrong, what in (
        (block < BLOCK_MIB, f"Block size must not be lower than {BLOCK_MIB} MiB"),
        (block & (block - 1), "Block size must be a power of 2"),
        (slot < SLOT_MIB, f"Slot size must not be lower than {SLOT_MIB} MiB"),
        (slot % block, "Slot size must be a multiple of block size"),
        (total < slot, "Total size must not be lower than slot size"),
        (total % slot, "Total size must be a multiple of slot size"),
    ):
        if is_wrong:
            raise Fault(f"{what}.")


def check_machine(machine: Body, balloon: Body | None) -> None:
    """
    :raises Fault: the processors or the memory cannot be
    """
    if machine["smt"] and machine["vcpu_count"] > 1 and machine["vcpu_count"] % 2:
        raise Fault(
            "The number of vCPUs must be greater than 0, less than 33 and must be 1 or an even number if SMT is "
            "enabled."
        )
    if machine["huge_pages"] == "2M" and machine["mem_size_mib"] % 2:
        raise Fault("The memory size (MiB) is either 0, or not a multiple of the configured page size.")
    if balloon and balloon["amount_mib"] >= machine["mem_size_mib"]:
        raise Fault("The memory size (MiB) is smaller than the previously set balloon device target size.")
    if machine.get("cpu_template", "None") != "None":
        raise Fault(f"CPU template {machine['cpu_template']} is not supported: PUT /cpu-config changes single bits.")


def _hotplug(memory: Body) -> HotplugMemoryConfig:
    block = memory.get("block_size_mib")
    return HotplugMemoryConfig(memory["total_size_mib"] * MIB, **({"block": block * MIB} if block else {}))
