"""The configuration of the machine, in sections: what requests set before the start."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pyvmm_firecracker import cpu, records
from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.files import console_file, readable
from pyvmm_firecracker.logs import Log
from pyvmm_firecracker.metrics import Metrics
from pyvmm_firecracker.mmds import store

if TYPE_CHECKING:
    from typing import Any

    from vmm import ConsoleConfig

    Body = dict[str, Any]

NAMES = {"drives": "drive_id", "network-interfaces": "iface_id", "pmem": "id"}
"""Sections with several devices, and the field that has the name of each."""
AFTER = "The requested operation is not supported after starting the microVM."
BEFORE = "The requested operation is not supported before starting the microVM."


class Sections:
    """The sections.

    :param name: of the instance
    :param console: where the guest's console goes
    """

    def __init__(self, name: str, console: ConsoleConfig) -> None:
        self.name = name
        self.console = console
        self.log, self.metrics = Log(name), Metrics(name)
        self.mmds = store.Mmds(name)
        self.sections: Body = {"machine-config": dict(records.DEFAULT_MACHINE), **{kind: {} for kind in NAMES}}

    @property
    def is_made(self) -> bool:
        """There is a machine, or a snapshot to restore."""
        raise NotImplementedError

    def _before(self) -> None:
        if self.is_made:
            raise Fault(AFTER)

    def put_boot_source(self, body: Body) -> None:
        """``PUT /boot-source``."""
        self._before()
        for field in ("kernel_image_path", "initrd_path"):
            readable(body.get(field), "The boot source")
        self.sections["boot-source"] = body

    def put_machine(self, body: Body) -> None:
        """``PUT /machine-config``: what is not named has its default."""
        self._before()
        self._set_machine({**records.DEFAULT_MACHINE, **body})

    def patch_machine(self, body: Body) -> None:
        """``PATCH /machine-config``: what is not named stays."""
        self._before()
        if not body:
            raise Fault("Empty PATCH request.")
        self._set_machine({**self.sections["machine-config"], **body})

    def _set_machine(self, machine: Body) -> None:
        records.check_machine(machine, self.sections.get("balloon"))
        self.sections["machine-config"] = machine

    def put_section(self, name: str, body: Body) -> None:
        """A device of which there is one."""
        self._before()
        if name == "balloon":
            if body["amount_mib"] >= self.sections["machine-config"]["mem_size_mib"]:
                raise Fault("The amount of the balloon must be less than the memory size.")
            records.balloon(body)
        elif name == "cpu-config":
            cpu.check(body)
        elif name == "memory-hotplug":
            records.check_hotplug(body)
        self.sections[name] = body

    def put_serial(self, body: Body) -> None:
        """``PUT /serial``: a file for the console's output."""
        self._before()
        if body.get("rate_limiter"):
            raise Fault("A rate limiter of the serial console is not supported.")
        if body.get("serial_out_path"):
            self.console = console_file(body["serial_out_path"])
        self.sections["serial"] = body

    def put_mmds(self, body: Body) -> None:
        """``PUT /mmds/config``."""
        self._before()
        names = body["network_interfaces"]
        if not names:
            raise Fault("The list of network interface IDs that allow forwarding MMDS requests is empty.")
        if not {*names} <= {*self.sections["network-interfaces"]}:
            raise Fault(
                "The list of network interface IDs provided contains at least one ID that does not correspond to any "
                "existing network interface."
            )
        if not _is_link_local(body.get("ipv4_address", store.ADDRESS)):
            raise Fault("The MMDS IPv4 address is not link local.")
        self._set_mmds(body)

    def _set_mmds(self, body: Body) -> None:
        self.sections["mmds-config"] = {"version": "V1", "ipv4_address": store.ADDRESS, "imds_compat": False, **body}
        self.mmds.version = 2 if body.get("version") == "V2" else 1
        self.mmds.is_imds = body.get("imds_compat", False)

    def put_logger(self, body: Body) -> None:
        """``PUT /logger``."""
        if "log_path" in body:
            self.log.open(body["log_path"])
        self.log.level = body.get("level", self.log.level)
        self.log.show_level = body.get("show_level", self.log.show_level)
        self.sections["logger"] = body

    def put_metrics(self, body: Body) -> None:
        """``PUT /metrics``."""
        if self.metrics.is_open:
            raise Fault("Reinitialization of metrics not allowed.")
        self.metrics.open(
            body["metrics_path"], emit_id=body.get("emit_id", False), properties=body.get("properties", {})
        )
        self.sections["metrics"] = body

    def get_config(self) -> Body:
        """``GET /vm/config``."""
        return {name: list(each.values()) if name in NAMES else each for name, each in self.sections.items()}

    def get_balloon(self) -> Body:
        """``GET /balloon``."""
        if not self.sections.get("balloon"):
            raise Fault("No balloon device found.")
        return dict(self.sections["balloon"])

    def get_hotplug(self) -> Body:
        """``GET /hotplug/memory``."""
        found: Body | None = self.sections.get("memory-hotplug")
        if not found:
            raise Fault("No hotplug memory device found.")
        return found


def _is_link_local(address: str) -> bool:
    """RFC 3927, 2.1: without the first and the last 256 addresses."""
    try:
        found = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return found.is_link_local and 0 < found.packed[2] < 255
