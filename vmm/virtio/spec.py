"""The numbers of OASIS virtio 1.2, by section, under the names of the specification without its ``VIRTIO_``.

Plain integers: an :mod:`enum` costs more to import than this whole package.
"""

from __future__ import annotations

# 2.1 Device Status Field
ACKNOWLEDGE = 1
DRIVER = 2
DRIVER_OK = 4
FEATURES_OK = 8
DEVICE_NEEDS_RESET = 64
FAILED = 128

# 6 Reserved Feature Bits, as masks; the bits 24 to 40 belong to the ring and the transport
F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
F_ACCESS_PLATFORM = 1 << 33
F_RING_PACKED = 1 << 34
F_IN_ORDER = 1 << 35
F_ORDER_PLATFORM = 1 << 36
F_SR_IOV = 1 << 37
F_NOTIFICATION_DATA = 1 << 38
F_NOTIF_CONFIG_DATA = 1 << 39
F_RING_RESET = 1 << 40
TRANSPORT_FEATURES = ((1 << 41) - 1) ^ ((1 << 24) - 1)
"""What a device must not offer by itself."""

# 2.7 Split Virtqueues
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1
DESC_SIZE = 16
DESC_ALIGN, AVAIL_ALIGN, USED_ALIGN = 16, 2, 4

# 2.8 Packed Virtqueues
PACKED_DESC_F_AVAIL = 1 << 7
PACKED_DESC_F_USED = 1 << 15
PACKED_EVENT_FLAG_ENABLE = 0
PACKED_EVENT_FLAG_DISABLE = 1
PACKED_EVENT_FLAG_DESC = 2

# 4.2.2 MMIO Device Register Layout
MMIO_MAGIC = 0x000
MMIO_VERSION = 0x004
MMIO_DEVICE_ID = 0x008
MMIO_VENDOR_ID = 0x00C
MMIO_DEVICE_FEATURES = 0x010
MMIO_DEVICE_FEATURES_SEL = 0x014
MMIO_DRIVER_FEATURES = 0x020
MMIO_DRIVER_FEATURES_SEL = 0x024
MMIO_QUEUE_SEL = 0x030
MMIO_QUEUE_NUM_MAX = 0x034
MMIO_QUEUE_NUM = 0x038
MMIO_QUEUE_READY = 0x044
MMIO_QUEUE_NOTIFY = 0x050
MMIO_INTERRUPT_STATUS = 0x060
MMIO_INTERRUPT_ACK = 0x064
MMIO_STATUS = 0x070
MMIO_QUEUE_DESC_LOW = 0x080
MMIO_QUEUE_DESC_HIGH = 0x084
MMIO_QUEUE_DRIVER_LOW = 0x090
MMIO_QUEUE_DRIVER_HIGH = 0x094
MMIO_QUEUE_DEVICE_LOW = 0x0A0
MMIO_QUEUE_DEVICE_HIGH = 0x0A4
MMIO_SHM_SEL = 0x0AC
MMIO_SHM_LEN_LOW = 0x0B0
MMIO_SHM_LEN_HIGH = 0x0B4
MMIO_SHM_BASE_LOW = 0x0B8
MMIO_SHM_BASE_HIGH = 0x0BC
MMIO_QUEUE_RESET = 0x0C0
MMIO_CONFIG_GENERATION = 0x0FC
MMIO_CONFIG = 0x100
MMIO_SIZE = 0x1000
MMIO_MAGIC_VALUE = 0x7472_6976  # "virt"
MMIO_VERSION_VALUE = 2

# 4.2.2 InterruptStatus
INT_VRING = 1
INT_CONFIG = 2

# 4.1.2 PCI Device Discovery
PCI_VENDOR_ID = 0x1AF4
PCI_DEVICE_ID = 0x1040
"""Of device type 0; others follow."""
# 4.1.4 Virtio Structure PCI Capabilities
PCI_CAP_COMMON_CFG = 1
PCI_CAP_NOTIFY_CFG = 2
PCI_CAP_ISR_CFG = 3
PCI_CAP_DEVICE_CFG = 4
PCI_CAP_PCI_CFG = 5
PCI_CAP_SHARED_MEMORY_CFG = 8
PCI_CFG_BAR, PCI_CFG_OFFSET, PCI_CFG_LENGTH, PCI_CFG_DATA = 4, 8, 12, 16
# 4.1.4.3 Common configuration structure layout
PCI_COMMON_DFSELECT = 0
PCI_COMMON_DF = 4
PCI_COMMON_GFSELECT = 8
PCI_COMMON_GF = 12
PCI_COMMON_MSIX = 16
PCI_COMMON_NUMQ = 18
PCI_COMMON_STATUS = 20
PCI_COMMON_CFGGENERATION = 21
PCI_COMMON_Q_SELECT = 22
PCI_COMMON_Q_SIZE = 24
PCI_COMMON_Q_MSIX = 26
PCI_COMMON_Q_ENABLE = 28
PCI_COMMON_Q_NOFF = 30
PCI_COMMON_Q_DESCLO = 32
PCI_COMMON_Q_DESCHI = 36
PCI_COMMON_Q_AVAILLO = 40
PCI_COMMON_Q_AVAILHI = 44
PCI_COMMON_Q_USEDLO = 48
PCI_COMMON_Q_USEDHI = 52
PCI_COMMON_SIZE = 56
MSI_NO_VECTOR = 0xFFFF

# 5 Device Types
ID_NET = 1
ID_BLOCK = 2
ID_CONSOLE = 3
ID_ENTROPY = 4
ID_BALLOON = 5
ID_VSOCK = 19
ID_FS = 26
ID_PMEM = 27

# 5.1.3 Network Device: Feature bits
NET_F_CSUM = 1 << 0
NET_F_GUEST_CSUM = 1 << 1
NET_F_CTRL_GUEST_OFFLOADS = 1 << 2
NET_F_MTU = 1 << 3
NET_F_MAC = 1 << 5
NET_F_GUEST_TSO4 = 1 << 7
NET_F_GUEST_TSO6 = 1 << 8
NET_F_GUEST_ECN = 1 << 9
NET_F_GUEST_UFO = 1 << 10
NET_F_HOST_TSO4 = 1 << 11
NET_F_HOST_TSO6 = 1 << 12
NET_F_HOST_ECN = 1 << 13
NET_F_HOST_UFO = 1 << 14
NET_F_MRG_RXBUF = 1 << 15
NET_F_STATUS = 1 << 16
NET_F_CTRL_VQ = 1 << 17
NET_F_MQ = 1 << 22
NET_F_CTRL_MAC_ADDR = 1 << 23
NET_F_GUEST_USO4 = 1 << 54
NET_F_GUEST_USO6 = 1 << 55
NET_F_HOST_USO = 1 << 56

# 5.1.4 Network Device: Device configuration layout
NET_CONFIG_FORMAT = "<6sHHH"
"""For :mod:`struct`: mac, status, max_virtqueue_pairs, mtu."""
NET_S_LINK_UP = 1

# 5.1.6 Network Device: Device Operation
NET_HEADER_FORMAT = "<BBHHHHH"
"""For :mod:`struct`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers."""
NET_HEADER_SIZE = 12
NET_HDR_F_NEEDS_CSUM = 1
NET_HDR_F_DATA_VALID = 2
NET_HDR_GSO_NONE = 0
NET_HDR_GSO_TCPV4 = 1
NET_HDR_GSO_UDP = 3
NET_HDR_GSO_TCPV6 = 4
NET_HDR_GSO_UDP_L4 = 5
NET_HDR_GSO_ECN = 0x80
NET_OK = 0
NET_ERR = 1
NET_CTRL_MAC = 1
NET_CTRL_MAC_ADDR_SET = 1
NET_CTRL_MQ = 4
NET_CTRL_MQ_VQ_PAIRS_SET = 0
NET_CTRL_GUEST_OFFLOADS = 5
NET_CTRL_GUEST_OFFLOADS_SET = 0

# 5.2.3 Block Device: Feature bits
BLK_F_SIZE_MAX = 1 << 1
BLK_F_SEG_MAX = 1 << 2
BLK_F_GEOMETRY = 1 << 4
BLK_F_RO = 1 << 5
BLK_F_BLK_SIZE = 1 << 6
BLK_F_FLUSH = 1 << 9
BLK_F_TOPOLOGY = 1 << 10
BLK_F_CONFIG_WCE = 1 << 11
BLK_F_MQ = 1 << 12
BLK_F_DISCARD = 1 << 13
BLK_F_WRITE_ZEROES = 1 << 14
BLK_F_LIFETIME = 1 << 15
BLK_F_SECURE_ERASE = 1 << 16

# 5.2.4 Block Device: Device configuration layout
BLK_CONFIG_FORMAT = "<QIIHBBIBBHIBxHIIIIIB3xIII"
"""For :mod:`struct`: capacity (in sectors); size_max; seg_max; geometry (cylinders, heads, sectors);
blk_size; topology (physical_block_exp, alignment_offset, min_io_size, opt_io_size); writeback; num_queues;
max_discard_sectors, max_discard_seg, discard_sector_alignment; max_write_zeroes_sectors,
max_write_zeroes_seg, write_zeroes_may_unmap; max_secure_erase_sectors, max_secure_erase_seg,
secure_erase_sector_alignment."""
BLK_CONFIG_SIZE = 72
BLK_CONFIG_WRITEBACK = 32
"""Offset of the one field that a driver may write."""

# 5.2.6 Block Device: Device Operation
SECTOR = 512
BLK_T_IN = 0
BLK_T_OUT = 1
BLK_T_FLUSH = 4
BLK_T_GET_ID = 8
BLK_T_GET_LIFETIME = 10
BLK_T_DISCARD = 11
BLK_T_WRITE_ZEROES = 13
BLK_T_SECURE_ERASE = 14
BLK_S_OK = 0
BLK_S_IOERR = 1
BLK_S_UNSUPP = 2
BLK_HEADER_SIZE = 16
BLK_ID_SIZE = 20
BLK_RANGE_SIZE = 16
BLK_RANGE_F_UNMAP = 1

# 5.3 Console Device
CONSOLE_F_SIZE = 1 << 0
CONSOLE_F_MULTIPORT = 1 << 1
CONSOLE_F_EMERG_WRITE = 1 << 2
CONSOLE_CONFIG_FORMAT = "<HHII"
"""For :mod:`struct`: cols, rows, max_nr_ports, emerg_wr."""

# 5.5 Traditional Memory Balloon Device
BALLOON_F_MUST_TELL_HOST = 1 << 0
BALLOON_F_STATS_VQ = 1 << 1
BALLOON_F_DEFLATE_ON_OOM = 1 << 2
BALLOON_F_FREE_PAGE_HINT = 1 << 3
BALLOON_F_PAGE_POISON = 1 << 4
BALLOON_F_PAGE_REPORTING = 1 << 5
BALLOON_CONFIG_FORMAT = "<II"
"""For :mod:`struct`: num_pages, actual; in pages of 4 KiB."""
BALLOON_CONFIG_ACTUAL = 4
"""Offset of the one field that a driver writes."""
BALLOON_PAGE = 4096
BALLOON_STAT_FORMAT = "<HQ"
"""For :mod:`struct`: tag, value."""
BALLOON_STAT_NAMES = (
    "swap_in", "swap_out", "major_faults", "minor_faults", "free_memory", "total_memory", "available_memory",
    "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kills", "alloc_stalls", "async_scans",
    "direct_scans", "async_reclaims", "direct_reclaims",
)  # fmt: skip
"""By tag (5.5.6.4; those from 10 on are Linux's)."""

# 5.10 Socket Device
VSOCK_F_STREAM = 1 << 0
VSOCK_F_SEQPACKET = 1 << 1
VSOCK_CONFIG_FORMAT = "<Q"
"""For :mod:`struct`: guest_cid."""
VSOCK_HEADER_FORMAT = "<QQIIIHHIII"
"""For :mod:`struct`: src_cid, dst_cid, src_port, dst_port, len, type, op, flags, buf_alloc, fwd_cnt."""
VSOCK_HEADER_SIZE = 44
VSOCK_TYPE_STREAM = 1
VSOCK_TYPE_SEQPACKET = 2
VSOCK_OP_REQUEST = 1
VSOCK_OP_RESPONSE = 2
VSOCK_OP_RST = 3
VSOCK_OP_SHUTDOWN = 4
VSOCK_OP_RW = 5
VSOCK_OP_CREDIT_UPDATE = 6
VSOCK_OP_CREDIT_REQUEST = 7
VSOCK_SHUTDOWN_RCV = 1
VSOCK_SHUTDOWN_SEND = 2
VSOCK_SEQ_EOM = 1
VSOCK_SEQ_EOR = 2
VSOCK_CID_HOST = 2
VSOCK_EVENT_TRANSPORT_RESET = 0

# 5.19 PMEM Device
PMEM_CONFIG_FORMAT = "<QQ"
"""For :mod:`struct`: start, size; both in bytes."""
PMEM_REQ_FLUSH = 0
PMEM_RESP_OK = 0
PMEM_RESP_EIO = 1

# 5.11 File System Device
FS_TAG_SIZE = 36
FS_SHMCAP_ID_CACHE = 0
"""Shared memory region of the DAX window."""
FS_CONFIG_FORMAT = "<36sII"
"""For :mod:`struct`: tag, padded with NUL; num_request_queues; notify_buf_size."""
