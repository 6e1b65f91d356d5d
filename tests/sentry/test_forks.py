"""Children of a stopped program: what is refused, and what becomes of programs that do not answer as agreed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm_sentry import Fork, ProgramError, ProgramTimeout, SentrySandbox, platforms, streams
from pyvmm_sentry.forks import MachineTemplate
from pyvmm_sentry.guest import Guest
from pyvmm_sentry.platforms import Platform
from vmm import ConfigError, ConsoleConfig, EndEvent, HostError, Machine

PATIENCE = 60.0
KVM = Platform("kvm", True, "")
NO_KVM = Platform("kvm", False, "there is none", "buy one")


def frame(stream: int, data: bytes) -> bytes:
    return bytes((1, stream)) + len(data).to_bytes(2, "little") + data


class FakeMachine:
    """Its program is a function: what the console prints for each piece of input."""

    def __init__(self, console: ConsoleConfig, program: Callable[[bytes], bytes], room: int = 1 << 20) -> None:
        self.console = SimpleNamespace(space_callback=None)
        self.end: EndEvent | None = None
        self.input, self.closed = b"", False
        self.held = self.released = False
        self.filled: frozenset[int] = frozenset()
        self.first_touched = SimpleNamespace(pages=lambda: [7, 9])
        self._fd, self._program, self._room = console.fd, program, room

    def listen(self, listener: Callable[[object], None]) -> None:
        self._listener = listener

    def start(self, *, held: bool) -> None:
        self.held = held

    def release(self) -> None:
        self.held, self.released = False, True

    def prefault(self, pages: frozenset[int]) -> None:
        assert self.held
        self.filled = pages

    def console_input(self, data: bytes) -> int:
        taken = data[: self._room]
        self.input += taken
        os.write(self._fd, self._program(taken))
        if len(taken) < len(data):
            self.console.space_callback()
        return len(taken)

    def stop(self, kind: str) -> None:
        self.end = EndEvent(kind, "for a test")
        self._listener(self.end)

    def close(self) -> None:
        self.closed = True


def fork(program: Callable[[bytes], bytes], **options: Any) -> tuple[Fork, FakeMachine]:
    machines: list[Any] = []

    def make(console: ConsoleConfig) -> Any:
        machines.append(FakeMachine(console, program, **options))
        return machines[0]

    template: Any = SimpleNamespace(forget=lambda _: None)
    return Fork(template, Guest(make, most=10)), machines[0]


def test_a_request_is_a_line_and_so_is_its_answer() -> None:
    child, machine = fork(lambda data: frame(1, b'{"a": ') + frame(2, b"note\n") + frame(1, b"1}\nmore"))
    with child:
        assert child.call({"b": "\x04\n"}, PATIENCE) == {"a": 1}
    assert machine.input == b'{"b": "\\u0004\\n"}\n'
    assert machine.closed


def test_a_long_request_is_sent_as_there_is_room() -> None:
    child, machine = fork(lambda data: frame(1, b"1\n") if b"\n" in data else b"", room=7)
    with child:
        assert child.call("x" * 100, PATIENCE) == 1
    assert machine.input == json.dumps("x" * 100).encode() + b"\n"


def test_a_program_that_does_not_answer_is_ended() -> None:
    child, machine = fork(lambda data: frame(2, b"this is too much to keep"))
    with pytest.raises(TimeoutError, match=r"not answered after 0\.01 s") as caught:
        child.call(1, 0.01)
    assert isinstance(caught.value, ProgramTimeout)
    assert caught.value.stderr == b"ch to keep"
    assert machine.closed
    with pytest.raises(ConfigError, match="closed"):
        child.call(1)


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        (frame(1, b"hello\n"), "answered b'hello'"),
        (frame(1, b"[" * 30000) + frame(1, b"[" * 30000 + b"\n"), "maximum recursion depth"),
        (frame(1, b"\xff\n"), "answered"),
        (frame(3, b"\x07\0"), "exited with 7"),
        (frame(3, b"\0\x09"), "ended by signal 9"),
        (frame(1, b"x" * 60000), "a line of more than"),
        (frame(1, b"x") + b"a fault\n", "the machine has ended without a result: panic"),
    ],
)
def test_what_is_no_answer_is_an_error(printed: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LINE_MOST", 1 << 15 if "line of more" in message else 1 << 20)
    child, machine = fork(lambda data: printed)
    if "panic" in message:
        machine.stop("panic")
    with pytest.raises(ProgramError, match=message):
        child.call(1, PATIENCE)
    assert machine.closed


def test_a_request_that_is_no_json_is_refused() -> None:
    child, machine = fork(lambda data: b"")
    with child, pytest.raises(ConfigError, match="the request is no JSON"):
        child.call({1, 2})
    assert not machine.input


def test_closing_ends_a_call_of_another_thread() -> None:
    child, machine = fork(lambda data: closing.start() or b"")  # type: ignore[func-returns-value]
    closing = threading.Thread(target=child.close)
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match="closed"):
        child.call(1, PATIENCE)
    closing.join()
    assert machine.closed
    assert len(os.listdir("/proc/self/fd")) == fds - 3


class FakeTemplate:
    """A template whose machine and children are fake ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, prepared: int = 0) -> None:
        self.children: list[FakeMachine] = []
        self.points: list[threading.Event] = []
        self.refusal: HostError | None = None
        self.on_close: Callable[[], object] = lambda: None
        machine = SimpleNamespace(pause=lambda: None, fork_point=self._fork_point)
        monkeypatch.setattr(Machine, "of_fork", self._of_fork)
        stopped: Any = SimpleNamespace(machine=machine, close=lambda: self.on_close())
        self.template = MachineTemplate(stopped, prepared=prepared)

    def _fork_point(self, _: int) -> Any:
        self.points.append(threading.Event())
        return SimpleNamespace(close=self.points[-1].set)

    def _of_fork(self, _: object, changes: dict[str, Any], *, start: bool) -> FakeMachine:
        assert not start
        if self.refusal:
            raise self.refusal
        self.children.append(FakeMachine(changes["console"], lambda _: b""))
        return self.children[-1]

    def wait_for_children(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.template.prepared < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_a_fork_while_the_template_is_closed_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeTemplate(monkeypatch)
    made.template.fork()
    refused = list[BaseException]()

    def late_fork() -> None:
        with pytest.raises(ConfigError, match="the template was closed") as caught:
            made.template.fork()
        refused.append(caught.value)

    made.on_close = late_fork
    fds = len(os.listdir("/proc/self/fd"))
    made.template.close()
    assert refused
    assert all(each.closed for each in made.children)
    assert made.points and all(each.is_set() for each in made.points)
    assert len(os.listdir("/proc/self/fd")) == fds - 3


def test_children_wait_before_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeTemplate(monkeypatch, prepared=2)
    made.wait_for_children(2)
    first = made.children[0]
    assert first.held and not first.filled
    with made.template.fork() as child:
        assert child.machine is first  # type: ignore[comparison-overlap]
        assert first.released
        made.wait_for_children(2)
    assert first.closed
    assert [each.filled for each in made.children[1:]] == [{7, 9}] * 2, "what the first one touched"
    made.template.close()
    assert all(each.closed and each.released == (each is first) for each in made.children)


def test_a_fork_reports_why_there_are_no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeTemplate(monkeypatch, prepared=1)
    made.wait_for_children(1)
    made.refusal = HostError("no memory")
    made.template.fork()
    with pytest.raises(HostError, match="no memory"):
        made.template.fork()
    made.refusal = None
    made.template.fork()
    made.wait_for_children(1)
    made.template.close()
    assert all(each.closed for each in made.children)


@pytest.mark.parametrize("prepared", [-1, 65])
def test_the_number_of_waiting_children_is_limited(monkeypatch: pytest.MonkeyPatch, prepared: int) -> None:
    with pytest.raises(ConfigError, match=f"prepared={prepared}: not 0 to 64"):
        FakeTemplate(monkeypatch, prepared)


def test_forks_need_kvm_or_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    with SentrySandbox("/", ["true"], platform="ptrace") as sandbox:
        with pytest.raises(ConfigError, match=r"freeze\(\) needs the platform kvm or trap, not ptrace") as caught:
            sandbox.freeze()
        assert caught.value.hint == "use the platform kvm or trap"
        with pytest.raises(ConfigError, match=r"run\(until=...\) needs the platform kvm or trap, not ptrace"):
            sandbox.run(until="ready")
    monkeypatch.setattr(platforms, "kvm", lambda: NO_KVM)
    monkeypatch.setattr(platforms, "trap", lambda: Platform("trap", False, "no filter", "ask for one"))
    with SentrySandbox("/", ["true"]) as sandbox, pytest.raises(ConfigError, match="kvm or trap: no filter") as caught:
        sandbox.run(until="ready")
    assert caught.value.hint == "ask for one"
    with pytest.raises(HostError, match="the platform kvm does not work here: there is none"):
        SentrySandbox("/", ["true"], platform="kvm")


def test_a_program_that_does_not_run_is_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "kvm", lambda: KVM)
    sandbox = SentrySandbox("/", ["true"], platform="kvm")
    with pytest.raises(ConfigError, match="the program does not run"):
        sandbox.freeze()
    with pytest.raises(ConfigError, match="not one line"):
        sandbox.run(until="one\ntwo")
    with pytest.raises(HostError, match="was not started"):
        sandbox.processes()
