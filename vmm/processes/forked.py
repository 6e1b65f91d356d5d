"""A machine with ``isolation="fork"``: its process is a jailed fork of the caller's."""

from __future__ import annotations

import os
import re

from vmm.processes import machine_process
from vmm.processes.isolated import IsolatedMachine
from vmm.processes.spawn import Process


class ForkedMachine(IsolatedMachine):
    """An :class:`~vmm.processes.isolated.IsolatedMachine` whose process has what the caller has in its memory."""

    def run_process(self, fd: int) -> Process:
        kept, vsock = {fd}, self.config.vsock
        if vsock is not None and (match := re.match(r"/proc/self/fd/(\d+)/", vsock.uds or "")):
            kept.add(int(match[1]))
        pid = os.fork()
        if pid == 0:
            machine_process.be_forked(fd, kept)
        return Process(pid)
