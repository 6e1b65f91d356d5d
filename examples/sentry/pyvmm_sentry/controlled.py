"""The core as a process that the host controls by the agent's calls: a sandbox for containers, without a machine."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable

from pyvmm_sentry.share import Devices
from vmm import HostError, NetConfig, ShareConfig, VsockConfig

MIB = 1 << 20
ATTEMPT_S = 1.0
"""How long one attempt to connect takes at most: the core may have ended meanwhile."""


class Controlled:
    """A running core.  The host connects to port 1024 of its socket device.

    :param platform: the program of the platform
    :param memory: bytes of RAM
    :param share: the directory that the agent mounts
    :param vsock: whose unix socket leads to the agent
    :param output: a descriptor for what the core itself prints
    :param network: an interface, which the agent configures
    :param strace: print every system call there
    :param before: called when all processes run, and before there is a thread
    :raises VmmError: a device cannot be served
    :raises HostError: the platform's program cannot be started
    """

    def __init__(
        self,
        platform: str,
        memory: int,
        share: ShareConfig | None,
        vsock: VsockConfig,
        output: int | None = None,
        before: Callable[[], None] = lambda: None,
        *,
        network: NetConfig | None = None,
        strace: bool = False,
    ) -> None:
        self._devices = Devices(memory, share, network=network or False, vsock=vsock, start=False)
        words = [platform, "--control", "--memory", str(memory // MIB), *self._devices.options]
        words += ["--strace"] if strace else []
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=self._devices.fds, env={}
            )
        except OSError as error:
            self._devices.close()
            raise HostError(f"{platform}: {error.strerror}", errno=error.errno or 0) from error
        self._devices.on_failure = self._process.kill
        try:
            before()
            self._devices.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the core's process."""
        return self._process.pid

    def connect(self, port: int, timeout: float) -> socket.socket:
        """A connection to a port of the core.

        :raises TimeoutError: it does not accept in time
        :raises ConnectionRefusedError: it does not listen there, or has ended
        """
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                return self._devices.connect(port, max(0.1, min(left, ATTEMPT_S)))
            except TimeoutError:
                if self._process.poll() is not None:
                    raise ConnectionRefusedError(f"the core has ended: {self.wait()}") from None
                if left < ATTEMPT_S:
                    raise

    def wait(self, timeout: float | None = None) -> str:
        """Wait until it has ended; returns how, as text.

        :raises subprocess.TimeoutExpired: it runs
        """
        status = self._process.wait(timeout)
        return f"signal {-status}" if status < 0 else f"status {status}" if status else "poweroff"

    def watch(self, on_end: Callable[[str], None]) -> None:
        """Call *on_end* with how it has ended."""
        threading.Thread(target=lambda: on_end(self.wait()), name="sentry", daemon=True).start()

    def stats(self) -> dict[str, object]:
        """The counters of its devices, by name."""
        return self._devices.stats()

    def close(self) -> None:
        """End it.  A second call does nothing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._devices.close()
