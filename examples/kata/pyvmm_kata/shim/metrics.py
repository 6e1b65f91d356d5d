"""Statistics of a container's cgroup in the guest, from the agent's message to containerd's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_kata import protobuf

if TYPE_CHECKING:
    from pyvmm_kata.protobuf import Message

NO_LIMIT = (1 << 64) - 1
EVENTS = "events."  # the prefix of memory.events among the agent's memory statistics


def metrics(stats: Message) -> Message:
    """The io.containerd.cgroups.v2.Metrics of a grpc.StatsContainerResponse."""
    cgroup = stats.cgroup_stats
    made = protobuf.message("io.containerd.cgroups.v2.Metrics")()
    made.pids.current = cgroup.pids_stats.current
    made.pids.limit = cgroup.pids_stats.limit or NO_LIMIT
    usage = cgroup.cpu_stats.cpu_usage
    throttling = cgroup.cpu_stats.throttling_data
    made.cpu.usage_usec = usage.total_usage // 1000
    made.cpu.user_usec = usage.usage_in_usermode // 1000
    made.cpu.system_usec = usage.usage_in_kernelmode // 1000
    made.cpu.nr_periods = throttling.periods
    made.cpu.nr_throttled = throttling.throttled_periods
    made.cpu.throttled_usec = throttling.throttled_time // 1000
    _set_memory(made, cgroup.memory_stats)
    _set_io(made, cgroup.blkio_stats)
    for size, huge in sorted(cgroup.hugetlb_stats.items()):
        made.hugetlb.add(pagesize=size, current=huge.usage, max=huge.max_usage)
    return made


def _set_memory(made: Message, memory: Message) -> None:
    made.memory.usage = memory.usage.usage
    made.memory.usage_limit = memory.usage.limit
    made.memory.max_usage = memory.usage.max_usage
    made.memory.swap_usage = memory.swap_usage.usage
    made.memory.swap_limit = memory.swap_usage.limit
    made.memory.swap_max_usage = memory.swap_usage.max_usage
    for target, prefix in ((made.memory, ""), (made.memory_events, EVENTS)):
        for field in target.DESCRIPTOR.fields:
            if (value := memory.stats.get(prefix + field.name)) is not None:
                setattr(target, field.name, value)


def _set_io(made: Message, blkio: Message) -> None:
    fields = {
        ("bytes", "read"): "rbytes",
        ("bytes", "write"): "wbytes",
        ("count", "read"): "rios",
        ("count", "write"): "wios",
    }
    devices: dict[tuple[int, int], Message] = {}
    for kind, entries in (("bytes", blkio.io_service_bytes_recursive), ("count", blkio.io_serviced_recursive)):
        for entry in entries:
            field = fields.get((kind, entry.op.lower()))
            if field is not None:
                number = entry.major, entry.minor
                if number not in devices:
                    devices[number] = made.io.usage.add(major=entry.major, minor=entry.minor)
                setattr(devices[number], field, entry.value)
