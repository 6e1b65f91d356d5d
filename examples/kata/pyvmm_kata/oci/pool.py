"""``pyvmm-poold``: keeps machines ready for the containers of ``pyvmm-oci``, see :mod:`pyvmm_kata.oci.pool_machine`.

It has one thread and makes one spare at a time, with a nice value of 19 until that is ready.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata import state
from pyvmm_kata.bundle import settings
from pyvmm_kata.entry import MONITOR, SHIM, load
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.host.cgroups import Cgroup
from pyvmm_kata.oci import launcher_server, pool_machine
from pyvmm_kata.oci.context import default_root
from pyvmm_kata.oci.options import FLAG, VALUE, parse
from pyvmm_kata.oci.shared_machine import group_of, sweep
from pyvmm_kata.pod import pool_client, templates
from pyvmm_kata.pod.guest_kinds import kind_named
from pyvmm_kata.state import is_of_a_user

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from pyvmm_kata.state import Json

OPTIONS = {"root": VALUE, "config": VALUE, "number": VALUE, "pods": FLAG, "status": FLAG, "help": FLAG, "version": FLAG}
USAGE = """\
usage: pyvmm-poold [--root DIR | --pods] [--config FILE] [--number N]
       pyvmm-poold [--root DIR | --pods] --status

Keeps virtual machines ready for containers that pyvmm-oci makes with the same --root and --config: as many as the
file's `pool` says, or N.  It runs until SIGTERM.  Containers run on after its end, and start without it, later.

  --pods     for pods and containers of containerd's, instead of those of pyvmm-oci
  --status   print what a pool that runs has and has done, as JSON
"""
REST_S = 0.2
"""Seconds from a request until the next machine or front is made: a container that starts has the CPUs first."""
LOOK_S = 10.0
"""Seconds between looks at the files that the machines are made of."""
RETRY_S, MOST_RETRY_S = 1.0, 60.0
MAX_REQUEST, MAX_CLIENTS = 1 << 16, 64
REQUEST_S = 1.0
"""Seconds until a client has to have sent its request: so long it waits for the answer, too."""
DEAF_S = 0.2
"""Seconds until the next connection is accepted when one could not be."""
END_S = 10.0


class _Child(NamedTuple):
    """A spare of ours.

    :ivar name: what whoever asks for it must have, see :func:`pyvmm_kata.pod.pool_client.name_of`
    :ivar booted: it is not a clone of a template, since there was none
    """

    pid: int
    sock: socket.socket
    name: str
    booted: bool = False


class _Client(NamedTuple):
    """A connection that has sent no request yet.

    :ivar until: the time at which it is closed, by time.monotonic()
    """

    sock: socket.socket
    until: float


class Pool:
    """The spares that are ready, and the requests for them.

    :param root: of the states of containers
    :param number: how many machines
    :param pods: they are for containerd's shim, see :mod:`pyvmm_kata.shim.server`
    """

    def __init__(self, root: str, chosen: settings.Settings, number: int, *, pods: bool = False) -> None:
        self._root = root
        self._pods = pods
        self._settings = chosen
        self._number = number
        self._ready: list[_Child] = []
        self._making: _Child | None = None
        self._fronts: list[socket.socket] = []
        """Of processes that wait for a command line, see :mod:`pyvmm_kata.oci.launcher_server`."""
        self._place = ""
        self._clients: list[_Client] = []
        """In the order of their coming."""
        self._deaf = 0.0
        """Until then nobody is accepted: there are no descriptors."""
        self._next = 0.0
        self._rest = 0.0
        """Until then a container is being started, and the pool makes nothing that would use the CPU."""
        self._looked = 0.0
        self._name = ""
        self._failures = 0
        self._builder = 0
        self._groups: dict[int, str] = {}
        """Control groups that children have until they have a container, by pids."""
        self._stopping = False
        self._counts = {"made": 0, "given": 0, "refused": 0, "failed": 0}

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        :raises ConfigError: a pool for the same containers exists already
        :raises HostError: it cannot be served there
        """
        folder, name = pool_client.address(self._root)
        try:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            # The lock goes with us: children close it
            lock = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"there is a pool for {self._root} already", code="pool") from None
        except OSError as error:
            raise HostError(f"{error.filename}: {error.strerror}", code="pool", errno=error.errno or 0) from error
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        woken.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        listener = self._listen(f"/proc/self/fd/{place}/{name}", f"{folder}/{name}")
        try:
            sweep(self._root)
            self._place = launcher_server.place()
            while not self._stopping:
                self._turn(listener, woken)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=place)
            listener.close()
            self._end_all()

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _listen(self, path: str, shown: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of one that was killed: we have the lock
            listener.bind(path)
            listener.listen(MAX_CLIENTS)
        except OSError as error:
            raise HostError(f"{shown}: {error.strerror}", code="pool", errno=error.errno or 0) from error
        finally:
            os.umask(before)
        listener.setblocking(False)
        return listener

    def _turn(self, listener: socket.socket, woken: socket.socket) -> None:
        """Handle everything that is pending, and wait for more."""
        self._reap()
        self._look()
        now = time.monotonic()
        wanted = len(self._ready) < self._number and self._making is None
        if wanted and now >= max(self._next, self._rest):
            self._make()
            wanted = False
        while len(self._fronts) < len(self._ready) and now >= self._rest:
            if not self._make_front():
                break
        while self._clients and self._clients[0].until <= now:
            self._clients.pop(0).sock.close()
        children = [*self._ready, *([self._making] if self._making is not None else ())]
        ready = select.poll()
        for sock in (woken, *(each.sock for each in (*self._clients, *children))):
            ready.register(sock, select.POLLIN)
        if now >= self._deaf:
            ready.register(listener, select.POLLIN)
        wait = min(max(self._next, self._rest) - now, LOOK_S) if wanted else LOOK_S
        if self._clients:
            wait = min(wait, self._clients[0].until - now)
        if now < self._deaf:
            wait = min(wait, self._deaf - now)
        if len(self._fronts) < len(self._ready):
            wait = min(wait, self._rest - now)
        found = {fd for fd, _ in ready.poll(max(0.0, wait) * 1000)}
        if woken.fileno() in found:
            woken.recv(4096)
        for child in children:
            if child.sock.fileno() in found:
                self._hear(child)
        for client in [each for each in self._clients if each.sock.fileno() in found]:
            self._clients.remove(client)
            with client.sock:
                self._serve(client.sock)
        if listener.fileno() in found:
            self._welcome(listener)

    # -- spares ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Drop spares whose files have been replaced since."""
        if self._looked and time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        before, self._name = self._name, self._current_name()
        if before != self._name:
            for child in (*self._ready, *([self._making] if self._making is not None else ())):
                self._drop(child)

    def _current_name(self) -> str:
        try:
            return pool_client.name_of(self._settings, self._kind())
        except FileNotFoundError:
            return ""
        except OSError:
            return self._name  # no descriptors: nothing is known of the files

    def _make(self) -> None:
        """Start one more."""
        if not self._name:
            self._fail(f"{self._settings.kernel}, or {self._settings.image}, is not there")
            return
        available = state.number_in("/proc/meminfo", "MemAvailable", 1024)
        if available is not None and available < 2 * self._settings.size({})[0]:
            self._fail("the host has too little memory for one more machine")
            return
        try:
            pid, sock = self._fork(lambda its: pool_machine.be_spare(its, self._root, self._settings, pods=self._pods))
        except OSError as error:
            self._fail(f"no process for a machine: {error.strerror}")
            return
        self._making = _Child(pid, sock, self._name)
        self._groups[pid] = group_of(pid)

    def _make_front(self) -> bool:
        """Start one; False: it is impossible for now."""
        try:
            _, sock = self._fork(lambda its: launcher_server.be_front(its, self._root, self._settings, pods=self._pods))
        except OSError:
            self._rest = time.monotonic() + RETRY_S
            return False
        self._fronts.append(sock)
        return True

    def _fork(self, work: Callable[[socket.socket], int]) -> tuple[int, socket.socket]:
        """Make a child that runs *work* with a socket of packets; returns its pid, and the other end."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # what there is is shared with the child
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            its.close()
            raise
        if pid == 0:
            status = 255
            try:
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                    signal.signal(number, signal.SIG_DFL)
                os.setsid()
                status = work(its)
            finally:
                os._exit(status)
        its.close()
        return pid, ours

    def _hear(self, child: _Child) -> None:
        """It is ready, or has ended."""
        try:
            text = child.sock.recv(1 << 16)
        except OSError:
            text = b""
        if child is not self._making:
            self._drop(child)  # it says nothing but once, so it has ended
            return
        self._making = None
        said = _words_of(text)
        if not said.get("ready"):
            child.sock.close()
            self._fail(f"a machine could not be made: {said.get('error', 'it has ended')}")
            return
        templates.promote(child.pid)
        self._ready.append(child._replace(booted=bool(said.get("booted"))))
        self._failures = 0
        self._counts["made"] += 1
        # Not what the spare says, which has run a guest: which template that is, is known here
        if said.get("booted") and not self._builder and not self._has_template():
            self._builder = templates.request(self._kind())

    def _kind(self) -> templates.Kind:
        return pool_client.kind_of(self._settings, *self._settings.size({}))

    def _has_template(self) -> bool:
        try:
            templates.find(self._kind().key(), touch=False)
        except (OSError, VmmError):
            return False
        return True

    def _fail(self, why: str) -> None:
        self._counts["failed"] += 1
        self._next = time.monotonic() + min(RETRY_S * 2**self._failures, MOST_RETRY_S)
        self._failures += 1
        _say(why)

    def _drop(self, child: _Child) -> None:
        """Release it: it ends, unless it has been given away."""
        child.sock.close()
        if child in self._ready:
            self._ready.remove(child)
        elif child is self._making:
            self._making = None

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if group := self._groups.pop(pid, ""):
                with contextlib.suppress(VmmError):
                    Cgroup(group).remove()
                with contextlib.suppress(OSError, VmmError):
                    sweep(self._root)
            if pid == self._builder:
                self._builder = 0
                for child in [each for each in self._ready if each.booted and self._has_template()]:
                    self._drop(child)  # clones take its place

    def _end_all(self) -> None:
        """End the spares, and wait for them."""
        children = [*self._ready, *([self._making] if self._making is not None else ())]
        for sock in (*self._fronts, *(child.sock for child in children)):
            sock.close()
        deadline = time.monotonic() + END_S
        for child in children:
            while _runs(child.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            if _runs(child.pid):
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
        for group in self._groups.values():
            with contextlib.suppress(VmmError):
                Cgroup(group).remove()
        sweep(self._root)

    # -- clients -----------------------------------------------------------------------------------------------------

    def _welcome(self, listener: socket.socket) -> None:
        now = time.monotonic()
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._deaf = now + DEAF_S
            return
        if not pool_client.is_ours(client):
            client.close()
            return
        if len(self._clients) >= MAX_CLIENTS:
            self._clients.pop(0).sock.close()
        client.setblocking(False)
        self._clients.append(_Client(client, now + REQUEST_S))

    def _serve(self, client: socket.socket) -> None:
        """Answer a request, which must come at once."""
        try:
            text = client.recv(MAX_REQUEST)
            answer = self._answer(_words_of(text) if text.endswith(b"\n") else {}, client)
            if answer:
                client.send(json.dumps(answer).encode() + b"\n")
        except OSError:
            pass  # it has ended, or reads nothing

    def _answer(self, request: Json, client: socket.socket) -> Json:
        """The answer; empty: a spare or a launcher server sends it."""
        op = request.get("op")
        if op == "status":
            return {"ready": len(self._ready), "wanted": self._number, **self._counts}
        if op == "command":
            return self._hand_over(request, client)
        if op != "take":
            return {"error": "no such request"}
        if request.get("name") != self._name:
            self._looked = 0.0  # perhaps it is we who have something old
            self._counts["refused"] += 1
            return {"error": "no machine is like that"}
        while self._ready:
            child = self._ready[0]
            try:
                socket.send_fds(child.sock, [b"."], [client.fileno()])
            except OSError:
                self._drop(child)
                continue
            self._drop(child)
            self._counts["given"] += 1
            self._rest = time.monotonic() + REST_S
            return {}
        self._counts["refused"] += 1
        return {"error": "no machine is ready"}

    def _hand_over(self, request: Json, client: socket.socket) -> Json:
        """Give a command line to a launcher server."""
        if request.get("place") != self._place:
            return {"error": "the pool is elsewhere"}
        while self._ready and self._fronts:
            with self._fronts.pop() as sock:
                try:
                    socket.send_fds(sock, [b"."], [client.fileno()])
                except OSError:
                    continue  # it was killed
                self._rest = time.monotonic() + REST_S
                return {}
        return {"error": "no machine is ready"}


def _words_of(text: bytes) -> Json:
    """A spare's report; empty: it is invalid."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _runs(pid: int) -> bool:
    """Whether our child still runs; reaps it if it does not."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def _say(words: str) -> None:
    sys.stderr.write(f"pyvmm-poold: {words}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    settings.place_caches()
    try:
        options, rest = parse(
            sys.argv[1:] if arguments is None else arguments, OPTIONS, {"h": "help", "v": "version"}, "pyvmm-poold"
        )
        if rest:
            raise ConfigError(f"{rest[0]!r} is one argument too many", code="oci-usage", hint="see --help")
        if options["pods"] and options["root"]:
            raise ConfigError("--root: machines for pods are where containerd's shim looks for them", code="oci-usage")
        root = pool_client.PODS if options["pods"] else os.path.abspath(options["root"] or default_root())
        if options["version"]:
            from pyvmm_kata.oci.main import version_text

            sys.stdout.write(version_text().replace("pyvmm-oci", "pyvmm-poold", 1).splitlines()[0] + "\n")
        elif options["help"]:
            sys.stdout.write(USAGE)
        elif options["status"]:
            _status(root)
        else:
            _run(root, options["config"], options["number"], pods=options["pods"])
        return 0
    except VmmError as error:
        _say(f"{error} ({error.hint})" if error.hint else str(error))
    except OSError as error:
        _say(str(error))
    return 1


def _status(root: str) -> None:
    try:
        channel, answer = pool_client.ask(root, {"op": "status"})
    except OSError as error:
        raise HostError(f"no pool serves {root}: {error.strerror or error}", code="pool") from error
    channel.close()
    sys.stdout.write(json.dumps(answer) + "\n")


def _prepare(chosen: settings.Settings) -> None:
    """Find what the guests boot from.

    :raises ConfigError: their machines cannot be made before a container is known
    """
    guest = kind_named(chosen.guest)
    if not guest.has_machine(chosen.kernel_params):
        raise ConfigError(
            "a pool keeps machines, and a Sentry has none where KVM cannot be used",
            code="pool",
            hint="pyvmm doctor reports why",
        )
    guest.prepare(chosen.kernel_params)


def _run(root: str, config: str, number: str, *, pods: bool) -> None:
    chosen = settings.load(config)
    if number:
        if not (number.isascii() and number.isdigit() and 0 < int(number[:9]) <= settings.MAX_POOL):
            raise ConfigError(f"--number {number!r:.20} is not 1 to {settings.MAX_POOL}", code="oci-usage")
        chosen = chosen._replace(pool=int(number))
    if not chosen.pool:
        raise ConfigError(
            "kata.toml says pool = 0: there is nothing to do",
            code="kata-config",
            hint='template = "auto" and pool = 2 keep two machines ready',
        )
    if chosen.template != "auto":
        raise ConfigError('kata.toml: a pool needs template = "auto"', code="kata-config")
    if is_of_a_user():
        raise ConfigError("a pool is root's: containers of ordinary users have machines of their own", code="pool")
    load({*MONITOR, *(SHIM if pods else ())})  # once for all spares
    _prepare(chosen)
    Pool(root, chosen, chosen.pool, pods=pods).run()


if __name__ == "__main__":
    sys.exit(main())
