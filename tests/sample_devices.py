"""Small devices in pure Python for tests of the ring and the transport."""

from __future__ import annotations

from vmm.errors import GuestError
from vmm.saveable import Stateless
from vmm.virtio.device import DeviceContext, SharedRegion, VirtioDevice
from vmm.virtio.queue import Chain, Queue


class Echo(VirtioDevice):
    """Answers each chain with what it holds.  Its configuration space is memory that can be written."""

    device_id = 42
    queue_sizes = (64, 16)
    features = 0b101
    name = "echo"
    saving = Stateless()
    max_bytes = 1 << 16

    def __init__(self) -> None:
        self.space = bytearray(b"configuration\0\0\0")
        self.calls = 0
        self.log: list[str] = []

    def read_config(self) -> bytes:
        return bytes(self.space)

    def write_config(self, offset: int, data: bytes) -> None:
        self.space[offset : offset + len(data)] = data

    def set_config(self, data: bytes) -> None:
        """What a host does."""
        self.space[:] = data
        self.config_changed()

    def process(self, queue: Queue) -> None:
        self.calls += 1
        for chain in queue:
            chain.write(chain.read(min(chain.readable, chain.room, self.max_bytes)))
            queue.push(chain)

    def stop(self) -> None:
        self.log.append("stop")

    def reset(self) -> None:
        self.log.append("reset")

    def close(self) -> None:
        self.log.append("close")


class Shared(Echo):
    """With shared memory of three pages, which nobody has to map here."""

    def __init__(self) -> None:
        super().__init__()
        self.regions = {7: SharedRegion(0, 3 * 4096, None)}
        self.regions[7].gpa = 0x2_0000_0000


class Holder(VirtioDevice):
    """Keeps chains until told to answer, as a network device keeps its receive buffers."""

    device_id = 43
    queue_sizes = (64,)
    name = "holder"

    def __init__(self, *, take: bool = True) -> None:
        self.take = take
        self.calls = 0
        self.held: list[Chain] = []
        self.context: DeviceContext | None = None

    def activate(self, context: DeviceContext) -> None:
        super().activate(context)
        self.context = context

    def process(self, queue: Queue) -> None:
        self.calls += 1
        if self.take:
            self.held += list(queue)

    def answer(self, data: bytes) -> None:
        """From any thread, like an event of a backend."""
        assert self.context is not None
        self.context.run(lambda: self._answer(data))

    def _answer(self, data: bytes) -> None:
        assert self.context is not None
        for chain in self.held:
            chain.write(data)
            self.context.queues[0].push(chain)
        self.held.clear()


class Picky(Echo):
    """Breaks off at a chain that says so: with the guest's fault, or with a bug of its own."""

    name = "picky"

    def process(self, queue: Queue) -> None:
        for chain in queue:
            word = chain.read(4)
            if word == b"evil":
                raise GuestError("the guest said evil", code="evil")
            if word == b"bug!":
                raise RuntimeError("a bug in the device")
            chain.write(word)
            queue.push(chain)


class Broken(Picky):
    """Takes chains back when it stops, as a share's server does, and finds that the guest has broken them."""

    name = "broken"

    def stop(self) -> None:
        super().stop()
        raise GuestError("a chain under way was changed", code="chain")
