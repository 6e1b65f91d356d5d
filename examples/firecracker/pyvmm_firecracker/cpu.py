"""CPU templates of the interface (``PUT /cpu-config``), as processors of :mod:`vmm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm_firecracker.fault import Fault
from vmm import CpuConfig, VmmError, host_cpu

if TYPE_CHECKING:
    from typing import Any

    Body = dict[str, Any]

ARCH_CAPABILITIES = 0x10A


@dataclass(frozen=True)
class Bits:
    """Bits that are set or cleared, and others that stay."""

    mask: int
    value: int

    def apply(self, before: int) -> int:
        return before & ~self.mask | self.value


def bits(text: str, width: int) -> Bits:
    """Parse ``0b`` and a digit for each bit: 0, 1, or x for one that stays.

    :raises Fault: it is none
    """
    digits = text.removeprefix("0b").replace("_", "")
    if not text.startswith("0b") or not 0 < len(digits) <= width or {*digits} - {*"01x"}:
        raise Fault(f"Invalid bitmap {text:.80}: 0b and at most {width} of the digits 0, 1 and x are expected.")
    return Bits(int(digits.replace("0", "1").replace("x", "0"), 2), int(digits.replace("x", "0"), 2))


def number(text: str) -> int:
    """Parse a number of 32 bits: decimal, ``0x`` or ``0b``.

    :raises Fault: it is none
    """
    base = {"0x": 16, "0b": 2}.get(text[:2], 10)
    try:
        if not text.isascii() or not text.isalnum():
            raise ValueError
        found = int(text, base)
    except ValueError:
        found = -1
    if not 0 <= found < 1 << 32:
        raise Fault(f"Invalid number {text:.40}: 32 bits as decimal, 0x or 0b are expected.")
    return found


def check(body: Body) -> None:
    """
    :raises Fault: the template changes something that machines here do not have
    """
    for name, what in (
        ("kvm_capabilities", "KVM capabilities"),
        ("reg_modifiers", "registers of aarch64"),
        ("vcpu_features", "vCPU features of aarch64"),
    ):
        if body.get(name):
            raise Fault(f"The CPU template changes {what}, which is not supported.")
    for each in body.get("msr_modifiers", ()):
        bits(each["bitmap"], 64)
        if number(each["addr"]) != ARCH_CAPABILITIES:
            raise Fault(f"The CPU template changes the MSR {each['addr']:.40}: only {ARCH_CAPABILITIES:#x} can be.")
    for leaf in body.get("cpuid_modifiers", ()):
        number(leaf["leaf"])
        number(leaf["subleaf"])
        for each in leaf["modifiers"]:
            bits(each["bitmap"], 32)


def processor(body: Body | None) -> CpuConfig | str:
    """The processor of a machine.

    :param body: that :func:`check` has accepted; None: there is no template
    :raises Fault: it changes a leaf that this host does not have
    """
    if not body or not any(body.values()):
        return "guest"
    try:
        host = host_cpu()
    except VmmError as error:
        raise Fault(f"The CPU template cannot be applied: {error}.") from error
    leaves = host.by_place()
    for each in body.get("cpuid_modifiers", ()):
        place = number(each["leaf"]), number(each["subleaf"])
        if place not in leaves:
            raise Fault(
                f"The CPU template changes the leaf {place[0]:#x}.{place[1]:#x}, which this host does not have."
            )
        leaves[place] = _changed(leaves[place], each["modifiers"])
    capabilities = host.arch_capabilities
    for each in body.get("msr_modifiers", ()):
        if capabilities < 0:
            raise Fault(f"The CPU template changes the MSR {ARCH_CAPABILITIES:#x}, which this host does not have.")
        capabilities = bits(each["bitmap"], 64).apply(capabilities)
    return CpuConfig(tuple(leaves.values()), capabilities)


def _changed(leaf: Any, modifiers: list[Body]) -> Any:
    values = {name: getattr(leaf, name) for name in ("eax", "ebx", "ecx", "edx")}
    for each in modifiers:
        values[each["register"]] = bits(each["bitmap"], 32).apply(values[each["register"]])
    return type(leaf)(leaf.function, leaf.index, leaf.indexed, **values)
