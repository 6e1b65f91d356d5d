"""The calls of a machine, the same wherever it runs: one table for the library, the control socket and the documents.

A machine is a :class:`~vmm.machine.machine.Machine` in the caller's process, an
:class:`~vmm.processes.isolated.IsolatedMachine` in a jailed child, or a :class:`~vmm.processes.jailed.Jailed` behind a
socket.  All three are a :class:`MachineInterface`.  Each of its methods with ``@call`` is a row of :data:`CALLS`:
signature, states, request of the control socket, and who does it for a machine in a jail.

To add a call, write the method here, the same in :class:`~vmm.machine.machine.Machine`, and a line in
:class:`AsyncCalls`.  What a jailed machine does, and what a control socket accepts, follows from the row.
"""

from __future__ import annotations

from vmm.lifecycle import ENDED, MADE, OPEN, PAUSED, RUNNING, STATES, STOPPED, TIMEOUT, permit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from socket import socket
    from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

    from vmm.config import MachineConfig
    from vmm.lifecycle import EndEvent, Event, EventStream, Life
    from vmm.virtio.blk.device import DiskFiles
    from vmm.virtio.device_config import DeviceConfig

    P = ParamSpec("P")
    R = TypeVar("R")
    F = TypeVar("F", bound=Callable[..., Any])

    class Named(Protocol):
        """A device."""

        @property
        def name(self) -> str: ...

    class Point(Protocol):
        """A machine at the moment of its fork."""

        def close(self) -> None: ...

    class Vsock(Protocol):
        """The socket device of a machine."""

        def connect(self, port: int, *, seqpacket: bool = False, timeout: float | None = None) -> socket: ...

        def listen(self, port: int, *, seqpacket: bool = False, backlog: int = 128) -> socket: ...

    class Console(Protocol):
        """The console of a machine.

        :ivar space_callback: called when it accepts input again, after :meth:`input` accepted only a part
        """

        space_callback: Callable[[], None] | None

        def input(self, data: bytes) -> int: ...


INSIDE = "inside"
"""The machine's own process does it, by a request that follows from the row."""
OUTSIDE = "outside"
"""The process outside of the jail does it, or takes part: it has files and starts processes."""
CALLER = "caller"
"""Only a machine in the caller's process can."""

KINDS: dict[str, type] = {"int": int, "str": str, "bool": bool}
"""Types of arguments that a request of the control socket can carry."""


class Argument:
    """An argument of a call.

    :ivar kind: ``int``, ``str`` or ``bool``
    :ivar optional: it has the default None
    :ivar default: what it is when it is left out; None without *optional*: it must be given
    :ivar unit: of a number
    """

    __slots__ = ("default", "kind", "name", "optional", "unit")

    def __init__(self, name: str, kind: str, default: object = None, *, optional: bool = False, unit: str = "") -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.optional = optional
        self.unit = unit


class Call:
    """A row of :data:`CALLS`.

    :ivar name: of the method
    :ivar states: in which it is allowed
    :ivar text: what it does, as one line
    :ivar request: its name on the control socket; empty: it has none
    :ivar jailed: who does it for a machine in a jail: :data:`INSIDE`, :data:`OUTSIDE` or :data:`CALLER`
    :ivar reports_progress: it takes ``progress``, a callable with bytes that are done, and of how many
    """

    __slots__ = ("_hidden", "_method", "_units", "jailed", "name", "request", "states", "text")

    def __init__(
        self,
        method: Callable[..., Any],
        states: tuple[str, ...],
        text: str,
        request: str,
        jailed: str,
        units: dict[str, str],
        hidden: tuple[str, ...],
    ) -> None:
        self.name = method.__name__
        self.states = states
        self.text = text
        self.request = request
        self.jailed = jailed
        self._method = method
        self._units = units
        self._hidden = hidden

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all parameters of the method but ``self``."""
        code = self._method.__code__
        return code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]

    @property
    def _positional(self) -> tuple[str, ...]:
        """Names of those that need no name in a call."""
        code = self._method.__code__
        return code.co_varnames[1 : code.co_argcount]

    @property
    def _defaults(self) -> dict[str, Any]:
        positional, given = self._positional, self._method.__defaults__ or ()
        last = positional[len(positional) - len(given) :]
        return {**dict(zip(last, given, strict=True)), **(self._method.__kwdefaults__ or {})}

    @property
    def arguments(self) -> list[Argument]:
        """Those that a request can carry, in the order of the method's parameters."""
        found, defaults = [], self._defaults
        for name in self.names:
            kind, _, none = self._method.__annotations__[name].partition(" | ")
            if kind in KINDS and name not in self._hidden:
                found.append(
                    Argument(name, kind, defaults.get(name), optional=none == "None", unit=self._units.get(name, ""))
                )
        return found

    def bind(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, less those that are left out.

        :raises TypeError: the method takes no such arguments, or needs others
        """
        positional = self._positional
        bound = {**dict(zip(positional, arguments, strict=False)), **named}
        needed = {*self.names} - {*self._defaults}
        if len(arguments) > len(positional) or len(bound) < len(arguments) + len(named) or not needed <= {*bound}:
            raise TypeError(f"{self.name}() takes other arguments than {arguments!r:.60} and {[*named]!r:.60}")
        takes_all = self._method.__code__.co_flags & 8  # **: CO_VARKEYWORDS
        unknown = {*bound} - {*self.names}
        if unknown and not takes_all:
            raise TypeError(f"{self.name}() has no argument {min(unknown)!r}")
        return bound

    @property
    def result(self) -> str:
        """The type of what it returns, as the annotation has it."""
        return str(self._method.__annotations__["return"])

    @property
    def reports_progress(self) -> bool:
        return "progress" in self.names


CALLS: dict[str, Call] = {}
"""All calls by name, in the order of their definition."""


def call(
    states: tuple[str, ...],
    text: str,
    *,
    request: str = "",
    jailed: str = INSIDE,
    units: dict[str, str] | None = None,
    hidden: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Note the method as a row of :data:`CALLS`; it then forwards to :meth:`MachineInterface._forward`.

    :param units: of arguments that are numbers
    :param hidden: arguments that the control socket does not take
    """

    def note(method: F) -> F:
        row = CALLS[method.__name__] = Call(method, states, text, request, jailed, units or {}, hidden)
        permit(row.name, states)

        def forward(self: MachineInterface, *arguments: Any, **named: Any) -> Any:
            return self._forward(row, row.bind(arguments, named))

        made: Any = forward
        made.__name__, made.__doc__ = method.__name__, method.__doc__
        return made  # type: ignore[no-any-return]

    return note


class MachineInterface:
    """What every machine can do, wherever it runs.

    A method that a class does not have itself is forwarded by :meth:`_forward`.

    :ivar config: of the machine
    :raises ConfigError: any call: the state does not allow it (code ``machine-state``), or this kind of machine cannot
        do it (code ``isolation``)
    :raises HostError: any call: the host refuses, or the machine's process has ended
    """

    config: MachineConfig
    writes_to_its_size = False
    """Its process may write no file beyond the size that it had at the start."""

    def _forward(self, row: Call, arguments: dict[str, Any]) -> Any:
        raise NotImplementedError(row.name)

    def allow_file(self, path: str) -> None:
        """Let the machine's process write a file that is as large as this one."""

    @property
    def state(self) -> str:
        """``made``, ``running``, ``paused``, ``ended`` or ``closed``."""
        raise NotImplementedError

    @property
    def confined(self) -> bool:
        """Its threads have their lists of system calls."""
        raise NotImplementedError

    @property
    def cpus(self) -> int:
        """How many vCPUs run now, see :meth:`resize_cpus`."""
        raise NotImplementedError

    @property
    def devices(self) -> Sequence[Named]:
        """Its virtio devices, in the order of their slots."""
        raise NotImplementedError

    @call((MADE,), "run the guest", jailed=OUTSIDE)
    def start(self, ready: Callable[[], None] | None = None, *, confined: bool = False, terminal: bool = False) -> None:
        """Run the guest."""

    @call(STATES, "end the run, as without power", request="stop", jailed=OUTSIDE, hidden=("kind", "detail"))
    def stop(self, kind: str = STOPPED, detail: str = "") -> None:
        """End the run."""

    @call((RUNNING,), "stop the guest where it is: no vCPU runs and no device touches its memory", request="pause")
    def pause(self) -> None:
        """Stop the guest where it is."""

    @call((PAUSED,), "let the guest go on", request="resume")
    def resume(self) -> None:
        """Resume the guest."""

    @call(
        (RUNNING, PAUSED),
        "save the machine as the directory `path`, as `pyvmm snapshot`; with `base` only what differs from that one",
        request="snapshot",
        jailed=OUTSIDE,
    )
    def snapshot(
        self,
        path: str,
        *,
        base: str | None = None,
        stop: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Save the machine as the directory *path*, replacing an existing snapshot; the machine continues."""

    @call((RUNNING, PAUSED), "make running copies of the machine", jailed=OUTSIDE)
    def fork(
        self,
        n: int = 1,
        *,
        each: Callable[[int], dict[str, Any]] | None = None,
        start: bool = True,
        **changes: Any,
    ) -> Sequence[AnyMachine]:
        """Make *n* new machines that continue from where this one is now; this one continues too."""
        raise NotImplementedError

    @call((RUNNING, PAUSED), "keep empty machines ready for children of forks", jailed=CALLER)
    def prepare_forks(self, n: int) -> None:
        """Have *n* empty machines ready, into which children of :meth:`fork` are put."""

    @call((RUNNING, PAUSED, ENDED), "boot the guest again, from empty memory", jailed=OUTSIDE)
    def reset(self) -> None:
        """Boot the guest again: empty RAM, new vCPUs, devices as after power-on."""

    @call((RUNNING,), "ask the guest to power off", request="press-power-button")
    def press_power_button(self) -> None:
        """Request that the guest power off, by an ACPI event that it may ignore."""

    @call(OPEN, "type bytes on the console", jailed=OUTSIDE)
    def console_input(self, data: bytes) -> int:
        """Type *data* on the console; how many bytes were taken."""
        raise NotImplementedError

    @call((RUNNING,), "plug in a device", jailed=OUTSIDE)
    def plug(self, device: DeviceConfig, files: DiskFiles | None = None, *, directory: int = -1) -> Any:
        """Put the device of a record on the PCI bus while the guest runs."""

    @call((RUNNING,), "unplug a device", jailed=OUTSIDE)
    def unplug(self, attached: Any, timeout: float = 30.0, *, force: bool = False) -> bool:
        """Request that the guest releases a device, and wait until it has."""
        raise NotImplementedError

    @call(OPEN, "read the size of a disk's file again and tell the guest")
    def resize_disk(self, index: int) -> None:
        """Read the size of the file of disk *index* again and tell the guest."""

    @call(
        OPEN,
        "ask the guest to have `size` of memory, that of its start included",
        request="resize-memory",
        units={"size": "bytes"},
    )
    def resize_memory(self, size: int) -> None:
        """Request that the guest use *size* bytes of memory, its initial ones included."""

    @call(
        OPEN,
        "ask the guest to give up `size` of memory, 0: none",
        request="resize-balloon",
        units={"size": "bytes"},
    )
    def resize_balloon(self, size: int) -> None:
        """Request that the guest give up *size* bytes of memory."""

    @call(OPEN, "ask the guest's balloon for new statistics")
    def request_balloon_stats(self) -> None:
        """Request new statistics of the guest's balloon; :meth:`figures` returns them once the guest has answered."""

    @call(OPEN, "ask the guest to report its free memory once, for the host to reclaim")
    def start_hinting(self, acknowledge: bool = True) -> None:
        """Request that the guest report its free memory once; the host reclaims that memory."""

    @call(OPEN, "end a run of start-hinting: the guest can use the reported memory again")
    def stop_hinting(self) -> None:
        """End a run of :meth:`start_hinting`: the guest can use the reported memory again."""

    @call(
        (RUNNING,),
        "set how many vCPUs run, those of its start included",
        request="resize-cpus",
        units={"count": "vCPUs"},
    )
    def resize_cpus(self, count: int) -> None:
        """Set how many vCPUs run, those of its start included."""

    @call(OPEN, "report for how many ms the guest has run, pauses left out; `result`", request="uptime")
    def uptime(self) -> int:
        """For how many ms the guest has run since its start, restore or reset, without the time that it was paused."""
        raise NotImplementedError

    @call(OPEN, "wait until the guest sees what the host has written to its shares", jailed=OUTSIDE)
    def refresh_shares(self) -> None:
        """Wait until the guest sees everything that the host wrote to the files of its shares before this call."""

    @call(STATES, "wait until the run has ended", jailed=OUTSIDE)
    def wait(self, timeout: float | None = None) -> EndEvent | None:
        """Wait until the run has ended, at most *timeout* seconds; how it ended, or None."""

    @call(STATES, "stop the guest and free everything", jailed=OUTSIDE)
    def close(self) -> None:
        """Stop the guest and free everything.  A second call does nothing."""


class AnyMachine(MachineInterface):
    """A machine that this process made, whatever its isolation.  A context manager.

    :ivar console: its console
    :ivar phases: steps of its start in this process, each with the time (CLOCK_MONOTONIC)
    """

    console: Console
    phases: list[tuple[str, float]]
    _life: Life

    @property
    def state(self) -> str:
        """``made``, ``running``, ``paused``, ``ended`` or ``closed``."""
        return self._life.state

    @property
    def vsock(self) -> Vsock:
        """The socket device: its ``connect``, ``listen`` and ``uds``.

        :raises ConfigError: the machine was configured without one
        """
        raise NotImplementedError

    @property
    def nets(self) -> Sequence[Any]:
        """The network devices, in their order: their ``set_mac``."""
        raise NotImplementedError

    def figures(self) -> dict[str, Any]:
        """What is counted: ``vcpus`` and ``devices``."""
        raise NotImplementedError

    def phases_within(self) -> list[tuple[str, float]]:
        """The phases of the machine's process, and ``first-run``, when the guest's first instruction was."""
        raise NotImplementedError

    def stale_shares(self) -> float:
        """Seconds for which the guest may still use cached attributes and names of changed files."""
        raise NotImplementedError

    def write_touched(self, fd: int) -> None:
        """Write to the file *fd* which pages it has touched since it was restored: a ``working-set``, for clones."""
        raise NotImplementedError

    def fork_point(self, n: int) -> Point:
        """The first half of :meth:`fork`, for callers that make *n* children themselves."""
        raise NotImplementedError

    def export_fork(self, n: int = 1) -> tuple[dict[str, Any], list[int]]:
        """Its state at one moment, for :func:`vmm.import_fork` in other processes, which make *n* children.

        :returns: values that JSON can have, and descriptors, the caller's
        :raises ConfigError: it is not a machine with a process of its own, or the guest writes disks of it
        """
        raise NotImplementedError

    @classmethod
    def of_fork(cls, point: Any, changes: dict[str, Any], *, start: bool) -> Self:
        """The second half, for each child: *changes* are all that it has of its own."""
        raise NotImplementedError

    @property
    def end(self) -> EndEvent | None:
        """How the run ended; None before."""
        return self._life.end

    def wait(self, timeout: float | None = None) -> EndEvent | None:
        """Wait until the run has ended, at most *timeout* seconds.

        :returns: how it ended, or None if the time is over and the run is not
        :raises VmmError: it ended because it could not continue (other exceptions are raised as they are)
        """
        end = self._life.wait(timeout)
        if end is not None and end.error is not None:
            raise end.error
        return end

    def run(self, timeout: float | None = None) -> EndEvent:
        """:meth:`start` and :meth:`wait`; after *timeout* seconds the guest is stopped and the event is ``timeout``."""
        self.start()
        return self.wait(timeout) or self.expire(timeout or 0.0)

    def expire(self, timeout: float) -> EndEvent:
        """Stop the guest because it still ran after *timeout* seconds; returns how the run ended, by that or just
        before."""
        self.stop(TIMEOUT, f"the guest still ran after {timeout:g} s")
        end = self.wait()
        assert end is not None
        return end

    def listen(self, listener: Callable[[Event | EndEvent], None]) -> Callable[[], None]:
        """:meth:`events` as calls, see :meth:`vmm.lifecycle.Life.listen`."""
        return self._life.listen(listener)

    def events(self) -> EventStream:
        """What happens to the machine from now on: an iterator of :class:`~vmm.lifecycle.Event`, the last an
        :class:`~vmm.lifecycle.EndEvent`, which comes at once when the run has ended already."""
        return self._life.stream()

    def shutdown(self, timeout: float | None = None) -> EndEvent | None:
        """:meth:`press_power_button`, and :meth:`wait`; None if the guest has not ended by then."""
        self._life.check("shutdown")
        self.press_power_button()
        return self.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# -- for asyncio -------------------------------------------------------------------------------------------------------


def on_thread(
    method: Callable[Concatenate[MachineInterface, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """The same call on a thread, for an object with a ``machine``: the event loop does not wait for a guest."""
    name = method.__name__

    async def run(self: Any, /, *arguments: P.args, **named: P.kwargs) -> R:
        import asyncio

        found: R = await asyncio.to_thread(getattr(self.machine, name), *arguments, **named)
        return found

    run.__name__, run.__doc__ = name, method.__doc__
    return run


class AsyncCalls:
    """The calls that a machine for asyncio does on a thread."""

    pause = on_thread(MachineInterface.pause)
    resume = on_thread(MachineInterface.resume)
    snapshot = on_thread(MachineInterface.snapshot)
    prepare_forks = on_thread(MachineInterface.prepare_forks)
    reset = on_thread(MachineInterface.reset)
    press_power_button = on_thread(MachineInterface.press_power_button)
    console_input = on_thread(MachineInterface.console_input)
    plug = on_thread(MachineInterface.plug)
    unplug = on_thread(MachineInterface.unplug)
    resize_disk = on_thread(MachineInterface.resize_disk)
    resize_memory = on_thread(MachineInterface.resize_memory)
    resize_balloon = on_thread(MachineInterface.resize_balloon)
    request_balloon_stats = on_thread(MachineInterface.request_balloon_stats)
    start_hinting = on_thread(MachineInterface.start_hinting)
    stop_hinting = on_thread(MachineInterface.stop_hinting)
    resize_cpus = on_thread(MachineInterface.resize_cpus)
    refresh_shares = on_thread(MachineInterface.refresh_shares)
    uptime = on_thread(MachineInterface.uptime)
