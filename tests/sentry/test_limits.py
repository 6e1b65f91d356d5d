"""Limits of containers: memory, CPU time and tasks, as set at the start and changed while they run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle.guest_message import resources_message
from pyvmm_kata.errors import AgentError
from tests.sentry.containers import MOUNTS, Sandbox

MIB = 1 << 20
GROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
TAKE = "dd if=/dev/zero of=/dev/null bs=24M count=1 2>/dev/null; echo $?"
"""A program that needs 24 MiB at once, and how it ended."""


def spec(**resources: Any) -> dict[str, Any]:
    return {"mounts": [*MOUNTS, GROUP], "linux": {"resources": resources}}


def update(sandbox: Sandbox, **resources: Any) -> None:
    sandbox.agent.update_container("c1", resources_message(resources), "")


def expect(sandbox: Sandbox, text: str) -> None:
    """The next output of the container."""
    found = b""
    while len(found) < len(text):
        found += sandbox.agent.read_stdout("c1", "c1", 4096)
    assert found.decode() == text


def memory_of(sandbox: Sandbox) -> Any:
    return sandbox.agent.stats_container("c1").cgroup_stats.memory_stats.usage


def test_a_program_without_memory_is_killed_and_reported(sandbox: Sandbox) -> None:
    """It alone: the sandbox has memory, and the container goes on."""
    sandbox.root("c1")
    reports: list[str] = []
    waiter = threading.Thread(target=lambda: reports.append(sandbox.agent.get_oom_event()))
    waiter.start()
    script = f"{TAKE}; head -n 5 /sys/fs/cgroup/memory.events | tail -n 1"
    assert sandbox.run("c1", "sh", "-c", script, spec=spec(memory={"limit": 16 * MIB})) == (0, "137\noom_kill 1\n")
    waiter.join()
    assert reports == ["c1"]
    used = memory_of(sandbox)
    assert (used.limit, used.failcnt > 0, 0 < used.max_usage <= 16 * MIB) == (16 * MIB, True, True)


def test_files_in_memory_count_and_those_of_the_host_make_room(sandbox: Sandbox) -> None:
    """A tmpfs fails with ENOSPC at the limit. Reading more than the limit from the host does not."""
    root = sandbox.root("c1")
    (root / "large").write_bytes(bytes(40 * MIB))
    script = "cat /large | wc -c; (head -c 30000000 /dev/zero >/dev/x) 2>/dev/null || echo full; rm /dev/x; echo after"
    mounts = [MOUNTS[0], {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]
    limited = {"mounts": mounts, "linux": {"resources": {"memory": {"limit": 16 * MIB}}}}
    assert sandbox.run("c1", "sh", "-c", script, spec=limited) == (0, f"{40 * MIB}\nfull\nafter\n")
    assert memory_of(sandbox).max_usage <= 16 * MIB


def test_the_memory_of_a_container_returns_with_its_end(sandbox: Sandbox) -> None:
    """Repeated containers of one name neither add up, nor count against the next one."""
    sandbox.root("c1")
    for _ in range(3):
        script = f"{TAKE}; read line </sys/fs/cgroup/memory.max; echo $line"
        limited = spec(memory={"limit": 32 * MIB})
        assert sandbox.run("c1", "sh", "-c", script, spec=limited) == (0, f"0\n{32 * MIB}\n")
        sandbox.agent.remove_container("c1", 5)


def test_limits_change_while_the_container_runs(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    show = "cat memory.max pids.max cpu.max"
    script = f"cd /sys/fs/cgroup; {show}; read line; {TAKE}; {show}; read line; {show}"
    sandbox.create("c1", "sh", "-c", script, spec=spec(memory={"limit": 16 * MIB}))
    sandbox.agent.start_container("c1")
    expect(sandbox, f"{16 * MIB}\nmax\nmax 100000\n")
    update(sandbox, memory={"limit": 64 * MIB}, pids={"limit": 44}, cpu={"quota": 50000, "period": 200000})
    sandbox.agent.write_stdin("c1", "c1", b"\n")
    expect(sandbox, f"0\n{64 * MIB}\n44\n50000 200000\n")
    with pytest.raises(AgentError, match="Invalid argument"):
        update(sandbox, cpu={"cpus": "none"}, pids={"limit": 1})
    update(sandbox, memory={"limit": -1}, pids={"limit": -1}, cpu={"quota": -1})
    sandbox.agent.write_stdin("c1", "c1", b"\n")
    assert (sandbox.output("c1"), sandbox.agent.wait_process("c1", "c1")) == ("max\nmax\nmax 200000\n", 0)


def test_a_quota_bounds_the_cpu_time(sandbox: Sandbox) -> None:
    """Busy loops get at most their share of each period, and a slice more: of CPU time, also on a busy host. Without a
    quota they would get all of it. The statistics report waits."""
    sandbox.root("c1")
    loop = "while :; do :; done"
    sandbox.create("c1", "sh", "-c", f"echo up; {loop} & {loop}", spec=spec(cpu={"quota": 5000, "period": 100000}))
    sandbox.agent.start_container("c1")
    expect(sandbox, "up\n")

    def stats() -> Any:
        return sandbox.agent.stats_container("c1").cgroup_stats.cpu_stats

    while stats().throttling_data.throttled_periods < 4:
        sandbox.agent.check()
    found = stats()
    assert found.throttling_data.throttled_time > 0
    periods = found.throttling_data.periods + 2
    assert found.cpu_usage.total_usage < periods * 100_000_000 / 4
    sandbox.agent.remove_container("c1", 5)


def used(sandbox: Sandbox, name: str) -> int:
    """CPU time of a container, in nanoseconds."""
    return int(sandbox.agent.stats_container(name).cgroup_stats.cpu_stats.cpu_usage.total_usage)


def threads_of(pid: int) -> list[Path]:
    """Of a core and of its processes for programs."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [thread for each in (str(pid), *children) for thread in Path(f"/proc/{each}/task").iterdir()]


def test_cpu_time_is_what_the_host_has_given(sandbox: Sandbox) -> None:
    """A program that has half of a CPU of the host uses half of a second in a second, also as seen while it runs."""
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "echo up; while :; do :; done")
    sandbox.agent.start_container("c1")
    expect(sandbox, "up\n")
    cpu = {min(os.sched_getaffinity(0))}
    for thread in threads_of(sandbox.core.pid):
        os.sched_setaffinity(int(thread.name), cpu)

    def given() -> int:
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads_of(sandbox.core.pid))

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            os.sched_setaffinity(other.pid, cpu)
            start, begin, seen = given(), used(sandbox, "c1"), [0]
            for step in range(1, 21):
                # What the core does to answer is not the container's: it must not depend on how long a step takes
                while given() < start + step * 25_000_000:
                    time.sleep(0.02)  # the event is time that passes
                seen.append(used(sandbox, "c1"))
            real, counted = given() - start, used(sandbox, "c1") - begin
        finally:
            other.kill()
    assert seen == sorted(seen), "it never goes back"
    assert 0.8 < counted / real < 1.5, "while nobody waits for a CPU, what the core does for others counts, too"


def test_containers_share_a_cpu_by_their_weights(sandbox: Sandbox) -> None:
    """Four times the shares are four times the CPU time, however many tasks compute, and also after an update. One that
    has slept gets no more than its part."""
    loop = "while :; do :; done"
    loops = {"c1": f"echo up; {loop}", "c2": f"echo up; {loop} & {loop} & {loop}", "c3": "echo up; sleep 1000"}
    for (name, script), shares in zip(loops.items(), (26216, 6556, 262144), strict=True):
        sandbox.root(name)
        sandbox.create(name, "sh", "-c", script, spec=spec(cpu={"cpus": "0", "shares": shares}))
        sandbox.agent.start_container(name)
        assert sandbox.agent.read_stdout(name, name, 100) == b"up\n"

    def ratio() -> float:
        """Of what both use until the second one has used some 60 slices."""
        before = [used(sandbox, name) for name in ("c1", "c2")]
        while used(sandbox, "c2") < before[1] + 300_000_000:
            sandbox.agent.check()
        first, second = (used(sandbox, name) - old for name, old in zip(("c1", "c2"), before, strict=True))
        return first / second

    assert 3 < ratio() < 5
    sandbox.agent.update_container("c1", resources_message({"cpu": {"shares": 6556}}), "")
    assert 0.75 < ratio() < 1.33
