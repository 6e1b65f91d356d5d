"""bzImage: a compressed Linux kernel as distributions ship it, and its setup header.

Source: ``Documentation/arch/x86/boot.rst``. The file is not trusted: every number of the header is checked before it is
used. A kernel is entered at its 64-bit entry, 0x200 after the load address of its protected-mode part. There it unpacks
itself, into the ``init_size`` bytes from its preferred address on.
"""

from __future__ import annotations

import posix

from vmm.boot.image import Identity, KernelImage, Segment, check_image
from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADER = 0x1F1
"""Where the setup header begins in the file, and in boot_params."""
MAGIC_AT = 0x202
_HEAD = 0x300
_INIT_SIZE_END = 0x264
_SECTOR = 512
_PARAGRAPH = 16
_ENTRY64 = 0x200
_OLDEST = 0x20C
"""The protocol that brought xloadflags, Linux 3.8."""
_LOADED_HIGH = 1
_XLF_KERNEL_64, _XLF_ABOVE_4G = 1 << 0, 1 << 1
_MIB = 1 << 20
_AGAIN = "copy or install the kernel file again"


class Setup:
    """The fields of a setup header, validated.

    :ivar raw: its bytes, from :data:`HEADER` on
    :ivar kernel: offset and size of the protected-mode part in the file
    :ivar payload: offset and size of the compressed kernel in the file; size 0: the header does not contain it
    :ivar address: its preferred load address
    :ivar init_size: bytes that it needs from that address on
    :ivar initrd_max: the highest address that a byte of the initrd may have
    """

    def __init__(self, raw: bytes, fields: Any, size: int) -> None:
        self.raw = raw
        start = (fields.setup_sects or 4) * _SECTOR + _SECTOR
        self.kernel = (start, min(fields.syssize * _PARAGRAPH, size - start))
        self.payload = (start + fields.payload_offset, fields.payload_length)
        self.address = fields.pref_address
        self.init_size = fields.init_size
        self.initrd_max = 0xFFFF_FFFF if fields.xloadflags & _XLF_ABOVE_4G else fields.initrd_addr_max


def is_bzimage(head: bytes) -> bool:
    """Whether a file that begins with *head* is a bzImage."""
    return head[MAGIC_AT : MAGIC_AT + 4] == b"HdrS"


def read_setup(path: str, fd: int, size: int) -> Setup:
    """The setup header of the open file *fd* of *size* bytes.

    :raises ConfigError: it is damaged, or its kernel has no 64-bit entry
    """
    from vmm.boot.linux import SETUP_HEADER

    head = posix.pread(fd, _HEAD, 0)
    where = f"kernel {path}"
    end = MAGIC_AT + head[MAGIC_AT - 1]
    if len(head) < max(end, MAGIC_AT + 6):
        raise ConfigError(
            f"{where} is truncated: {len(head)} bytes, the setup header of a bzImage ends at byte {end}",
            code="kernel-truncated",
            hint=_AGAIN,
        )
    if head[0x1FE:0x200] != b"\x55\xaa":
        raise ConfigError(
            f"{where}: the boot flag of this bzImage is {head[0x1FE:0x200].hex()}, not 55aa",
            code="kernel-header",
            hint=_AGAIN,
        )
    version = int.from_bytes(head[0x206:0x208], "little")
    if version < _OLDEST:
        raise ConfigError(
            f"{where} speaks boot protocol {version >> 8}.{version & 0xFF:02}, {_OLDEST >> 8}.{_OLDEST & 0xFF} is the"
            " oldest with a 64-bit entry",
            code="kernel-header",
            hint="use Linux 3.8 or newer, for x86-64",
        )
    if end < _INIT_SIZE_END:
        raise ConfigError(
            f"{where}: the setup header of this bzImage ends at byte {end:#x}, before init_size at"
            f" {_INIT_SIZE_END - 4:#x}",
            code="kernel-header",
            hint=f"the header is damaged: {_AGAIN}",
        )
    raw = head[HEADER:end].ljust(SETUP_HEADER.sizeof(), b"\0")
    fields = SETUP_HEADER.parse(raw)
    _check(where, fields, size)
    return Setup(raw[: SETUP_HEADER.sizeof()], fields, size)


def _check(where: str, fields: Any, size: int) -> None:
    """
    :raises ConfigError: a number of the header is invalid, or the kernel has no 64-bit entry
    """
    if not fields.loadflags & _LOADED_HIGH:
        raise ConfigError(
            f"{where} is a zImage (loadflags {fields.loadflags:#x}), which is loaded below 1 MiB",
            code="kernel-header",
            hint="build a bzImage: make bzImage",
        )
    if not fields.xloadflags & _XLF_KERNEL_64:
        raise ConfigError(
            f"{where} has no 64-bit entry (xloadflags {fields.xloadflags:#x}): it is a 32-bit kernel",
            code="kernel-machine",
            hint="use a kernel for x86-64",
        )
    start = (fields.setup_sects or 4) * _SECTOR + _SECTOR
    length = fields.syssize * _PARAGRAPH
    # The size is rounded up; what is missing of the last 16 bytes is no kernel's
    if length <= _ENTRY64 or start + length >= size + _PARAGRAPH:
        raise ConfigError(
            f"{where} is truncated: its kernel of {length} bytes from byte {start} on ends behind the file's {size}"
            if length > _ENTRY64
            else f"{where}: its kernel has {length} bytes, too few for a 64-bit entry",
            code="kernel-truncated",
            hint=_AGAIN,
        )
    if fields.payload_offset + fields.payload_length > length:
        raise ConfigError(
            f"{where}: its payload of {fields.payload_length} bytes at {fields.payload_offset:#x} is not inside of the"
            f" kernel's {length} bytes",
            code="kernel-header",
            hint=_AGAIN,
        )
    align = fields.kernel_alignment
    if align & (align - 1) or not align or fields.pref_address % align or fields.pref_address < _MIB:
        raise ConfigError(
            f"{where} wants to be loaded at {fields.pref_address:#x} with an alignment of {align:#x}",
            code="kernel-header",
            hint=f"the header is damaged: {_AGAIN}",
        )
    if fields.init_size < length or fields.pref_address + fields.init_size > 1 << 32:
        raise ConfigError(
            f"{where} says that it needs {fields.init_size} bytes at {fields.pref_address:#x}; it has {length} itself,"
            " and must lie below 4 GiB",
            code="kernel-header",
            hint=f"the header is damaged: {_AGAIN}",
        )


def parse(path: str, fd: int, identity: Identity) -> KernelImage:
    """Return what to load of the open bzImage *fd*: its protected-mode part unchanged, which unpacks itself in the
    guest.

    :raises ConfigError: see :func:`read_setup`
    """
    setup = read_setup(path, fd, identity[2])
    offset, size = setup.kernel
    segment = Segment(offset, size, setup.init_size, setup.address)
    image = KernelImage(path, identity, (segment,), setup.address + _ENTRY64, None, setup.raw, setup.initrd_max)
    check_image(image)
    return image
