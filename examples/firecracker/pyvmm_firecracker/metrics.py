"""The metrics: what was counted since the last line, one JSON object a line, under Firecracker's names."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from pyvmm_firecracker.fault import Fault
from pyvmm_firecracker.files import append

if TYPE_CHECKING:
    from typing import Any

    Counts = dict[str, int]
    Tree = dict[str, Any]

INTERVAL_S = 60.0
"""Between two lines."""
_SECTIONS = {
    "": "instance_info", "boot-source": "boot_source", "cpu-config": "cpu_cfg", "drives": "drive",
    "hotplug": "hotplug_memory", "machine-config": "machine_cfg", "network-interfaces": "network",
    "version": "vmm_version",
}  # fmt: skip
_DEVICES: dict[str, tuple[str, dict[str, str]]] = {
    "disk": ("block", {
        "reads": "read_count", "writes": "write_count", "flushes": "flush_count", "read_bytes": "read_bytes",
        "write_bytes": "write_bytes", "errors": "execute_fails", "unsupported": "invalid_reqs_count",
        "limit_waits": "rate_limiter_throttled_events",
    }),
    "net": ("net", {
        "rx_frames": "rx_packets_count", "rx_bytes": "rx_bytes_count", "rx_dropped": "rx_fails",
        "rx_starved": "no_rx_avail_buffer", "tx_frames": "tx_packets_count", "tx_bytes": "tx_bytes_count",
        "tx_dropped": "tx_fails", "tx_malformed": "tx_malformed_frames",
    }),
    "vsock": ("vsock", {
        "to_guest_packets": "rx_packets_count", "to_guest_bytes": "rx_bytes_count",
        "from_guest_packets": "tx_packets_count", "from_guest_bytes": "tx_bytes_count", "opened": "conns_added",
        "resets": "conns_killed", "malformed": "tx_read_fails",
    }),
    "balloon": ("balloon", {"inflated": "inflate_count", "deflated": "deflate_count", "errors": "event_fails"}),
    "rng": ("entropy", {"requests": "entropy_event_count", "bytes": "entropy_bytes"}),
    "hotplug": ("memory_hotplug", {"plugs": "plug_count", "unplugs": "unplug_count", "refused": "plug_fails"}),
}  # fmt: skip
"""By the first word of a device's name in ``vmm``: the section, and the names of its counters there and here."""


class Metrics:
    """What was counted.

    :ivar latencies: of the last call of each kind, in µs
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file: Any = None
        self._fields: Tree = {}
        self._requests: dict[str, Counts] = {}
        self._before: dict[str, Counts] = {}
        self._start = (time.monotonic_ns() // 1000, time.process_time_ns() // 1000)
        self.latencies: Counts = {}

    def open(self, path: str, *, emit_id: bool, properties: Tree) -> None:
        """
        :raises Fault: it cannot be opened
        """
        self._file = append(path, "metrics")
        self._fields = {**({"id": self._name} if emit_id else {}), **({"properties": properties} if properties else {})}

    @property
    def is_open(self) -> bool:
        """There is a file."""
        return self._file is not None

    def count(self, method: str, section: str, *, failed: bool) -> None:
        """A request."""
        counts = self._requests.setdefault(f"{method.lower()}_api_requests", {})
        section = _SECTIONS.get(section, section.replace("-", "_"))
        for name in (f"{section}_count", *((f"{section}_fails",) if failed else ())):
            counts[name] = counts.get(name, 0) + 1

    def flush(self, figures: Tree, names: dict[str, str], mmds: Counts) -> None:
        """Write a line.

        :param figures: those of the machine
        :param names: of devices in the configuration, by those in *figures*
        :param mmds: counters of the metadata service
        :raises Fault: it cannot be written
        """
        totals = {"mmds": dict(mmds), **{kind: dict(counts) for kind, counts in self._requests.items()}}
        totals |= _of_devices(figures.get("devices", []), names)
        before, self._before = self._before, totals
        line: Tree = {"utc_timestamp_ms": int(time.time() * 1000), **self._fields}
        line |= {kind: _since(counts, before.get(kind, {})) for kind, counts in totals.items()}
        line["latencies_us"] = self.latencies
        line["api_server"] = dict(zip(_START, self._start, strict=True))
        try:
            print(json.dumps({**line, **figures}), file=self._file, flush=True)
        except OSError as error:
            raise Fault(f"Failed to write metrics: {error.strerror}.") from error


_START = ("process_startup_time_us", "process_startup_time_cpu_us")


def _since(counts: Counts, before: Counts) -> Counts:
    """A counter that is smaller is one of another machine."""
    made = {}
    for name, value in counts.items():
        last = before.get(name, 0)
        made[name] = value - last if value >= last else value
    return made


def _of_devices(rows: list[Tree], names: dict[str, str]) -> dict[str, Counts]:
    """The sections of devices; those of a kind with several, such as ``block_root``, and their sum, ``block``."""
    made: dict[str, Counts] = {}
    for row in rows:
        kind, counters = _DEVICES.get(row["name"].partition(" ")[0], ("", {}))
        found = {to: row[of] for of, to in counters.items() if of in row}
        for section in [kind, *([f"{kind}_{names[row['name']]}"] if row["name"] in names else [])] if kind else []:
            sums = made.setdefault(section, {})
            for name, value in found.items():
                sums[name] = sums.get(name, 0) + value
    return made
