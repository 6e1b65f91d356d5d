"""Sandboxes: each is a container in a virtual machine of its own, or on a Sentry of its own."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import weakref
from typing import TYPE_CHECKING

from pyvmm_kata import PIPE, Container
from pyvmm_kata.errors import ConfigError, VmmError
from pyvmm_sandbox import connecting, guest, inner_relay, isolations, owners, records
from pyvmm_sandbox.commands import OUTPUT_MOST, Command, Result, checked_size, finish
from pyvmm_sandbox.errors import SandboxGone, SandboxNotFound, UsageError, error_of, gone
from pyvmm_sandbox.files import Files
from pyvmm_sandbox.ports import Ports
from pyvmm_sandbox.records import SandboxInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from pyvmm_sandbox.code import Bundle, Context, Contexts, Execution
    from pyvmm_sandbox.egress.credentials import Secret
    from pyvmm_sandbox.egress.rules import Network
    from pyvmm_sandbox.stats import Stats
    from pyvmm_sandbox.template import Template

Infos = list[SandboxInfo]
_LONGEST_S = 10 * 365 * 86400
_KERNELS_S = 180.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Sandbox:
    """A sandbox that runs.  As a context manager, it is killed at the end of the block.

    It ends with the process that has made it, however that ends, unless it is detached.

    :param image: the name of an image (see ``pyvmm image``), or a folder with a root file system
    :param cpus: how many it may use; fractions are possible
    :param memory: a limit, as ``512M``
    :param processes: how many there may be at once, with their threads; 0: as many as its kernel permits
    :param disk: a limit for what it writes to its root, as ``1G``; empty: the room of the host, or half of the memory
    :param timeout: seconds after which it is killed; None: never
    :param network: ``none``; ``user`` for the host's network by passt; or the rules of what it reaches, see
        :class:`~pyvmm_sandbox.egress.rules.Network`
    :param secrets: values that requests to their hosts get, by the variables that have a placeholder inside, see
        :class:`~pyvmm_sandbox.egress.credentials.Secret`; they need rules
    :param env: variables of all commands
    :param volumes: directories of the host, as ``DIR:PATH[:ro]``
    :param ports: ports of the host that lead into it, as ``8080:80``, with network ``user``
    :param name: of a detached one
    :param detach: it outlives this process; :meth:`connect` finds it by its name
    :param metadata: the caller's own, for :meth:`list`
    :param isolation: ``vm``: a virtual machine; ``sentry``: the Sentry, which needs no KVM; ``auto``: a virtual machine
        where KVM can run one, or else the Sentry
    :param config: the administrator's settings (``kata.toml``); empty: the usual file
    :param root: where states are; empty: the default of ``pyvmm-oci``
    :raises UsageError: the arguments do not fit together
    :raises VmmError: it cannot be made; nothing of it is left
    :ivar name: its name
    :ivar files: its files, see :class:`~pyvmm_sandbox.files.Files`
    :ivar ports: servers inside, see :class:`~pyvmm_sandbox.ports.Ports`
    :ivar network: its rules, see :class:`~pyvmm_sandbox.egress.client.Rules`
    :ivar isolation: ``vm`` or ``sentry``
    """

    def __init__(
        self,
        image: str,
        *,
        cpus: float = 1,
        memory: str = "512M",
        processes: int = 0,
        disk: str = "",
        timeout: float | None = 300,
        network: str | Network = "none",
        secrets: Mapping[str, Secret] | None = None,
        env: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        ports: Sequence[str] = (),
        name: str = "",
        detach: bool = False,
        metadata: Mapping[str, str] | None = None,
        isolation: str = "auto",
        config: str = "",
        root: str = "",
    ) -> None:
        isolation = isolations.choose(isolation)
        check_name(name, detach)
        record = records.new(image, metadata, detach)
        wanted = connecting.check(network, secrets, ports)
        owners.watch(root)
        with connecting.connected(wanted, owners.own()) as connected:
            container = Container.create(
                image,
                [guest.PATH, "init"],
                name=name or owners.new_name(),
                cpus=cpus,
                memory=memory,
                pids=processes,
                disk=disk,
                network=connected.network,
                namespace=connected.namespace,
                publish=list(ports),
                env=[f"{key}={value}" for key, value in {**connected.env, **(env or {})}.items()],
                volume=[f"{guest.program()}:{guest.PATH}:ro", *connected.volumes, *volumes],
                isolation=isolation,
                config=config,
                root=root,
            )
            self._begin(container, record, timeout, root, lambda: connected.start(container))

    def _begin(
        self,
        container: Container,
        record: records.Record,
        timeout: float | None,
        root: str,
        start: Callable[[], object] = lambda: None,
    ) -> None:
        """Of a new one; if this fails, nothing of it is left."""
        self._set_up(container, record.detached)
        try:
            record.write(container.folder)
            self.set_timeout(timeout)
            if record.detached:
                owners.watch_time(container, root)
            start()
        except BaseException:
            self.kill()
            raise

    def _set_up(self, container: Container, detached: bool) -> None:
        self.name = container.id
        self.isolation = container.isolation or "vm"
        share = None if self.isolation == "sentry" else lambda words: self._start(words, window=True)
        self.files = Files(lambda words: self._start(words), share)
        self.network = connecting.Rules(container.id, container.folder)
        self.ports = Ports(container, inner_relay.dial_of(self.isolation, container))
        self._container = container
        self._detached = detached
        self._contexts: Contexts | None = None
        self._timer: threading.Timer | None = None
        weakref.finalize(self, _here, os.getpid(), self.ports.close)
        end = Container.close if detached else owners.remove
        self._end = weakref.finalize(self, _here, os.getpid(), end, container)

    @classmethod
    def connect(cls, name: str, *, timeout: float | None = None, config: str = "", root: str = "") -> Sandbox:
        """A sandbox that was made with ``detach=True``, perhaps by another process.

        :param timeout: as :meth:`set_timeout`; None: its time stays
        :raises SandboxNotFound: there is none with this name
        :raises SandboxGone: its machine has ended
        """
        try:
            container = Container(name, root=root, config=config)
        except ConfigError as error:
            raise SandboxNotFound(f"no sandbox {name!r:.80}", hint="it has ended, or was never detached") from error
        except ProcessLookupError as error:
            raise SandboxGone(f"sandbox {name} has ended") from error
        made = cls.__new__(cls)
        made._set_up(container, True)
        if not records.read(container.folder).detached:
            raise SandboxNotFound(f"sandbox {name} belongs to another process", hint="detach=True")
        if timeout is not None:
            made.set_timeout(timeout)
        return made

    # -- commands ----------------------------------------------------------------------------------------------------

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = 60,
        stdin: bytes | str = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        max_output: int = OUTPUT_MOST,
        check: bool = False,
    ) -> Result:
        """Run a command to its end.

        :param command: words; or a text for ``sh -c``
        :param timeout: seconds after which it is killed, with all that it has started; None: never
        :param stdin: its standard input
        :param env: more variables
        :param cwd: where it starts; empty: where the image says
        :param user: ``UID[:GID]``; empty: the image's
        :param on_stdout: is called with each piece of its output, as it comes
        :param on_stderr: likewise
        :param max_output: characters of each stream that the result keeps
        :param check: raise an error if its exit status is not 0
        :raises CommandTimeout: it did not end in time
        :raises CommandFailed: with *check*
        :raises SandboxGone: the sandbox has ended
        """
        with self._start(["exec", *_words(command)], env=env, cwd=cwd, user=user) as running:
            result = finish(
                running,
                command,
                timeout=timeout,
                stdin=stdin,
                on_stdout=on_stdout,
                on_stderr=on_stderr,
                max_output=max_output,
                check=check,
            )
        with contextlib.suppress(VmmError, OSError):  # it only saves time
            self._container.record_touched()
        return result

    def popen(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        tty: bool = False,
        rows: int = 24,
        cols: int = 80,
    ) -> Command:
        """Start a command, and return when it runs.  See :meth:`run` for the arguments.

        :param tty: it has a terminal: what it prints is ``stdout``, and ``TERM`` is set unless *env* has it
        :param rows: of the terminal
        :param cols: likewise
        :raises SandboxGone: the sandbox has ended
        """
        terminal = checked_size(rows, cols) if tty else None
        if tty:
            env = {"TERM": "xterm-256color", **(env or {})}
        started = self._start(["start", *_words(command)], env=env, cwd=cwd, user=user, terminal=terminal)
        try:
            started.await_start()
        except BaseException:
            started.close()
            raise
        return started

    @property
    def contexts(self) -> Contexts:
        """The kernels of :meth:`run_code`, see :class:`~pyvmm_sandbox.code.Contexts`."""
        if self._contexts is None:
            from pyvmm_sandbox.code import Contexts

            self._contexts = Contexts(lambda words: self.run(words, timeout=_KERNELS_S), self.ports)
        return self._contexts

    def run_code(
        self,
        code: str,
        *,
        context: Context | str | None = None,
        timeout: float | None = 60,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        on_result: Callable[[Bundle], object] | None = None,
        max_output: int = OUTPUT_MOST,
    ) -> Execution:
        """Run Python code in a kernel of Jupyter inside, which keeps its state.  The image has to have ipykernel.

        Code that raises an exception is a value: ``error``.

        :param context: of :attr:`contexts`; None: the first one, which is made when it is needed
        :param timeout: seconds after which it is interrupted; None: never
        :param on_stdout: is called with each piece of its output, as it comes
        :param on_stderr: likewise
        :param on_result: is called with each thing that it shows, as it comes
        :param max_output: characters of each stream that the result keeps
        :raises CodeTimeout: it did not end in time
        :raises UsageError: the image has no Python or no ipykernel, or there is no such context
        :raises SandboxGone: the sandbox has ended
        """
        from pyvmm_sandbox.code import Running

        running = Running(on_stdout=on_stdout, on_stderr=on_stderr, on_result=on_result, max_output=max_output)
        return running.run(self.contexts, code, context, timeout)

    def _start(self, words: list[str], **options: Any) -> Command:
        """
        :param words: of pyvmm-box
        """
        env = [f"{key}={value}" for key, value in (options.pop("env", None) or {}).items()]
        if any("\0" in word for word in (*words, *env)):
            raise UsageError("a command cannot have NUL characters")
        try:
            command = [guest.PATH, *words]
            process = self._container.exec(command, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE, **options)
        except (VmmError, OSError) as error:
            raise error_of(self._container, error) from error
        return Command(process, terminal=options.get("terminal") is not None)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """It runs, or is paused."""
        try:
            return self._container.status in ("running", "paused")
        except VmmError:
            return False

    def pause(self) -> None:
        """Freeze its processes.

        :raises SandboxGone: it has ended
        """
        self._call(self._container.pause)

    def resume(self) -> None:
        """Let its processes continue.

        :raises SandboxGone: it has ended
        """
        self._call(self._container.resume)

    def stats(self) -> Stats:
        """What it uses.

        :raises SandboxGone: it has ended
        """
        from pyvmm_sandbox.stats import stats_of

        return stats_of(self._call(self._container.stats))

    def fork(self, count: int = 1) -> list[Sandbox]:
        """Running copies, each in a machine of its own, with the memory and the files of this one, which continues.

        :raises VmmError: there are no copies
        """
        self._check_saving()
        if not 1 <= count <= 1000:
            raise UsageError(f"{count} copies are not 1 to 1000")
        names = [owners.new_name() for _ in range(count)]
        known = self.info()
        record = records.new(known.image, known.metadata, False)
        return [adopt(each, record, None, "") for each in self._call(lambda: self._container.fork(*names))]

    def snapshot(self, folder: str | os.PathLike[str]) -> Template:
        """Save it with its memory and files; it continues. :meth:`Template.start` starts copies.

        :param folder: replaces the template that is there
        :raises VmmError: it cannot be saved
        """
        from pyvmm_sandbox.template import save

        self._check_saving()
        return save(self, folder, {})

    def suspend(self, folder: str | os.PathLike[str]) -> Template:
        """Save it and end it, which frees its memory. :meth:`Template.start` continues it, any number of times.

        It does not run between the two, so nothing that it has done is lost.  Its commands and connections end.

        :param folder: replaces the template that is there
        :raises VmmError: it cannot be saved, and continues
        """
        from pyvmm_sandbox.template import save

        self._check_saving()
        paused = self._call(lambda: self._container.status) == "paused"
        if not paused:
            self.pause()
        try:
            template = save(self, folder, {"suspended": True})
        except BaseException:
            if not paused:
                self.resume()
            raise
        self.kill()
        return template

    def _check_saving(self) -> None:
        connecting.check_saving(self._container.folder)

    def checkpoint(self, folder: str, bundle: str) -> None:
        """The parts of :meth:`snapshot`: its machine, and the bundle of its container."""
        self._call(lambda: self._container.checkpoint(folder, bundle=bundle))

    def _call(self, operation: Callable[[], Any]) -> Any:
        try:
            return operation()
        except (VmmError, OSError) as error:
            raise error_of(self._container, error) from error

    def set_timeout(self, seconds: float | None) -> None:
        """Kill it so many seconds from now; None: never.  It holds without this process, too.

        :raises SandboxGone: it has ended
        """
        if seconds is not None and not 0 <= seconds <= _LONGEST_S:
            raise UsageError(f"a time limit of {seconds} s is not 0 to {_LONGEST_S}", hint="None: no limit")
        self._stop_timer()
        try:
            records.write_expiry(self._container.folder, None if seconds is None else time.time() + seconds)
        except OSError as error:
            raise gone(self.name) from error
        if seconds is not None and not self._detached:
            self._timer = threading.Timer(seconds, _expire, (self.ports, self._end))
            self._timer.daemon = True
            self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def info(self) -> SandboxInfo:
        """Its state, image, metadata and times.

        :raises SandboxGone: it has ended
        """
        try:
            return records.describe(self._container.folder)
        except SandboxNotFound as error:
            raise gone(self.name) from error

    def kill(self) -> None:
        """End it, and remove all that belongs to it.  A second call does nothing."""
        self._stop_timer()
        self.ports.close()
        if self._end.detach():
            owners.remove(self._container)

    @staticmethod
    def list(*, root: str = "") -> Infos:
        """The sandboxes of all processes with the same root, the oldest first."""
        return records.describe_all(root)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<Sandbox {self.name}>"


def _here(pid: int, end: Callable[..., object], *args: object) -> None:
    """Of an object that is freed.  A forked process frees copies of objects, too: their sandboxes are its parent's."""
    if os.getpid() == pid:
        end(*args)


def _expire(ports: Ports, end: Callable[[], object]) -> None:
    """Its time is over.  A timer that had the sandbox itself would keep it from being freed."""
    ports.close()
    end()


def _words(command: str | Sequence[str]) -> list[str]:
    words = ["sh", "-c", command] if isinstance(command, str) else list(command)
    if not words:
        raise UsageError("the command is empty")
    return words


def check_name(name: str, detach: bool) -> None:
    """
    :raises UsageError: it is no name; or it is missing, or that of a sandbox that ends with this process, which is
        found by a name of its own
    """
    if detach and not name:
        raise UsageError("a detached sandbox needs a name", hint='name="worker-1"')
    if name and not detach:
        raise UsageError(f"a sandbox that ends with this process cannot be named {name[:80]!r}", hint="detach=True")
    if name and not _NAME.fullmatch(name):
        raise UsageError(f"{name[:80]!r} is no name", hint="letters, digits, dots, dashes; at most 63")


def adopt(container: Container, record: records.Record, timeout: float | None, root: str) -> Sandbox:
    """The sandbox of a container that runs."""
    made = Sandbox.__new__(Sandbox)
    made._begin(container, record, timeout, root)
    return made
