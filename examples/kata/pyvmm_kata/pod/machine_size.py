"""How much memory and how many CPUs a pod's machine has: as its containers' limits need them, while it runs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

from pyvmm_kata import timeline
from pyvmm_kata.bundle.settings import GUEST_OVERHEAD, most_cpus, needed
from pyvmm_kata.errors import ConfigError, GuestError, VmmError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pyvmm_kata.pod.agent_client import AgentClient
    from pyvmm_kata.pod.container import Container
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_kata.pod.vm import Vm
    from pyvmm_kata.state import Json

GROW_S, _LOOK_S = 20.0, 0.01
"""How long a guest may take to plug memory, and how often it is looked at."""
_BLOCK = 2 << 20
_PERIOD = 100_000
"""Microseconds of a period of CPU time, where nothing is said."""


def _cpus_of(share: Json) -> float:
    """How many CPUs a container may use, by ``linux.resources.cpu``; 0: no limit."""
    quota, period = share.get("quota") or 0, share.get("period") or _PERIOD
    return quota / period if quota > 0 and period > 0 else 0.0


class Pod(Protocol):
    """What has the machine: :class:`pyvmm_kata.pod.sandbox.Sandbox`."""

    config: SandboxConfig

    @property
    def containers(self) -> Mapping[str, Container]:
        """By their ids."""

    @property
    def agent(self) -> AgentClient:
        """The connection to the guest."""

    def machine(self) -> Vm:
        """
        :raises VmmError: it does not run (any more)
        """


class MachineSize:
    """The size of one machine.  Its methods can be called from any thread."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod
        self._lock = threading.Lock()
        self._limits: dict[str, int] = {}
        """Of the containers whose limits of memory have been changed."""
        self._shares: dict[str, Json] = {}
        """The same of CPU time: ``linux.resources.cpu``."""
        self.memory = pod.config.memory
        """Bytes of RAM that the machine is to have."""
        self.bound: Callable[[int], None] = lambda memory: None
        """Called with that before it grows, to raise the limits of its processes."""
        self.cpus = pod.config.vcpus
        """How many CPUs the guest may use."""
        self.bound_cpu: Callable[[Json], None] = lambda cpu: None
        """Called with ``linux.resources.cpu`` for all containers when one's has changed: whoever limits what its
        processes compute changes the limit."""

    def take_up(self, added: int) -> None:
        """Record the size of a machine that continues from a checkpoint.

        :param added: bytes of RAM that it was given while it ran
        """
        self.memory += added
        config = self._pod.config
        if config.more_cpus:
            count = self._pod.machine().cpus
            self.cpus = min(max(count, self.cpus), most_cpus(config.vcpus, config.more_cpus))

    def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Change limits of a container. If the containers together may use more memory or CPUs than the machine has, it
        gets more, up to ``more_memory`` and ``more_cpus``. It returns what is not needed any more, memory as far as
        possible, in its own time.

        :param resources: see :meth:`pyvmm_kata.pod.container.Container.update`
        :raises ConfigError: *resources* are invalid
        :raises VmmError: the guest refuses the limit, or does not take memory or CPUs in time; nothing is changed then
        """
        made = self._pod.containers.get(container_id)
        if made is None:
            raise ConfigError(f"there is no container {container_id} here", code="container-missing")
        made.check_update(resources)
        limit = (resources.get("memory") or {}).get("limit")
        share = resources.get("cpu") or {}
        with self._lock:
            limits, shares = self._limits, self._shares
            before, wanted, cpus_before, cpus = self.memory, self.memory, self.cpus, self.cpus
            if limit is not None and self._pod.config.more_memory:
                limits = {**limits, container_id: max(limit, 0)}
                wanted = self._fitting(limits)
            if share:
                shares = {**shares, container_id: {**self._share_of(container_id, shares), **share}}
                cpus = self._fitting_cpus(shares)
            try:
                if share:
                    self.bound_cpu(self._all_shares(shares))
                if wanted > before:
                    self.bound(wanted)
                    self._grow(wanted)
                if cpus > cpus_before:
                    self._add_cpus(cpus)
                made.update(resources)
            except BaseException:
                if share:
                    self.bound_cpu(self._all_shares(self._shares))
                if self.cpus > cpus_before:
                    self._take_cpus(cpus_before)
                if self.memory > before:
                    self._resize(before)
                    self.bound(before)
                raise
            self._limits, self._shares = limits, shares
            if wanted < before:
                self._resize(wanted)
            if cpus < cpus_before:
                self._take_cpus(cpus)

    def fit(self, resources: Mapping[str, Json]) -> None:
        """Grow the machine to what its pod's limits need, where they need more than it was made with.

        :param resources: ``linux.resources`` of the pod
        :raises VmmError: the guest does not take memory or CPUs in time
        """
        memory, vcpus = needed(resources, self._pod.config.memory, self._pod.config.vcpus)
        with self._lock:
            if memory > self.memory:
                self.bound(memory)
                self._grow(memory)
            if vcpus > self.cpus:
                self._add_cpus(vcpus)

    def _share_of(self, container_id: str, shares: Mapping[str, Json]) -> Json:
        """``linux.resources.cpu`` of a container, with the new values."""
        spec = self._pod.containers[container_id].bundle.spec
        found: Json = shares.get(container_id, ((spec.get("linux") or {}).get("resources") or {}).get("cpu") or {})
        return found

    def _all_shares(self, shares: Mapping[str, Json]) -> Json:
        """The same for all of them together: their sum, if each has a limit."""
        each = [self._share_of(container_id, shares) for container_id in self._pod.containers]
        if len(each) == 1:
            return each[0]
        parts = [_cpus_of(one) for one in each]
        return {"quota": int(sum(parts) * _PERIOD) if all(parts) else -1, "period": _PERIOD}

    def _fitting_cpus(self, shares: Mapping[str, Json]) -> int:
        """How many CPUs the containers need."""
        total = sum(_cpus_of(self._share_of(container_id, shares)) for container_id in self._pod.containers)
        config = self._pod.config
        return min(max(config.vcpus, int(-(-round(total, 3) // 1))), most_cpus(config.vcpus, config.more_cpus))

    def _add_cpus(self, count: int) -> None:
        self._pod.machine().resize_cpus(count)
        self.cpus = count
        self._pod.agent.online_cpus(count)

    def _take_cpus(self, count: int) -> None:
        """Limit the guest to that many; a guest that does not release CPUs keeps them, and its limits hold."""
        takes: tuple[Callable[[int], None], ...] = (
            lambda count: self._pod.agent.online_cpus(count),
            lambda count: self._pod.machine().resize_cpus(count),
        )
        for take in takes:
            try:
                take(count)
            except VmmError as error:
                timeline.note(f"the guest has {self.cpus} CPUs: {error}")
            else:
                self.cpus = count

    def _fitting(self, limits: Mapping[str, int]) -> int:
        """Bytes of RAM for the containers, with their new limits."""
        total = GUEST_OVERHEAD
        for container_id, made in self._pod.containers.items():
            own = ((made.bundle.spec.get("linux") or {}).get("resources") or {}).get("memory") or {}
            total += limits.get(container_id, max(own.get("limit") or 0, 0))
        most = self._pod.config.memory + self._pod.config.more_memory
        return min(max(self._pod.config.memory, -(-total // _BLOCK) * _BLOCK), most)

    def _resize(self, memory: int) -> None:
        self._pod.machine().resize_memory(memory)
        self.memory = memory

    def _grow(self, memory: int) -> None:
        deadline = time.monotonic() + GROW_S
        self._resize(memory)
        while (there := self._plugged_memory()) < memory:
            if time.monotonic() > deadline:
                raise GuestError(
                    f"sandbox {self._pod.config.sandbox_id}: the guest has taken {there >> 20} of {memory >> 20} MiB "
                    f"of memory in {GROW_S:g} s",
                    code="sandbox-memory",
                )
            time.sleep(_LOOK_S)

    def _plugged_memory(self) -> int:
        for device in self._pod.machine().figures()["devices"]:
            if device["name"] == "hotplug memory":
                return self._pod.config.memory + int(device["plugged"])
        return self._pod.config.memory
