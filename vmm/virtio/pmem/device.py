"""The persistent memory device (virtio 1.2, 5.19): a file of the host that the guest maps as memory.

The guest's pages are those of the host's page cache. Machines with the same image share them, and a file system that is
mounted with ``dax`` has no copy of its own either. It has no data plane; ``pmem.c`` flushes, and handles files that
shrink.
"""

from __future__ import annotations

import posix
import struct

from vmm import report
from vmm.errors import ConfigError, HostError
from vmm.faststart.thread import close_slowly
from vmm.native import ffi, lib
from vmm.saveable import Schema, State, mismatch
from vmm.virtio import spec
from vmm.virtio.device import SharedRegion, VirtioDevice
from vmm.virtio.image import SECTOR, Image
from vmm.virtio.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.virtio.device import DeviceContext
    from vmm.virtio.pmem import PmemConfig

# 5.19 PMEM Device
PMEM_CONFIG_FORMAT = "<QQ"
"""For :mod:`struct`: start, size; both in bytes."""
PMEM_REQ_FLUSH = 0
PMEM_RESP_OK = 0
PMEM_RESP_EIO = 1

_SCHEMA = Schema("virtio-pmem", 1, {"start": "u64", "size": "u64"})
"""The guest physical address, which its configuration reports once."""
_COUNTERS = ("flushes", "errors", "cuts")


class Pmem(VirtioDevice):
    """An image as memory.  See :class:`~vmm.virtio.image.Image` for how it is opened and locked.

    :raises ConfigError: the file is missing, locked, of the wrong kind or size, or must not be opened
    :raises HostError: it cannot be mapped
    """

    device_id = spec.ID_PMEM
    saving = _SCHEMA
    thread_name = "pmem"
    queue_sizes = (64,)
    tells_regions = True

    def __init__(self, config: PmemConfig) -> None:
        self.name = f"pmem {config.path}"
        self.read_only = config.read_only
        hint = "see the limits on threads and descriptors (ulimit -u, ulimit -n)"
        self._workers = Workers(self, "pmem-worker", hint)
        self._reported = 0
        self._pmem: Any = None
        self._image = Image(config.path, read_only=config.read_only)
        try:
            self._map(config)
        except BaseException:
            self.close()
            raise

    def _map(self, config: PmemConfig) -> None:
        size = self._image.sectors() * SECTOR
        if not config.read_only and size % lib.PMEM_ALIGN:
            raise ConfigError(
                f"pmem {config.path}: its size of {size} bytes is not a multiple of 2 MiB",
                code="pmem-size",
                hint=f"round it up: truncate -s %2M {config.path}; or use it read-only (,ro)",
            )
        error = ffi.new("int *")
        pmem = lib.pmem_new(self._image.fd, int(config.read_only), error)
        if pmem == ffi.NULL:
            raise HostError(
                f"{self.name}: cannot be mapped: {posix.strerror(-error[0])}",
                code="pmem-map",
                hint="use a file that can be mapped (mmap), of at most 256 GiB",
                errno=-error[0],
            )
        self._pmem = pmem
        address = int(ffi.cast("uintptr_t", lib.pmem_window(pmem)))
        self.region = SharedRegion(address, lib.pmem_size(pmem), pmem, read_only=config.read_only, add=lib.bus_add_pmem)
        self.regions = {0: self.region}

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        return struct.pack(PMEM_CONFIG_FORMAT, self.region.gpa, self.region.size)

    def activate(self, context: DeviceContext) -> None:
        queue = context.queues.get(0)
        if queue is None:
            return  # it cannot flush; the driver is free to leave it so
        self._workers.start(lib.pmem_start, self._pmem, queue, context.event.fd)

    def check(self) -> None:
        """Report errors of the host's disk, or detect that the worker stopped.

        :raises GuestError: the guest broke the ring
        :raises HostError: the worker cannot continue
        """
        number = int(self._native_stats().last_errno)
        if number not in (0, self._reported):
            self._reported = number
            text = f"{self.name}: {posix.strerror(number)}; the guest's flush failed (reported once)"
            report.error(__name__, text)
        self._workers.check()

    def stop(self) -> None:
        self._workers.stop()

    def save(self) -> State:
        return _SCHEMA.make(start=self.region.gpa, size=self.region.size)

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        start, size = self.region.gpa, self.region.size
        if (payload["start"], payload["size"]) != (start, size):
            raise mismatch(
                self.name, f"{payload['size']:#x} bytes at {payload['start']:#x}, not {size:#x} at {start:#x}"
            )

    # -- the host's side -------------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Counters: ``flushes``, those that failed (``errors``), and ``cuts``: how often the file was found shorter
        than before; the lost part reads as zeros until the file is as long again."""
        native = self._native_stats()
        return {name: int(getattr(native, name)) for name in _COUNTERS}

    def _native_stats(self) -> Any:
        native = ffi.new("struct pmem_stats *")
        if self._pmem is not None:
            lib.pmem_get_stats(self._pmem, native)
        return native

    def close(self) -> None:
        """Unmap and unlock; no vCPU may run any more."""
        self.stop()
        if self._pmem is not None:
            watch = lib.pmem_take_watch(self._pmem)
            if watch >= 0:
                close_slowly(watch)
            lib.pmem_free(self._pmem)
            self._pmem = None
        # Nothing else holds the file, and the jail of a machine without disks has no flock(2)
        self._image.close(unlock=False)
