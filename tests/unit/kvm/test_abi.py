"""Our view of <linux/kvm.h> against the compiler's."""

from __future__ import annotations

import ctypes
import subprocess

import pytest

from vmm.kvm import ioctl, structs, structs_debug, structs_run, structs_state, vcpu

IOCTLS = sorted(name for name in vars(ioctl) if name.startswith("KVM_"))
CAPS = sorted(name for name in vars(ioctl) if name.startswith("CAP_"))
EXITS = sorted(name for name in vars(ioctl) if name.startswith("EXIT_") and name != "EXIT_NAMES")
STRUCTS = (*structs.STRUCTS, *structs_debug.STRUCTS, *structs_run.STRUCTS, *structs_state.STRUCTS)
RUN_UNION = ("fail_entry", "io", "mmio", "internal", "emulation_failure", "system_event", "debug")
ELSEWHERE = {
    "kvm_guest_debug.debugreg": "arch.debugreg",
    **{f"kvm_run.debug.{n}": f"debug.arch.{n}" for n in ("exception", "pad", "pc", "dr6", "dr7")},
}
"""Fields that the header has one structure deeper."""


def fields(struct: type[ctypes.Structure]) -> list[str]:
    """The C paths of every field, those in the union of kvm_run included."""
    if struct is not structs_run.kvm_run:
        return [field[0] for field in struct._fields_]
    plain = [field[0] for field in struct._fields_ if field[0] not in ("exit", "padding1")]
    union = dict(structs_run._Exit._fields_)
    return plain + [f"{member}.{field[0]}" for member in RUN_UNION for field in union[member]._fields_]  # type: ignore[attr-defined]


def offset_of(struct: type[ctypes.Structure], path: str) -> tuple[int, int]:
    """Offset and size of the field at *path*."""
    first, _, rest = path.partition(".")
    field = getattr(struct, first)
    if not rest:
        return field.offset, field.size
    inner = dict(structs_run._Exit._fields_)[first]
    offset, size = offset_of(inner, rest)
    return field.offset + offset, size


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    lines = ["#include <linux/kvm.h>", "#include <stddef.h>", "#include <stdio.h>", "int main(void) {"]
    for struct in STRUCTS:
        name = struct.__name__
        if struct is not structs_run.kvm_run:
            lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for path in fields(struct):
            place = ELSEWHERE.get(f"{name}.{path}", path)
            lines.append(f'printf("{name}.{path} %zu\\n", offsetof(struct {name}, {place}));')
            lines.append(f'printf("{name}.{path}:size %zu\\n", sizeof(((struct {name} *)0)->{place}));')
    lines += [f'printf("{name} %lu\\n", (unsigned long){name});' for name in IOCTLS]
    lines += [f'printf("{name} %lu\\n", (unsigned long)KVM_{name});' for name in CAPS + EXITS]
    lines.append("}")
    folder = tmp_path_factory.mktemp("abi")
    source = folder / "abi.c"
    source.write_text("\n".join(lines))
    subprocess.run(["cc", "-o", folder / "abi", source], check=True)
    output = subprocess.run([folder / "abi"], check=True, capture_output=True, text=True).stdout
    return {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in output.splitlines()}


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_size_and_offset_is_the_compilers(struct: type[ctypes.Structure], compiled: dict[str, int]) -> None:
    name = struct.__name__
    if struct is not structs_run.kvm_run:
        assert ctypes.sizeof(struct) == compiled[name]
    for path in fields(struct):
        assert offset_of(struct, path) == (compiled[f"{name}.{path}"], compiled[f"{name}.{path}:size"]), path


def test_the_place_of_an_mmio_exit_is_right() -> None:
    mmio = structs_run._Mmio
    assert structs_run.kvm_run.exit.offset == vcpu.MMIO_OFFSET
    assert (vcpu.MMIO_DATA, mmio.len.offset, mmio.is_write.offset) == (mmio.data.offset, 16, 20)


def test_arrays_without_a_length_begin_where_the_header_says() -> None:
    assert structs.kvm_cpuid2.entries.offset == 8
    assert structs.kvm_msrs.entries.offset == 8


@pytest.mark.parametrize("name", IOCTLS)
def test_ioctl_number(name: str, compiled: dict[str, int]) -> None:
    assert getattr(ioctl, name) == compiled[name]


@pytest.mark.parametrize("name", CAPS + EXITS)
def test_constant(name: str, compiled: dict[str, int]) -> None:
    assert getattr(ioctl, name) == compiled[name]
