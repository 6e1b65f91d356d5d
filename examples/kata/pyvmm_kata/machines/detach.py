"""``pyvmm run -d``: starts a container whose output is kept by a process beside it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import termios
from typing import TYPE_CHECKING, Any

from pyvmm_kata.bundle import images, settings
from pyvmm_kata.image_store.roots import open_root
from pyvmm_kata.machines import keeper, records
from pyvmm_kata.oci import create
from pyvmm_kata.oci.context import Context
from pyvmm_kata.oci.delete import delete
from pyvmm_kata.oci.kill import start
from pyvmm_kata.run_spec import make_spec

if TYPE_CHECKING:
    import argparse

_SIZE = (24, 80)
"""Of a terminal, until somebody attaches."""
_REMOVE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pyvmm_kata.machines.removal import main; main()"
)


def run_detached(context: Context, options: argparse.Namespace, container_id: str) -> None:
    """Start it, and return when its program runs.

    :raises VmmError: it cannot be run; nothing of it is left
    """
    bundle = tempfile.mkdtemp(prefix=records.BUNDLE)
    try:
        with open_root(options.image, bundle, pull=options.pull, store=options.store) as (rootfs, process):
            spec = make_spec(options, rootfs, process, bundle, container_id)
            if options.tty:
                spec["process"]["consoleSize"] = {"height": _SIZE[0], "width": _SIZE[1]}
            with open(os.path.join(bundle, "config.json"), "w") as file:
                json.dump(spec, file)
            ends = _Ends(bundle, interactive=options.interactive, tty=options.tty)
            try:
                _run(context, options, container_id, bundle, rootfs, ends)
            finally:
                ends.close()
    except BaseException:
        images.remove(bundle)
        raise


class _Ends:
    """The container's ends of its streams, and those of its keeper.

    :ivar console: the path of a socket that receives its terminal; empty: it has none
    """

    def __init__(self, bundle: str, *, interactive: bool, tty: bool) -> None:
        self._open: list[int] = []
        self.console = ""
        self.input = self.out = self.err = -1
        null = self._new(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        self.streams = (null, null, null)
        if tty:
            self.console = os.path.join(bundle, "console")
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._listener.bind(self.console)
            self._listener.listen(1)
            return
        (self.out, out), (self.err, err) = self._pipe(), self._pipe()
        source = null
        if interactive:
            source, self.input = self._pipe()
        self.streams = (source, out, err)

    def _new(self, fd: int) -> int:
        self._open.append(fd)
        return fd

    def _pipe(self) -> tuple[int, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        return self._new(reader), self._new(writer)

    def take_console(self, *, interactive: bool) -> None:
        """Of a container that was made; the terminal waits in the socket."""
        with self._listener.accept()[0] as sock:
            fds = socket.recv_fds(sock, 4096, 1)[1]
        self.out = self._new(fds[0])
        self.input = self.out if interactive else -1
        termios.tcsetwinsize(self.out, _SIZE)
        os.unlink(self.console)

    def close(self) -> None:
        if self.console:
            self._listener.close()
        while self._open:
            os.close(self._open.pop())


def _run(
    context: Context, options: argparse.Namespace, container_id: str, bundle: str, rootfs: str, ends: _Ends
) -> None:
    wanted: dict[str, Any] = dict.fromkeys(create.OPTIONS, "")
    wanted |= {"bundle": bundle, "preserve-fds": 0, "console-socket": ends.console}
    pid = create.create(context, container_id, wanted, streams=ends.streams)
    folder = context.folder(container_id)
    try:
        if ends.console:
            ends.take_console(interactive=options.interactive)
        guest = settings.load(options.config).guest
        names = {kind: word for word, kind in settings.GUESTS.items()}
        records.write(folder, image=options.image, isolation=context.isolation or names.get(guest, guest))
        _start_keeper(folder, pid, bundle if options.rm else "", rootfs, ends)
        start(folder)
    except BaseException:
        delete(folder, force=True)
        raise


def _start_keeper(folder: str, pid: int, bundle: str, rootfs: str, ends: _Ends) -> None:
    """
    :param bundle: empty: the container stays when it has ended
    """
    remove = [sys.executable, "-ISc", _REMOVE, json.dumps(sys.path), folder, bundle] if bundle else []
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    held = os.open(rootfs, os.O_RDONLY | os.O_CLOEXEC)  # while the keeper has it, the store keeps the image
    try:
        # A disk that the machine writes is locked already, and not the store's
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # `pyvmm logs` may come before the keeper has started
        os.close(os.open(keeper.LOG, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=place))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as listener:
            listener.bind(f"/proc/self/fd/{place}/{keeper.SOCKET}")  # a longer path would be too long for a socket
            listener.listen(16)
            fds = {"out": ends.out, "err": ends.err, "input": ends.input, "listener": listener.fileno()}
            given = json.dumps({"folder": folder, "pid": pid, "remove": remove, **fds})
            subprocess.Popen(
                [sys.executable, "-IS", keeper.__file__, given],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[held, *(fd for fd in {*fds.values()} if fd >= 0)],
                start_new_session=True,
                cwd="/",
            )
    finally:
        os.close(held)
        os.close(place)
