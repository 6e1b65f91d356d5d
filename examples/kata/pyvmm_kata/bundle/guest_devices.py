"""The devices of config.json, for a guest: those that it has, those that are disks, and those of a privileged
container."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import bad
from pyvmm_kata.state import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

DEVICES = {
    (1, 3): "/dev/null", (1, 5): "/dev/zero", (1, 7): "/dev/full", (1, 8): "/dev/random", (1, 9): "/dev/urandom",
    (1, 11): "/dev/kmsg", (5, 0): "/dev/tty", (10, 200): "/dev/net/tun", (10, 229): "/dev/fuse",
}  # fmt: skip
"""Character devices, by number, that mean the same in the guest, and where it has them."""
ALL_DEVICES: Json = {"path": "/dev", "type": "a"}
"""What the agent takes for every device that the guest has."""
DISK = "disk"
"""What of a device, or of a rule about one, names the disk that it is in the guest, by its serial number.  It is not of
config.json, and only the guest knows the number."""
_PRIVILEGES = {"CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_MKNOD"}


def device_in_guest(status: os.stat_result, source: str, index: int) -> str:
    """The guest's device for a host device that a bind mount names."""
    number = os.major(status.st_rdev), os.minor(status.st_rdev)
    if stat.S_ISCHR(status.st_mode) and number in DEVICES:
        return DEVICES[number]
    raise bad(
        f"mounts[{index}].source",
        f"{source} is no file, directory or socket: a device or a pipe of the host cannot be given to a guest",
    )


class Volume(NamedTuple):
    """A block device of the host that is a disk of the container's machine.

    :ivar path: on the host
    :ivar read_only: no rule of the container allows writing to it
    """

    path: str
    read_only: bool


def serial_of(number: int) -> str:
    """The serial number of a container's volume, in the order of config.json."""
    return f"volume-{number}"


def volumes_of(spec: Json) -> tuple[Volume, ...]:
    """The block devices of a container, in order.

    :raises ConfigError: the host has no such device
    """
    if is_privileged(spec):
        return ()  # an engine names all that the host has
    rules = spec.get("linux", {}).get("resources", {}).get("devices", ())
    found = []
    for index, device in enumerate(spec.get("linux", {}).get("devices", ())):
        if device["type"] == "b":
            path = _path_of(device)
            if not path:
                raise bad(
                    f"linux.devices[{index}]",
                    f"{device['path']!r:.200}: the host has no block device {_number(device)}",
                )
            found.append(Volume(path, not any(_lets_write(rule, device) for rule in rules)))
    return tuple(found)


def _number(device: Json) -> str:
    return f"{device.get('major', 0)}:{device.get('minor', 0)}"


def _path_of(device: Json) -> str:
    """The host's own name of a block device; empty: there is none."""
    try:
        with open(f"/sys/dev/block/{_number(device)}/uevent") as file:
            words = dict(line.rstrip("\n").partition("=")[::2] for line in file)
        path = f"/dev/{words['DEVNAME']}"
        status = os.stat(path)
    except (OSError, KeyError):
        return ""
    number = os.makedev(device.get("major", 0), device.get("minor", 0))
    return path if stat.S_ISBLK(status.st_mode) and status.st_rdev == number else ""


def _lets_write(rule: Json, device: Json) -> bool:
    numbers = (rule.get(name, -1) in (-1, device.get(name, 0)) for name in ("major", "minor"))
    return (
        bool(rule.get("allow"))
        and rule.get("type", "a") in ("", "a", "b")
        and all(numbers)
        and "w" in (rule.get("access") or "rwm")
    )


def devices_of(spec: Json, serials: Sequence[str] = ()) -> list[Json]:
    """The devices of config.json in the guest's form.

    :param serials: the serial numbers of its block devices; empty: those of a machine that has them from its start
    """
    linux = spec.get("linux", {})
    devices = linux.get("devices", ())
    if is_privileged(spec):
        return [*(device for device in devices if _is_in_guest(device)), ALL_DEVICES]
    found, disks = [], 0
    for index, device in enumerate(devices):
        if device["type"] == "b":
            found.append({**device, DISK: serials[disks] if serials else serial_of(disks)})
            disks += 1
        elif _is_in_guest(device):
            found.append(device)
        else:
            raise bad(
                f"linux.devices[{index}].path",
                f"{device['path']!r:.200}: the guest has no such device",
                f"it has {', '.join(DEVICES.values())}, and block devices as disks",
            )
    return found


def _is_in_guest(device: Json) -> bool:
    if device["type"] == "p":
        return True
    return device["type"] in "cu" and (device.get("major", 0), device.get("minor", 0)) in DEVICES


def is_privileged(spec: Json) -> bool:
    """Whether the container has all rights of the guest's root: engines give such a container all devices of the
    host."""
    rules = spec.get("linux", {}).get("resources", {}).get("devices", ())
    return _has_rights(spec) and any(_allows_all(rule) for rule in rules)


def _has_rights(spec: Json) -> bool:
    return set(spec["process"].get("capabilities", {}).get("bounding", ())) >= _PRIVILEGES


def has_all_rights(spec: Json) -> bool:
    """Whether it results from ``--privileged`` in an engine in a user namespace: without rules for devices, and with a
    bind mount for each device of the host, since mknod(2) fails there."""
    return _has_rights(spec) and not spec.get("linux", {}).get("maskedPaths")


def _allows_all(rule: Json) -> bool:
    return (
        bool(rule.get("allow"))
        and rule.get("type", "") in ("", "a")
        and set(rule.get("access", "rwm")) >= set("rwm")
        and rule.get("major", -1) == rule.get("minor", -1) == -1
    )


def device_rule(rule: Json, devices: Sequence[Json]) -> Json:
    """A rule with its omitted numbers: -1 is any, and in the message an omitted number would be 0.

    :param devices: the result of :func:`devices_of` for the container
    """
    if rule.get("type", "a") in ("", "a"):
        return rule
    made = {"major": -1, "minor": -1, **rule}
    for device in devices:
        if DISK in device and made["type"] == "b" and _number(made) == _number(device):
            return {**made, DISK: device[DISK]}
    return made
