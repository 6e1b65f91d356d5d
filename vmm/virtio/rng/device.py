"""The entropy device (virtio 1.2, 5.4): random bytes from the host.

It is served by Python, on the control loop: Linux asks for a few bytes when it boots, and then once a minute.
"""

from __future__ import annotations

import posix
import time

from vmm.errors import ConfigError, HostError
from vmm.faststart.builtin import stat
from vmm.persist import Stateless
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.events import Timer
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.queue import Chain, Queue
    from vmm.virtio.rng import RngConfig

MAX_REQUEST = 64 << 10
"""At most so many bytes for one request: its length is the guest's to choose, the host's time is not."""
PATIENCE = 0.05
"""Seconds until a source that had nothing is asked again."""


class Rng(VirtioDevice):
    """A guest's ``/dev/hwrng``.

    :raises ConfigError: the source is missing, no character device, or must not be read
    """

    device_id = spec.ID_ENTROPY
    queue_sizes = (256,)
    name = "rng"
    saving = Stateless()

    def __init__(self, config: RngConfig) -> None:
        limit = config.limit
        self._source = config.source
        self._fd = _open(config.source) if config.source else -1
        self._rate = 0 if limit is None else limit.bytes
        self._burst = 0 if limit is None else limit.bytes_burst or max(limit.bytes // 10, 1)
        # Bytes.  While there is some, a request is answered whole, so it may become negative
        self._credit: float = self._burst
        self._credited = time.monotonic()
        self._context: DeviceContext | None = None
        self._timer: Timer | None = None
        self._held: Chain | None = None  # for which the source had nothing yet
        self._error: OSError | None = None
        self._counts = {"requests": 0, "bytes": 0, "waits": 0}

    def activate(self, context: DeviceContext) -> None:
        self._context = context
        self._error = None
        super().activate(context)

    def process(self, queue: Queue) -> None:
        if self._timer is not None or self._error is not None:
            return  # nothing before the timer rings; or until the driver resets the device
        for _ in range(queue.size):
            wait = self._seconds_without_credit()
            if wait > 0:
                self._ring_later(queue, wait)
                return
            chain, self._held = self._held or queue.pop(), None
            if chain is None:
                return
            data = self._read(min(chain.room, MAX_REQUEST))
            if data is None:
                self._held = chain
                if self._error is None:
                    self._ring_later(queue, PATIENCE)
                return
            chain.write(data)
            queue.push(chain)
            self._credit -= len(data)
            self._counts["requests"] += 1
            self._counts["bytes"] += len(data)

    def _read(self, size: int) -> bytes | None:
        """Up to *size* bytes; None: there are none now, or the source has failed."""
        if self._fd < 0:
            return posix.urandom(size)
        try:
            data = posix.read(self._fd, size)
            if data or not size:
                return data
            self._error = OSError(0, "it has ended")
        except BlockingIOError:
            return None
        except OSError as error:
            self._error = error
        if self._context is not None:
            self._context.event.signal()
        return None

    def _seconds_without_credit(self) -> float:
        """How long to wait until a request may be answered."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        self._credit = min(self._credit + (now - self._credited) * self._rate, self._burst)
        self._credited = now
        return 0.0 if self._credit > 0 else (1 - self._credit) / self._rate

    def _ring_later(self, queue: Queue, seconds: float) -> None:
        def go_on() -> None:
            self._timer = None
            queue.kick.signal()

        context = self._context
        assert context is not None
        self._counts["waits"] += 1
        self._timer = context.loop.call_later(seconds, lambda: context.run(go_on))

    def check(self) -> None:
        """Find out whether the source has failed.

        :raises HostError: it has; the device needs a reset
        """
        if self._error is not None:
            raise HostError(f"rng: {self._source}: {self._error.strerror}", code="rng-source")

    def stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        held, self._held = self._held, None
        if held is not None and self._context is not None:
            self._context.queues[0].push(held)  # with no bytes: the driver asks again
        self._context = None

    def stats(self) -> dict[str, int]:
        """``requests`` that were answered, ``bytes`` of them, and ``waits`` for the limit or for the source."""
        return dict(self._counts)

    def close(self) -> None:
        self.stop()
        if self._fd >= 0:
            posix.close(self._fd)
            self._fd = -1


def _open(path: str) -> int:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC | posix.O_NOCTTY)
    except OSError as error:
        raise ConfigError(
            f"rng {path}: {error.strerror}", code="rng-source", hint="name a character device that may be read"
        ) from error
    if not stat.S_ISCHR(posix.fstat(fd).st_mode):
        posix.close(fd)
        raise ConfigError(
            f"rng {path}: not a character device",
            code="rng-source",
            hint="a file or a pipe would end; for example source=/dev/hwrng",
        )
    return fd
