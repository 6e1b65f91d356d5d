"""config.json for the guest's crun: as text, beside Kata's message, so that no field is dropped.

The agent fills in what only the guest knows (``linux-guest/agent/oci.h``): it replaces strings that begin with a mark,
which is a random one for each request.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata.bundle.guest_devices import ALL_DEVICES, DISK
from pyvmm_kata.bundle.guest_settings import check_disk_limits, is_of_sandbox, with_groups_of_guest
from pyvmm_kata.bundle.guest_spec import LABELS
from pyvmm_kata.host.namespaces import JOIN
from pyvmm_kata.protocol import protobuf

if TYPE_CHECKING:
    from pyvmm_kata.state import Json


class GuestConfig(NamedTuple):
    """The description of a container for the agent.

    :ivar text: the config.json
    :ivar mark: the beginning of strings that the agent replaces
    :ivar message: a ``grpc.Spec`` with what the agent sets up itself, without crun
    :ivar mounts: how many it has
    """

    text: str
    mark: str
    message: Any
    mounts: int


def guest_config(spec: Json, hostname: str = "", *, shared_pids: bool = False) -> GuestConfig:
    """
    :param spec: as :func:`pyvmm_kata.bundle.guest_spec.place` has made it
    :param hostname: of a container that has a UTS namespace and no name for it
    :param shared_pids: it joins the pid namespace of the sandbox
    """
    mark = os.urandom(8).hex()
    linux = {**spec["linux"]}
    linux["namespaces"] = [_namespace(entry, mark) for entry in linux["namespaces"]]
    if shared_pids:
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "pid"]
        linux["namespaces"].append({"type": "pid", "path": f"@{mark}:sandbox:pid"})
    linux["devices"] = [
        f"@{mark}:devices" if device == ALL_DEVICES else _numbered(device, mark) for device in linux["devices"]
    ]
    if (rules := linux.get("resources", {}).get("devices")) is not None:
        linux["resources"] = {**linux["resources"], "devices": [_numbered(rule, mark) for rule in rules]}
    sysctls = with_groups_of_guest(linux.get("sysctl", {}), linux)
    linux["sysctl"] = {key: value for key, value in sysctls.items() if not is_of_sandbox(spec, key)}
    made = {**spec, "linux": linux}
    if hostname and "hostname" not in made and any(entry["type"] == "uts" for entry in linux["namespaces"]):
        made["hostname"] = hostname
    message = protobuf.message("grpc.Spec")(Process=terminal_of(spec["process"]))
    message.Linux.Sysctl.update({key: value for key, value in sysctls.items() if is_of_sandbox(spec, key)})
    return GuestConfig(json.dumps(made), mark, message, len(made.get("mounts", ())))


def terminal_of(process: Json) -> Any:
    """The part of a process that the agent sets up itself: a ``grpc.Process`` with its terminal."""
    message = protobuf.message("grpc.Process")(Terminal=bool(process.get("terminal")))
    if size := process.get("consoleSize"):
        # A terminal has 16 bits for each (ioctl_tty(2))
        message.ConsoleSize.Height, message.ConsoleSize.Width = (min(size[key], 0xFFFF) for key in ("height", "width"))
    return message


def process_text(process: Json) -> str:
    """The process of an exec for the guest, whose kernel has neither AppArmor nor SELinux."""
    return json.dumps({key: value for key, value in process.items() if key not in LABELS})


def resources_text(resources: Json) -> str:
    """Changed limits for the guest.

    :raises ConfigError: a guest cannot enforce them
    """
    check_disk_limits(resources, source="update")
    return json.dumps(resources)


def _numbered(entry: Json, mark: str) -> Json:
    """The number of a disk, in a device or a rule, is the one that the guest's kernel has assigned."""
    if DISK not in entry:
        return entry
    made = {key: value for key, value in entry.items() if key != DISK}
    return {**made, **{half: f"@{mark}:{half}:{entry[DISK]}" for half in ("major", "minor")}}


def _namespace(entry: Json, mark: str) -> Json:
    path = entry.get("path", "")
    return {**entry, "path": f"@{mark}:ns:{entry['type']}:{path.removeprefix(JOIN)}"} if path else entry
