"""The state of a machine without RAM and disks: saved while it is paused, and restored into a new one.

Devices are saved first: their remaining work changes RAM and raises interrupts. KVM follows, which stores those
interrupts. Then the caller saves RAM, which nobody changes any more.
"""

from __future__ import annotations

from vmm.board.bootstrap import new_generation
from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.kvm.saved import VcpuState, VmState
from vmm.saveable import OwnState, State, saveable
from vmm.virtio.spec import ID_BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.board.kvm_vm import Core
    from vmm.board.pc import Platform
    from vmm.board.slots import Attached, Slots
    from vmm.config import MachineConfig
    from vmm.memory import GuestMemory

STATE_VERSION = 1
"""Of :class:`MachineState`."""


@dataclass(frozen=True)
class MachineState:
    """The file ``state`` of a snapshot.

    :ivar version: :data:`STATE_VERSION` of the writer
    :ivar vcpus: by their APIC ids
    :ivar platform: what is no virtio device, as :meth:`vmm.saveable.State.plain` has it
    :ivar devices: the saved state of each virtio device, in the order of their slots
    """

    version: int
    vcpus: tuple[VcpuState, ...]
    vm: VmState
    platform: tuple[dict[str, Any], ...]
    devices: tuple[dict[str, Any], ...]


KINDS: dict[str, type] = {each.__name__: each for each in (MachineState, VcpuState, VmState)}


def check_can_be_saved(config: MachineConfig, attached: list[Attached]) -> None:
    """
    :raises ConfigError: a part of the machine cannot be saved; the message names it
    """
    for each in attached:
        saveable(each.device)
    if sum(each.device.device_id == ID_BLOCK for each in attached) != len(config.disk_configs()):
        raise ConfigError(
            "a disk was plugged in or unplugged: the machine is not the one that was configured",
            code="snapshot-device",
            hint="a snapshot has the devices of the configuration",
        )


def save(core: Core, slots: Slots, platform: Platform, *, own: bool = False) -> MachineState:
    """The state of a paused machine.

    :param own: for this process alone: it cannot be written to a file
    """
    devices = tuple(each.transport.save().plain() for each in slots.attached)
    others = tuple(each.save().plain() for each in (*platform.saved, *slots.saved))
    vcpus, vm = core.save(own=own)
    return MachineState(STATE_VERSION, tuple(vcpus), vm, others, devices)


def restore(
    state: MachineState,
    core: Core,
    slots: Slots,
    platform: Platform,
    memory: GuestMemory,
    *,
    advance_clock: bool,
    own: bool = False,
    same_cpuid: bool = False,
) -> None:
    """Restore *state* into a machine whose devices are all attached, and which has not run; :func:`go_on` follows.

    :param memory: RAM, as it was then
    :param advance_clock: advance its clocks by the time since
    :param own: this process has just saved it
    :param same_cpuid: the vCPUs were made with the CPUID of the state
    :raises ConfigError: the state belongs to another machine
    :raises HostError: the host's KVM does not accept it
    """
    elapsed = core.restore(list(state.vcpus), state.vm, advance_clock=advance_clock, same_cpuid=same_cpuid, own=own)
    for vcpu in core.vcpus if elapsed else ():
        vcpu.count_stolen(memory, elapsed)
    _restore_devices(state, slots, platform, OwnState if own else State)
    # Before the guest's first instruction: it must not draw the random numbers that others draw, too
    new_generation(memory)
    platform.generation.signal()
    for vcpu in core.vcpus:
        vcpu.was_paused()


def _restore_devices(state: MachineState, slots: Slots, platform: Platform, kind: type[State]) -> None:
    others = [*platform.saved, *slots.saved]
    if len(others) != len(state.platform) or len(slots.attached) != len(state.devices):
        raise ConfigError(
            f"the snapshot has {len(state.devices)} devices, this machine {len(slots.attached)}",
            code="restore-mismatch",
            hint="restore with the same devices, in the same order",
        )
    for attached, plain in zip(slots.attached, state.devices, strict=True):
        attached.transport.restore(kind.from_plain(plain, attached.device.name))
    # Behind the devices: the PCI bus looks at their BARs
    for thing, plain in zip(others, state.platform, strict=True):
        thing.restore(kind.from_plain(plain, thing.name))


def go_on(slots: Slots) -> None:
    """Start the devices of a restored machine; opens nothing. Each is kicked and raises an interrupt, since kicks just
    before the save are not part of the state. The guest may run, and release a device meanwhile."""
    for attached in tuple(slots.attached):
        attached.transport.resume()
        attached.transport.interrupt()
