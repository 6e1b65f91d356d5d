"""The pages of a snapshot's memory that a clone touches first: recorded once, and prefetched by later clones.

The file ``working-set`` in the directory of the snapshot has a bit for each page of RAM, as ``pages`` does.
"""

from __future__ import annotations

import os
import posix

from vmm import report
from vmm.errors import ConfigError
from vmm.faststart.thread import Thread, allocate_lock
from vmm.memory.layout import PAGE
from vmm.saving.memory_file import page_runs
from vmm.saving.regular_files import read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.memory import GuestMemory

WORKING_SET = "working-set"
_RECORD_AFTER = 2.0
"""Seconds of a clone's run after which what it has touched is recorded."""
_AT_ONCE = 32 << 20
"""Bytes that are brought before the guest runs, if there are no more."""
_STEP = 2 << 20
"""Bytes of RAM whose page map is read at once."""


class Prefetch:
    """From :meth:`start` on, prefetch the working set of the snapshot in *folder*, on a thread, while the guest runs on
    *memory*, which lies over its file. If there is none, record what this guest has touched after a moment, or until
    its end.

    :param bits: the working set, see :func:`read`
    """

    def __init__(self, folder: str, memory: GuestMemory, bits: bytes | None) -> None:
        self._folder = folder
        self._memory = memory
        self._going_on = allocate_lock()
        self._going_on.acquire()
        # A file of its own: a fork or a reset has the memory lie over another one
        self._file = -1 if bits is None or memory.on_demand else posix.dup(memory.file)
        self._bits = bits
        self._brought = False
        self._thread = Thread(self._record if bits is None else lambda: self._replay(bits), "prefetch")

    def bring(self, map_pages: Callable[[GuestMemory, bytes], bool]) -> None:
        """Map the pages of :func:`at_once` for the guest: an exit and a fault for each take longer than everything
        else.

        :param map_pages: of a vCPU, see :meth:`vmm.kvm.vcpu.Vcpu.map_pages`
        """
        if self._bits is None or not self._memory.on_demand or not _is_little(self._bits):
            return
        map_pages(self._memory, self._memory.fill.filled())  # where this KVM cannot, the guest takes its exits
        self._brought = True

    def start(self) -> None:
        """Begin, unless all is there. Reading opens nothing; recording does."""
        if not self._brought:
            self._thread.start()

    def _record(self) -> None:
        self._over(_RECORD_AFTER)
        try:
            write(self._folder, touched(self._memory))
        except OSError as error:
            report.warn(__name__, f"{self._folder}: cannot record what is to be read beforehand: {error.strerror}")

    def _replay(self, bits: bytes) -> None:
        """It uses reads that are larger than those of faults, and nobody waits for them. Mapping the pages too took
        longer than it saved. Memory that is filled on demand is filled: such a fault costs ten times as much."""
        for start, end in page_runs(bits, self._memory.size):
            if self._over(0):
                return
            if self._file < 0:
                self._memory.fill.fill_range(start, end)
            else:
                posix.posix_fadvise(self._file, start, end - start, posix.POSIX_FADV_WILLNEED)

    def _over(self, seconds: float) -> bool:
        if not self._going_on.acquire(timeout=seconds):
            return False
        self._going_on.release()
        return True

    def close(self) -> None:
        """Wait for the thread.  Before the memory is closed.  A second call does nothing."""
        if self._going_on.locked():
            self._going_on.release()
        self._thread.join()
        if self._file >= 0:
            posix.close(self._file)
            self._file = -1


def at_once(bits: bytes | None) -> bytes:
    """The part of a working set that clones fill before they run, if it is small; empty: nothing."""
    return bits if bits is not None and _is_little(bits) else b""


def _is_little(bits: bytes) -> bool:
    return bits.count(0) >= len(bits) - _AT_ONCE // PAGE // 8


def touched(memory: GuestMemory) -> bytes:
    """A bit for each mapped page: accessed ones, and in files some next to them."""
    if memory.on_demand:
        return memory.fill.filled()
    bits = bytearray(-(-memory.size // PAGE // 8))
    pagemap = posix.open("/proc/self/pagemap", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        for at in range(0, memory.size, _STEP):
            raw = posix.pread(pagemap, min(_STEP, memory.size - at) // PAGE * 8, (memory.host_address + at) // PAGE * 8)
            for index, entry in enumerate(memoryview(raw).cast("Q"), at // PAGE):
                if entry >> 63:
                    bits[index // 8] |= 1 << index % 8
    finally:
        posix.close(pagemap)
    return bytes(bits)


def write(folder: str, bits: bytes) -> None:
    """Move the file into place, in one step.

    :raises OSError: the host cannot
    """
    path = os.path.join(folder, WORKING_SET)
    new = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    try:
        with open(new, "xb") as file:
            file.write(bits)
        os.rename(new, path)
    except BaseException:
        try:
            os.unlink(new)
        except OSError:
            pass
        raise


def read(folder: str, size: int) -> bytes | None:
    """The file; None if there is none, or it is for another size of RAM."""
    wanted = -(-size // PAGE // 8)
    try:
        bits = read_regular(os.path.join(folder, WORKING_SET), wanted)
    except ConfigError:
        return None
    return bits if len(bits) == wanted else None
