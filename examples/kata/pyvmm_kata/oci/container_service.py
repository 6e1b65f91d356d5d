"""Serves the commands for one container: its state on disk, its control socket, its proxy process.

The monitor of a machine has a :class:`ContainerService` for each container in it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata import state, timeline
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.host import cgroups
from pyvmm_kata.host.proxy_process import KILLED
from pyvmm_kata.oci.console import window_size
from pyvmm_kata.pod.stdio import Stdio
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.mount_plan import Placed
    from pyvmm_kata.bundle.settings import Settings
    from pyvmm_kata.host.proxy_process import Face
    from pyvmm_kata.host.windows import Window
    from pyvmm_kata.pod.checkpoint_folder import Kept
    from pyvmm_kata.pod.container import Container
    from pyvmm_kata.pod.process import ExitStatus, Process
    from pyvmm_kata.pod.sandbox import Sandbox
    from pyvmm_kata.pod.vm import Vm
    from pyvmm_kata.state import Json

_PERSIST, _OOM = b"--persist-dir", "oom"
SHORTAGE_S = 0.1
"""Seconds until the next connection is accepted when the host has no descriptor or thread for one."""
KILL_S = 3.0
"""Seconds from SIGKILL until the container's pid ends: on a busy host its guest may take longer, and podman gives up
after 5.  Who removes the container waits for its machine."""
LAST_WORDS_S = 1.0
"""Seconds to wait until an error can be written to the container's output."""
COPY_ROOM = 16 << 20
"""Bytes of memory that its limit has left when a machine was copied."""


class Plan(NamedTuple):
    """What ``create`` has decided.

    :ivar folder: of the state; it exists
    :ivar cgroup: directory of the control group, empty for none
    :ivar face: its proxy process
    :ivar console: the descriptor of its terminal, or -1
    :ivar kept: the checkpoint from which it continues; None: it is new
    """

    container_id: str
    folder: str
    bundle: Bundle
    settings: Settings
    cgroup: str
    stdio: Stdio
    face: Face
    console: int = -1
    kept: Kept | None = None

    @property
    def guest_id(self) -> str:
        """Its id in the guest: a copy has that of the original."""
        return self.kept.id if self.kept is not None else self.container_id


class ContainerService:
    """Answers the requests for one container, and reports its events.

    :param on_join: makes one more container in the same machine, from the request and its descriptors
    :param on_start: called before the container's first process runs
    :param on_lost: the proxy process was killed, and the container must be killed too
    :param may_save: raises ConfigError if other containers share the machine
    """

    def __init__(
        self,
        plan: Plan,
        on_join: Callable[[Json, list[int]], None],
        on_start: Callable[[], None],
        on_lost: Callable[[ContainerService], None],
        may_save: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.status = 255
        self.has_ended = False
        self.busy = 0
        """Requests under way."""
        self._state = state.read(plan.folder)
        self._lock, self._losing = threading.Lock(), threading.Lock()
        self._on_join = on_join
        self._on_start = on_start
        self._on_lost = on_lost
        self._may_save = may_save
        self._execs = 0
        self._container: Container | None = None
        self._sandbox: Sandbox | None = None
        self._voice = _last_stream(plan.stdio)
        self._released = threading.Event()
        self._listener: socket.socket | None = None
        self._console = plan.console
        self._told = threading.Event()
        """The face has its status."""
        self._is_left = False
        self._is_lost = False
        self.removes = False
        """Whether all traces of it must be removed when it has ended."""

    # -- life --------------------------------------------------------------------------------------------------------

    def create(self, sandbox: Sandbox, placed: Placed | None = None) -> None:
        """Make it in the machine, show its files on the host, and serve the commands.

        :param placed: its mounts; None: those of the bundle, as this process sees them
        :raises VmmError: it cannot be made
        """
        plan = self.plan
        container = sandbox.create_container(plan.guest_id, plan.bundle, plan.stdio, plan.face.pid, placed)
        self._serve_it(sandbox, container, "created")

    def restore(self, sandbox: Sandbox, kept: Kept) -> None:
        """Replaces :meth:`create`: continue it in a copy of the machine in which it was made.

        :raises VmmError: it cannot be
        """
        plan = self.plan
        container = sandbox.restore(
            kept.id,
            plan.bundle,
            plan.stdio,
            plan.face.pid,
            kept.layout,
            kept.nets,
            kept.execs,
            frozen=kept.status == "paused",
            added=kept.added,
        )
        self._execs = kept.serial
        self._serve_it(sandbox, container, kept.status)

    def _serve_it(self, sandbox: Sandbox, container: Container, status: str) -> None:
        plan = self.plan
        root, volumes = sandbox.shown(plan.guest_id)
        try:
            plan.face.show(root, volumes, plan.console)
        except HostError as error:
            # The guest can remove a mount point.  Tools of the host then find no files at all.
            self.save(notShown=str(error))
        self._container = container
        self._sandbox = sandbox
        threading.Thread(target=self._watch_face, name="face", daemon=True).start()
        folder = os.open(plan.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener = control.listen(folder)
        finally:
            os.close(folder)
        threading.Thread(target=self._accept, args=(self._listener,), name="control", daemon=True).start()
        with self._lock:
            self._state |= {"status": status, "steps": timeline.kept()}
            try:
                state.write(plan.folder, self._state)
            except OSError as error:  # later ones may fail: callers check the processes as well
                words = f"{plan.folder}: {error.strerror}"
                raise HostError(words, code="host-limit", errno=error.errno or 0) from error

    def start(self, *, removes: bool) -> None:
        """Run its first process.

        :param removes: nothing of it may be left when it has ended, if this process may remove it
        :raises VmmError: it cannot be run
        """
        timeline.note("start")
        self.removes = removes and (not self._state.get("cgroup") or cgroups.can_leave())
        self._on_start()
        self._made.start()
        timeline.note("started")
        self.save(status="running", steps=timeline.kept())
        self._follow_console()

    def end(self, status: ExitStatus) -> None:
        """Its first process has ended."""
        timeline.note("exited")
        self.has_ended = True
        self.status = status.code
        if status.reason:
            self.lose(status.reason)

    def lose(self, reason: str) -> None:
        """The machine has ended before its status was known: write the reason into its output (``podman logs``), once,
        although both its first process and the machine report it."""
        self.has_ended = True
        with self._losing:  # whoever comes second ends the output
            if self._is_lost:
                return
            self._is_lost = True
            self.save(reason=reason)
            words = f"pyvmm-oci: container {self.plan.container_id} was lost: {reason}\n"
            if self._voice >= 0 and select.select((), (self._voice,), (), LAST_WORDS_S)[1]:
                try:
                    os.write(self._voice, words.encode()[: select.PIPE_BUF])
                except OSError:
                    pass  # its reader has ended

    def tell_oom(self) -> None:
        """The guest's kernel has killed one of its processes because memory ran out."""
        self.save(oom=self._state.get("oom", 0) + 1)
        tell_oom(self.plan.bundle.path, self.plan.face.pid)

    def kill(self) -> None:
        """End it."""
        _quietly(self._made.kill, signal.SIGKILL, everything=True)

    def remove(self) -> None:
        """Remove it from the machine, which continues to run."""
        if self._container is not None:
            _quietly(self._container.delete, force=True)

    def mark_stopped(self) -> None:
        """Record that it has ended, and its status."""
        self.save(status="stopped", exitStatus=self.status)

    def tell_end(self) -> None:
        """Its proxy process ends with its status, which releases the waiters."""
        if self._voice >= 0:
            os.close(self._voice)
            self._voice = -1
        with self._lock:
            if not self._told.is_set():
                self._told.set()
                self.plan.face.end(self.status)

    def leave(self, machine: str) -> str:
        """Remove it for all other commands; returns the place of its remains, empty: it must stay.

        :param machine: the machine's folder
        """
        with self._lock:
            if self.removes:
                try:
                    place = state.leave(self.plan.folder, machine)
                    self._is_left = True
                    return place
                except OSError:
                    pass  # another process removes it
            return ""

    def release(self) -> None:
        """Call it when nothing of it is left: its proxy process ends with its status, unless it has already, and no
        more requests are answered."""
        self._released.set()
        if not self._told.is_set():
            self.tell_end()
        with self._lock:
            console, self._console = self._console, -1
        if console >= 0:
            os.close(console)
        if self._listener is not None:
            _quietly(self._listener.shutdown, socket.SHUT_RDWR)  # ends accept()

    def save(self, **fields: Any) -> None:
        """Change its state on disk."""
        with self._lock:
            self._state.update(fields)
            if self._is_left:
                return
            try:
                state.write(self.plan.folder, self._state)
            except OSError:
                pass  # the folder has been removed

    # -- its face ----------------------------------------------------------------------------------------------------

    def _watch_face(self) -> None:
        self._follow_console()
        self.plan.face.watch(self._on_signal, self._made.process_files)
        if not self._told.is_set():
            self.status = KILLED
            self._on_lost(self)

    def _on_signal(self, number: int) -> None:
        # In a thread: the guest may be slow
        work = self._follow_console if number == signal.SIGWINCH else lambda: self._made.kill(number)
        threading.Thread(target=_quietly, args=(work,), name="signal", daemon=True).start()

    def _follow_console(self) -> None:
        with self._lock:
            rows, columns = window_size(self._console) if self._console >= 0 else (0, 0)
        if rows and columns and self._made.state == "running":
            _quietly(self._made.init.resize, rows, columns)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()  # after a shutdown, first those that have connected before
            except OSError as error:
                if self._released.is_set() and error.errno == errno.EINVAL:
                    listener.close()
                    return
                time.sleep(SHORTAGE_S)  # out of descriptors: some will be closed
                continue
            try:
                threading.Thread(target=self._serve, args=(sock,), name="request", daemon=True).start()
            except RuntimeError:  # no thread left
                sock.close()
                time.sleep(SHORTAGE_S)

    def _serve(self, sock: Any) -> None:
        channel = control.Channel(sock, "the command")
        with self._lock:
            self.busy += 1
        try:
            request = channel.receive(10.0)
            if request is None:
                return
            handler = getattr(self, f"_do_{request.get('op')}", None)
            if handler is None:
                raise ConfigError(f"no request {request.get('op')!r}", code="oci-control")
            handler(request, channel)
        except VmmError as error:
            _quietly(channel.send, control.refusal(error))
        except (KeyError, TypeError, ValueError) as error:
            _quietly(channel.send, {"error": f"the request makes no sense: {type(error).__name__}: {error}"})
        except OSError:
            pass  # the command has ended
        finally:
            with self._lock:
                self.busy -= 1
            channel.close()

    @property
    def _made(self) -> Container:
        if self._container is None:
            raise HostError("the container is not made yet", code="oci-state")
        return self._container

    def _do_start(self, request: Json, channel: control.Channel) -> None:
        if not request.get("hooks", True) and (self.plan.bundle.spec.get("hooks") or {}).get("poststart"):
            raise ConfigError("the container has hooks of kind poststart, which its caller runs", code="oci-hooks")
        self.start(removes=bool(request.get("removes")))
        channel.send({})

    def _do_create(self, request: Json, channel: control.Channel) -> None:
        """One more container in the same machine."""
        fds, channel.fds = channel.fds, []
        self._on_join(request, fds)
        channel.send({})

    def _do_released(self, _request: Json, channel: control.Channel) -> None:
        """Answer when nothing of it is left in the machine, whose end does not wait for this request."""
        with self._lock:
            self.busy -= 1
        try:
            self._released.wait()
        finally:
            with self._lock:
                self.busy += 1
        channel.send({})

    def _do_kill(self, request: Json, channel: control.Channel) -> None:
        self._made.kill(request["signal"], everything=bool(request.get("all")))
        if request["signal"] == signal.SIGKILL:
            threading.Thread(target=self._end_face_in_time, name="killed", daemon=True).start()
        channel.send({})

    def _end_face_in_time(self) -> None:
        """End the container's pid although the guest has not reported the end of a program that SIGKILL ends."""
        if not self._told.wait(KILL_S):
            with self._lock:
                if not self._told.is_set():
                    self._told.set()
                    self.plan.face.end(KILLED)

    def _do_state(self, _request: Json, channel: control.Channel) -> None:
        """The output of `state`, after a line with its length: for the program in C."""
        text = state.text(state.read(self.plan.folder)).encode()
        channel.send_data(text)

    def _do_pids(self, _request: Json, channel: control.Channel) -> None:
        channel.send({"pids": self._made.pids()})

    def _do_processes(self, _request: Json, channel: control.Channel) -> None:
        """The agent's list of its processes, unchecked."""
        channel.send_data(self._made.process_files())

    def _do_stacks(self, _request: Json, channel: control.Channel) -> None:
        """What its tasks do in the Sentry, unchecked."""
        channel.send_data(self._made.stacks())

    def _do_pause(self, _request: Json, channel: control.Channel) -> None:
        self._made.pause()
        self.save(status="paused")
        channel.send({})

    def _do_resume(self, _request: Json, channel: control.Channel) -> None:
        self._made.resume()
        self.save(status="running")
        channel.send({})

    def _do_checkpoint(self, request: Json, channel: control.Channel) -> None:
        """Save the machine, and answer with its record. Then wait, with all of the container's processes frozen, until
        the caller has stored that too, and decides whether they ``end``; without an answer they continue."""
        made, machine = self._made, self._saveable()
        paused = made.state == "paused"
        execs = made.hold()
        end = False
        try:
            machine.save(str(request["folder"]))
            channel.send(self._record(execs, paused=paused))
            answer = channel.receive(None)
            end = answer is not None and bool(answer.get("end"))
        finally:
            made.release(end=end)
        channel.send({})

    def _do_fork(self, request: Json, channel: control.Channel) -> None:
        """Answer with the machine at this moment, for copies, and its record. All of the container's processes are
        frozen until the caller has copied its files, and says so.

        Without a machine, if a snapshot must serve: the copy of its memory counts as this container's.
        """
        made, machine, group = self._made, self._saveable(), cgroups.Cgroup(self.plan.cgroup)
        if not group.has_room(group.shared_memory() + machine.base_size + COPY_ROOM):
            channel.send({"machine": None})
            return
        paused = made.state == "paused"
        execs = made.hold()
        about: Json | None = None
        try:
            about, fds = machine.fork(int(request["count"]))
            try:
                channel.send({**self._record(execs, paused=paused), "machine": about}, fds)
            finally:
                for fd in fds:
                    os.close(fd)
            channel.receive(None)
        except ConfigError as error:
            if error.code != "fork-isolation":
                raise
        finally:
            made.release()
        channel.send({} if about is not None else {"machine": None})

    def _saveable(self) -> Vm:
        """Its machine, to be saved or copied.

        :raises VmmError: it cannot be; nothing was frozen
        """
        self._may_save()
        assert self._sandbox is not None
        return self._sandbox.saveable()

    def _record(self, execs: Sequence[str], *, paused: bool) -> Json:
        """What a copy of it needs to go on, while it is held.

        :param execs: see :meth:`pyvmm_kata.pod.container.Container.hold`
        :param paused: it was before
        """
        from pyvmm_kata.pod.checkpoint_folder import describe

        assert self._sandbox is not None
        status = "paused" if paused else "running"
        known = describe(self._sandbox, self.plan.guest_id, status=status, execs=execs, serial=self._execs)
        return {"saved": known, "spec": self.plan.bundle.spec}

    def _do_touched(self, _request: Json, channel: control.Channel) -> None:
        """Write into the caller's file what memory the machine has touched since it was restored."""
        if self._sandbox is None or not channel.fds:
            raise HostError("the container is not made yet", code="oci-state")
        self._sandbox.machine().write_touched(channel.fds[0])
        channel.send({})

    def _do_update(self, request: Json, channel: control.Channel) -> None:
        if self._sandbox is None:
            raise HostError("the container is not made yet", code="oci-state")
        self._sandbox.size.update(self.plan.guest_id, request["resources"])
        channel.send({})

    def _do_resize(self, request: Json, channel: control.Channel) -> None:
        self._made.init.resize(int(request["rows"]), int(request["columns"]))
        channel.send({})

    def _do_stats(self, _request: Json, channel: control.Channel) -> None:
        from pyvmm_kata.pod.statistics import to_json

        channel.send({"data": to_json(self._made.stats()), "oom": self._state.get("oom", 0)})

    def _do_connect(self, request: Json, channel: control.Channel) -> None:
        """Answer with a connection to a port in the guest, or that nothing listens there."""
        if self._sandbox is None:
            raise HostError("the container is not made yet", code="oci-state")
        made = self._sandbox.connect_to_port(int(request["port"]))
        if made is None:
            channel.send({"listens": False})
            return
        with made:
            channel.send({"listens": True}, [made.fileno()])

    def _do_figures(self, _request: Json, channel: control.Channel) -> None:
        """Of the machine, with everything in it."""
        from pyvmm_kata.pod.statistics import collect

        if self._sandbox is None:
            raise HostError("the container is not made yet", code="oci-state")
        channel.send(collect(self._sandbox))

    def _do_exec(self, request: Json, channel: control.Channel) -> None:
        """Answer when the process is started, and again when it has ended.  While it runs, the caller can send signals
        and its terminal's size; the process is killed when the connection is closed.  With ``window``, the first answer
        has the descriptor of memory that it shares with the process, if the guest can."""
        fds, channel.fds = channel.fds, []
        window = self._sandbox.open_window() if request.get("window") and self._sandbox is not None else None
        try:
            self._exec(request["process"], fds, channel, window)
        finally:
            if window is not None:
                window.close()

    def _do_exec_command(self, request: Json, channel: control.Channel) -> None:
        """The same for the words of a command line of ``exec``, each followed by a zero byte, which the program in C
        sends (examples/kata/launcher).  A fourth descriptor, if there is one, is the file with the process."""
        from pyvmm_kata.oci.exec_process import process_of

        words = os.fsdecode(channel.take(request["bytes"])).split("\0")[:-1]
        fds, channel.fds = channel.fds[:3], channel.fds[3:]
        try:
            process = process_of(words, self._state["process"], *channel.fds)
            if process.get("terminal"):
                raise ConfigError("exec: this connection is for processes without a terminal", code="oci-control")
        except BaseException:
            channel.fds += fds
            raise
        self._exec(process, fds, channel)

    def _exec(self, process: Json, fds: list[int], channel: control.Channel, window: Window | None = None) -> None:
        """Run it with these descriptors, whose ownership passes to the process, and answer."""
        with self._lock:
            self._execs += 1
            exec_id = f"exec-{self._execs}"
        terminal = bool(process.get("terminal"))
        if len(fds) == 1:
            fds.append(os.dup(fds[0]))
        stdin, stdout, stderr = (*fds, None, None, None)[:3]
        path = window.path if window is not None else ""
        running = self._made.exec(exec_id, process, Stdio(stdin, stdout, stderr, terminal), attended=True, window=path)
        try:
            threading.Thread(target=_follow_exec, args=(running, channel), name=exec_id, daemon=True).start()
            channel.send({"pid": 0, "exec": exec_id}, [window.fd] if window is not None else ())
        finally:
            status = running.attend()  # if the caller has ended, a signal follows
        self._made.forget(exec_id)
        channel.send({"exit": status.code, "reason": status.reason})


def _follow_exec(process: Process, channel: control.Channel) -> None:
    while True:
        try:
            request = channel.receive(None)
        except (OSError, VmmError):
            request = None
        if process.exit_status is not None:
            return
        if request is None:
            _quietly(process.kill, signal.SIGKILL)
            return
        if "signal" in request:
            _quietly(process.kill, request["signal"])
        elif "rows" in request:
            _quietly(process.resize, request["rows"], request["columns"])


def _quietly(work: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Call *work* where an error could not be reported to anybody."""
    try:
        work(*arguments, **options)
    except (VmmError, OSError, TypeError, ValueError):
        pass


def _last_stream(stdio: Stdio) -> int:
    """A duplicate of the descriptor of its stderr, or else stdout; -1 if there is none."""
    ends = [end for end in (stdio.stderr, stdio.stdout) if isinstance(end, int)]
    return os.dup(ends[0]) if ends else -1


def tell_oom(bundle: str, pid: int) -> None:
    """Make the file that tells podman that a container ran out of memory; no effect without conmon.

    conmon(8), which podman runs as the parent of a container's proxy process, watches the cgroup of the container's pid
    for OOM kills. They happen in the guest, where the host's cgroup does not show them, so the runtime makes the file
    that podman looks for.

    :param bundle: the container's
    :param pid: of the container's face
    """
    # conmon's pipe is in the bundle; podman before version 5 looks for the file there
    folders = [bundle] if os.path.exists(os.path.join(bundle, "ctl")) else []
    folders += _persist_folders(pid)
    for folder in folders:
        try:
            os.close(os.open(os.path.join(folder, _OOM), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError:
            pass  # it is being removed


def _persist_folders(pid: int) -> list[str]:
    """conmon's folder for the container, from its arguments, if the parent of *pid* is a conmon (none or one)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
        with open(f"/proc/{parent}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except (OSError, ValueError, IndexError):
        return []
    if os.path.basename(words[0]) != b"conmon" or _PERSIST not in words[:-1]:
        return []
    folder = os.fsdecode(words[words.index(_PERSIST) + 1])
    return [folder] if os.path.isabs(folder) else []  # a relative one is below conmon's working directory
