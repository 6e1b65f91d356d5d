"""Statistics of a container, with the field names of ``runc events``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm_kata.state import Json


def to_json(stats: Any) -> Json:
    """
    :param stats: a ``grpc.StatsContainerResponse``
    """
    group = stats.cgroup_stats
    cpu, memory = group.cpu_stats, group.memory_stats
    return {
        "cpu": {
            "usage": {
                "total": cpu.cpu_usage.total_usage,
                "percpu": list(cpu.cpu_usage.percpu_usage),
                "kernel": cpu.cpu_usage.usage_in_kernelmode,
                "user": cpu.cpu_usage.usage_in_usermode,
            },
            "throttling": {
                "periods": cpu.throttling_data.periods,
                "throttledPeriods": cpu.throttling_data.throttled_periods,
                "throttledTime": cpu.throttling_data.throttled_time,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": _memory(memory.usage),
            "swap": _memory(memory.swap_usage),
            "kernel": _memory(memory.kernel_usage),
            "raw": dict(memory.stats),
        },
        "pids": {"current": group.pids_stats.current, "limit": group.pids_stats.limit},
        "network_interfaces": [
            {
                "Name": net.name,
                "RxBytes": net.rx_bytes,
                "RxPackets": net.rx_packets,
                "RxErrors": net.rx_errors,
                "RxDropped": net.rx_dropped,
                "TxBytes": net.tx_bytes,
                "TxPackets": net.tx_packets,
                "TxErrors": net.tx_errors,
                "TxDropped": net.tx_dropped,
            }
            for net in stats.network_stats
        ],
    }


def _memory(data: Any) -> Json:
    return {"usage": data.usage, "max": data.max_usage, "limit": data.limit, "failcnt": data.failcnt}
