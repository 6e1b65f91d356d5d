"""The server inside a jailed machine's process: it does what the process outside requests."""

from __future__ import annotations

import posix
import time

from vmm.errors import ConfigError, HostError, VmmError, as_answer, as_fault
from vmm.faststart.builtin import socket
from vmm.faststart.thread import LockType, Thread, allocate_lock
from vmm.machine.interface import CALLS, INSIDE
from vmm.processes.helpers import PATIENCE_S, REQUEST_MAX, receive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.board.slots import Attached
    from vmm.machine.machine import Machine


class Requests:
    """Serves, in the process of a jailed machine, the requests of a process outside of the jail.

    Each request is a message at *sock*, with the descriptors of a socket for its answers, and of files to write.

    :ivar takes_disks: one of them may plug in a disk; set it before :meth:`hand_over`
    :ivar takes_shares: the same for shares
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._machine: Machine | None = None
        self.takes_disks = self.takes_shares = False
        self._plugged: dict[int, Attached] = {}
        self._numbers = 0
        self._plugged_lock = allocate_lock()
        self._threads: list[tuple[Thread, LockType]] = []
        """Each with a lock that is free when it has done its work.  The first one adds the others."""

    def hand_over(self, machine: Machine) -> None:
        """Set the machine; :meth:`start` may be called afterwards."""
        import json  # now: a jailed process cannot open the module's file

        assert json
        if self.takes_disks:
            import fcntl

            from vmm.saving import records
            from vmm.virtio.blk import device

            assert fcntl and records and device
        if self.takes_shares:
            from vmm.saving import records
            from vmm.virtio.fs import process

            assert records and process
        machine.open_for_saving()
        self._machine = machine

    def go(self, user: int) -> None:
        """The machine is in its jail.

        :param user: whose it is there; 0: whose it was before
        """

    def start(self) -> None:
        """Begin to serve; each request gets a thread of its own."""
        self._begin(self._take)

    def _begin(self, work: Callable[[], None]) -> None:
        done = allocate_lock()
        done.acquire()

        def main() -> None:
            try:
                work()
            finally:
                done.release()

        living = []
        for each in self._threads:
            if each[1].locked():
                living.append(each)
            else:
                each[0].join()
        thread = Thread(main, "control")
        self._threads = [*living, (thread, done)]  # before its start: the first thread calls this, too
        try:
            thread.start()
        except RuntimeError:
            done.release()  # the host has no thread left
            raise

    def take(self, most: int = REQUEST_MAX) -> tuple[bytes, list[int]] | None:
        """Wait for the next request: up to *most* bytes, and its descriptors; None: the other end is closed."""
        try:
            data, fds = receive(self._sock, most)
        except OSError:
            return None
        return (data, fds) if data and fds else None

    def _take(self) -> None:
        while taken := self.take():
            self._begin(self._worker(*taken))

    def _worker(self, data: bytes, fds: list[int]) -> Callable[[], None]:
        return lambda: self._do(data, fds)

    def _do(self, data: bytes, fds: list[int]) -> None:
        import json

        answer = fds.pop(0)
        machine = self._machine
        assert machine is not None

        def tell(what: dict[str, Any]) -> None:
            try:
                posix.write(answer, json.dumps(what).encode())  # one message
            except OSError:
                pass  # the reader has closed its end

        request = json.loads(data)
        try:
            tell({"ok": self._plugs(machine, request, fds) or _do(machine, request, fds, tell)})
        except VmmError as error:
            tell(as_answer(error))
        except Exception as error:
            tell(as_fault(request["command"], error))
            raise  # with its traceback, on stderr
        finally:
            for fd in (answer, *fds):
                posix.close(fd)
        if request["command"] == "stop":
            machine.stop(request["kind"], request["detail"])

    def _plugs(self, machine: Machine, request: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        """Execute it if it adds or removes a device; returns the answer, or None for any other request."""
        if request["command"] == "plug":
            try:
                attached = _plug(machine, request, fds)
            except OSError as error:
                what = error.strerror or str(error)
                raise HostError(f"it cannot be plugged in: {what}", code="host-limit") from error
            with self._plugged_lock:
                for number, each in tuple(self._plugged.items()):
                    if each.wait_gone(0):
                        del self._plugged[number]
                self._numbers += 1
                self._plugged[self._numbers] = attached
                return {"number": self._numbers}
        if request["command"] not in ("unplug", "wait-gone", "resize-plugged"):
            return None
        found = self._plugged.get(request["number"])
        if request["command"] == "wait-gone":
            return {"gone": found is None or found.wait_gone(request["timeout"])}
        if found is None:
            raise ConfigError("it is not attached to this machine", code="not-attached")
        if request["command"] == "resize-plugged":
            disk: Any = found.device
            disk.resize()
            return {"resized": True}
        return {"gone": machine.unplug(found, request["timeout"], force=request["force"])}

    def close(self) -> None:
        """Accept no more requests, and wait for those under way, for a while.  May be called again.

        The threads must not outlive the interpreter, see :meth:`vmm.faststart.thread.Thread.join`.
        """
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # a thread may be waiting there
        except OSError:
            pass
        deadline = time.monotonic() + PATIENCE_S
        joined: list[Thread] = []
        # One after the other: until the first one has ended it adds further ones
        while left := [each for each in self._threads if each[0] not in joined]:
            thread, done = left[0]
            joined.append(thread)
            if done.acquire(timeout=max(0.0, deadline - time.monotonic())):
                thread.join()
        self._threads = []
        self._sock.close()


def _plug(machine: Machine, request: dict[str, Any], fds: list[int]) -> Attached:
    """Plug in a disk whose files are *fds*, or a share whose server they lead to; removes them from the list."""
    from vmm.saving.records import made

    if "share" in request:
        from vmm.virtio.fs import ShareConfig
        from vmm.virtio.fs.process import FsProcess

        share: ShareConfig = made(request["share"], "ShareConfig", {"ShareConfig": ShareConfig}, "the share")
        device = FsProcess.given(share, fds, request["about"], cpus=machine.config.cpus)
        try:
            return machine.plug(device)  # which closes it from now on
        except BaseException:
            device.close()
            raise
    from vmm.options.limit import LimitConfig
    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.blk.device import DiskFiles

    kinds: dict[str, type] = {"DiskConfig": DiskConfig, "LimitConfig": LimitConfig}
    config: DiskConfig = made(request["disk"], "DiskConfig", kinds, "the disk")
    return machine.plug(config, DiskFiles.given(config, fds, request["about"]))


def _do(machine: Machine, request: dict[str, Any], fds: list[int], tell: Callable[[dict[str, Any]], None]) -> Any:
    """Execute a request; returns the answer."""
    command = request["command"]
    if command == "status":
        return {
            "state": machine.state,
            "cpus": machine.cpus,
            "devices": [device.name for device in machine.devices],
        }
    row = CALLS.get(command)
    if row is not None and row.jailed == INSIDE:
        result = getattr(machine, command)(**{name: request[name] for name in row.names if name in request})
        return {} if result is None else {"result": result}
    if command == "set-mac":
        machine.nets[request["net"]].set_mac(bytes.fromhex(request["mac"]))
    elif command == "stale-shares":
        return {"ms": int(machine.stale_shares() * 1000 + 0.999)}
    elif command == "touched":
        machine.write_touched(fds[0])
    elif command == "phases":
        return {"phases": [(name, int(at * 1e9)) for name, at in machine.phases_within()]}
    elif command == "figures":
        return machine.figures()
    elif command == "input":
        return {"taken": machine.console_input(request["data"].encode("latin-1"))}
    elif command == "save":
        from vmm.saving.snapshot import Files

        memory, state, *others = fds
        fds.clear()  # Files closes them
        pages = others.pop(0) if request["diff"] or request.get("children") else -1
        than = others.pop(0) if request["diff"] else -1
        with Files(memory, state, pages, than, tuple(others), children=request.get("children", 0)) as files:
            saved = machine.save(
                files, stop=request["stop"], progress=lambda done, size: tell({"progress": done, "of": size})
            )
        return {
            "devices": saved.devices,
            "cpuid": saved.cpuid,
            "disks": saved.disks,
            "memory_bytes": saved.memory_bytes,
            "areas": saved.areas,
        }
    return {}
