"""Containers as a library: each in a virtual machine of its own, without a command line in between.

>>> from pyvmm_kata import PIPE, Container
>>> with Container.create("./rootfs", ["sleep", "600"]) as container:    # doctest: +SKIP
...     container.start()
...     with container.exec(["uname", "-r"], stdout=PIPE) as process:
...         print(process.stdout.read())

A container is the same as one of ``pyvmm-oci``: its state is below the same root, its machine comes from the pool if
there is one, and ``pyvmm-oci list``, ``exec`` and ``delete`` see it.  It outlives this process unless it is removed.

The first process of a container is a child of the process that made it, which is a fork of a process with threads only
where no pool gives the machine: a program with many threads is better off with a pool.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import select
import signal
import socket
import tempfile
from typing import IO, TYPE_CHECKING, Any

from pyvmm_kata import state
from pyvmm_kata.bundle import images
from pyvmm_kata.bundle.checks import check_id
from pyvmm_kata.bundle.settings import ISOLATION
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host.windows import WINDOW as WINDOW
from pyvmm_kata.image_store.roots import open_root
from pyvmm_kata.oci import checkpoint as checkpoints
from pyvmm_kata.oci import kill
from pyvmm_kata.oci.context import Context, default_root
from pyvmm_kata.oci.create import create
from pyvmm_kata.oci.delete import delete
from pyvmm_kata.oci.exec_process import OPTIONS as PROCESS_OPTIONS
from pyvmm_kata.oci.exec_process import process_from
from pyvmm_kata.pod import checkpoint_folder, working_set
from pyvmm_kata.pod.stdio import PIECE
from pyvmm_kata.protocol import control
from pyvmm_kata.run_spec import Options, make_spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from pyvmm_kata.state import Json

    Stream = int | IO[bytes] | None
    """A descriptor, a file, :data:`PIPE`, or None for ``/dev/null``."""

PIPE = -1
"""A stream of :meth:`Container.exec` that is an attribute of the process: a new pipe."""
_READS = (True, False, False)


class Process:
    """A program that was started in a container beside its first one.

    :ivar stdin: to write to, where that was :data:`PIPE`
    :ivar stdout: to read from, likewise
    :ivar stderr: to read from, likewise
    :ivar window: the descriptor of memory that it shares with the program, if there is some; or -1
    """

    def __init__(self, channel: control.Channel, pipes: Sequence[IO[bytes] | None], window: int = -1) -> None:
        self._channel = channel
        self.stdin, self.stdout, self.stderr = pipes
        self.window = window
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit status, or 128 and the number of the signal that ended it.

        :param timeout: seconds
        :raises HostError: it has not ended in time, or the container has without it
        """
        if self._status is None:
            end = self._channel.receive(timeout)
            if end is None:
                raise HostError("the container ended before the process did", code="oci-gone")
            self._status = int(end["exit"])
        return self._status

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; one that has ended does not mind."""
        try:
            self._channel.send({"signal": number})
        except OSError:
            pass

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal; no effect on a process without one, or one that has ended."""
        try:
            self._channel.send({"rows": rows, "columns": columns})
        except OSError:
            pass

    def close(self) -> None:
        """Close its pipes and the connection.  A running process continues."""
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        if self.window >= 0:
            os.close(self.window)
            self.window = -1
        self._channel.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class Container:
    """A container that there is.

    :param container_id: its id
    :param root: where states are, as ``pyvmm-oci --root``; empty: where they usually are
    :param config: the administrator's settings (``kata.toml``); empty: the usual file
    :ivar id: its id
    :ivar pid: of the process of the host that ends with it
    :ivar folder: of its state; files that a caller adds are removed with it
    :ivar bundle: the folder with its config.json
    :ivar isolation: ``vm`` or ``sentry``, if :meth:`create` got one
    :raises ConfigError: there is no such container
    """

    def __init__(self, container_id: str, *, root: str = "", config: str = "") -> None:
        context = _context(root, config)
        self._take(context, check_id(container_id))

    def _take(self, context: Context, container_id: str, pid: int = 0, folder: str = "") -> None:
        """
        :param pid: of its face, which is a child of this process; 0: it is not
        :param folder: is removed with it
        """
        self._context = context
        self.folder = context.folder(container_id)
        self._own = folder
        self._unrecorded = ""
        self._status: int | None = None
        self._child = pid
        self.id = container_id
        known = state.read(self.folder)
        self.bundle = str(known["bundle"])
        self.isolation = str(known["annotations"].get(ISOLATION, ""))
        self.pid = int(known["pid"])
        self._process = os.pidfd_open(self.pid)

    # -- making ------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        image: str,
        command: Sequence[str] = (),
        *,
        name: str = "",
        root: str = "",
        config: str = "",
        isolation: str = "",
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        **options: Any,
    ) -> Container:
        """Make a container, not yet started.

        :param image: the name of an image, which is pulled if the store does not have it; a folder with a root file
            system, a disk with one, an OCI layout or archive; the last two are unpacked, and removed with the container
        :param command: what it runs; empty: what the image says
        :param name: its id; empty: a new one
        :param isolation: ``vm``, or ``sentry``: on a kernel that needs no KVM; empty: as the settings say
        :param options: the other fields of :class:`pyvmm_kata.run_spec.Options`: ``memory="64M"``, ``cpus=1.5``,
            ``volume=["./site:/srv:ro"]``, ``env=["A=1"]``, ``network="user"``, ``publish=["8080:80"]``, ...
        :raises VmmError: it cannot be made; nothing of it is left
        """
        wanted = Options(image, list(command), **options)
        container_id = check_id(name or f"run-{secrets.token_hex(6)}")
        folder = tempfile.mkdtemp(prefix="pyvmm-container-")
        try:
            with open_root(image, folder) as (rootfs, process):
                spec = make_spec(wanted, os.path.abspath(rootfs), process, folder, container_id)
                if isolation:
                    spec["annotations"][ISOLATION] = isolation
                with open(os.path.join(folder, "config.json"), "w") as file:
                    file.write(json.dumps(spec))
                return cls._create(_context(root, config), container_id, folder, (stdin, stdout, stderr), owned=folder)
        except BaseException:
            images.remove(folder)
            raise

    @classmethod
    def restore(
        cls,
        checkpoint: str,
        bundle: str,
        *,
        name: str = "",
        root: str = "",
        config: str = "",
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
    ) -> Container:
        """Let a copy of a container go on where a checkpoint was made.

        :param bundle: with config.json: the same program, the same mounts; :attr:`bundle` of the container is one
        :raises VmmError: it cannot go on; nothing of it is left
        """
        container_id = check_id(name or f"run-{secrets.token_hex(6)}")
        kept = checkpoint_folder.read(os.path.abspath(checkpoint))
        made = cls._create(_context(root, config), container_id, bundle, (stdin, stdout, stderr), kept=kept)
        if not working_set.is_known(kept.machine):
            made._unrecorded = kept.machine
        return made

    @classmethod
    def _create(
        cls,
        context: Context,
        container_id: str,
        bundle: str,
        streams: Sequence[Stream],
        *,
        owned: str = "",
        kept: checkpoint_folder.Kept | None = None,
    ) -> Container:
        options = {"bundle": bundle, "preserve-fds": 0, "console-socket": "", "pid-file": ""}
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            ends = [_descriptor(stream, null) for stream in streams]
            pid = create(context, container_id, options, kept=kept, streams=(ends[0], ends[1], ends[2]))
        finally:
            os.close(null)
        made = cls.__new__(cls)
        made._take(context, container_id, pid, owned)
        return made

    def fork(self, *names: str, bundles: str = "") -> list[Container]:
        """Make running copies, each in a machine of its own with a copy of the root file system; this one continues.

        :param names: an id for each copy
        :param bundles: where folders of these names are made, which are the caller's to remove; empty: beside its own
        :raises VmmError: there are no copies
        """
        made = []
        for name, pid in checkpoints.fork_container(self._context, self.id, names, bundles).items():
            copy = Container.__new__(Container)
            copy._take(self._context, name, pid)
            made.append(copy)
        return made

    # -- running -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run its program.

        :raises VmmError: it cannot be run, or has been started before
        """
        kill.start(self.folder)

    def exec(
        self,
        command: Sequence[str],
        *,
        env: Iterable[str] = (),
        cwd: str = "",
        user: str = "",
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        terminal: tuple[int, int] | None = None,
        window: bool = False,
    ) -> Process:
        """Run one more program in it.

        :param env: ``NAME=VALUE``, in addition to its first program's
        :param cwd: where it starts; empty: where the first one did
        :param user: ``UID[:GID]``; empty: as the first one
        :param terminal: rows and columns of a terminal inside, whose output is *stdout*; None: it has none
        :param window: share :data:`WINDOW` bytes of memory with it, a file that is its descriptor 3, if its kernel can.
            Only read(2) and write(2) see there what the other side has written. At the program's end all of it is gone
        :raises VmmError: it cannot be run
        """
        options: Json = {key: [] if kind == "list" else "" for key, kind in PROCESS_OPTIONS.items()}
        options |= {"env": list(env), "cwd": cwd, "user": user, "tty": terminal is not None, "no-new-privs": False}
        options |= {"additional-gids": [], "cap": []}
        process = process_from(state.read(self.folder)["process"], options, list(command))
        if terminal is not None:
            process["consoleSize"] = dict(zip(("height", "width"), terminal, strict=True))
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        theirs: list[int] = []
        pipes: list[IO[bytes] | None] = []
        channel: control.Channel | None = None
        try:
            for stream, reads in zip((stdin, stdout, stderr), _READS, strict=True):
                if stream == PIPE:
                    reader, writer = os.pipe2(os.O_CLOEXEC)
                    if not os.geteuid():  # others' pipes shrink to a page after some hundred large ones (pipe(7))
                        with contextlib.suppress(OSError):
                            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIECE)
                    theirs.append(reader if reads else writer)
                    pipes.append(os.fdopen(writer if reads else reader, "wb" if reads else "rb", buffering=0))
                else:
                    theirs.append(os.dup(_descriptor(stream, null)))
                    pipes.append(None)
            channel = control.connect(self.folder)
            request = {"op": "exec", "process": process} | ({"window": True} if window else {})
            channel.request(request, theirs if terminal is None else theirs[:2])
            channel.answer()
            shared = channel.fds.pop() if channel.fds else -1
        except BaseException:
            for pipe in filter(None, pipes):
                pipe.close()
            if channel is not None:
                channel.close()
            raise
        finally:
            for fd in (null, *theirs):
                os.close(fd)
        return Process(channel, pipes, shared)

    def connect(self, port: int) -> socket.socket:
        """Connect to a TCP port of the loopback addresses inside.  It needs no network.

        :raises ConnectionRefusedError: nothing listens there
        :raises VmmError: it does not run, or its guest does not answer
        """
        if not 1 <= port <= 65535:
            raise ConfigError(f"port {port} is not 1 to 65535", code="container-port")
        channel = control.connect(self.folder)
        try:
            channel.request({"op": "connect", "port": port})
            if not channel.answer().get("listens"):
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"nothing listens on port {port} of {self.id}")
            return socket.socket(fileno=channel.fds.pop())
        finally:
            channel.close()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send its first process a signal.

        :raises VmmError: it does not run
        """
        control.call(self.folder, "kill", signal=number, all=False)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of its first process; its exit status, or 128 and the number of the signal that ended it.

        :param timeout: seconds
        :raises HostError: it has not ended in time, or is not a child of this process, which cannot know its status
        """
        if self._status is not None:
            return self._status
        ended = select.poll()
        ended.register(self._process, select.POLLIN)
        if not ended.poll(None if timeout is None else timeout * 1000):
            raise HostError(f"container {self.id} has not ended in {timeout:g} s", code="timeout")
        if not self._child:
            raise HostError(f"container {self.id} has ended, and was made by another process", code="container-state")
        code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        self._status = code if code >= 0 else 128 - code
        return self._status

    def pause(self) -> None:
        """Freeze its processes.

        :raises VmmError: they cannot be frozen
        """
        control.call(self.folder, "pause")

    def resume(self) -> None:
        """Resume them.

        :raises VmmError: they cannot go on
        """
        control.call(self.folder, "resume")

    @property
    def status(self) -> str:
        """``created``, ``running``, ``paused`` or ``stopped``.

        :raises ConfigError: it has been removed
        """
        return str(state.read(self.folder)["status"])

    def stats(self) -> Json:
        """What it uses, with the field names of ``runc events --stats``: bytes, nanoseconds.

        :raises VmmError: it does not run
        """
        found: Json = control.call(self.folder, "stats")["data"]
        return found

    def checkpoint(self, folder: str, *, end: bool = False, bundle: str = "") -> None:
        """Save it with all of its memory.

        :param folder: replaces the checkpoint that is there
        :param end: the container ends then; otherwise it continues
        :param bundle: an empty folder, which becomes a bundle for :meth:`restore`: with the files of its root as they
            are at this moment
        :raises VmmError: it cannot be saved, and goes on
        """

        def meanwhile(spec: Json) -> None:
            if bundle:
                checkpoints.copy_bundle(state.read(self.folder), spec, os.path.abspath(bundle))

        checkpoints.save(self.folder, os.path.abspath(folder), end=end, meanwhile=meanwhile)

    def record_touched(self) -> None:
        """If it is the first copy of a checkpoint that is asked: note there which memory it has touched, so that later
        copies have that from their start.

        :raises VmmError: its machine does not know; or it cannot be written
        """
        machine, self._unrecorded = self._unrecorded, ""
        if not machine:
            return
        with working_set.new(machine) as file:
            channel = control.connect(self.folder)
            try:
                channel.request({"op": "touched"}, [file])
                channel.answer()
            finally:
                channel.close()

    # -- its end -----------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """End it, in whatever state it is, and remove what belongs to it.  A second call does nothing.

        :raises VmmError: something cannot be removed
        """
        if self._process < 0:
            return
        if os.path.isdir(self.folder):
            delete(self.folder, force=True)
        if self._child and self._status is None:
            self.wait(REMOVE_S)
        control.reap()
        self.close()
        if self._own:
            images.remove(self._own)

    def close(self) -> None:
        """Close this process's descriptors of it.  It continues, and this object cannot be used any more."""
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.remove()


REMOVE_S = 30.0


def _context(root: str, config: str) -> Context:
    return Context(
        os.path.abspath(root or default_root()), config=config, annotations=("network", "publish", "isolation")
    )


def _descriptor(stream: Stream, null: int) -> int:
    if stream is None:
        return null
    fd = stream if isinstance(stream, int) else stream.fileno()
    if fd < 0:
        raise ConfigError("PIPE is for exec: a container outlives the reader of a pipe", code="container-stream")
    return fd
