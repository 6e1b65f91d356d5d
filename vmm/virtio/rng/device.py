"""The entropy device (virtio 1.2, 5.4): random bytes from the host.

The data plane is ``rng.c``.  Linux asks for a few bytes when it boots, and then once a minute.
"""

from __future__ import annotations

import posix
from errno import ENODATA

from vmm.errors import ConfigError, ForbiddenCallError, HostError
from vmm.faststart.builtin import stat
from vmm.native import ffi, lib
from vmm.saveable import Stateless
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice
from vmm.virtio.limit import Limit
from vmm.virtio.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.virtio.device import DeviceContext
    from vmm.virtio.rng import RngConfig

MAX_REQUEST: int = lib.RNG_MAX_REQUEST
"""Bytes that one request gets at most."""


class Rng(VirtioDevice):
    """A guest's ``/dev/hwrng``.

    :raises ConfigError: the source is missing, not a character device, or must not be read
    """

    device_id = spec.ID_ENTROPY
    queue_sizes = (256,)
    name = "rng"
    thread_name = "rng"
    saving = Stateless()

    def __init__(self, config: RngConfig) -> None:
        hint = "see the limits on threads and descriptors (ulimit -u, ulimit -n)"
        self._workers = Workers(self, "rng-worker", hint)
        self._source = config.source
        self._limit = Limit(config.limit)
        self._native = ffi.new("struct rng *")
        self._native.limit = self._limit.native
        self._native.fd = -1
        if config.source:
            self._native.fd = _open(config.source)

    def activate(self, context: DeviceContext) -> None:
        queue = context.queues.get(0)
        if queue is not None:
            self._workers.start(lib.rng_start, self._native, queue, context.event.fd)

    def check(self) -> None:
        """Check whether the worker stopped.

        :raises GuestError: the guest broke the ring
        :raises HostError: the source has failed, or has ended; the device needs a reset
        """
        try:
            self._workers.check()
        except ForbiddenCallError:
            raise
        except HostError as error:
            why = "it has ended" if error.errno == ENODATA else posix.strerror(error.errno)
            raise HostError(f"rng: {self._source}: {why}", code="rng-source", errno=error.errno) from None

    def stop(self) -> None:
        self._workers.stop()

    def hold(self) -> bool:
        self._workers.hold()
        return True

    def spares(self) -> list[Any]:
        return self._workers.spares()

    def go_on(self) -> None:
        self._workers.go_on()

    def stats(self) -> dict[str, int]:
        """``requests`` that were answered, ``bytes`` of them, and ``waits`` for the limit or for the source."""
        native = self._native
        return {"requests": native.requests, "bytes": native.bytes, "waits": native.empty + self._limit.waits()}

    def close(self) -> None:
        self.stop()
        self._limit.close()
        fd, self._native.fd = self._native.fd, -1
        if fd >= 0:
            posix.close(fd)


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
