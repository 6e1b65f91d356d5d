"""Kernel parameters, host name and limits of config.json: those of the machine, and those that no guest can enforce."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvmm_kata.errors import bad
from pyvmm_kata.host import namespaces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.state import Json

_FIRST_PORT, _PING_GROUPS = "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"
_NETWORK_SYSCTLS, _IPC_SYSCTLS = ("net.",), ("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")


def machine_name(spec: Json) -> str:
    """The host name of a machine, after its first container's: the host's own, if the container shares it."""
    return spec.get("hostname") or ("" if namespaces.has(spec, "uts") else os.uname().nodename)


def is_of_sandbox(spec: Json, sysctl: str) -> bool:
    """Whether a kernel parameter belongs to a namespace of the machine: its agent sets it."""
    if sysctl.startswith(_NETWORK_SYSCTLS):
        return True
    return sysctl.startswith(_IPC_SYSCTLS) and not namespaces.has(spec, "ipc")


def sysctls_of(spec: Json) -> dict[str, str]:
    """The container's parameters, for a network that belongs to the machine.

    With runc, a container with a user namespace has its own network namespace. Its root, who has CAP_NET_BIND_SERVICE
    there, opens ports below 1024 (ip(7)).
    """
    linux = spec.get("linux", {})
    found = {dotted(key): value for key, value in linux.get("sysctl", {}).items()}
    if namespaces.has(spec, "user"):
        bounding = spec["process"].get("capabilities", {}).get("bounding", ())
        if "CAP_NET_BIND_SERVICE" in bounding:
            found.setdefault(_FIRST_PORT, "0")
    return found


def with_groups_of_guest(sysctls: Json, linux: Json) -> Json:
    """The same parameters for the guest's network, where groups have other ids than in the container's user namespace
    (icmp(7))."""
    if _PING_GROUPS not in sysctls:
        return sysctls
    return {**sysctls, _PING_GROUPS: _mapped_range(sysctls[_PING_GROUPS], linux.get("gidMappings", ()))}


def _mapped_range(text: str, mappings: Sequence[Json]) -> str:
    """``FIRST LAST`` of a user namespace, in ids of the guest; unchanged if no mapping contains the whole range."""
    words = text.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return text
    first, last = map(int, words)
    for mapping in mappings:
        offset = first - int(mapping["containerID"])
        if offset >= 0 and first <= last < first - offset + int(mapping["size"]):
            start = int(mapping["hostID"]) + offset
            return f"{start} {start + last - first}"
    return text


def dotted(sysctl: str) -> str:
    """A name with slashes, ``net/ipv4/conf/eth0.1/forwarding``, as one with dots (sysctl(8))."""
    first = next((letter for letter in sysctl if letter in "./"), ".")
    return sysctl if first == "." else sysctl.translate({ord("."): "/", ord("/"): "."})


def check_limits(linux: Json) -> None:
    if linux.get("intelRdt"):
        raise bad("linux.intelRdt", "caches and memory bandwidth of the host cannot be given to a guest")
    check_disk_limits(linux.get("resources", {}), "linux.resources.")


def check_disk_limits(resources: Json, prefix: str = "", source: str = "config.json") -> None:
    """Refuse limits of block devices: they name devices of the host by number, which a guest does not have.

    :param prefix: of the fields' names
    :raises ConfigError: there are
    """
    for field, value in resources.get("blockIO", {}).items():
        if value:
            raise bad(
                f"{prefix}blockIO.{field}",
                "a container's use of the host's disks cannot be limited from inside of a guest",
                "limit the control group above the container's",
                source,
            )
