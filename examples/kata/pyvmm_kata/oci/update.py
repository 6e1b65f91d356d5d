"""``pyvmm-oci update ID``: changes limits of a running container, in its virtual machine.

A limit above the machine's memory or CPUs enlarges it, up to ``more_memory`` and ``more_cpus`` in kata.toml.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pyvmm_kata import state
from pyvmm_kata.bundle.bundle import parse_json, read_json
from pyvmm_kata.bundle.checks import check_resources
from pyvmm_kata.bundle.sizes import parse_size
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.options import VALUE, one_id, parse
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context

FIELDS = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
}
_TEXT = ("cpuset-cpus", "cpuset-mems")


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    known = {**dict.fromkeys(FIELDS, VALUE), "resources": VALUE}
    options, rest = parse(arguments, known, {"r": "resources", "m": "memory"}, "update")
    folder = context.folder(one_id(rest, "update"))
    if options["resources"] == "-":
        resources = _read_stdin()
    elif options["resources"]:
        resources = read_json(options["resources"])
    else:
        resources = _from_options(options)
    check_resources(resources, "update" if options["resources"] in ("", "-") else options["resources"])
    if state.read(folder)["status"] == "stopped":
        raise ConfigError("container not running", code="container-state")
    control.call(folder, "update", resources=resources)
    return 0


def _read_stdin() -> dict[str, Any]:
    return parse_json(sys.stdin.buffer.read(1 << 20), "update: standard input", "oci-usage")


def _from_options(options: dict[str, Any]) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for option, (group, field) in FIELDS.items():
        text = options[option]
        if text:
            resources.setdefault(group, {})[field] = text if option in _TEXT else _number(option, text)
    if not resources:
        raise ConfigError("update: nothing to change", code="oci-usage", hint="--memory 256M, or --resources FILE")
    return resources


def _number(option: str, text: str) -> int:
    sign = -1 if text.startswith("-") else 1  # -1: no limit
    return sign * parse_size(text.removeprefix("-"), f"update: --{option}", "oci-usage")
