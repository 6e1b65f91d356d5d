"""Our numbers against the kernel's own headers, as the compiler reads them."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path

import pytest

from vmm.kvm import ioctl, structs, structs_debug, structs_run, structs_state, vcpu
from vmm.virtio import spec
from vmm.virtio.blk import device as blk_spec

# ours: C expression
CONSTANTS = {
    "ACKNOWLEDGE": "VIRTIO_CONFIG_S_ACKNOWLEDGE",
    "DRIVER": "VIRTIO_CONFIG_S_DRIVER",
    "DRIVER_OK": "VIRTIO_CONFIG_S_DRIVER_OK",
    "FEATURES_OK": "VIRTIO_CONFIG_S_FEATURES_OK",
    "DEVICE_NEEDS_RESET": "VIRTIO_CONFIG_S_NEEDS_RESET",
    "FAILED": "VIRTIO_CONFIG_S_FAILED",
    "F_INDIRECT_DESC": "1ULL << VIRTIO_RING_F_INDIRECT_DESC",
    "F_EVENT_IDX": "1ULL << VIRTIO_RING_F_EVENT_IDX",
    "F_VERSION_1": "1ULL << VIRTIO_F_VERSION_1",
    "F_ACCESS_PLATFORM": "1ULL << VIRTIO_F_ACCESS_PLATFORM",
    "F_RING_PACKED": "1ULL << VIRTIO_F_RING_PACKED",
    "F_IN_ORDER": "1ULL << VIRTIO_F_IN_ORDER",
    "F_ORDER_PLATFORM": "1ULL << VIRTIO_F_ORDER_PLATFORM",
    "F_SR_IOV": "1ULL << VIRTIO_F_SR_IOV",
    "F_RING_RESET": "1ULL << VIRTIO_F_RING_RESET",
    "DESC_F_NEXT": "VRING_DESC_F_NEXT",
    "DESC_F_WRITE": "VRING_DESC_F_WRITE",
    "DESC_F_INDIRECT": "VRING_DESC_F_INDIRECT",
    "DESC_SIZE": "sizeof(struct vring_desc)",
    "AVAIL_F_NO_INTERRUPT": "VRING_AVAIL_F_NO_INTERRUPT",
    "USED_F_NO_NOTIFY": "VRING_USED_F_NO_NOTIFY",
    "PACKED_DESC_F_AVAIL": "1 << VRING_PACKED_DESC_F_AVAIL",
    "PACKED_DESC_F_USED": "1 << VRING_PACKED_DESC_F_USED",
    "PACKED_EVENT_FLAG_ENABLE": "VRING_PACKED_EVENT_FLAG_ENABLE",
    "PACKED_EVENT_FLAG_DISABLE": "VRING_PACKED_EVENT_FLAG_DISABLE",
    "PACKED_EVENT_FLAG_DESC": "VRING_PACKED_EVENT_FLAG_DESC",
    "DESC_ALIGN": "VRING_DESC_ALIGN_SIZE",
    "AVAIL_ALIGN": "VRING_AVAIL_ALIGN_SIZE",
    "USED_ALIGN": "VRING_USED_ALIGN_SIZE",
    "MMIO_MAGIC": "VIRTIO_MMIO_MAGIC_VALUE",
    "MMIO_VERSION": "VIRTIO_MMIO_VERSION",
    "MMIO_DEVICE_ID": "VIRTIO_MMIO_DEVICE_ID",
    "MMIO_VENDOR_ID": "VIRTIO_MMIO_VENDOR_ID",
    "MMIO_DEVICE_FEATURES": "VIRTIO_MMIO_DEVICE_FEATURES",
    "MMIO_DEVICE_FEATURES_SEL": "VIRTIO_MMIO_DEVICE_FEATURES_SEL",
    "MMIO_DRIVER_FEATURES": "VIRTIO_MMIO_DRIVER_FEATURES",
    "MMIO_DRIVER_FEATURES_SEL": "VIRTIO_MMIO_DRIVER_FEATURES_SEL",
    "MMIO_QUEUE_SEL": "VIRTIO_MMIO_QUEUE_SEL",
    "MMIO_QUEUE_NUM_MAX": "VIRTIO_MMIO_QUEUE_NUM_MAX",
    "MMIO_QUEUE_NUM": "VIRTIO_MMIO_QUEUE_NUM",
    "MMIO_QUEUE_READY": "VIRTIO_MMIO_QUEUE_READY",
    "MMIO_QUEUE_NOTIFY": "VIRTIO_MMIO_QUEUE_NOTIFY",
    "MMIO_INTERRUPT_STATUS": "VIRTIO_MMIO_INTERRUPT_STATUS",
    "MMIO_INTERRUPT_ACK": "VIRTIO_MMIO_INTERRUPT_ACK",
    "MMIO_STATUS": "VIRTIO_MMIO_STATUS",
    "MMIO_QUEUE_DESC_LOW": "VIRTIO_MMIO_QUEUE_DESC_LOW",
    "MMIO_QUEUE_DESC_HIGH": "VIRTIO_MMIO_QUEUE_DESC_HIGH",
    "MMIO_QUEUE_DRIVER_LOW": "VIRTIO_MMIO_QUEUE_AVAIL_LOW",
    "MMIO_QUEUE_DRIVER_HIGH": "VIRTIO_MMIO_QUEUE_AVAIL_HIGH",
    "MMIO_QUEUE_DEVICE_LOW": "VIRTIO_MMIO_QUEUE_USED_LOW",
    "MMIO_QUEUE_DEVICE_HIGH": "VIRTIO_MMIO_QUEUE_USED_HIGH",
    "MMIO_SHM_SEL": "VIRTIO_MMIO_SHM_SEL",
    "MMIO_SHM_LEN_LOW": "VIRTIO_MMIO_SHM_LEN_LOW",
    "MMIO_SHM_LEN_HIGH": "VIRTIO_MMIO_SHM_LEN_HIGH",
    "MMIO_SHM_BASE_LOW": "VIRTIO_MMIO_SHM_BASE_LOW",
    "MMIO_SHM_BASE_HIGH": "VIRTIO_MMIO_SHM_BASE_HIGH",
    "MMIO_CONFIG_GENERATION": "VIRTIO_MMIO_CONFIG_GENERATION",
    "MMIO_CONFIG": "VIRTIO_MMIO_CONFIG",
    "PCI_COMMON_DFSELECT": "VIRTIO_PCI_COMMON_DFSELECT",
    "PCI_COMMON_DF": "VIRTIO_PCI_COMMON_DF",
    "PCI_COMMON_GFSELECT": "VIRTIO_PCI_COMMON_GFSELECT",
    "PCI_COMMON_GF": "VIRTIO_PCI_COMMON_GF",
    "PCI_COMMON_MSIX": "VIRTIO_PCI_COMMON_MSIX",
    "PCI_COMMON_NUMQ": "VIRTIO_PCI_COMMON_NUMQ",
    "PCI_COMMON_STATUS": "VIRTIO_PCI_COMMON_STATUS",
    "PCI_COMMON_CFGGENERATION": "VIRTIO_PCI_COMMON_CFGGENERATION",
    "PCI_COMMON_Q_SELECT": "VIRTIO_PCI_COMMON_Q_SELECT",
    "PCI_COMMON_Q_SIZE": "VIRTIO_PCI_COMMON_Q_SIZE",
    "PCI_COMMON_Q_MSIX": "VIRTIO_PCI_COMMON_Q_MSIX",
    "PCI_COMMON_Q_ENABLE": "VIRTIO_PCI_COMMON_Q_ENABLE",
    "PCI_COMMON_Q_NOFF": "VIRTIO_PCI_COMMON_Q_NOFF",
    "PCI_COMMON_Q_DESCLO": "VIRTIO_PCI_COMMON_Q_DESCLO",
    "PCI_COMMON_Q_DESCHI": "VIRTIO_PCI_COMMON_Q_DESCHI",
    "PCI_COMMON_Q_AVAILLO": "VIRTIO_PCI_COMMON_Q_AVAILLO",
    "PCI_COMMON_Q_AVAILHI": "VIRTIO_PCI_COMMON_Q_AVAILHI",
    "PCI_COMMON_Q_USEDLO": "VIRTIO_PCI_COMMON_Q_USEDLO",
    "PCI_COMMON_Q_USEDHI": "VIRTIO_PCI_COMMON_Q_USEDHI",
    "PCI_CAP_COMMON_CFG": "VIRTIO_PCI_CAP_COMMON_CFG",
    "PCI_CAP_NOTIFY_CFG": "VIRTIO_PCI_CAP_NOTIFY_CFG",
    "PCI_CAP_ISR_CFG": "VIRTIO_PCI_CAP_ISR_CFG",
    "PCI_CAP_DEVICE_CFG": "VIRTIO_PCI_CAP_DEVICE_CFG",
    "PCI_CAP_PCI_CFG": "VIRTIO_PCI_CAP_PCI_CFG",
    "MSI_NO_VECTOR": "VIRTIO_MSI_NO_VECTOR",
    "PCI_COMMON_SIZE": "sizeof(struct virtio_pci_common_cfg)",
    "PCI_CFG_DATA": "offsetof(struct virtio_pci_cfg_cap, pci_cfg_data)",
    "PCI_CFG_OFFSET": "offsetof(struct virtio_pci_cap, offset)",
    "PCI_CFG_LENGTH": "offsetof(struct virtio_pci_cap, length)",
    "INT_VRING": "VIRTIO_MMIO_INT_VRING",
    "INT_CONFIG": "VIRTIO_MMIO_INT_CONFIG",
    "ID_NET": "VIRTIO_ID_NET",
    "ID_BLOCK": "VIRTIO_ID_BLOCK",
    "ID_CONSOLE": "VIRTIO_ID_CONSOLE",
    "ID_ENTROPY": "VIRTIO_ID_RNG",
    "ID_BALLOON": "VIRTIO_ID_BALLOON",
    "ID_VSOCK": "VIRTIO_ID_VSOCK",
    "ID_FS": "VIRTIO_ID_FS",
    "ID_MEM": "VIRTIO_ID_MEM",
    "BLK_F_SIZE_MAX": "1ULL << VIRTIO_BLK_F_SIZE_MAX",
    "BLK_F_SEG_MAX": "1ULL << VIRTIO_BLK_F_SEG_MAX",
    "BLK_F_GEOMETRY": "1ULL << VIRTIO_BLK_F_GEOMETRY",
    "BLK_F_RO": "1ULL << VIRTIO_BLK_F_RO",
    "BLK_F_BLK_SIZE": "1ULL << VIRTIO_BLK_F_BLK_SIZE",
    "BLK_F_FLUSH": "1ULL << VIRTIO_BLK_F_FLUSH",
    "BLK_F_TOPOLOGY": "1ULL << VIRTIO_BLK_F_TOPOLOGY",
    "BLK_F_CONFIG_WCE": "1ULL << VIRTIO_BLK_F_CONFIG_WCE",
    "BLK_F_MQ": "1ULL << VIRTIO_BLK_F_MQ",
    "BLK_F_DISCARD": "1ULL << VIRTIO_BLK_F_DISCARD",
    "BLK_F_WRITE_ZEROES": "1ULL << VIRTIO_BLK_F_WRITE_ZEROES",
    "BLK_T_IN": "VIRTIO_BLK_T_IN",
    "BLK_T_OUT": "VIRTIO_BLK_T_OUT",
    "BLK_T_FLUSH": "VIRTIO_BLK_T_FLUSH",
    "BLK_T_GET_ID": "VIRTIO_BLK_T_GET_ID",
    "BLK_T_DISCARD": "VIRTIO_BLK_T_DISCARD",
    "BLK_T_WRITE_ZEROES": "VIRTIO_BLK_T_WRITE_ZEROES",
    "BLK_S_OK": "VIRTIO_BLK_S_OK",
    "BLK_S_IOERR": "VIRTIO_BLK_S_IOERR",
    "BLK_S_UNSUPP": "VIRTIO_BLK_S_UNSUPP",
    "BLK_HEADER_SIZE": "sizeof(struct virtio_blk_outhdr)",
    "BLK_ID_SIZE": "VIRTIO_BLK_ID_BYTES",
    "BLK_RANGE_SIZE": "sizeof(struct virtio_blk_discard_write_zeroes)",
    "BLK_RANGE_F_UNMAP": "VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP",
    "BLK_CONFIG_WRITEBACK": "offsetof(struct virtio_blk_config, wce)",
}
# in the order of BLK_CONFIG_FORMAT
BLK_CONFIG_FIELDS = (
    "capacity", "size_max", "seg_max", "geometry.cylinders", "geometry.heads", "geometry.sectors", "blk_size",
    "physical_block_exp", "alignment_offset", "min_io_size", "opt_io_size", "wce", "num_queues",
    "max_discard_sectors", "max_discard_seg", "discard_sector_alignment", "max_write_zeroes_sectors",
    "max_write_zeroes_seg", "write_zeroes_may_unmap",
)  # fmt: skip
_VIRTIO = ("config", "ring", "mmio", "pci", "ids", "blk")
HEADERS = ("stddef.h", "stdio.h", *(f"linux/virtio_{name}.h" for name in _VIRTIO))


def evaluate(directory: Path, expressions: list[str]) -> list[int]:
    """What a C compiler makes of *expressions*."""
    lines = [f'printf("%llu\\n", (unsigned long long)({expression}));' for expression in expressions]
    includes = "".join(f"#include <{name}>\n" for name in HEADERS)
    source = directory / "values.c"
    source.write_text(includes + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run(["cc", "-o", directory / "values", source], check=True)
    output = subprocess.run([directory / "values"], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in output.split()]


def test_constants_are_those_of_the_kernels_headers(tmp_path: Path) -> None:
    values = evaluate(tmp_path, list(CONSTANTS.values()))
    ours = {**vars(spec), **vars(blk_spec)}
    assert {name: ours[name] for name in CONSTANTS} == dict(zip(CONSTANTS, values, strict=True))


def test_the_layout_of_the_disks_configuration_is_the_kernels(tmp_path: Path) -> None:
    offsets = evaluate(tmp_path, [f"offsetof(struct virtio_blk_config, {name})" for name in BLK_CONFIG_FIELDS])
    count = len(struct.unpack(blk_spec.BLK_CONFIG_FORMAT, bytes(blk_spec.BLK_CONFIG_SIZE)))
    ours = []
    for index in range(len(BLK_CONFIG_FIELDS)):
        packed = struct.pack(blk_spec.BLK_CONFIG_FORMAT, *(int(at == index) for at in range(count)))
        ours.append(packed.index(1))
    assert ours == offsets


# -- <linux/kvm.h> ---------------------------------------------------------------------------------------------------

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
    for each in STRUCTS:
        name = each.__name__
        if each is not structs_run.kvm_run:
            lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for path in fields(each):
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
