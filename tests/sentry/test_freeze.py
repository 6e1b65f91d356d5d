"""A container that is frozen: none of its processes runs, or has a request under way."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sentry.containers import Sandbox


def start_loop(sandbox: Sandbox, command: str) -> None:
    """A container whose shell runs a command again and again."""
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", f"echo up; while :; do {command}; done")
    sandbox.agent.start_container("c1")
    assert sandbox.agent.read_stdout("c1", "c1", 100) == b"up\n"


def cpu_time(sandbox: Sandbox) -> int:
    """Of the container, in nanoseconds."""
    return int(sandbox.agent.stats_container("c1").cgroup_stats.cpu_stats.cpu_usage.total_usage)


def test_a_frozen_container_does_not_run(sandbox: Sandbox) -> None:
    """A busy loop uses no CPU time meanwhile."""
    start_loop(sandbox, ":")
    sandbox.agent.pause_container("c1")
    before = cpu_time(sandbox)
    for _ in range(200):
        sandbox.agent.check()
    after = cpu_time(sandbox)
    assert 0 < before <= after < before + 1_000_000, "in ns: what it runs until it has stopped may be counted late"
    sandbox.agent.resume_container("c1")
    while cpu_time(sandbox) == after:
        pass
    sandbox.agent.pause_container("c1")
    sandbox.agent.remove_container("c1", 5)


def file_server() -> int:
    """The pid of the child that serves the shared directory."""
    lists = Path("/proc/self/task").glob("*/children")
    children = [pid for each in lists for pid in each.read_text().split()]
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "pyvmm-fsd\n")


def test_a_frozen_container_has_no_request_under_way(sandbox: Sandbox) -> None:
    """A pause ends when the file server has answered. The test stops the server in the middle of a request."""
    start_loop(sandbox, "echo x >>/log")
    log, server = sandbox.shared / "c1" / "rootfs" / "log", file_server()
    os.kill(server, signal.SIGSTOP)
    try:
        before = -1
        while (now := cpu_time(sandbox)) != before:  # until it waits for a reply
            before = now
            time.sleep(0.05)  # it may be between two of its calls
        with ThreadPoolExecutor(1) as pool:
            frozen = pool.submit(sandbox.agent.pause_container, "c1")
            with pytest.raises(TimeoutError):
                frozen.result(0.5)  # no event reports that a call still waits
            os.kill(server, signal.SIGCONT)
            frozen.result(30)
    finally:
        os.kill(server, signal.SIGCONT)
    size = log.stat().st_size
    for _ in range(50):
        sandbox.agent.check()
    assert log.stat().st_size == size
    sandbox.agent.resume_container("c1")
    while log.stat().st_size == size:
        pass
    sandbox.agent.remove_container("c1", 5)
