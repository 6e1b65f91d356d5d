"""Debian's containerd with our shim: containers and pods in virtual machines with Linux."""

from __future__ import annotations

from tests.guest.containerd_cases import ContainerCases
from tests.guest.containerd_pod_cases import PodCases
from tests.kata import cri
from tools import guest as recipes


def settings() -> str:
    """The shim's kata.toml."""
    return f'kernel = "{recipes.kernel()}"\nimage = "{recipes.kata_image()}"\nmemory = "192M"\nannotations = true\n'


class TestContainers(ContainerCases):
    def settings(self) -> str:
        return settings()


class TestPods(PodCases):
    def settings(self) -> str:
        return settings()

    def pod_settings(self) -> str:
        return f'{self.settings()}more_memory = "128M"\nmore_cpus = 1\n'

    def check_size(self, pod: cri.CriPod) -> None:
        check_that_a_pod_grows(pod)


def check_that_a_pod_grows(pod: cri.CriPod) -> None:
    """As kubelet has it grow in place: with a container's limits, and back with its CPUs."""

    def machine() -> tuple[int, int]:
        """CPUs; MiB of memory."""
        cpus, kib = pod.exec("app", "sh", "-c", "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo")[0].split()
        return int(cpus), int(kib) >> 10

    cpus, memory = machine()
    assert cpus == 1
    pod.update("app", cpu_quota=150_000, cpu_period=100_000, memory_limit_in_bytes=300 << 20)
    assert machine()[0] == 2 and machine()[1] >= memory + 64
    pod.update("app", cpu_quota=50_000, cpu_period=100_000)
    assert machine()[0] == 1
    limits = pod.exec("app", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max")
    assert limits == (f"50000 100000\n{300 << 20}\n", 0)
    pod.update("app", cpu_quota=-1, cpu_period=100_000)
