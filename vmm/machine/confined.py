"""A machine's threads, each with a short list of system calls, and without capabilities: see docs/security.md.

A vCPU and the control loop run Python, for what C does not handle. So this is for processes whose Python code is known:
code that may run on these threads (devices, listeners, finalizers of collected objects) opens nothing.
"""

from __future__ import annotations

import posix

from vmm.errors import ConfigError, HostError
from vmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.config import MachineConfig

_FOR_PYTHON = lib.SECCOMP_CHILD | lib.SECCOMP_VHOST
"""Kinds of :func:`kinds_of` that are no worker's."""


def import_the_rest() -> None:
    """Import the modules that these threads may need, for the guest's way of running: they cannot open files."""
    from vmm.kvm import diagnose, structs_debug, structs_state

    assert diagnose and structs_debug and structs_state


def kinds_of(config: MachineConfig) -> int:
    """The kinds of workers of the machine (``SECCOMP_*``), and further needs of its devices."""
    kinds = 0
    for each in (*config.device_configs(), *config.last_configs()):
        kinds |= each.calls
    if config.shares_memory() and config.has_pci():
        kinds |= lib.SECCOMP_CHILD  # a share may be plugged in
    return kinds


class Confinement:
    """The restrictions for a machine's threads; holds the thread that starts its workers until :meth:`close`.

    :param config: of the machine, all of whose devices are open
    :param terminal: its console is one
    :raises ConfigError: a device opens files while the guest runs
    :raises HostError: the host has no filters of system calls
    """

    def __init__(self, config: MachineConfig, *, terminal: bool = False) -> None:
        if why := config.opens_files():
            raise ConfigError(why, code="confine-files")
        import_the_rest()
        kinds = kinds_of(config) & _FOR_PYTHON
        typed = lib.SECCOMP_TTY if terminal else 0
        _check(lib.seccomp_starter_begin())
        self._open = True
        self.vcpu: Callable[[], None] = lambda: _check(lib.seccomp_enter_thread(lib.SECCOMP_VCPU | kinds))
        """To be called on a vCPU's thread, before it enters the guest."""
        self.loop: Callable[[], None] = lambda: _check(lib.seccomp_enter_thread(lib.SECCOMP_LOOP | kinds | typed))
        """Call it on the control loop's thread, before that reads anything that the guest wrote."""

    def close(self) -> None:
        """Any thread may start workers again. Harmless when done twice."""
        if self._open:
            self._open = False
            lib.seccomp_starter_end()


def _check(result: int) -> None:
    if result:
        raise HostError(
            f"system calls of a machine's threads cannot be restricted: {posix.strerror(-result)}",
            code="confine",
            hint="the host's kernel needs CONFIG_SECCOMP_FILTER",
            errno=-result,
        )
