"""The memory balloon (virtio 1.2, 5.5): returns memory that the guest gives up to the host.

Pages are released by ``balloon.c``, on the control loop. A returned page reads as zeros when the guest touches it
again.

Linux and QEMU number queues without gaps for missing features; the specification does not. So without free page hints
both possible numbers of the reporting queue are served.
"""

from __future__ import annotations

import struct
import time

from vmm.errors import ConfigError
from vmm.faststart.thread import allocate_lock
from vmm.native import ffi, lib
from vmm.saveable import Schema, State, mismatch
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.virtio.balloon import BalloonConfig
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.queue import Chain, Queue

# 5.5 Traditional Memory Balloon Device
BALLOON_F_MUST_TELL_HOST = 1 << 0
BALLOON_F_STATS_VQ = 1 << 1
BALLOON_F_DEFLATE_ON_OOM = 1 << 2
BALLOON_F_FREE_PAGE_HINT = 1 << 3
BALLOON_F_PAGE_POISON = 1 << 4
BALLOON_F_PAGE_REPORTING = 1 << 5
BALLOON_CONFIG_FORMAT = "<III"
"""For :mod:`struct`: num_pages, actual; in pages of 4 KiB; free_page_hint_cmd_id."""
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

INFLATE, DEFLATE, STATS, HINTS = 0, 1, 2, 3
_MOST_COMMAND = 0xFFFF_FFFF
_MAX_STATS = 64
_MOST_STAT = (1 << 63) - 1
_STAT_SIZE = struct.calcsize(BALLOON_STAT_FORMAT)
_COUNTERS = ("inflated", "deflated", "reported", "released", "errors")
_SCHEMA = Schema("virtio-balloon", 1, {"target": "u32", "actual": "u32"})
"""In pages."""


class Balloon(VirtioDevice):
    """A balloon in a machine of *ram* bytes.

    :raises ConfigError: the balloon would take all memory
    """

    device_id = spec.ID_BALLOON
    name = "balloon"
    saving = _SCHEMA

    def __init__(self, config: BalloonConfig, ram: int) -> None:
        self.features = BALLOON_F_STATS_VQ
        self.queue_sizes: tuple[int, ...] = (128, 128, 16)
        if config.deflate_on_oom:
            self.features |= BALLOON_F_DEFLATE_ON_OOM
        if config.free_page_reporting:
            self.features |= BALLOON_F_PAGE_REPORTING
        if config.free_page_hinting:
            self.features |= BALLOON_F_FREE_PAGE_HINT
        if config.free_page_reporting or config.free_page_hinting:
            self.queue_sizes += (128, 128)
        self._ram = ram
        self._actual = 0
        self._features = 0
        self._context: DeviceContext | None = None
        self._held: Chain | None = None
        self._memory = ffi.new("struct balloon_memory *")
        self._native = ffi.new("struct balloon_stats *")
        self._iov = ffi.new("struct iovec[]", lib.RING_MAX_SEGMENTS)
        self._guest: dict[str, int] = {}
        self._answers = 0
        self._run = lib.BALLOON_HINT_DONE  # the number of the last run
        self._acknowledges = True
        self._asking = allocate_lock()
        self._answered = allocate_lock()  # unlocked: the guest has answered the last request
        self._target = 0
        self.resize(config.size)

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        return struct.pack(BALLOON_CONFIG_FORMAT, self._target, self._actual, self._memory.hint)

    def write_config(self, offset: int, data: bytes) -> None:
        at = offset - BALLOON_CONFIG_ACTUAL
        if at >= 0:
            actual = bytearray(self._actual.to_bytes(4, "little"))
            actual[at : at + len(data)] = data
            self._actual = int.from_bytes(actual[:4], "little")

    def negotiate(self, features: int) -> bool:
        self._features = features
        return True

    def activate(self, context: DeviceContext) -> None:
        self._context = context
        self._memory.mem = context.memory.native
        self._memory.fill = context.memory.native_fill
        self._memory.backing = context.memory.backing
        super().activate(context)

    def process(self, queue: Queue) -> None:
        if queue.index == STATS and self._features & BALLOON_F_STATS_VQ:
            self._take_stats(queue)
            return
        what = {INFLATE: lib.BALLOON_INFLATE, DEFLATE: lib.BALLOON_DEFLATE}.get(queue.index, lib.BALLOON_REPORT)
        if queue.index == HINTS and self._features & BALLOON_F_FREE_PAGE_HINT:
            what = lib.BALLOON_HINT
        if what == lib.BALLOON_REPORT and not self._features & BALLOON_F_PAGE_REPORTING:
            return
        done = lib.balloon_run(self._memory, what, queue.ring, self._iov, self._native)
        if done < 0:
            raise queue.error()
        queue.served(done)
        is_running = self._memory.hint > lib.BALLOON_HINT_DONE
        if is_running and self._acknowledges and self._native.hinted == self._memory.hint:
            self._command(lib.BALLOON_HINT_DONE)

    def _take_stats(self, queue: Queue) -> None:
        """5.5.6.3: the driver provides one buffer with its statistics; returning it requests new ones."""
        for chain in queue:
            entries = chain.read(min(chain.readable // _STAT_SIZE, _MAX_STATS) * _STAT_SIZE)
            self._guest = {
                BALLOON_STAT_NAMES[tag]: min(value, _MOST_STAT)
                for tag, value in struct.iter_unpack(BALLOON_STAT_FORMAT, entries)
                if tag < len(BALLOON_STAT_NAMES)
            }
            self._answers += 1
            self._give_back()
            self._held = chain
        if self._answered.locked():
            self._answered.release()

    def _give_back(self) -> None:
        held, self._held = self._held, None
        if held is not None and self._context is not None:
            self._context.queues[STATS].push(held)

    def stop(self) -> None:
        # A restored device has no request pending at the driver: it sends a new one
        self._give_back()
        self._context = None

    def reset(self) -> None:
        self._features = self._actual = 0
        self._memory.hint = lib.BALLOON_HINT_STOP
        self._native.hint = self._native.hinted = 0

    def save(self) -> State:
        return _SCHEMA.make(target=self._target, actual=self._actual)

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        if payload["target"] * BALLOON_PAGE >= self._ram:
            raise mismatch(self.name, f"it is to take {payload['target']} pages, more than this machine has")
        self._target, self._actual = payload["target"], payload["actual"]

    # -- the host's side -------------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Request that the guest give up *size* bytes (a multiple of 4096); 0: it gets all of its memory back.

        It does that in its own time, as far as possible: see ``actual`` in :meth:`stats`.

        :raises ConfigError: an invalid number, or not less than the machine has
        """
        if size % BALLOON_PAGE or not 0 <= size < self._ram:
            raise ConfigError(
                f"balloon of {size} bytes in a machine of {self._ram}: not a multiple of 4096 below that",
                code="balloon-size",
            )
        self._target = size // BALLOON_PAGE
        self.config_changed()

    def start_hinting(self, acknowledge: bool = True) -> None:
        """Request that the guest report its free memory once. The host reclaims it: it reads as zeros (5.5.6.7).

        :param acknowledge: end the run when the guest has reported everything; otherwise :meth:`stop_hinting` ends it,
            and the guest cannot use that memory before
        :raises ConfigError: the machine was configured without it
        """
        self._check_hinting()

        def start() -> None:
            self._run = self._run + 1 if self._run < _MOST_COMMAND else lib.BALLOON_HINT_DONE + 1
            self._acknowledges = acknowledge
            self._command(self._run)

        self._guarded(start)

    def stop_hinting(self) -> None:
        """End the run: the guest can use the reported memory again.

        :raises ConfigError: as for :meth:`start_hinting`
        """
        self._check_hinting()
        self._guarded(lambda: self._command(lib.BALLOON_HINT_DONE))

    def _command(self, number: int) -> None:
        self._memory.hint = number
        self.config_changed()

    def _guarded(self, call: Callable[[], None]) -> None:
        """While no queue is served: the guest may use memory again that would otherwise still be released."""
        called = False

        def run() -> None:
            nonlocal called
            called = True
            call()

        context = self._context
        if context is not None:
            context.run(run)
        if not called:  # the device has stopped
            call()

    def _check_hinting(self) -> None:
        if not self.features & BALLOON_F_FREE_PAGE_HINT:
            raise ConfigError(
                "the balloon has no free page hinting",
                code="balloon-hinting",
                hint="configure it: BalloonConfig(free_page_hinting=True), --balloon free-page-hinting=on",
            )

    def request_stats(self) -> None:
        """Request new statistics of the guest, without waiting for them: see ``guest`` of :meth:`stats`."""
        context = self._context
        if context is not None:
            context.run(self._give_back)

    def stats(self, timeout: float = 0.0) -> dict[str, Any]:
        """``target`` and ``actual`` size (bytes); pages ``inflated`` and ``deflated`` by the driver; bytes ``reported``
        as free and ``released`` to the host; ``errors`` of the host; the last command of free page hints of the
        host and of the guest (``host_hint``, ``guest_hint``); and ``guest``: the guest's own statistics, in bytes and
        counts, under the names of :data:`BALLOON_STAT_NAMES`.

        :param timeout: request new statistics of the guest, and wait at most that many seconds; 0: return the last ones
        :raises TimeoutError: it did not answer
        """
        if timeout > 0:
            self._ask(timeout)
        return {
            "target": self._target * BALLOON_PAGE,
            "actual": self._actual * BALLOON_PAGE,
            **{name: int(getattr(self._native, name)) for name in _COUNTERS},
            "host_hint": int(self._memory.hint),
            "guest_hint": int(self._native.hint),
            "guest": dict(self._guest),
        }

    def _ask(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._asking:
            before = self._answers
            while self._answers == before:
                self._answered.acquire(blocking=False)
                context = self._context
                if context is not None:
                    context.run(self._give_back)
                left = deadline - time.monotonic()
                if left <= 0 or (self._answers == before and not self._answered.acquire(timeout=left)):
                    raise TimeoutError(f"the guest's balloon driver sent no statistics within {timeout:g} s")
