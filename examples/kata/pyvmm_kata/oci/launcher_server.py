"""A front: a process of ``pyvmm-poold`` that does a ``create`` or a ``run`` for the small program (launcher/pool.c), or
becomes the shim of a pod for the other one (launcher/shim.c).

It has imported everything that the Python program would import. It waits for one command line, runs it with the
caller's descriptors, environment and working directory, and ends. What it cannot do exactly as the caller would, it
leaves to the Python program, before anything is made. The container's proxy process is a child of the caller, which
starts it for the server.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import time
from typing import TYPE_CHECKING

from pyvmm_kata.bundle import guest_spec
from pyvmm_kata.bundle.bundle import Bundle, parse_json
from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.bundle.guest_share import Recorder
from pyvmm_kata.errors import HostError, VmmError
from pyvmm_kata.host import cgroups, hooks
from pyvmm_kata.oci import shared_machine
from pyvmm_kata.oci.create import ALIASES, OPTIONS, create, first_state
from pyvmm_kata.oci.delete import delete
from pyvmm_kata.oci.main import OPTIONS as GLOBAL_OPTIONS
from pyvmm_kata.oci.main import context_of
from pyvmm_kata.oci.options import one_id, parse
from pyvmm_kata.oci.pool_machine import Elsewhere
from pyvmm_kata.oci.run import ALIASES as RUN_ALIASES
from pyvmm_kata.oci.run import OPTIONS as RUN_OPTIONS
from pyvmm_kata.pod.pool_client import is_for_pool, kind_of, name_of
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm_kata.bundle.settings import Settings
    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.oci.shared_machine import Machine
    from pyvmm_kata.state import Json

REQUEST_S, REST_S = 10.0, 0.2
MAX_WORDS, MAX_REHEARSED = 4 << 20, 1 << 15
SPACES = ("mnt", "pid", "user", "cgroup", "net")
_OWN = ("/proc/self", "/proc/thread-self", "/dev/fd", "/dev/std")
"""Paths that are another thing for each process."""


def place() -> str:
    """Where a caller must be for paths to mean to it what they mean here (launcher/pool.c, place_write)."""
    root = os.stat("/")
    return " ".join([*(os.readlink(f"/proc/self/ns/{name}") for name in SPACES), f"{root.st_dev}:{root.st_ino}"])


def be_front(pool: socket.socket, root: str, chosen: Settings, *, pods: bool = False) -> int:
    """Run the server, in a child of the pool without other threads; returns the exit status.

    :param pods: it becomes a shim of containerd's
    :param pool: a socket of packets, over which the connection of a caller comes
    """
    control.leave_descriptors({pool.fileno()})
    gc.disable()
    with contextlib.suppress(VmmError, OSError, Elsewhere):
        if pods:
            _rehearse_pod(chosen)
        else:
            _rehearse(root, chosen)
    gc.freeze()
    try:
        _, fds, _, _ = socket.recv_fds(pool, 16, 1)
    except OSError:
        return 0
    if not fds:
        return 0  # the pool has ended
    pool.close()
    front = Front(control.Channel(socket.socket(fileno=fds[0]), "the command"))
    return front.be_shim() if pods else front.serve()


def _rehearse(root: str, chosen: Settings) -> None:
    """Run the computations of a command once: memory that they write, which is shared with the pool, is then copied
    before anybody waits. Nothing is made."""
    ours, its = socket.socketpair()
    front, other = Front(control.Channel(ours, "the command")), control.Channel(its, "rehearsal")
    words = ["--config", "kata.toml", "--root", root, "run", "--bundle", "/", "rehearsal"]
    content = b"".join(os.fsencode(word) + b"\0" for word in words)
    environment = b"".join(b"%b=%b\0" % item for item in os.environb.items())[:MAX_REHEARSED]
    place = os.open(".", os.O_PATH | os.O_CLOEXEC)
    mask = os.umask(0o022)
    request = {"umask": mask, "words": len(content), "bytes": len(content) + len(environment)}
    other.send(request, [0, 1, 2, place])
    its.sendall(content + environment)
    context, (_, *rest) = front._take_over()
    other.close()
    os.close(place)
    options, (container_id,) = parse(rest, RUN_OPTIONS, RUN_ALIASES, "run")
    spec = default_spec(["true"], terminal=False)
    spec["root"]["path"] = options["bundle"]
    bundle = Bundle(options["bundle"], parse_json(json.dumps(spec).encode(), "config.json"))
    hooks.check(bundle.spec)
    machine = shared_machine.machine_for(context, bundle.spec)
    guest_spec.check(bundle, machine.members)
    with contextlib.suppress(Elsewhere):
        front.check(bundle, machine, chosen)
    name_of(chosen, kind_of(chosen, *chosen.size({})))
    cgroups.place("", container_id, systemd=False)
    known = first_state(container_id, bundle, "", os.getpid())
    placed = guest_spec.place(bundle, container_id, Recorder(), members=())
    json.loads(json.dumps({**known, **request, "spec": bundle.spec, "placed": placed}))
    front._channel.close()


def _rehearse_pod(chosen: Settings) -> None:
    """The same for the steps of a pod's shim until another process takes it over."""
    from pyvmm_kata.protocol import protobuf
    from pyvmm_kata.shim.bootstrap import Arguments, Place

    Place.of(Arguments("rehearsal", "default", "", "/", "", 2))
    made = protobuf.message("containerd.task.v2.CreateTaskRequest")(id="rehearsal", bundle="/")
    made.rootfs.add(type="overlay", source="overlay", options=["lowerdir=/"])
    request = protobuf.message("ttrpc.Request")(service="Task", method="Create", payload=made.SerializeToString())
    request = protobuf.parse(type(request), request.SerializeToString())
    protobuf.parse(type(made), request.payload)
    spec = default_spec(["true"], terminal=False)
    spec["root"]["path"] = "/"
    bundle = Bundle("/", parse_json(json.dumps(spec).encode(), "config.json"))
    is_for_pool(bundle, chosen)
    name_of(chosen, kind_of(chosen, *chosen.size({})))


class Front:
    """Does what one caller wants."""

    def __init__(self, channel: control.Channel) -> None:
        self._channel = channel
        self._starts = False
        self._removes = False

    def serve(self) -> int:
        """Execute it, and answer; returns the exit status."""
        answer: Json = {}
        folder = ""
        context: Context | None = None
        try:
            context, words = self._take_over()
            folder, answer = self._do(context, words)
        except Elsewhere:
            pass
        except VmmError as error:
            answer = {"exit": 1}
            if context is not None:
                context.error(f"{error} ({error.hint})" if error.hint else str(error))
        except OSError as error:
            answer = {"exit": 1}
            if context is not None:
                context.error(f"pyvmm-oci: {error}")
        control.leave_descriptors({self._channel.fileno()})
        try:
            self._channel.send(answer)
        except OSError:
            if folder:  # nothing else refers to it
                delete(folder, force=True)
        self._channel.close()
        time.sleep(REST_S)  # the end of a process takes CPU time, which the container needs first
        return 0

    def be_shim(self) -> int:
        """Be the shim of a pod without one, and report that; returns the exit status. Everything else, errors included,
        is left to the Python program."""
        from pyvmm_kata.shim import bootstrap, main, server

        place: bootstrap.Place | None = None
        try:
            flags, action = main.parse(self._take_words())
            arguments = main.arguments_of(flags)
            bootstrap.check(arguments)
            begun = bootstrap.begin(arguments) if action == "start" else None
            if begun is None:
                raise Elsewhere
            place, listener = begun
            os.write(1, bootstrap.answer(place, arguments).encode())
            self._channel.send({"exit": 0})
        except (Elsewhere, VmmError, OSError):
            if place is not None:
                place.remove()
            with contextlib.suppress(OSError):
                self._channel.send({})
            return 0
        self._channel.close()
        server.serve(arguments, place, listener)
        return 0

    def _take_words(self) -> list[str]:
        """Take over the caller's environment; returns its command line."""
        try:
            self._channel.send({"ready": True})
            request = self._channel.receive(REQUEST_S)
            assert request is not None
            size, count = int(request["bytes"]), int(request["words"])
            if not 0 < count <= size <= MAX_WORDS or len(self._channel.fds) != 4:
                raise ValueError
            content = self._channel.take(size, REQUEST_S)
            mask = int(request["umask"])
        except (AssertionError, OSError, KeyError, TypeError, ValueError, VmmError) as error:
            raise Elsewhere from error
        words = os.fsdecode(content[:count]).split("\0")[:-1]
        if any(own in word for word in words for own in _OWN):
            raise Elsewhere
        os.environ.clear()
        for entry in os.fsdecode(content[count:]).split("\0"):
            name, equals, value = entry.partition("=")
            if name and equals:
                os.environ[name] = value
        for number in range(3):
            os.dup2(self._channel.fds[number], number)
        os.fchdir(self._channel.fds[3])
        for fd in self._channel.fds:
            os.close(fd)
        self._channel.fds = []
        os.umask(mask)
        return words

    def _take_over(self) -> tuple[Context, list[str]]:
        """Take over the caller's environment; returns the global options, and the command line after them."""
        words = self._take_words()
        try:
            options, rest = parse(words, GLOBAL_OPTIONS, {"h": "help", "v": "version"}, "pyvmm-oci")
        except VmmError as error:
            raise Elsewhere from error
        if options["debug"] or options["version"] or options["help"] or not rest:
            raise Elsewhere
        return context_of(options), rest

    def _do(self, context: Context, words: list[str]) -> tuple[str, Json]:
        """The folder of the container that was made, and the answer."""
        command, *rest = words
        if command == "create":
            options, rest = parse(rest, OPTIONS, ALIASES, "create")
            container_id = one_id(rest, "create")
            create(context, container_id, options, front=self)
            return context.folder(container_id), {"exit": 0}
        if command != "run":
            raise Elsewhere
        options, rest = parse(rest, RUN_OPTIONS, RUN_ALIASES, "run")
        container_id = one_id(rest, "run")
        self._starts = True
        self._removes = not options["detach"] and not options["keep"]
        pid = create(context, container_id, options, foreground=not options["detach"], front=self)
        return context.folder(container_id), {"exit": 0} if options["detach"] else {"attend": pid}

    def check(self, bundle: Bundle, machine: Machine, chosen: Settings) -> None:
        """
        :raises Elsewhere: the container needs another machine than the pool's, or a file that its config.json names
            differs between the caller and this process
        """
        if machine.holder or bundle.spec.get("hooks") or not is_for_pool(bundle, chosen):
            raise Elsewhere
        if any(path.startswith(_OWN) for path in _paths(bundle.spec)):
            raise Elsewhere

    @property
    def wishes(self) -> Json:
        """What the monitor is to do when the container is made, see :meth:`pyvmm_kata.oci.pool_machine.Spare.serve`."""
        return {"start": True, "removes": self._removes} if self._starts else {}

    def spawn(self, words: list[str]) -> socket.socket:
        """Request that the caller start a proxy process; returns its socket.

        :raises HostError: it does not
        """
        content = b"".join(os.fsencode(word) + b"\0" for word in words)
        try:
            self._channel.send_bytes({"face": len(content)}, content)
        except OSError as error:
            raise HostError("the command has ended", code="oci-gone") from error
        self._channel.answer()
        fds, self._channel.fds = self._channel.fds, []
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise HostError("the command gave no face", code="face")
        return socket.socket(fileno=fds[0])


def _paths(spec: Json) -> Iterator[str]:
    """The files of the host that a config.json names."""
    yield spec["root"]["path"]
    for mount in spec.get("mounts") or ():
        yield mount.get("source") or ""
    for entry in (spec.get("linux") or {}).get("namespaces") or ():
        yield entry.get("path") or ""
