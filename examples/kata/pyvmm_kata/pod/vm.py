"""What a sandbox needs of the machine that runs its guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pyvmm_kata.bundle.root_disks import RootDisk
    from pyvmm_kata.pod import templates


class Vm(Protocol):
    """The interface of a sandbox to its virtual machine; tests have one without KVM.

    :ivar template: the folder of the template that it is a clone of, and whose identity it must change; empty: none
    :ivar why: the reason why it is not a clone although there are templates
    :ivar wanted: the template to build for the next one like it; None: there is nothing to build
    """

    template: str
    why: str
    wanted: templates.Kind | None

    def connect(self, timeout: float) -> socket.socket:
        """A connection to the agent, once it listens.

        :raises GuestError: it does not listen in time
        """

    def dial(self) -> socket.socket:
        """A connection to the agent's port for connections from the host (``linux-guest/agent/relay.h``).

        :raises OSError: there is none
        :raises VmmError: the machine does not run any more
        """

    def watch(self, on_end: Callable[[str], None]) -> None:
        """Call *on_end*, with a reason, when the machine has ended, for example by the death of the share's server."""

    def plug(self, disk: RootDisk, serial: str) -> None:
        """Give the running guest a disk, with the serial number *serial*.

        :raises VmmError: it cannot be opened, or the machine has no room for it
        """

    def unplug(self, serial: str) -> None:
        """Unplug that disk and close it, whether the guest releases it or not.

        :raises VmmError: the machine does not run any more
        """

    def readdress(self, number: int, mac: str) -> None:
        """Change the MAC address of a network device that has no driver in the guest.

        :param number: the index of the network's device
        :raises VmmError: the machine does not run any more
        """

    def refresh(self) -> None:
        """Wait until the guest sees everything that the host wrote to shared files before this call; mostly that is at
        once.

        :raises VmmError: the machine does not run any more
        """

    def save(self, folder: str) -> None:
        """Save it as a snapshot in *folder*, which is new; it continues.

        :raises VmmError: a part of it cannot be saved, or the host cannot write it
        """

    @property
    def base_size(self) -> int:
        """Bytes of memory that a copy would have beside what this machine's processes have filled: the part that its
        guest reads from what it was made from."""

    def fork(self, count: int) -> tuple[dict[str, Any], list[int]]:
        """Its state at this moment, for *count* copies that other processes make; see :func:`vmm.import_fork`.

        :raises VmmError: it cannot have copies elsewhere; the code is ``fork-isolation`` where a snapshot serves
        """

    def write_touched(self, fd: int) -> None:
        """Write to a file which pages of memory it has touched since it was restored: the ``working-set`` of a
        checkpoint.

        :raises VmmError: it does not know, or does not run any more
        """

    def resize_memory(self, size: int) -> None:
        """Request that the guest use *size* bytes of memory, between its initial size and ``more_memory`` beyond.

        :raises VmmError: the machine does not run any more
        """

    @property
    def cpus(self) -> int:
        """How many CPUs the guest may use now.

        :raises VmmError: the machine does not run any more
        """

    def resize_cpus(self, count: int) -> None:
        """Allow the guest the first *count* CPUs, from its initial number up to ``more_cpus`` beyond.

        :raises VmmError: the guest uses one of the others, or the machine does not run any more
        """

    def figures(self) -> dict[str, Any]:
        """Counters: ``vcpus``, with KVM's names and numbers of each, and exits to ``c`` and ``python``; ``devices``,
        with the ``name`` and counters of each.

        :raises VmmError: the machine does not run any more
        """

    def close(self) -> None:
        """End it and release its resources."""
