"""A Sentry without a machine: its core is a process of the host, with the devices that a machine would have."""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from pyvmm_kata import timeline
from pyvmm_kata.errors import ConfigError, GuestError, HostError
from pyvmm_kata.host.mounts import VSOCK
from pyvmm_kata.pod.console_log import ConsoleLog
from pyvmm_kata.pod.guest_kind import AGENT_PORT
from pyvmm_kata.pod.sentry_checks import STRACE
from vmm import VsockConfig

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pyvmm_kata.bundle.root_disks import RootDisk
    from pyvmm_kata.pod import templates
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_sentry.nursery import Image
    from vmm import ShareConfig

CID = 3


class SentryProcess:
    """A :class:`pyvmm_kata.pod.vm.Vm`, started.

    :param folder: where its socket and its log are made
    :param share: of the directory that it sees
    :param platform: what it runs on; ``auto``: the best that works
    :raises VmmError: it cannot be made, or no platform works here
    """

    template = why = ""
    wanted: templates.Kind | None = None

    def __init__(self, config: SandboxConfig, folder: str, share: ShareConfig, platform: str) -> None:
        from pyvmm_sentry.controlled import Controlled

        self._name = config.sandbox_id
        # Through the descriptor, since a unix socket's path must be short and the state's may not be
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.platform = ""
        self._console: ConsoleLog | None = None
        self._core: Controlled | None = None
        try:
            vsock = VsockConfig(CID, f"/proc/self/fd/{self._folder}/{VSOCK}", connections=16)
            self._console = ConsoleLog(self._folder)
            self.platform, program = program_for(platform)
            timeline.note(f"the Sentry runs on {self.platform}, without a machine")
            seal = config.seal or (lambda wanted: None)
            self._program, self._memory = program, config.memory
            with self._continued(config.checkpoint) as image:
                self._core = Controlled(
                    program,
                    config.memory,
                    share,
                    vsock,
                    self._console.fileno(),
                    lambda: seal(None),
                    network=config.network.nets[0] if config.network is not None and config.network.nets else None,
                    strace=STRACE in config.cmdline.split(),
                    image=image,
                    stops=self.platform == "trap",
                )
        except BaseException:
            self.close()
            raise

    def _continued(self, folder: str) -> AbstractContextManager[Image | None]:
        """What it continues; None: nothing."""
        if not folder:
            return nullcontext()
        from pyvmm_sentry import saved

        return saved.opened(folder, self._program, self._memory)

    def connect(self, timeout: float) -> socket.socket:
        """See :class:`Vm`."""
        try:
            made: socket.socket = self._running().connect(AGENT_PORT, timeout)
            return made
        except (TimeoutError, ConnectionRefusedError) as error:
            raise GuestError(
                f"sandbox {self._name}: the Sentry did not answer on vsock port {AGENT_PORT}: {error}",
                code="guest-start",
                hint="console.log in the folder of the machine has what it printed",
            ) from error

    def dial(self) -> socket.socket:
        """See :class:`Vm`."""
        raise ConnectionRefusedError("a Sentry forwards no connections of the host")

    def watch(self, on_end: Callable[[str], None]) -> None:
        """See :class:`Vm`."""
        self._running().watch(on_end)

    def plug(self, disk: RootDisk, serial: str) -> None:
        """See :class:`Vm`."""
        raise _cannot("have disks")

    def unplug(self, serial: str) -> None:
        """See :class:`Vm`."""
        raise _cannot("have disks")

    def readdress(self, number: int, mac: str) -> None:
        """See :class:`Vm`: the agent sets it."""

    def refresh(self) -> None:
        """See :class:`Vm`: its core checks the host's files again at each start of a process."""

    def save(self, folder: str) -> None:
        """See :class:`Vm`."""
        from pyvmm_sentry import saved

        self._running().save(lambda image: saved.write(folder, image, self._memory))
        saved.complete(folder, self._program, self._memory)

    @property
    def base_size(self) -> int:
        """See :class:`Vm`."""
        return 0

    def fork(self, count: int) -> tuple[dict[str, Any], list[int]]:
        """See :class:`Vm`."""
        raise ConfigError("a Sentry without a machine has no copies elsewhere", code="fork-isolation")

    def write_touched(self, fd: int) -> None:
        """See :class:`Vm`: it is never restored."""
        raise _cannot("tell what memory it has touched")

    def resize_memory(self, size: int) -> None:
        """See :class:`Vm`."""
        raise _cannot("change its memory")

    @property
    def cpus(self) -> int:
        """See :class:`Vm`."""
        return 1

    def resize_cpus(self, count: int) -> None:
        """See :class:`Vm`."""
        raise _cannot("change its CPUs")

    def figures(self) -> dict[str, Any]:
        """See :class:`Vm`."""
        return {"platform": self.platform, "vcpus": [], "devices": [{"name": "share", **self._running().stats()}]}

    def _running(self) -> Any:
        if self._core is None:
            raise HostError(f"sandbox {self._name}: its Sentry has ended", code="sandbox-state")
        return self._core

    def close(self) -> None:
        """See :class:`Vm`."""
        core, self._core = self._core, None
        if core is not None:
            core.close()
        console, self._console = self._console, None
        if console is not None:
            console.close()
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1


def _cannot(what: str) -> ConfigError:
    return ConfigError(f"a Sentry cannot {what}", code="guest-kind", hint="use --isolation vm")


@functools.cache
def program_for(wanted: str) -> tuple[str, str]:
    """The name and the program of a platform, or of the best one that works here; found once.

    :raises HostError: it does not work here, or none does; or it cannot be built
    """
    from pyvmm_sentry import platforms, program

    attempts = {"kvm": platforms.kvm, "trap": platforms.trap, "ptrace": platforms.ptrace}
    programs = {"trap": program.trap, "ptrace": program.ptrace}
    first = None
    for name in programs if wanted == "auto" else (wanted,):
        found = attempts[name]()
        if found.present:
            try:
                return name, str(programs[name]())
            except program.BuildError as error:
                raise HostError(f"the Sentry's program for {name} cannot be built: {error}", hint=error.hint) from error
        first = first or found
    assert first
    what = "can run neither on KVM nor without it" if wanted == "auto" else f"cannot run on {wanted}"
    raise HostError(f"the Sentry {what}: {first.detail}", hint=first.hint)
