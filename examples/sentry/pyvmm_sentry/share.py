"""A directory of the host for the core as a process: a virtio-fs device whose queues lie in the sandbox's RAM."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from vmm import ConfigError, DeviceServer, GuestMemory, ShareConfig

RINGS, STRIDE = 0x1000, 0x2000
"""Where the queues lie in RAM, as `core/virtio/virtio.h` and `host/share.h` have it."""
SIZES = (128, 256)
"""Of the queue for what must not wait, and of that for requests."""


LARGEST = 3 << 30
"""RAM that lies in a row for the server as it does for the core."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Share:
    """Serves *path* to a core, with RAM for it.

    :param size: bytes of RAM
    :ivar on_failure: called, on any thread, when the core has broken a queue: it waits for ever
    :raises ConfigError: the directory cannot be served, or RAM is too large
    :raises HostError: the directory cannot be served
    """

    def __init__(self, path: str, size: int, *, read_only: bool = False) -> None:
        self.on_failure: Callable[[], None] = lambda: None
        if size > LARGEST:
            raise ConfigError(f"memory of {size >> 20} MiB: with a root, {LARGEST >> 20} MiB is the most")
        self._memory = GuestMemory(size, shared=True)
        config = ShareConfig(path, tag="root", read_only=read_only, cache="always", queues=1, locks="guest")
        queues = [(entries, RINGS + index * STRIDE) for index, entries in enumerate(SIZES)]
        try:
            self._server = DeviceServer(config, self._memory, queues, lambda: self.on_failure())
        except BaseException:
            self._memory.close()
            raise

    @property
    def fds(self) -> tuple[int, ...]:
        """What the platform's program needs: RAM, the kick of each queue, and the irq."""
        return (self._memory.fd, *self._server.kicks, self._server.irq)

    def stats(self) -> dict[str, Any]:
        """The counters of the server: requests by kind, errors, bytes."""
        return self._server.stats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server.  A second call does nothing."""
        self._server.close()
        self._memory.close()


def run_with_root(
    path: str, size: int, platform: Sequence[str], words: Sequence[str], *, read_only: bool, scratch: bool
) -> int:
    """Run the platform's program with the directory *path* as its root; returns how it ended, as `Popen.returncode`.

    :param size: bytes of RAM
    :param platform: the program and its options
    :param words: `--`, and what runs inside
    :param read_only: the server refuses all changes of the directory (EROFS)
    :param scratch: they go to memory instead
    :raises VmmError: the directory cannot be served
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with Share(path, size, read_only=read_only) as share:
        options = ["--scratch"] if scratch else []
        command = [*platform, *options, "--share", ",".join(str(fd) for fd in share.fds), *words]
        with subprocess.Popen(command, pass_fds=share.fds) as process:
            share.on_failure = process.kill
            for number in FORWARDED:
                # Those of a terminal reach the program too
                signal.signal(number, lambda which, _frame: process.send_signal(which))
            return process.wait()
