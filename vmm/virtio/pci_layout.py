"""The layout of a virtio-pci function (virtio 1.2, 4.1): its BARs, and the capabilities that describe them.

BAR 0 holds everything, a page for each part::

    0000  common configuration
    0100  the device's configuration space
    1000  ISR status
    2000  queue notifications, four bytes for each queue
    3000  the MSI-X table
    3800  the MSI-X pending bits

A device's shared memory (2.10) is a separate 64-bit BAR.
"""

from __future__ import annotations

from vmm.pci import spec as pci
from vmm.pci.config import WINDOW_BAR, ConfigSpace
from vmm.virtio import spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.pci.msix import Msix
    from vmm.virtio.device import SharedRegion, VirtioDevice

BAR_SIZE = 0x4000
PAGE = 0x1000
CONFIG, CONFIG_END = 0x100, 0xF00
ISR = 0x1000
NOTIFY, NOTIFY_END, NOTIFY_STRIDE = 0x2000, 0x3000, 4
MSIX_TABLE, MSIX_PBA = 0x3000, 0x3800
_CLASSES = {spec.ID_NET: pci.CLASS_NETWORK, spec.ID_BLOCK: pci.CLASS_STORAGE}


def window_of(device: VirtioDevice) -> tuple[int, SharedRegion | None]:
    """The shared memory region that the transport reports, and its id."""
    for ident, region in device.regions.items():
        if not device.tells_regions:
            return ident, region
    return 0, None


def make_config(device: VirtioDevice, msix: Msix) -> tuple[ConfigSpace, int, int]:
    """The configuration space of a function, as after power-on.

    :returns: with the offsets of the MSI-X capability and of the one for accesses through configuration space (4.1.4.9)
    """
    kind = device.device_id
    ident, window = window_of(device)
    config = ConfigSpace(
        spec.PCI_VENDOR_ID,
        spec.PCI_DEVICE_ID + kind,
        _CLASSES.get(kind, pci.CLASS_OTHERS),
        revision=1,
        subsystem=(spec.PCI_VENDOR_ID, spec.PCI_DEVICE_ID + kind),
        bar_size=BAR_SIZE,
        window_size=0 if window is None else bar_size(window.size),
        interrupt_pin=1,
    )
    msix_at = config.add_capability(pci.CAP_ID_MSIX, *msix.capability(0, MSIX_TABLE, MSIX_PBA))
    notify = len(device.queue_sizes) * NOTIFY_STRIDE
    for cfg_type, offset, length, more in (
        (spec.PCI_CAP_COMMON_CFG, 0, spec.PCI_COMMON_SIZE, b""),
        (spec.PCI_CAP_NOTIFY_CFG, NOTIFY, notify, NOTIFY_STRIDE.to_bytes(4, "little")),
        (spec.PCI_CAP_ISR_CFG, ISR, 4, b""),
        (spec.PCI_CAP_DEVICE_CFG, CONFIG, CONFIG_END - CONFIG, b""),
    ):
        config.add_capability(pci.CAP_ID_VNDR, _capability(cfg_type, offset, length, more))
    if window is not None:
        # 4.1.4.7: the upper halves of offset and length follow
        low, high = window.size & 0xFFFF_FFFF, window.size >> 32
        more = bytes(4) + high.to_bytes(4, "little")
        body = _capability(spec.PCI_CAP_SHARED_MEMORY_CFG, 0, low, more, bar=WINDOW_BAR, ident=ident)
        config.add_capability(pci.CAP_ID_VNDR, body)
    # 4.1.4.9: bar, offset, length and the data behind them are the driver's
    mask = b"\0\0\xff\0\0\0" + b"\xff" * 12
    access_at = config.add_capability(pci.CAP_ID_VNDR, _capability(spec.PCI_CAP_PCI_CFG, 0, 0, bytes(4)), mask)
    return config, msix_at, access_at


def bar_size(size: int) -> int:
    """The size of the smallest BAR for *size* bytes."""
    return 1 << (size - 1).bit_length()


def _capability(cfg_type: int, offset: int, length: int, more: bytes = b"", *, bar: int = 0, ident: int = 0) -> bytes:
    """``struct virtio_pci_cap`` (4.1.4) without its first two bytes."""
    body = (
        bytes((16 + len(more), cfg_type, bar, ident, 0, 0))
        + offset.to_bytes(4, "little")
        + length.to_bytes(4, "little")
    )
    return body + more
