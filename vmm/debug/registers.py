"""A vCPU's registers in gdb's form: order, names and types (``target.xml``), and their places in KVM."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.kvm import Vcpu

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip")
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
_X87 = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")
_TABLES = ("gdt", "idt")
_BASES = ("cs", "ss", "ds", "es", "tr")
KERNEL_GS_BASE = 0xC000_0102
"""IA32_KERNEL_GS_BASE: what SWAPGS exchanges with the base of GS."""
_FLAGS = dict(
    zip(
        ["CF", "ONE", "PF", "AF", "ZF", "SF", "TF", "IF", "DF", "OF", "NT", "RF", "VM", "AC", "VIF", "VIP", "ID"],
        (0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 14, 16, 17, 18, 19, 20, 21),
        strict=True,
    )
)


def _layout() -> list[tuple[str, str, int, str]]:
    rows = [("core", name, 8, "int64") for name in _GENERAL[:6]]
    rows += [("core", name, 8, "data_ptr") for name in ("rbp", "rsp")]
    rows += [("core", name, 8, "int64") for name in _GENERAL[8:16]]
    rows += [("core", "rip", 8, "code_ptr"), ("core", "eflags", 4, "i386_eflags")]
    rows += [("core", name, 4, "int32") for name in _SEGMENTS]
    rows += [("core", f"st{n}", 10, "i387_ext") for n in range(8)]
    rows += [("core", name, 4, "int") for name in _X87]
    rows += [("sse", f"xmm{n}", 16, "uint128") for n in range(16)]
    rows += [("sse", "mxcsr", 4, "int")]
    rows += [("segments", name, 8, "int") for name in ("fs_base", "gs_base")]
    rows += [("control", name, 8, "int64") for name in _CONTROL]
    rows += [("control", "k_gs_base", 8, "int64")]
    rows += [("control", f"{name}_base", 8, "int64") for name in (*_BASES, *_TABLES)]
    return rows


LAYOUT = _layout()
"""``(feature, name, bytes, type)`` by gdb's register number."""
NUMBERS = {name: number for number, (_, name, _, _) in enumerate(LAYOUT)}
SIZE = sum(row[2] for row in LAYOUT)
"""Bytes of all registers, as the packet ``g`` has them."""
_FEATURES = {
    "core": "org.gnu.gdb.i386.core",
    "sse": "org.gnu.gdb.i386.sse",
    "segments": "org.gnu.gdb.i386.segments",
    "control": "org.pyvmm.x86.control",
}


def target_xml() -> bytes:
    """The target description ("Debugging with GDB", appendix G)."""
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', '<target version="1.0">']
    lines.append("<architecture>i386:x86-64</architecture>")
    for feature, title in _FEATURES.items():
        lines.append(f'<feature name="{title}">')
        if feature == "core":
            lines.append('<flags id="i386_eflags" size="4">')
            lines += [
                f'<field name="{"" if name == "ONE" else name}" start="{bit}" end="{bit}"/>'
                for name, bit in _FLAGS.items()
            ]
            lines.append("</flags>")
        for number, (where, name, size, kind) in enumerate(LAYOUT):
            if where == feature:
                group = ' group="float"' if name in _X87 else ' group="system"' if feature == "control" else ""
                lines.append(f'<reg name="{name}" bitsize="{size * 8}" type="{kind}" regnum="{number}"{group}/>')
        lines.append("</feature>")
    lines.append("</target>")
    return "\n".join(lines).encode()


def read_all(vcpu: Vcpu) -> dict[str, int]:
    """Every register of a vCPU that is held, by gdb's names."""
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    values = {name: int(getattr(regs, name)) for name in _GENERAL}
    values["eflags"] = regs.rflags & 0xFFFF_FFFF
    values.update({name: getattr(sregs, name).selector for name in _SEGMENTS})
    values.update(_x87(vcpu.get_xsave()))
    values["fs_base"], values["gs_base"] = sregs.fs.base, sregs.gs.base
    values.update({name: int(getattr(sregs, name)) for name in _CONTROL})
    values["k_gs_base"] = vcpu.get_msrs([KERNEL_GS_BASE]).get(KERNEL_GS_BASE, 0)
    values.update({f"{name}_base": int(getattr(sregs, name).base) for name in (*_BASES, *_TABLES)})
    return values


_LEGACY = struct.Struct("<HHBxHQQI")
"""The beginning of an XSAVE area: FCW, FSW, abridged FTW, FOP, FIP, FDP, MXCSR."""
_ST, _XMM, _MXCSR, _XSTATE_BV = 32, 160, 24, 512
_X87_USED, _SSE_USED = 1, 2


def _x87(area: bytes) -> dict[str, int]:
    used = int.from_bytes(area[_XSTATE_BV : _XSTATE_BV + 8], "little")
    if not used & _X87_USED:  # as FNINIT leaves it; what the area holds is old
        area = (
            _LEGACY.pack(0x37F, 0, 0, 0, 0, 0, int.from_bytes(area[24:28], "little")).ljust(_XMM, b"\0") + area[_XMM:]
        )
    fcw, fsw, ftw, fop, fip, fdp, mxcsr = _LEGACY.unpack_from(area)
    # The area has the abridged tags: a bit that says "not empty"; gdb wants two bits, 3 is "empty"
    tags = sum((0 if ftw >> n & 1 else 3) << 2 * n for n in range(8))
    values = dict(
        zip(
            _X87,
            (fcw, fsw, tags, fip >> 32 & 0xFFFF, fip & 0xFFFF_FFFF, fdp >> 32 & 0xFFFF, fdp & 0xFFFF_FFFF, fop),
            strict=True,
        )
    )
    values["mxcsr"] = mxcsr if used & _SSE_USED else 0x1F80
    for n in range(8):
        values[f"st{n}"] = int.from_bytes(area[_ST + 16 * n : _ST + 16 * n + 10], "little")
    for n in range(16):
        xmm = area[_XMM + 16 * n : _XMM + 16 * n + 16] if used & _SSE_USED else b""
        values[f"xmm{n}"] = int.from_bytes(xmm, "little")
    return values


def _write_sse(vcpu: Vcpu, values: dict[str, int]) -> None:
    area = bytearray(vcpu.get_xsave())
    for name, value in values.items():
        at, size = (_MXCSR, 4) if name == "mxcsr" else (_XMM + 16 * int(name[3:]), 16)
        area[at : at + size] = value.to_bytes(size, "little")
    area[_XSTATE_BV] |= _SSE_USED
    vcpu.set_xsave(bytes(area))


def pack(values: dict[str, int]) -> bytes:
    """In the form of the packet ``g``."""
    return b"".join([(values[name] & (1 << 8 * size) - 1).to_bytes(size, "little") for _, name, size, _ in LAYOUT])


def unpack(data: bytes) -> dict[str, int]:
    """The registers that *data*, the beginning of a packet ``G``, holds."""
    values, at = {}, 0
    for _, name, size, _ in LAYOUT:
        if at + size > len(data):
            break
        values[name] = int.from_bytes(data[at : at + size], "little")
        at += size
    return values


def write(vcpu: Vcpu, changes: dict[str, int]) -> list[str]:
    """Set the registers that differ; returns the names of those that cannot be set."""
    now = read_all(vcpu)
    changes = {name: value for name, value in changes.items() if now[name] != value}
    regs: Any = vcpu.get_regs()
    general = [name for name in changes if name in _GENERAL or name == "eflags"]
    for name in general:
        setattr(regs, "rflags" if name == "eflags" else name, changes[name])
    sregs = vcpu.get_sregs()
    special = [name for name in changes if name in _CONTROL or name in ("fs_base", "gs_base")]
    for name in special:
        if name in _CONTROL:
            setattr(sregs, name, changes[name])
        else:
            getattr(sregs, name[:2]).base = changes[name]
    if special:
        vcpu.set_sregs(sregs)
    if general:
        vcpu.set_regs(regs)
    done = {*general, *special}
    sse = {name: value for name, value in changes.items() if name.startswith("xmm") or name == "mxcsr"}
    if sse:
        # All of them: those that were in their initial state are not in the area
        _write_sse(vcpu, {name: sse.get(name, now[name]) for name in (*(f"xmm{n}" for n in range(16)), "mxcsr")})
    done.update(sse)
    return [name for name in changes if name not in done]
