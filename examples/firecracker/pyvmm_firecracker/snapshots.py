"""Snapshots, as two files whose names a client chooses.

A snapshot of pyvmm is a directory.  It is stored beside the state file, under that file's name with ``.pyvmm``
appended.  The state file names the directory and contains the configuration.  The memory file is a hard link to the
memory in the directory.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from pyvmm_firecracker import records
from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.files import readable
from pyvmm_firecracker.schema import BODIES, check, parse_json
from vmm import VmmError, restore_machine

if TYPE_CHECKING:
    from typing import Any

    from vmm import AnyMachine, ConsoleConfig

    Body = dict[str, Any]

FORMAT = "pyvmm-firecracker-1"
_SINGLE: tuple[tuple[str, str, Body], ...] = (
    ("boot-source", "boot-source", {}),
    ("machine-config", "machine-config", {}),
    ("vsock", "vsock", {}),
    ("balloon", "balloon", {}),
    ("entropy", "entropy", {}),
    ("mmds-config", "mmds/config", {}),
    ("cpu-config", "cpu-config", {}),
    ("memory-hotplug", "hotplug/memory", {"requested_size_mib": None}),
)
"""Each section of a single device, the request that validates it, and the fields of the section that requests lack."""
MOST = 1 << 20
"""Maximum size of the state file in bytes."""


def create(machine: AnyMachine, body: Body, sections: Body) -> None:
    """Save a machine.  A snapshot of type ``Diff`` contains all pages, too.

    :raises Fault: the machine cannot be saved
    """
    state, memory = body["snapshot_path"], body["mem_file_path"]
    folder = f"{state}.pyvmm"
    if os.path.abspath(state) == os.path.abspath(memory):
        raise Fault("`snapshot_path` and `mem_file_path` are the same file.")
    try:
        machine.snapshot(folder)
        _replace_link(f"{folder}/memory", memory)
        _replace_text(state, json.dumps({"format": FORMAT, "snapshot": os.path.basename(folder), "config": sections}))
    except OSError as error:
        raise Fault(f"Cannot create the snapshot {state:.200}: {error.strerror or error}.") from error


def _replace_link(source: str, path: str) -> None:
    made = f"{path}.pyvmm-new"
    if os.path.lexists(made):
        os.unlink(made)
    os.link(source, made)
    os.replace(made, path)


def _replace_text(path: str, text: str) -> None:
    made = f"{path}.pyvmm-new"
    with open(made, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(made, path)


def _checked(config: Body) -> Body:
    """Validate the sections of a state file, which may have been edited.

    :raises Fault, KeyError, TypeError, AttributeError: a section is invalid
    """
    named = {
        kind: {str(name): check(BODIES[f"PUT {kind}"], body) for name, body in config[kind].items()}
        for kind in ("drives", "network-interfaces", "pmem")
    }
    single = {
        name: check(BODIES[f"PUT {section}"], {**config[name], **empty})
        for name, section, empty in _SINGLE
        if config.get(name) is not None
    }
    return {**named, **single}


def read(path: str) -> Body:
    """The file of the state.

    :raises Fault: it is none
    """
    readable(path, "The snapshot")
    try:
        with open(path, "rb") as file:
            found = parse_json(file.read(MOST))
    except (OSError, ValueError, RecursionError) as error:
        raise _none(path) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _none(path)
    return found


def _none(path: str) -> Fault:
    return Fault(f"{path:.200} is no snapshot of this program.")


class Load:
    """A snapshot to restore.

    :param body: of the request
    :raises Fault: the files are not a snapshot of this program
    """

    def __init__(self, body: Body) -> None:
        backend = body.get("mem_backend")
        if (backend is None) == ("mem_file_path" not in body):
            raise Fault("Either `mem_backend` or `mem_file_path` must be specified, and not both.")
        if backend and backend["backend_type"] == "Uffd":
            raise Fault("The memory backend Uffd is not supported: pages are mapped from the file on demand.")
        self._body = body
        self._memory: str = backend["backend_path"] if backend else body["mem_file_path"]
        self._state: str = body["snapshot_path"]
        readable(self._memory, "The memory file")
        found = read(self._state)
        try:
            self._config = _checked(found["config"])
            self._folder = os.path.join(os.path.dirname(self._state), os.path.basename(str(found["snapshot"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise _none(self._state) from error
        if not os.path.isdir(self._folder):
            raise Fault(f"The directory {self._folder:.200} of the snapshot is missing: move it with its files.")
        if not os.path.samefile(self._memory, f"{self._folder}/memory"):
            raise Fault(f"{self._memory:.200} is not the memory of the snapshot {self._state:.200}.")

    def sections(self) -> Body:
        """The configuration, with the request's overrides applied.

        :raises Fault: a network interface is unknown
        """
        sections: Body = json.loads(json.dumps(self._config))
        nets = sections["network-interfaces"]
        for each in self._body.get("network_overrides", ()):
            if each["iface_id"] not in nets:
                raise Fault(f"Unknown network interface in network_overrides: {each['iface_id']:.60}.")
            nets[each["iface_id"]]["host_dev_name"] = each["host_dev_name"]
        override = self._body.get("vsock_override")
        if override:
            if not sections.get("vsock"):
                raise Fault("vsock_override: the snapshot has no vsock device.")
            sections["vsock"]["uds_path"] = override["uds_path"]
        return sections

    def restore(self, sections: Body, console: ConsoleConfig, transport: str, isolation: str, mmds: str) -> AnyMachine:
        """Restore the machine without starting it, with the disks, interfaces and vsock that the sections configure.

        :raises Fault: the snapshot cannot be restored
        """
        config = records.machine_config(sections, console, transport=transport, isolation=isolation, mmds=mmds)
        changes: Body = {"console": console, "isolation": isolation}
        for field in ("rootfs", "disks", "nets", "vsock"):
            if getattr(config, field):
                changes[field] = getattr(config, field)
        clock = "host" if self._body.get("clock_realtime") else "resume"
        try:
            return restore_machine(self._folder, clock=clock, start=False, **changes)
        except VmmError as error:
            raise Fault(f"Load snapshot error: {error}.") from error
