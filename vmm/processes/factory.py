"""Making a machine wherever its configuration says: in this process, in a jailed child, or in a jailed fork."""

from __future__ import annotations

import posix

from vmm.config import FORK, PROCESS, THREAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.config import MachineConfig
    from vmm.machine.interface import AnyMachine
    from vmm.processes.isolated import IsolatedMachine
    from vmm.virtio.device import VirtioDevice


def create_machine(config: MachineConfig, *, devices: tuple[VirtioDevice, ...] = ()) -> AnyMachine:
    """A machine with the isolation of its configuration: a :class:`~vmm.machine.machine.Machine` with ``thread``, an
    :class:`~vmm.processes.isolated.IsolatedMachine` with ``process`` or ``fork``.

    :param devices: further virtio devices, with ``thread`` alone
    :raises ConfigError: the configuration cannot be
    :raises HostError: the host has no usable KVM, or not enough memory
    """
    if config.isolation == THREAD:
        from vmm.machine.machine import Machine

        return Machine(config, devices=devices)
    return _kind_of(config.isolation)(config, devices=devices)


def _kind_of(isolation: str) -> type[IsolatedMachine]:
    from vmm.processes.isolated import IsolatedMachine

    IsolatedMachine.kind_of = _kind_of
    if isolation == FORK:
        from vmm.processes.forked import ForkedMachine

        return ForkedMachine
    return IsolatedMachine


def import_fork(about: dict[str, Any], fds: list[int], *, start: bool = True, **changes: Any) -> AnyMachine:
    """A child of a machine of another process, see :meth:`vmm.AnyMachine.export_fork`.

    :param fds: of the same; they are closed
    :param changes: as of :meth:`vmm.Machine.fork`
    :raises ConfigError: it cannot be made from these, or cannot have that
    :raises HostError: the host refuses
    """
    from vmm.processes.jailed import OpenPoint

    try:
        point = OpenPoint.imported(about, fds)
    except BaseException:
        for fd in fds:
            posix.close(fd)
        raise
    try:
        return _kind_of(PROCESS).of_fork(point, changes, start=start)
    finally:
        point.close()


def restore_machine(
    path: str,
    *,
    devices: tuple[VirtioDevice, ...] = (),
    clock: str = "host",
    force: bool = False,
    prefetch: bool = False,
    cow: str = "",
    verify: bool = False,
    start: bool = True,
    **changes: Any,
) -> AnyMachine:
    """:meth:`vmm.machine.machine.Machine.restore`, with the isolation that *changes* name.

    :raises ConfigError: it is not a snapshot, or cannot be restored here; the message has the reason
    :raises HostError: the host refuses
    """
    options: dict[str, Any] = {"clock": clock, "force": force, "prefetch": prefetch, "cow": cow, "verify": verify}
    isolation = changes.get("isolation", THREAD)
    if isolation == THREAD:
        from vmm.machine.machine import Machine

        return Machine.restore(path, devices=devices, start=start, **options, **changes)
    return _kind_of(isolation).restore(path, changes, devices=devices, start=start, **options)
