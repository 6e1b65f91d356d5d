"""The devices of config.json, for a guest: which it has, and what a privileged container gets."""

from __future__ import annotations

import os
import stat

from pyvmm_kata.config.checks import Json, bad

DEVICES = {
    (1, 3): "/dev/null", (1, 5): "/dev/zero", (1, 7): "/dev/full", (1, 8): "/dev/random", (1, 9): "/dev/urandom",
    (1, 11): "/dev/kmsg", (5, 0): "/dev/tty", (10, 200): "/dev/net/tun", (10, 229): "/dev/fuse",
}  # fmt: skip
"""Character devices, by number, that mean the same in the guest, and where it has them."""
ALL_DEVICES: Json = {"path": "/dev", "type": "a"}
"""What the agent takes for every device that the guest has."""
_PRIVILEGES = {"CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_MKNOD"}


def device_in_guest(status: os.stat_result, source: str, index: int) -> str:
    """The guest's device for one of the host's that is to be bound."""
    number = os.major(status.st_rdev), os.minor(status.st_rdev)
    if stat.S_ISCHR(status.st_mode) and number in DEVICES:
        return DEVICES[number]
    raise bad(
        f"mounts[{index}].source",
        f"{source} is no file, directory or socket: a device or a pipe of the host cannot be given to a guest",
    )


def devices_of(spec: Json) -> list[Json]:
    linux = spec.get("linux", {})
    devices = linux.get("devices", ())
    if is_privileged(spec):
        return [*(device for device in devices if _is_in_guest(device)), ALL_DEVICES]
    for index, device in enumerate(devices):
        if not _is_in_guest(device):
            raise bad(
                f"linux.devices[{index}].path",
                f"{device['path']!r:.200}: the guest has no such device",
                f"it has {', '.join(DEVICES.values())}",
            )
    return list(devices)


def _is_in_guest(device: Json) -> bool:
    if device["type"] == "p":
        return True
    return device["type"] in "cu" and (device.get("major", 0), device.get("minor", 0)) in DEVICES


def is_privileged(spec: Json) -> bool:
    """Whether the container may do what the guest's root may: engines give such a container all devices of the host."""
    rules = spec.get("linux", {}).get("resources", {}).get("devices", ())
    return _has_rights(spec) and any(_allows_all(rule) for rule in rules)


def _has_rights(spec: Json) -> bool:
    return set(spec["process"].get("capabilities", {}).get("bounding", ())) >= _PRIVILEGES


def has_all_rights(spec: Json) -> bool:
    """Whether it is what an engine in a user namespace makes of ``--privileged``: without rules for devices, and with a
    bind mount for each device of the host, since mknod(2) fails there."""
    return _has_rights(spec) and not spec.get("linux", {}).get("maskedPaths")


def _allows_all(rule: Json) -> bool:
    return (
        bool(rule.get("allow"))
        and rule.get("type", "") in ("", "a")
        and set(rule.get("access", "rwm")) >= set("rwm")
        and rule.get("major", -1) == rule.get("minor", -1) == -1
    )


def device_rule(rule: Json) -> Json:
    """A rule with its omitted numbers: -1 is any, and in the message an omitted number would be 0."""
    return rule if rule.get("type", "a") in ("", "a") else {"major": -1, "minor": -1, **rule}
