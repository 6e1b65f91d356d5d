"""A share whose server is a process of its own, ``pyvmm-fsd``: it can reach the shared directory, guest RAM, the
kicks and the irqs of its queues, and nothing else.

The process is started, and isolates itself, when the share is opened; it receives a queue when the driver is ready.
What it has popped from the rings is recorded in memory that both map. When it dies, this side takes over the rings,
answers pending and later requests with EIO, and the machine continues.
"""

from __future__ import annotations

import errno
import os
import select
import struct

from vmm import native, report
from vmm.errors import GuestError, HostError
from vmm.events import EventFd
from vmm.faststart.thread import allocate_lock
from vmm.memory.memfd import map_memory, sealed_memory
from vmm.native import ffi, lib
from vmm.virtio.fs.device import Fs
from vmm.virtio.workers import COUNTERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.memory import GuestMemory
    from vmm.virtio.device import DeviceContext
    from vmm.virtio.fs import ShareConfig
    from vmm.virtio.queue import Chain, Queue

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(native.__file__)), "pyvmm-fsd")
ANSWER_MS = 30_000
"""A server that does not answer for so long is ended."""
END_MS = 2_000
_BOOKS = lib.FSD_QUEUES * lib.RING_STATE_STRIDE

_ISOLATION = {
    "mount-ns": lib.FSD_MOUNT_NS,
    "pid-ns": lib.FSD_PID_NS,
    "net-ns": lib.FSD_NET_NS,
    "ipc-ns": lib.FSD_IPC_NS,
    "user-ns": lib.FSD_USER_NS,
    "landlock": lib.FSD_LANDLOCK,
    "seccomp": lib.FSD_SECCOMP,
}
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_FORGET, _BATCH_FORGET = 2, 42
_SIGKILL = 9
_STALE_MS = 2000
"""An upper bound of the cache time that a server may report."""


class ServerGone(Exception):
    """The server does not answer (any more)."""


class FsProcess(Fs):
    """See :class:`~vmm.virtio.fs.device.Fs` for the parameters.

    :param on_demand: guest RAM is filled when it is touched, also by the server, or may be after a fork
    :param machine: a pidfd of the machine's process, with which the server ends; -1: this one. Another process gets
        :attr:`fds` and :attr:`about`, and makes its device with :meth:`given`; this one then calls :meth:`hand_over`
    :ivar pid: of the server
    :ivar isolation: its isolation: ``mount-ns`` or ``landlock``, ``seccomp``, and as far as the host allows ``pid-ns``,
        ``net-ns``, ``ipc-ns``, ``user-ns``
    :raises HostError: the server cannot be started, or cannot isolate itself
    """

    shares_memory = True
    takes_memory_on_demand = True

    counts_elsewhere = True

    def __init__(
        self,
        config: ShareConfig,
        tag: str = "",
        *,
        on_demand: bool = False,
        machine: int = -1,
        server: tuple[list[int], dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self._faults = -1
        self._client: tuple[GuestMemory, int, Any] | None = None
        self._wants_faults = on_demand
        self._machine = machine
        self._server = server
        self._sock: int
        self._pidfd: int
        super().__init__(config, tag, **options)

    @classmethod
    def given(cls, config: ShareConfig, fds: list[int], about: dict[str, Any], *, cpus: int) -> FsProcess:
        """The share of a server that another process has started; it opens nothing.

        :param fds: their descriptors, as :attr:`fds` of its object; removed from the list
        :param about: :attr:`about` of its object
        """
        return cls(config, cpus=cpus, server=(fds, about))

    @property
    def fds(self) -> tuple[int, ...]:
        """The server's socket, its pidfd, and the state of its rings."""
        return self._sock, self._pidfd, self._books_fd

    @property
    def about(self) -> dict[str, Any]:
        """Further values for the other process, as JSON."""
        return {"pid": self.pid, "isolation": [*self.isolation]}

    def hand_over(self) -> None:
        """Another process has :attr:`fds`: this one no longer ends it. :meth:`close` waits for its end."""
        self._alive = False
        os.close(self._sock)
        self._sock = -1

    def let_go(self) -> None:
        """The same, and this process does not wait for its end."""
        self.hand_over()
        os.close(self._pidfd)
        self._pidfd = -1
        self.close()

    def _make_config(self, config: ShareConfig, *options: Any) -> Any:
        if self._server is not None:
            return ffi.new("struct fs_config *", {"root_fd": -1})
        return super()._make_config(config, *options)

    def _open(self, native: Any) -> None:
        self.pid = -1
        self.isolation: tuple[str, ...] = ()
        self._alive = False
        self._pidfd = self._sock = self._books_fd = -1
        self._nobody = EventFd()
        self._books: Any = None
        self._context: DeviceContext | None = None
        self._reported = False
        self._given: list[Queue] = []  # what the server has had since the driver was ready
        self._taken_over = False
        self._call_lock = allocate_lock()
        self._last_stats = ffi.new("struct fsd_figures *")
        if self._server is not None:
            self._take_server(*self._server)
            return
        try:
            self._spawn()
            if self._wants_faults:
                self._take_faults()
            self._set_up(native)
        except BaseException:
            self.close()
            raise

    def _take_server(self, fds: list[int], about: dict[str, Any]) -> None:
        self._sock, self._pidfd, self._books_fd = fds[:3]
        del fds[:3]
        self.pid, self.isolation, self._alive = about["pid"], tuple(about["isolation"]), True
        try:
            self._map_books()
        except BaseException:
            self.close()
            raise

    def _map_books(self) -> None:
        self._books = ffi.from_buffer(map_memory(self._books_fd, _BOOKS))

    def _spawn(self) -> None:
        self._books_fd = sealed_memory("rings", _BOOKS)
        self._map_books()
        sock, pid = ffi.new("int *"), ffi.new("int *")
        pidfd = lib.process_spawn(os.fsencode(PROGRAM), sock, pid)
        if pidfd < 0:
            raise HostError(
                f"{self.name}: cannot run {PROGRAM}: {os.strerror(-pidfd)}",
                code="share-server",
                hint="it is built with the package; `,isolation=thread` does without it",
                errno=-pidfd,
            )
        self._pidfd, self._sock, self.pid, self._alive = pidfd, int(sock[0]), int(pid[0]), True

    def _take_faults(self) -> None:
        """The server's userfaultfd, made while it may still make one. Without it, RAM is filled at the start."""
        device, came = lib.fill_device(), ffi.new("int *", -1)
        try:
            os.close(os.dup(self._sock))  # without room for one more, its answer would seem to be invalid
            answer = self._call(self._message(lib.FSD_FAULTS), *([device] if device >= 0 else []), came=came)
        except ServerGone:
            return  # the next message reports it
        finally:
            if device >= 0:
                os.close(device)
        if came[0] >= 0:
            self._faults = int(came[0])
        else:
            report.debug(__name__, f"{self.name}: no userfaultfd for its server: {os.strerror(-answer.result)}")

    def _set_up(self, native: Any) -> None:
        message = self._message(lib.FSD_SETUP)
        message.config = native[0]
        message.config.dax = ffi.NULL
        vmm = os.pidfd_open(os.getpid()) if self._machine < 0 else os.dup(self._machine)
        window = self._share_window()
        try:
            answer = self._call(message, native.root_fd, vmm, window)
            number, text, isolation = -answer.result, _text(answer), answer.isolation
        except ServerGone:
            number, text, isolation = errno.EPIPE, "its process ended", 0
        finally:
            os.close(vmm)
            if window >= 0:
                os.close(window)
        if number:
            raise HostError(
                f"{self.name}: the server cannot isolate itself ({text}): {os.strerror(number)}",
                code="share-isolation",
                hint="it needs root, or user namespaces, or Landlock; `,isolation=thread` serves it without isolation",
                errno=number,
            )
        self.isolation = tuple(name for name, bit in _ISOLATION.items() if isolation & bit)

    def _share_window(self) -> int:
        """The descriptor by which the server asks for mappings, -1 without a window."""
        if self._dax is None:
            return -1
        ours, child = ffi.new("int *"), ffi.new("int *")
        result = lib.dax_pair(ours, child)
        if result < 0:
            raise HostError(f"{self.name}: {os.strerror(-result)}", code="share-dax", errno=-result)
        lib.dax_serve(self._dax, ours[0])
        return int(child[0])

    # -- messages --------------------------------------------------------------------------------------------

    def _message(self, op: int) -> Any:
        return ffi.new("struct fsd_msg *", {"version": lib.FSD_VERSION, "op": op})

    def _call(self, message: Any, *fds: int, came: Any = ffi.NULL, answer: Any = None) -> Any:
        """One message and its answer (cdata ``struct fsd_answer *``), whose result is 0 or -errno.

        :param came: an ``int *`` for the descriptor in the answer
        :param answer: the buffer for the answer; for FSD_STATS, a ``struct fsd_figures``
        :raises ServerGone: there was no answer, or an invalid one: the server has been ended
        """
        with self._call_lock:
            if not self._alive:
                raise ServerGone
            numbers = ffi.new("int[]", [*fds, *[-1] * (lib.FSD_FDS - len(fds))])
            answer = answer or ffi.new("struct fsd_answer *")
            if lib.fsd_call(self._sock, message, numbers, answer, came, ANSWER_MS) < 0:
                self._alive = False
                self._kill()
                raise ServerGone
            return answer

    def _kill(self) -> None:
        try:
            os.kill(self.pid, _SIGKILL)  # ours, and nobody has waited for it: the number is still its own
        except (ProcessLookupError, PermissionError):
            pass

    # -- what the driver does --------------------------------------------------------------------------------

    def activate(self, context: DeviceContext) -> None:
        self._context = context
        self._given = []
        self._taken_over = False
        self._watch_window(context.event.fd)
        context.loop.add(self._pidfd, self._on_end)
        try:
            self._hand_over(context)
        except ServerGone:
            self._take_over()

    def hold(self) -> bool:
        context = self._context
        if context is None or self._taken_over or self._dax is not None:
            return False
        try:
            if self._call(self._message(lib.FSD_HOLD)).result:
                return False
        except ServerGone:
            return False
        # One that did not rest in order is stopped
        if any(pending for _, pending in self._adopt()):
            return False
        context.loop.remove(self._pidfd)
        return True

    def go_on(self) -> None:
        context = self._context
        assert context is not None
        context.loop.add(self._pidfd, self._on_end)
        try:
            self._give_memory(context.memory, self._message(lib.FSD_MEMORY), context.memory.fd)
            self._check(self._call(self._message(lib.FSD_GO_ON)))
        except ServerGone:
            self._take_over()

    def _give_memory(self, memory: GuestMemory, message: Any, *fds: int) -> None:
        self._admit(memory)
        answer = self._call(message, *fds)
        self._check(answer)
        if self._client is not None and memory.on_demand:
            try:
                memory.mapped_by(self._client[1], answer.address)
            except OSError as error:
                raise self._memory_error(error) from error

    def _hand_over(self, context: DeviceContext) -> None:
        message = self._message(lib.FSD_MEMORY)
        regions = context.memory.regions
        status_fd, message.status_offset = context.status
        message.nregions = len(regions)
        for index, region in enumerate(regions):
            entry = message.region[index]
            entry.gpa, entry.size, entry.offset = region.gpa, region.size, region.offset
        if context.memory.fd < 0 or status_fd < 0:
            raise HostError(f"{self.name}: guest memory is not shared", code="share-memory")
        self._give_memory(context.memory, message, context.memory.fd, self._books_fd, status_fd)
        for queue in context.queues.values():
            message = self._message(lib.FSD_START)
            message.index = queue.index
            if lib.ring_save(queue.ring, ffi.addressof(message, "ring")) < 0:
                raise queue.error()
            self._given.append(queue)
            # On PCI the driver may want no interrupt of a queue
            irq = queue.irq.fd if queue.irq.fd >= 0 else self._nobody.fd
            self._check(self._call(message, queue.kick.fd, irq, context.event.fd))

    def _admit(self, memory: GuestMemory) -> None:
        """Before the server maps *memory*: it takes part in filling it, or all of it is filled now."""
        # A fork may have put another template below it
        if not memory.on_demand or (self._client is not None and self._client[2] == memory.native_fill):
            return
        try:
            if self._faults >= 0:
                self._client = memory, memory.admit(self._faults), memory.native_fill
            else:
                memory.complete()
        except OSError as error:
            raise self._memory_error(error) from error

    def _memory_error(self, error: OSError) -> HostError:
        return HostError(
            f"{self.name}: its server cannot map guest memory: {error.strerror}",
            code="share-memory",
            errno=error.errno or 0,
        )

    def _check(self, answer: Any) -> None:
        number = -answer.result
        if number:
            raise HostError(
                f"{self.name}: the server cannot take a queue ({_text(answer)}): {os.strerror(number)}",
                code="share-server",
                hint="see the limits on threads and memory (ulimit -u, ulimit -v)",
                errno=number,
            )

    def check(self) -> None:
        self._check_window()
        try:
            answer = self._call(self._message(lib.FSD_CHECK))
        except ServerGone:
            return  # _on_end() comes
        number, text = -answer.result, _text(answer)
        if number and text:
            raise GuestError(f"queue {answer.index}: {text}", code="ring-broken")
        if number:
            raise HostError(f"{self.name}: {os.strerror(number)}", code="share-worker", errno=number)

    def stop(self) -> None:
        context, self._context = self._context, None
        if context is None:
            return
        self._watch_window(-1)
        context.loop.remove(self._pidfd)
        if self._taken_over:
            return
        try:
            self._call(self._message(lib.FSD_STOP))
        except ServerGone:
            self._reap(END_MS)
        for queue, pending in self._adopt():
            for _ in range(pending):  # none, if it stopped in order
                chain = queue.pop()
                if chain is not None:
                    _refuse(queue, chain)

    def reset(self) -> None:
        try:
            self._call(self._message(lib.FSD_RESET))
        except ServerGone:
            pass
        self._clear_window()

    def _save_server(self, fd: int) -> tuple[int, str]:
        try:
            answer = self._call(self._message(lib.FSD_SAVE), fd)
        except ServerGone:
            return errno.EPIPE, ""
        return -answer.result, _text(answer)

    def _restore_server(self, fd: int) -> tuple[int, int]:
        try:
            answer = self._call(self._message(lib.FSD_RESTORE), fd)
        except ServerGone:
            return errno.EPIPE, 0
        return -answer.result, int(answer.index)

    def stale(self) -> float:
        try:
            answer = self._call(self._message(lib.FSD_STALE))
        except ServerGone:
            return 0.0  # every answer is EIO
        if answer.result:
            raise HostError(f"{self.name}: {os.strerror(-answer.result)}", code="share-stale", errno=-answer.result)
        return min(int(answer.index), _STALE_MS) / 1000

    # -- after its end ---------------------------------------------------------------------------------------

    def _on_end(self, _events: int) -> None:
        context = self._context
        if context is not None:
            context.loop.remove(self._pidfd)
            context.run(self._take_over)

    def _take_over(self) -> None:
        """The server has ended: from now on Python serves the queues, and each answer is EIO."""
        context = self._context
        if context is None or self._taken_over:
            return
        self._taken_over = True
        self._alive = False
        context.loop.remove(self._pidfd)
        status = self._reap(END_MS)
        if not self._reported:
            self._reported = True
            why = f"{self.name}: its server {status}; the guest sees I/O errors on this mount"
            report.error(__name__, why)
            self.report_lost(why)
        self._adopt()
        for queue in context.queues.values():
            context.serve(queue)
        # What it had done may be on the rings without an interrupt
        for queue in context.queues.values():
            lib.irq_raise(queue.irq, lib.IRQ_VRING)

    def _adopt(self) -> list[tuple[Queue, int]]:
        """Continue the server's rings; returns how many chains of each were in flight."""
        left = []
        for queue in self._given:
            state = ffi.cast("struct ring_state *", self._books + queue.index * lib.RING_STATE_STRIDE)
            pending = lib.ring_adopt(queue.ring, state)
            if pending < 0:
                raise GuestError(f"queue {queue.index}: its server left it in an invalid state", code="share-server")
            left.append((queue, pending))
        return left

    def process(self, queue: Queue) -> None:
        """The server has ended: answer each request with EIO."""
        for chain in queue:
            _refuse(queue, chain)

    def _reap(self, timeout_ms: int) -> str:
        """Wait for its end, if necessary by force; returns how it ended, in words."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(timeout_ms):
            self._kill()
            if not poll.poll(timeout_ms):
                return "does not end"  # a jailed process may not kill it
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return "ended"  # another thread of this process reaps all children
        if pid == 0:
            return "ended"
        code = os.waitstatus_to_exitcode(status)
        return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"

    # -- the host's side -------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """As :meth:`Fs.stats`, from the server's last answer, and ``server``: its process id, 0 if it has ended;
        ``isolation``: the namespaces and filters in force."""
        try:
            figures = ffi.new("struct fsd_figures *")
            self._call(self._message(lib.FSD_STATS), answer=ffi.addressof(figures, "answer"))
            self._last_stats = figures
        except ServerGone:
            pass
        return {**super().stats(), "server": self.pid if self._alive else 0, "isolation": " ".join(self.isolation)}

    def _native_stats(self) -> Any:
        return ffi.addressof(self._last_stats, "fs")

    def _worker_stats(self) -> dict[str, int]:
        return {name: int(getattr(self._last_stats.workers, name)) for name in COUNTERS}

    def close(self) -> None:
        self.stop()
        self._alive = False
        if self._sock >= 0:
            os.close(self._sock)  # it ends when it sees that
            self._sock = -1
        if self._pidfd >= 0:
            self._reap(END_MS)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._client is not None:
            memory, number, fill = self._client
            if fill == memory.native_fill:
                memory.dismiss(number)
            self._client = None
        if self._faults >= 0:
            os.close(self._faults)
            self._faults = -1
        self._nobody.close()
        self._free_window()
        if self._books_fd >= 0:
            os.close(self._books_fd)
            self._books_fd = -1


def _text(answer: Any) -> str:
    return ffi.string(answer.text).decode("utf-8", "replace")


def _refuse(queue: Queue, chain: Chain) -> None:
    """Answer a request with EIO."""
    if chain.readable >= _IN.size and chain.room >= _OUT.size:
        _, opcode, unique, *_ = _IN.unpack(chain.read(_IN.size))
        if opcode not in (_FORGET, _BATCH_FORGET):
            chain.write(_OUT.pack(_OUT.size, -errno.EIO, unique))
    queue.push(chain)
