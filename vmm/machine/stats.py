"""Statistics of a machine as plain data, and as a table for people."""

from __future__ import annotations

from vmm.kvm.ioctl import EXIT_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.machine.machine import Machine

_KERNEL_COUNTERS = ("exits", "halt_exits", "irq_injections", "io_exits", "mmio_exits", "insn_emulation", "signal_exits")


def collect(machine: Machine) -> dict[str, Any]:
    """All counters of a machine that is not closed.

    ``exits``: ``total``, ``kernel`` (handled inside KVM), ``c``, ``python``, and ``by_reason``: name -> handler ->
    number; ``vcpus``: KVM's counters of each; ``devices``: counters of each device and its transport; ``serial``;
    ``phases``: name -> seconds since the first; ``began``: CLOCK_MONOTONIC of the first, in seconds.
    """
    by_reason: dict[str, dict[str, int]] = {}
    totals = {"c": 0, "python": 0}
    unclaimed, first_run = 0, 0
    vcpus = []
    for vcpu in machine.vcpus:
        counts = vcpu.exit_counts()
        for who in ("c", "python"):
            for reason, number in counts[who].items():
                row = by_reason.setdefault(EXIT_NAMES.get(reason, str(reason)), {"c": 0, "python": 0})
                row[who] += number
                totals[who] += number
        unclaimed += counts["unclaimed"]
        if counts["first_run_ns"] and (not first_run or counts["first_run_ns"] < first_run):
            first_run = counts["first_run_ns"]
        kernel = vcpu.stats()
        vcpus.append({name: kernel[name] for name in _KERNEL_COUNTERS if name in kernel})
    in_kernel = sum(v.get("exits", 0) for v in vcpus)
    phases = [*machine.phases, *([("first-run", first_run / 1e9)] if first_run else [])]
    phases.sort(key=lambda phase: phase[1])
    return {
        "exits": {
            "total": in_kernel or None,
            "kernel": max(in_kernel - totals["c"] - totals["python"], 0) if in_kernel else None,
            **totals,
            "unclaimed": unclaimed,
            "by_reason": by_reason,
        },
        "vcpus": vcpus,
        "devices": [attached.transport.stats() for attached in machine.attached],
        "serial": machine.serial.stats(),
        "began": phases[0][1],
        "phases": {name: round(at - phases[0][1], 6) for name, at in phases},
    }


def table(stats: dict[str, Any]) -> str:
    """*stats* of :func:`collect` as text; ends with a newline."""
    exits = stats["exits"]
    lines = ["exits            kernel          C     Python"]
    kernel = "-" if exits["kernel"] is None else exits["kernel"]
    lines.append(f"  {'all':<12}{kernel:>10} {exits['c']:>10} {exits['python']:>10}")
    for name, row in sorted(exits["by_reason"].items()):
        lines.append(f"  {name:<12}{'':>10} {row['c']:>10} {row['python']:>10}")
    for index, row in enumerate(stats["vcpus"]):
        lines.append(f"vcpu{index}  " + "  ".join(f"{name} {value}" for name, value in row.items()))
    for row in stats["devices"]:
        plain = {key: value for key, value in row.items() if not isinstance(value, dict) and key != "name"}
        lines.append(f"{row['name']}  " + "  ".join(f"{key} {value}" for key, value in plain.items()))
        for name, op in sorted(row.get("ops", {}).items(), key=lambda item: -item[1]["count"]):
            lines.append(f"  {name:<16}{op['count']:>10}  p50 < {op['p50_us']:g} us  p99 < {op['p99_us']:g} us")
    lines.append("serial  " + "  ".join(f"{key} {value}" for key, value in stats["serial"].items()))
    lines.append("phases (ms)  " + "  ".join(f"{name} {at * 1000:.1f}" for name, at in stats["phases"].items()))
    return "\n".join(lines) + "\n"
