"""The bodies of requests: a table of fields for each, and the check of a body against it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvmm_firecracker.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Fields = Mapping[str, "Field"]

_NAMES = {str: "a string", int: "an integer", bool: "a boolean", dict: "a map", list: "a sequence"}
LONGEST = 4096
"""Bytes of a string: PATH_MAX of ``<linux/limits.h>``."""
DEEPEST = 127
"""Levels of a body, as serde_json has it."""


@dataclass(frozen=True)
class Field:
    """A field of a body.

    :ivar kind: its type in JSON
    :ivar required: a body without it is refused
    :ivar low: the smallest number
    :ivar high: the largest number
    :ivar choices: the strings that it may be; empty: any
    :ivar fields: of a map, or of each element of a sequence; empty: any
    :ivar items: each element of a sequence that is no map
    """

    kind: type
    required: bool = False
    low: int = 0
    high: int = (1 << 63) - 1
    choices: tuple[str, ...] = ()
    fields: Fields = field(default_factory=dict)
    items: Field | None = None


TEXT, FLAG, NUMBER = Field(str), Field(bool), Field(int)
PATH, ID = Field(str, required=True), Field(str, required=True)
BUCKET = Field(
    dict,
    fields={"size": Field(int, required=True), "refill_time": Field(int, required=True), "one_time_burst": NUMBER},
)
LIMITER = Field(dict, fields={"bandwidth": BUCKET, "ops": BUCKET})

_DRIVE: Fields = {
    "drive_id": ID,
    "path_on_host": TEXT,
    "is_root_device": Field(bool, required=True),
    "is_read_only": FLAG,
    "partuuid": TEXT,
    "cache_type": Field(str, choices=("Unsafe", "Writeback")),
    "io_engine": Field(str, choices=("Sync", "Async")),
    "rate_limiter": LIMITER,
    "socket": TEXT,
}
_NETWORK: Fields = {
    "iface_id": ID,
    "host_dev_name": Field(str, required=True),
    "guest_mac": TEXT,
    "mtu": Field(int, low=68, high=65535),
    "rx_rate_limiter": LIMITER,
    "tx_rate_limiter": LIMITER,
}
_PMEM: Fields = {
    "id": ID,
    "path_on_host": PATH,
    "root_device": FLAG,
    "read_only": FLAG,
    "rate_limiter": LIMITER,
}
_MACHINE: Fields = {
    "vcpu_count": Field(int, low=1, high=32),
    "mem_size_mib": Field(int, low=1, high=1 << 30),
    "smt": FLAG,
    "cpu_template": Field(str, choices=("C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None")),
    "track_dirty_pages": FLAG,
    "huge_pages": Field(str, choices=("None", "Transparent", "2M")),
}
_BITMAP = Field(str, required=True)
_CPUID: Fields = {
    "leaf": Field(str, required=True),
    "subleaf": Field(str, required=True),
    "flags": Field(int, required=True, high=(1 << 32) - 1),
    "modifiers": Field(
        list,
        required=True,
        fields={"register": Field(str, required=True, choices=("eax", "ebx", "ecx", "edx")), "bitmap": _BITMAP},
    ),
}
_CPU: Fields = {
    "kvm_capabilities": Field(list, items=TEXT),
    "cpuid_modifiers": Field(list, fields=_CPUID),
    "msr_modifiers": Field(list, fields={"addr": Field(str, required=True), "bitmap": _BITMAP}),
    "reg_modifiers": Field(list, fields={"addr": Field(str, required=True), "bitmap": _BITMAP}),
    "vcpu_features": Field(list, fields={"index": Field(int, required=True), "bitmap": _BITMAP}),
}

BODIES: dict[str, Fields] = {
    "PUT actions": {
        "action_type": Field(str, required=True, choices=("InstanceStart", "SendCtrlAltDel", "FlushMetrics"))
    },
    "PUT boot-source": {"kernel_image_path": PATH, "initrd_path": TEXT, "boot_args": TEXT},
    "PUT machine-config": {
        **_MACHINE,
        "vcpu_count": Field(int, required=True, low=1, high=32),
        "mem_size_mib": Field(int, required=True, low=1, high=1 << 30),
    },
    "PATCH machine-config": _MACHINE,
    "PUT drives": _DRIVE,
    "PATCH drives": {"drive_id": ID, "path_on_host": TEXT, "rate_limiter": LIMITER},
    "PUT network-interfaces": _NETWORK,
    "PATCH network-interfaces": {"iface_id": ID, "rx_rate_limiter": LIMITER, "tx_rate_limiter": LIMITER},
    "PUT pmem": _PMEM,
    "PATCH pmem": {"id": ID, "rate_limiter": LIMITER},
    "PUT vsock": {
        "guest_cid": Field(int, required=True, low=3, high=(1 << 32) - 1),
        "uds_path": PATH,
        "vsock_id": TEXT,
    },
    "PUT balloon": {
        "amount_mib": Field(int, required=True, high=1 << 30),
        "deflate_on_oom": Field(bool, required=True),
        "stats_polling_interval_s": Field(int, high=65535),
        "free_page_hinting": FLAG,
        "free_page_reporting": FLAG,
    },
    "PATCH balloon/statistics": {"stats_polling_interval_s": Field(int, required=True, high=65535)},
    "PATCH balloon/hinting/start": {"acknowledge_on_stop": FLAG},
    "PATCH balloon/hinting/stop": {},
    "PUT cpu-config": _CPU,
    "PATCH balloon": {"amount_mib": Field(int, required=True, high=1 << 30)},
    "PUT entropy": {"rate_limiter": LIMITER},
    "PUT serial": {"serial_out_path": TEXT, "rate_limiter": BUCKET},
    "PUT hotplug/memory": {
        "total_size_mib": Field(int, required=True, low=1, high=1 << 30),
        "slot_size_mib": Field(int, low=1, high=1 << 30),
        "block_size_mib": Field(int, low=1, high=1 << 30),
    },
    "PATCH hotplug/memory": {"requested_size_mib": Field(int, required=True, high=1 << 30)},
    "PUT logger": {
        "log_path": TEXT,
        "level": Field(str, choices=("Error", "Warning", "Info", "Debug", "Trace", "Off")),
        "show_level": FLAG,
        "show_log_origin": FLAG,
        "module": TEXT,
    },
    "PUT metrics": {"metrics_path": PATH, "emit_id": FLAG, "properties": Field(dict)},
    "PUT mmds/config": {
        "network_interfaces": Field(list, required=True, items=TEXT),
        "version": Field(str, choices=("V1", "V2")),
        "ipv4_address": TEXT,
        "imds_compat": FLAG,
    },
    "PATCH vm": {"state": Field(str, required=True, choices=("Paused", "Resumed"))},
    "PUT snapshot/create": {
        "mem_file_path": PATH,
        "snapshot_path": PATH,
        "snapshot_type": Field(str, choices=("Full", "Diff")),
    },
    "PUT snapshot/load": {
        "snapshot_path": PATH,
        "mem_backend": Field(
            dict,
            fields={"backend_type": Field(str, required=True, choices=("File", "Uffd")), "backend_path": PATH},
        ),
        "mem_file_path": TEXT,
        "enable_diff_snapshots": FLAG,
        "track_dirty_pages": FLAG,
        "resume_vm": FLAG,
        "network_overrides": Field(list, fields={"iface_id": ID, "host_dev_name": Field(str, required=True)}),
        "vsock_override": Field(dict, fields={"uds_path": PATH}),
        "clock_realtime": FLAG,
        "huge_pages": Field(str, choices=("Snapshot", "None", "Transparent", "2M")),
    },
}
"""By method and path; a path's second part is there where it is no name of a device."""

OPTIONAL = ("PATCH balloon/hinting/start", "PATCH balloon/hinting/stop", "PUT cpu-config")
"""Requests that need no body."""
_STATISTICS = (
    "swap_in", "swap_out", "major_faults", "minor_faults", "free_memory", "total_memory", "available_memory",
    "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kill", "alloc_stall", "async_scan", "direct_scan",
    "async_reclaim", "direct_reclaim",
)  # fmt: skip
_SOME_TEXT = Field(str, required=True)
_BALLOON_ANSWER: Fields = BODIES["PUT balloon"]
ANSWERS: dict[str, Fields] = {
    "GET ": {
        "app_name": _SOME_TEXT,
        "id": _SOME_TEXT,
        "state": Field(str, required=True, choices=("Not started", "Running", "Paused")),
        "vmm_version": _SOME_TEXT,
    },
    "GET version": {"firecracker_version": _SOME_TEXT},
    "GET vm/config": {
        "balloon": Field(dict, fields=_BALLOON_ANSWER),
        "boot-source": Field(dict, fields=BODIES["PUT boot-source"]),
        "cpu-config": Field(dict, fields=_CPU),
        "drives": Field(list, required=True, fields=_DRIVE),
        "entropy": Field(dict, fields=BODIES["PUT entropy"]),
        "logger": Field(dict, fields=BODIES["PUT logger"]),
        "machine-config": Field(dict, required=True, fields=_MACHINE),
        "memory-hotplug": Field(dict),
        "metrics": Field(dict, fields=BODIES["PUT metrics"]),
        "mmds-config": Field(dict, fields=BODIES["PUT mmds/config"]),
        "network-interfaces": Field(list, required=True, fields=_NETWORK),
        "pmem": Field(list, required=True, fields=_PMEM),
        "serial": Field(dict, fields=BODIES["PUT serial"]),
        "vsock": Field(dict, fields=BODIES["PUT vsock"]),
    },
    "GET machine-config": BODIES["PUT machine-config"],
    "GET balloon": _BALLOON_ANSWER,
    "GET balloon/statistics": {
        **{f"{size}_{unit}": Field(int, required=True) for size in ("target", "actual") for unit in ("pages", "mib")},
        **dict.fromkeys(_STATISTICS, NUMBER),
    },
    "GET balloon/hinting/status": {"host_cmd": Field(int, required=True), "guest_cmd": NUMBER},
    "GET hotplug/memory": {
        "total_size_mib": Field(int, required=True),
        "slot_size_mib": NUMBER,
        "block_size_mib": NUMBER,
        "plugged_size_mib": NUMBER,
        "requested_size_mib": NUMBER,
    },
}
"""What a request is answered with, by method and path."""
ANY = ("PUT mmds", "PATCH mmds")
"""Requests whose bodies are any JSON."""


def parse_json(data: bytes) -> object:
    """The value of a JSON text, which is not so deep that code cannot walk through it.

    :raises ValueError, RecursionError: it is no JSON
    """
    value: object = json.loads(data, parse_constant=_no_constant)
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
        if not level:
            return value
    raise ValueError("recursion limit exceeded")


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def check(fields: Fields, body: object, where: str = "the body") -> dict[str, Any]:
    """The body without fields that are null.

    :raises Fault: it lacks a field, has an unknown one, or one of another type or out of its range
    """
    if not isinstance(body, dict):
        raise _wrong(f"{where} is not a map")
    given = {name: value for name, value in body.items() if value is not None}
    for name in body:
        if name not in fields:
            raise _wrong(f"unknown field `{name:.60}`, expected one of {', '.join(f'`{each}`' for each in fields)}")
    for name, each in fields.items():
        if each.required and name not in given:
            raise _wrong(f"missing field `{name}`")
    return {name: _value(fields[name], value, name) for name, value in given.items()}


def _value(wanted: Field, value: Any, name: str) -> Any:
    if not _is(wanted.kind, value):
        raise _wrong(f"invalid type of `{name}`, expected {_NAMES[wanted.kind]}")
    if wanted.kind is int and not wanted.low <= value <= wanted.high:
        raise _wrong(f"invalid value {value} of `{name}`, expected {wanted.low} to {wanted.high}")
    if wanted.kind is str:
        if wanted.choices and value not in wanted.choices:
            expected = ", ".join(f"`{each}`" for each in wanted.choices)
            raise _wrong(f"unknown variant `{value:.60}` of `{name}`, expected {expected}")
        if len(value.encode(errors="surrogatepass")) > LONGEST or "\0" in value or not _is_text(value):
            raise _wrong(f"invalid value of `{name}`: a text of at most {LONGEST} bytes is expected")
    if wanted.kind is dict and wanted.fields:
        return check(wanted.fields, value, f"`{name}`")
    if wanted.items is not None:
        return [_value(wanted.items, each, f"an element of {name}") for each in value]
    if wanted.kind is list:
        return [check(wanted.fields, each, f"an element of `{name}`") for each in value]
    return value


def _is(kind: type, value: object) -> bool:
    return type(value) is kind  # a boolean is an int for isinstance()


def _is_text(value: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _wrong(what: str) -> Fault:
    return Fault(f"An error occurred when deserializing the json body of a request: {what}.")
