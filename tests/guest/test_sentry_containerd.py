"""Debian's containerd with our shim: containers and pods in virtual machines with the Sentry.

docs/reference/sentry-containers.md has what differs, with reasons.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from tests.guest.containerd_cases import RUNTIME, ContainerCases
from tests.guest.containerd_pod_cases import PodCases
from tests.guest.shared import tool
from tests.kata import cri
from tests.kata.containerd import Containerd


def settings(default: str) -> str:
    """The shim's kata.toml."""
    return f'{default}memory = "192M"\nannotations = ["isolation"]\n'


class TestContainers(ContainerCases):
    """Those of the shim alone are long tests here: the same shim plays them in test_kata_containerd.py."""

    def settings(self) -> str:
        return settings('guest = "sentry"\n')

    @pytest.mark.long
    def test_detached(self, daemon: Containerd) -> None:
        super().test_detached(daemon)

    @pytest.mark.long
    def test_restart_of_containerd(self, daemon: Containerd) -> None:
        super().test_restart_of_containerd(daemon)

    @pytest.mark.long
    def test_death_of_the_shim(self, daemon: Containerd) -> None:
        super().test_death_of_the_shim(daemon)

    def test_a_root_on_a_disk(self, daemon: Containerd, folder: Path) -> None:
        disk = folder / "root.ext4"
        tool("mke2fs", "-q", "-t", "ext4", str(disk), "16M")
        flags = ["run", "--rm", "--rootfs", "--env", "PATH=/bin", "--runtime", RUNTIME, str(disk), "d1"]
        done = daemon.ctr(*flags, "true", check=False)
        assert (done.returncode, "a Sentry has no disks" in done.stderr) == (1, True), done.stderr
        daemon.wait_until_clean([daemon.place("d1")])


class TestPods(PodCases):
    """By a runtime handler whose pods may choose, and these choose the Sentry by their annotation: the settings name no
    kernel of Linux."""

    handler = "pyvmm-sentry"
    annotations: ClassVar[dict[str, str]] = {"io.pyvmm.isolation": "sentry"}
    pool_settings = 'guest = "sentry"\npool = 1\n'
    pooled = "has booted"

    def settings(self) -> str:
        return settings("")

    def check_size(self, pod: cri.CriPod) -> None:
        pod.update("app", cpu_quota=50_000, cpu_period=100_000, memory_limit_in_bytes=100 << 20)
        limits = pod.exec("app", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max")
        assert limits == (f"50000 100000\n{100 << 20}\n", 0)
