"""The entropy device (virtio 1.2, 5.4): random bytes from the host."""

from __future__ import annotations

import os

from vmm.persist import Stateless
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.virtio.queue import Queue

MAX_REQUEST = 64 << 10
"""At most so many bytes for one request: its length is the guest's to choose, the host's time is not."""


class Rng(VirtioDevice):
    """A guest's ``/dev/hwrng``."""

    device_id = spec.ID_ENTROPY
    queue_sizes = (256,)
    name = "rng"
    saving = Stateless()

    def process(self, queue: Queue) -> None:
        for chain in queue:
            chain.write(os.urandom(min(chain.room, MAX_REQUEST)))
            queue.push(chain)
