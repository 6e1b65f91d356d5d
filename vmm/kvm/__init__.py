"""/dev/kvm; nothing else in the package uses it. :class:`System` makes :class:`Vm`, which makes :class:`Vcpu`."""

from vmm.kvm.system import System
from vmm.kvm.vcpu import Vcpu
from vmm.kvm.vm import Vm

__all__ = ["System", "Vcpu", "Vm"]
