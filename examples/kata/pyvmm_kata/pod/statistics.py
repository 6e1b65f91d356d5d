"""The counters of a machine and its containers, as plain data.

A caller must not wait for a guest: the containers' counters come from its agent, which may never answer.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import VmmError

if TYPE_CHECKING:
    from pyvmm_kata.pod.sandbox import Sandbox
    from pyvmm_kata.state import Json

GUEST_S = 2.0
"""Seconds that the guest may take for all of its containers."""


def collect(sandbox: Sandbox) -> Json:
    """Of a sandbox: ``id``, ``pid`` of its holder, ``memory`` in bytes and ``vcpus``, ``machine``: see
    :meth:`pyvmm_kata.pod.vm.Vm.figures`, and ``containers``: those of each by its id, as far as the guest
    tells them; ``answered``: whether it has told all.

    :raises VmmError: the machine does not run any more
    """
    config = sandbox.config
    made: Json = {
        "id": config.sandbox_id,
        "pid": os.getpid(),
        "memory": sandbox.size.memory,
        "vcpus": sandbox.size.cpus,
        "machine": sandbox.figures(),
        "containers": {},
        "answered": True,
    }
    deadline = time.monotonic() + GUEST_S
    for container_id in sandbox.containers:
        try:
            stats = sandbox.agent.stats_container(container_id, max(0.01, deadline - time.monotonic()))
        except VmmError:
            made["answered"] = False
        else:
            made["containers"][container_id] = to_json(stats)
        if time.monotonic() > deadline:
            made["answered"] = False
            break
    return made


def to_json(stats: Any) -> Json:
    """Statistics of a container, with the field names of ``runc events``.

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
