"""The one machine of a process: what the API's requests do."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pyvmm_firecracker import VERSION, records, snapshots
from pyvmm_firecracker.balloon import NONE, Balloon
from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.files import readable
from pyvmm_firecracker.mmds.service import Service
from pyvmm_firecracker.records import BLOCK_MIB, MIB, SLOT_MIB
from pyvmm_firecracker.sections import AFTER, BEFORE, NAMES, Sections
from vmm import VmmError, create_machine

if TYPE_CHECKING:
    from typing import Any

    from vmm import AnyMachine, ConsoleConfig, EndEvent, Event

    Body = dict[str, Any]

NOT_STARTED, RUNNING, PAUSED = "Not started", "Running", "Paused"


class Instance(Sections):
    """The machine, and the sections of its configuration.  One call at a time.

    :param name: of the instance
    :param console: where the guest's console goes
    :param transport: ``mmio`` or ``pci``
    :param isolation: of the machine, see :class:`vmm.MachineConfig`
    :ivar ended: is set when the guest has ended, or the machine was closed
    :ivar failed: the guest could not continue
    """

    def __init__(
        self, name: str, console: ConsoleConfig, *, transport: str = "mmio", isolation: str = "process"
    ) -> None:
        super().__init__(name, console)
        self.transport, self.isolation = transport, isolation
        self.machine: AnyMachine | None = None
        self.ended = threading.Event()
        self.failed = False
        self._is_started = False
        self._plugged: dict[tuple[str, str], Any] = {}
        self._loaded: snapshots.Load | None = None
        self._service: Service | None = None
        self._balloon: Balloon | None = None

    @property
    def state(self) -> str:
        """As ``GET /`` reports it."""
        if not self.is_made:
            return NOT_STARTED
        return RUNNING if self.machine and self._is_started and self.machine.state != "paused" else PAUSED

    @property
    def is_made(self) -> bool:
        return self.machine is not None or self._loaded is not None

    def _started(self) -> AnyMachine:
        if self.machine is None:
            raise Fault(BEFORE)
        return self.machine

    def put_device(self, kind: str, name: str, body: Body) -> None:
        """``PUT /drives``, ``/network-interfaces`` or ``/pmem``; while the guest runs, the device is plugged in."""
        record = records.device(kind, body)
        readable(body.get("path_on_host"), "The backing file")
        others = [each for other, each in self.sections[kind].items() if other != name]
        if body.get("is_root_device") and any(each["is_root_device"] for each in others):
            raise Fault("A root block device already exists!")
        mac = body.get("guest_mac", "").lower()
        if mac and any(each.get("guest_mac", "").lower() == mac for each in others):
            raise Fault(f"The MAC address is already in use: {mac}.")
        if self.is_made:
            if self.state != RUNNING or name in self.sections[kind]:
                raise Fault(AFTER)
            self._plugged[kind, name] = self._started().plug(record)
        self.sections[kind][name] = body

    def delete_device(self, kind: str, name: str) -> None:
        """``DELETE``: the guest releases a device that was plugged in."""
        machine = self._started()
        attached = self._plugged.get((kind, name))
        if attached is None:
            raise Fault(f"Invalid {kind} device ID {name:.60}: nothing with this name was plugged in.")
        if not machine.unplug(attached, timeout=10):
            raise Fault(f"The guest has not released {name} in 10 s.")
        del self._plugged[kind, name], self.sections[kind][name]

    def put_action(self, body: Body) -> None:
        """``PUT /actions``."""
        action = body["action_type"]
        if action == "InstanceStart":
            self._before()
            config = records.machine_config(
                self.sections,
                self.console,
                transport=self.transport,
                isolation=self.isolation,
                mmds=self._serve_mmds(),
            )
            self._take(create_machine(config))
            self.resume()
        elif action == "SendCtrlAltDel":
            if self.state != RUNNING:
                raise Fault(BEFORE)
            self._started().press_power_button()
        else:
            self.flush_metrics()

    def _serve_mmds(self) -> str:
        """Where network cards reach the metadata service; empty: it is not configured."""
        config = self.sections.get("mmds-config")
        if self._service is not None:
            self._service.close()
        try:
            self._service = Service(self.mmds, config["ipv4_address"]) if config else None
        except OSError as error:
            raise Fault(f"Cannot start the metadata service: {error.strerror}.") from error
        return self._service.path if self._service is not None else ""

    def _take(self, machine: AnyMachine) -> None:
        self.machine = machine
        machine.listen(lambda event: self._on_event(machine, event))

    def _on_event(self, machine: AnyMachine, event: Event | EndEvent) -> None:
        if machine is self.machine and hasattr(event, "error"):
            self.failed = event.kind == "error"
            self.log.write("Error" if self.failed else "Info", f"The guest has ended: {event.kind} {event.detail}")
            self.ended.set()

    def console_input(self, data: bytes) -> int:
        """Type on the guest's console; how many bytes it took. Before the start nobody reads them: all."""
        machine = self.machine
        try:
            return machine.console_input(data) if machine is not None else len(data)
        except VmmError:
            return len(data)

    def resume(self) -> None:
        """Run the guest: for the first time, or again."""
        if self.machine is None and self._loaded is not None:
            self._load()
        machine = self._started()
        if not self._is_started:
            try:
                machine.start()
            except BaseException:
                self.machine = None  # it may be configured otherwise and started again
                machine.close()
                raise
            self._is_started = True
            if self._service is not None:
                self._service.hide()
            if self.sections.get("balloon"):
                self.balloon().poll()
        elif machine.state == "paused":
            machine.resume()

    def patch_vm(self, body: Body) -> None:
        """``PATCH /vm``: pause or resume; a second time does nothing."""
        if not self.is_made:
            raise Fault(BEFORE)
        before = time.monotonic_ns()
        if body["state"] == "Resumed":
            self.resume()
        elif self.state == RUNNING:
            self._started().pause()
        name = {"Paused": "pause_vm", "Resumed": "resume_vm"}[body["state"]]
        self.metrics.latencies[name] = (time.monotonic_ns() - before) // 1000

    def flush_metrics(self) -> None:
        """Write a line of metrics."""
        if not self.metrics.is_open:
            raise Fault("Failed to write metrics: no metrics file is configured.")
        self.metrics.flush(self.figures(), self._names(), self.mmds.counts)

    def _names(self) -> dict[str, str]:
        """The names of devices, by those that the machine has for them."""
        disks = {f"disk {each['path_on_host']}": name for name, each in self.sections["drives"].items()}
        nets = self.sections["network-interfaces"].items()
        return {**disks, **{f"net tap {each['host_dev_name']}": name for name, each in nets}}

    def figures(self) -> Body:
        """Counters of the machine; none before its start and after its end."""
        try:
            return self.machine.figures() if self.machine is not None and self._is_started else {}
        except VmmError:
            return {}

    def patch_drive(self, _: str, name: str, body: Body) -> None:
        """``PATCH /drives``: another file before the start, or the new size of the same one."""
        drive = self.sections["drives"].get(name)
        if drive is None:
            raise Fault(f"Invalid block device ID: {name:.60}.")
        path = body.get("path_on_host", drive.get("path_on_host"))
        readable(path, "The backing file")
        if "rate_limiter" in body and self._is_started:
            raise Fault("The rate limiter of a drive cannot change while the guest runs.")
        if not self._is_started:
            self.sections["drives"][name] = {**drive, **body}
            self._load_again()
        elif path != drive["path_on_host"]:
            raise Fault("The file of a drive cannot change while the guest runs.")
        else:
            drives = sorted(self.sections["drives"].items(), key=lambda each: not each[1]["is_root_device"])
            self._started().resize_disk([each for each, _ in drives].index(name))

    def patch_net(self, _: str, name: str, body: Body) -> None:
        """``PATCH /network-interfaces``: rate limiters, before the start alone."""
        if name not in self.sections["network-interfaces"]:
            raise Fault(f"Invalid network interface ID: {name:.60}.")
        if self._is_started:
            raise Fault("The rate limiter of a network interface cannot change while the guest runs.")
        self.sections["network-interfaces"][name].update(body)
        self._load_again()

    def balloon(self) -> Balloon:
        """The requests of the balloon, of a machine that was started."""
        if not self.sections.get("balloon"):
            raise Fault(NONE)
        self._started()
        if self._balloon is None:
            self._balloon = Balloon(self._started, self.sections["balloon"])
        return self._balloon

    def patch_pmem(self, _: str, name: str, body: Body) -> None:
        """``PATCH /pmem``: a rate limiter."""
        if name not in self.sections["pmem"]:
            raise Fault(f"Invalid pmem device ID: {name:.60}.")
        records.pmem({**self.sections["pmem"][name], **body})

    def patch_hotplug(self, body: Body) -> None:
        """``PATCH /hotplug/memory``."""
        memory = self.get_hotplug()
        if body["requested_size_mib"] > memory["total_size_mib"]:
            raise Fault("Requested size is greater than total size.")
        if body["requested_size_mib"] % memory.get("block_size_mib", BLOCK_MIB):
            raise Fault("Requested size must be a multiple of block size.")
        self._started().resize_memory(
            (self.sections["machine-config"]["mem_size_mib"] + body["requested_size_mib"]) * MIB
        )
        self.sections["memory-hotplug"]["requested_size_mib"] = body["requested_size_mib"]

    def get_hotplug(self) -> Body:
        found = super().get_hotplug()
        rows: list[Body] = self.figures().get("devices", [])
        plugged = next((each["plugged"] // MIB for each in rows if "plugged" in each), 0)
        sizes = {"slot_size_mib": SLOT_MIB, "block_size_mib": BLOCK_MIB, "requested_size_mib": 0}
        return {**sizes, **found, "plugged_size_mib": plugged}

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def create_snapshot(self, body: Body) -> None:
        """``PUT /snapshot/create``."""
        machine = self._started()
        if self.state != PAUSED or not self._is_started:
            raise Fault("Cannot create a snapshot of a microVM that is not paused.")
        before = time.monotonic_ns()
        snapshots.create(machine, body, self.sections)
        self.metrics.latencies["full_create_snapshot"] = (time.monotonic_ns() - before) // 1000

    def load_snapshot(self, body: Body) -> None:
        """``PUT /snapshot/load``."""
        if self.is_made or self.sections.get("boot-source") or any(self.sections[kind] for kind in NAMES):
            raise Fault("Loading a microVM snapshot not allowed after configuring boot-specific resources.")
        began = time.monotonic_ns()
        load = snapshots.Load(body)
        if load.sections().get("mmds-config"):
            self._set_mmds(load.sections()["mmds-config"])
        kept: Body = {name: self.sections[name] for name in ("logger", "metrics") if name in self.sections}
        before, self.sections, self._loaded = self.sections, {**load.sections(), **kept}, load
        try:
            if body.get("resume_vm"):
                self.resume()
            else:
                self._load_unless_busy()
        except BaseException:
            self.sections, self._loaded = before, None
            raise
        self.metrics.latencies["load_snapshot"] = (time.monotonic_ns() - began) // 1000

    def _load(self) -> None:
        assert self._loaded is not None
        self._take(
            self._loaded.restore(self.sections, self.console, self.transport, self.isolation, self._serve_mmds())
        )

    def _load_unless_busy(self) -> None:
        """A machine that is not to run yet; later, if its disks are in use: a request may name others before."""
        try:
            self._load()
        except Fault as fault:
            if getattr(fault.__cause__, "code", "") != "disk-in-use":
                raise

    def _load_again(self) -> None:
        machine, self.machine = self.machine, None
        if machine is not None:
            machine.close()
        if self._loaded is not None:
            self._load_unless_busy()

    # -- what there is -------------------------------------------------------------------------------------------------

    def get_info(self) -> Body:
        """``GET /``."""
        return {"app_name": "Firecracker", "id": self.name, "state": self.state, "vmm_version": VERSION}

    def close(self) -> None:
        """End the machine."""
        if self.machine is not None:
            self.machine.close()
        if self._balloon is not None:
            self._balloon.close()
        if self._service is not None:
            self._service.close()
        self.ended.set()
