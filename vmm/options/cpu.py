"""A processor as data: the CPUID leaves that guests see, so that they see the same ones on different hosts.

A template is a JSON file, made by ``pyvmm cpu``. ``leaves`` has each leaf's number, sub-leaf if any, and registers;
``arch_capabilities`` is the MSR of that name, if guests have it. Numbers are hexadecimal. Parts that depend on the
machine (topology, APIC ids, frequencies) are not included. Leaves: Intel SDM vol. 2 (CPUID); AMD APM vol. 3 appendix E.
"""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REGISTERS = ("eax", "ebx", "ecx", "edx")
MAX_LEAVES = 200
_MOST = 1 << 18
"""Bytes of a file; a template has some ten thousand."""
BASIC, EXTENDED = 0, 0x8000_0000
XSAVE_LEAF = 0xD
ADDRESSES_LEAF = 0x8000_0008
_LEGACY_AREA = 576
"""Bytes of XSAVE's area before the components that have a sub-leaf of their own."""

_FEATURES = {
    (0x1, 0): "ecx edx",
    (0x6, 0): "eax",
    (0x7, 0): "ebx ecx edx",
    (0x7, 1): "eax ebx ecx edx",
    (0x7, 2): "edx",
    (0xD, 0): "eax edx",
    (0xD, 1): "eax ecx edx",
    (0x19, 0): "eax ebx ecx",
    (0x4000_0001, 0): "eax edx",
    (0x8000_0001, 0): "ecx edx",
    (0x8000_0007, 0): "ebx edx",
    (0x8000_0008, 0): "ebx",
    (0x8000_000A, 0): "edx",
    (0x8000_0021, 0): "eax ecx",
}
"""Registers whose bits are each something that a host has or not."""


@dataclass(frozen=True)
class CpuLeaf:
    """One leaf.

    :ivar function: the value of EAX with which a guest queries it
    :ivar index: and in ECX, if *indexed*
    """

    function: int
    index: int = 0
    indexed: bool = False
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0

    def __post_init__(self) -> None:
        for name in ("function", "index", *REGISTERS):
            if not 0 <= getattr(self, name) < 1 << 32:
                raise ConfigError(f"cpu template: {name} is not a number of 32 bits", code="cpu-template")

    @property
    def place(self) -> tuple[int, int]:
        """Its number and its sub-leaf's."""
        return self.function, self.index

    @property
    def name(self) -> str:
        """In words."""
        return f"leaf {self.function:#x}" + (f".{self.index}" if self.indexed else "")

    def features(self) -> tuple[str, ...]:
        """Registers that are sets of feature bits."""
        return tuple(_FEATURES.get(self.place, "").split())

    def must_be_the_same(self) -> tuple[str, ...]:
        """Registers with the size and place of the components of the XSAVE area."""
        return ("eax", "ebx") if self.function == XSAVE_LEAF and self.index > 1 else ()


@dataclass(frozen=True)
class CpuConfig:
    """The processor of a machine's vCPUs.

    :ivar leaves: everything that a guest sees, except the machine's own topology, APIC ids and frequencies
    :ivar arch_capabilities: IA32_ARCH_CAPABILITIES, or -1: the guest has none
    """

    leaves: tuple[CpuLeaf, ...]
    arch_capabilities: int = -1

    def __post_init__(self) -> None:
        places = [leaf.place for leaf in self.leaves]
        if not 0 < len(places) <= MAX_LEAVES or len({*places}) < len(places) or (0, 0) not in places:
            raise ConfigError(
                f"cpu template: 1 to {MAX_LEAVES} leaves, none of them twice, and leaf 0x0", code="cpu-template"
            )
        if not -1 <= self.arch_capabilities < 1 << 64:
            raise ConfigError("cpu template: arch_capabilities is not a number of 64 bits", code="cpu-template")

    def by_place(self) -> dict[tuple[int, int], CpuLeaf]:
        """The leaves by their numbers."""
        return {leaf.place: leaf for leaf in self.leaves}

    def vendor(self) -> str:
        """The vendor: ``GenuineIntel``, ``AuthenticAMD``."""
        leaf = self.by_place()[0, 0]
        name = b"".join(each.to_bytes(4, "little") for each in (leaf.ebx, leaf.edx, leaf.ecx))
        return "".join(chr(each) if 32 <= each < 127 else "?" for each in name)

    def missing_on(self, host: CpuConfig) -> list[str]:
        """The features in these leaves that *host* lacks, in words."""
        found, theirs = [], host.by_place()
        if self.vendor() != host.vendor():
            return [f"a processor of {self.vendor()}, and this one is of {host.vendor()}"]
        for leaf in self.leaves:
            other = theirs.get(leaf.place, CpuLeaf(leaf.function, leaf.index, leaf.indexed))
            for register in leaf.features():
                bits = getattr(leaf, register) & ~getattr(other, register)
                if bits:
                    found.append(f"{leaf.name} {register} bits {bits:#x}")
            found += [f"{leaf.name} {name}" for name in leaf.must_be_the_same() if _differ(leaf, other, name)]
            if leaf.function == ADDRESSES_LEAF and leaf.eax & 0xFF > other.eax & 0xFF:
                found.append(f"addresses of {leaf.eax & 0xFF} bits")
        msr = self.arch_capabilities
        if msr >= 0 and (host.arch_capabilities < 0 or msr & ~host.arch_capabilities):
            found.append(f"arch_capabilities {msr:#x}")
        return found

    def in_common(self, other: CpuConfig) -> CpuConfig:
        """The features of both hosts; everything else from this one.

        :raises ConfigError: processors of two vendors, or with two layouts of the XSAVE area
        """
        if self.vendor() != other.vendor():
            raise ConfigError(
                f"cpu template: {self.vendor()} and {other.vendor()} have no processor in common", code="cpu-vendor"
            )
        theirs, kept = other.by_place(), []
        for leaf in self.leaves:
            there = theirs.get(leaf.place)
            if there is None:
                continue
            if any(_differ(leaf, there, name) for name in leaf.must_be_the_same()):
                raise ConfigError(f"cpu template: {leaf.name} differs between them", code="cpu-xsave")
            changes = {name: getattr(leaf, name) & getattr(there, name) for name in leaf.features()}
            if leaf.place in ((BASIC, 0), (EXTENDED, 0)):  # the highest leaf
                changes["eax"] = min(leaf.eax, there.eax)
            if leaf.function == ADDRESSES_LEAF:
                changes["eax"] = leaf.eax & ~0xFF | min(leaf.eax & 0xFF, there.eax & 0xFF)
            kept.append(_with(leaf, changes))
        kept = _with_area(kept)
        both = self.arch_capabilities >= 0 and other.arch_capabilities >= 0
        return CpuConfig(tuple(kept), self.arch_capabilities & other.arch_capabilities if both else -1)

    def text(self) -> str:
        """As a file has it."""
        import json

        rows: list[str] = []
        for leaf in self.leaves:
            values: dict[str, str] = {"leaf": f"{leaf.function:#x}"}
            if leaf.indexed:
                values["index"] = f"{leaf.index:#x}"
            rows.append(json.dumps({**values, **{name: f"{getattr(leaf, name):#010x}" for name in REGISTERS}}))
        more = f'\n "arch_capabilities": "{self.arch_capabilities:#x}",' if self.arch_capabilities >= 0 else ""
        return f'{{"vendor": "{self.vendor()}",{more}\n "leaves": [\n  ' + ",\n  ".join(rows) + "\n]}\n"

    @classmethod
    def read(cls, path: str) -> CpuConfig:
        """That of a file.

        :raises ConfigError: it cannot be read, or is not a template; the message names the error
        """
        import json

        try:
            with open(path, "rb") as file:
                data = file.read(_MOST + 1)
        except OSError as error:
            raise ConfigError(f"cpu template {path}: {error.strerror}", code="cpu-template") from error
        try:
            if len(data) > _MOST:
                raise ValueError(f"more than {_MOST} bytes")
            return cls._made(json.loads(data))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}", code="cpu-template", hint=_HINT) from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"cpu template {path}: {error}", code="cpu-template", hint=_HINT) from error

    @classmethod
    def _made(cls, value: Any) -> CpuConfig:
        if not isinstance(value, dict) or not isinstance(value.get("leaves"), list):
            raise ValueError("no object with leaves")
        if unknown := {*value} - {"vendor", "leaves", "arch_capabilities"}:
            raise ValueError(f"no field {min(unknown)!r:.60}")
        leaves = []
        for each in value["leaves"]:
            if not isinstance(each, dict) or {*each} - {"leaf", "index", *REGISTERS} or "leaf" not in each:
                raise ValueError(f"no leaf: {each!r:.80}")
            numbers = {name: _number(text) for name, text in each.items()}
            function = numbers.pop("leaf")
            leaves.append(CpuLeaf(function=function, indexed="index" in each, **numbers))
        made = cls(tuple(leaves), _number(value["arch_capabilities"]) if "arch_capabilities" in value else -1)
        if value.get("vendor", made.vendor()) != made.vendor():
            raise ValueError(f"vendor is {value['vendor']!r:.40}, and leaf 0x0 says {made.vendor()!r}")
        return made


_HINT = "pyvmm cpu makes one"


def _number(text: object) -> int:
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError(f"{text!r:.40} is no hexadecimal number (0x...)")
    return int(text, 16)


def _with_area(leaves: list[CpuLeaf]) -> list[CpuLeaf]:
    """The XSAVE area for the remaining components: the others are removed, and it ends with the last one."""
    here = {leaf.index: leaf for leaf in leaves if leaf.function == XSAVE_LEAF}
    if 0 not in here:
        return leaves
    user = here[0].eax | here[0].edx << 32
    supervisor = here[1].ecx | here[1].edx << 32 if 1 in here else 0
    kept = {index for index in here if index < 2 or (user | supervisor) >> index & 1}
    end = max([_LEGACY_AREA, *(here[index].eax + here[index].ebx for index in kept if index > 1 and user >> index & 1)])
    return [
        _with(leaf, {"ebx": end, "ecx": end}) if leaf.place == (XSAVE_LEAF, 0) else leaf
        for leaf in leaves
        if leaf.function != XSAVE_LEAF or leaf.index in kept
    ]


def _differ(one: CpuLeaf, other: CpuLeaf, register: str) -> bool:
    return bool(getattr(one, register) != getattr(other, register))


def _with(leaf: CpuLeaf, changes: dict[str, Any]) -> CpuLeaf:
    from vmm.faststart.record import replace

    return replace(leaf, **changes)
