"""The life of a machine: how runs end, what may be called when, and that nothing is left of it.

The guests are a few instructions long, so any KVM can run them; Linux is in tests/guest.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.blk_driver import BlkGuest
from tests.command import links_of, of_threads
from tests.sample_devices import Echo
from vmm import (
    BootConfig,
    ConfigError,
    ConsoleConfig,
    DiskConfig,
    GuestError,
    Machine,
    MachineConfig,
    MemoryConfig,
    ShareConfig,
    VmmError,
)
from vmm.boot import layout
from vmm.machine.stats import collect
from vmm.virtio.blk import disk_letters

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Pipe:
    """Where a guest's console goes."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.console = ConsoleConfig("fd", self.writer)

    def wait_for(self, size: int) -> bytes:
        """The next *size* bytes."""
        data = b""
        while len(data) < size:
            data += os.read(self.reader, size - len(data))
        return data

    def wait_until_full(self) -> None:
        """Wait until no more fits in."""
        deadline = time.monotonic() + PATIENCE
        while select.select([], [self.writer], [], 0)[1]:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No descriptor and no thread is there after a test that was not there before."""
    warm_up()
    gc.collect()  # an earlier test's traceback may still hold a vCPU's mapping
    before = (descriptors(), threads())
    yield
    deadline = time.monotonic() + PATIENCE
    while threads() > before[1] and time.monotonic() < deadline:
        time.sleep(0.001)  # a thread that was joined has a few instructions left
    # What a test before has left may have gone meanwhile
    assert (Counter(descriptors()) - Counter(before[0]), max(threads(), before[1])) == (Counter(), before[1])


@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_a_machine_for_which_there_are_too_few_descriptors_leaves_none(tmp_path: Path, transport: str) -> None:
    """Wherever they end, and the error has a hint."""
    kernel = tiny.make(tmp_path, tiny.SPIN)
    share = ShareConfig(str(tmp_path), isolation="thread")
    config = MachineConfig(BootConfig(str(kernel)), MemoryConfig(32 << 20), transport=transport, shares=(share,))
    Machine(config).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = links_of()
    refused = 0
    for limit in (each for each in range(4, 1024) if str(each) not in before):
        refusal = None
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            Machine(config).close()
        except VmmError as error:
            refusal = str(error), error.code, error.hint
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if refusal is None:
            break
        text, code, hint = refusal
        assert "Too many open files" in text and ("ulimit -n" in hint or code == "kernel-file"), limit
        refused += 1
        left = {number: link for number, link in links_of().items() if number not in before}
        assert left == {}, limit
    assert refused > 10


def threads() -> int:
    """How many threads this process has, by the kernel's count."""
    return len(os.listdir("/proc/self/task"))


def descriptors() -> list[str]:
    """What the open descriptors of this process are."""
    return sorted(link.split(":")[0] for link in links_of().values())


def warm_up() -> None:
    """What a first machine imports may open something for good."""
    import vmm.machine.machine
    import vmm.virtio.blk.device  # noqa: F401


@pytest.mark.parametrize("reset", [tiny.ACPI_RESET, tiny.I8042_RESET], ids=["acpi", "i8042"])
def test_a_reset_by_a_kernel_that_has_not_shut_down_is_told_from_a_reboot(tmp_path: Path, reset: bytes) -> None:
    """One that reboots in order has switched its local APIC off; one that panicked has not."""
    svr = (0xFEE0_00F0).to_bytes(4, "little")
    enable, disable = (b"\xc7\x05" + svr + value.to_bytes(4, "little") for value in (0x1FF, 0xFF))  # mov [svr], value
    for code, told in ((enable + reset, True), (enable + disable + reset, False), (reset, False)):
        with Machine(tiny.config(tiny.make(tmp_path, code))) as machine:
            end = machine.run()
        assert end.kind == "reboot"
        assert ("a panic" in end.detail) == told


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (tiny.POWEROFF, "poweroff"),
        (tiny.ACPI_RESET, "reboot"),
        (tiny.I8042_RESET, "reboot"),
        (tiny.PANIC, "panic"),
        (tiny.TRIPLE_FAULT, "triple-fault"),
    ],
    ids=["poweroff", "acpi-reset", "i8042-reset", "panic", "triple-fault"],
)
def test_ends_of_the_guests_making(tmp_path: Path, pipe: Pipe, code: bytes, kind: str) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello"), code, tiny.say("never"))
    with Machine(tiny.config(kernel, cpus=2, console=pipe.console)) as machine:
        end = machine.run(PATIENCE)
        assert end.kind == kind
        assert machine.wait() == end, "it stays what it was"
    assert pipe.wait_for(5) == b"hello"
    os.set_blocking(pipe.reader, False)
    with pytest.raises(BlockingIOError):
        os.read(pipe.reader, 1)


def test_a_triple_fault_says_where(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, tiny.TRIPLE_FAULT))) as machine:
        detail = machine.run(PATIENCE).detail
    assert "protected mode" in detail
    assert f"rip {tiny.BASE + 7:#x} (bytes: 0f 0b fa f4" in detail


def test_what_kvm_cannot_go_on_with_is_an_error_that_says_where(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, tiny.NOWHERE))) as machine:
        with pytest.raises(GuestError, match="rip 0xd8000000") as caught:
            machine.run(PATIENCE)
        assert caught.value.code == "kvm-internal-error"
        assert "device memory" in caught.value.hint
        with pytest.raises(GuestError, match="rip 0xd8000000"):
            machine.wait()


GUESTS_THAT_STAY = {"spin": tiny.SPIN, "halt": tiny.HALT, "print": tiny.forever(tiny.say("x"))}


@pytest.mark.parametrize("how", GUESTS_THAT_STAY)
@pytest.mark.parametrize("cpus", [1, 16, 32])
def test_timeout(tmp_path: Path, how: str, cpus: int) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, GUESTS_THAT_STAY[how]), cpus=cpus)) as machine:
        end = machine.run(0.1)
    assert end.kind == "timeout"
    assert "0.1 s" in end.detail


@pytest.mark.parametrize("how", GUESTS_THAT_STAY)
@pytest.mark.parametrize("cpus", [1, 16, 32])
def test_stop_from_another_thread(tmp_path: Path, pipe: Pipe, how: str, cpus: int) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello"), GUESTS_THAT_STAY[how])
    with Machine(tiny.config(kernel, cpus=cpus, console=pipe.console)) as machine:
        machine.start()
        pipe.wait_for(5)
        thread = threading.Thread(target=machine.stop, kwargs={"detail": "enough"})
        thread.start()
        end = machine.wait(PATIENCE)
        thread.join()
        machine.stop(detail="too late")
        assert machine.wait() == end
    assert end is not None and (end.kind, end.detail) == ("stopped", "enough")


def test_wait_without_an_end(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path))) as machine:
        machine.start()
        assert machine.wait(0.01) is None


def test_stop_is_harmless_after_the_end(tmp_path: Path) -> None:
    machine = Machine(tiny.config(tiny.make(tmp_path, tiny.POWEROFF)))
    assert machine.run(PATIENCE).kind == "poweroff"
    machine.stop()
    machine.close()
    machine.stop()


def test_stop_is_not_lost_before_the_start(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN), cpus=2)) as machine:
        machine.stop(detail="early")
        end = machine.run()
    assert (end.kind, end.detail) == ("stopped", "early")


SIGNALLED = """if True:
    import signal, sys, threading
    from tests import tiny
    from vmm import Machine

    # A handler runs between two lines of Python: here before the n-th line of run(), for every n up to where it waits
    def trace(frame, event, _argument):
        global left
        if event == "line":
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGTERM)
        return trace

    def watch(over):
        # It waits when it has run no line for three seconds
        global waits
        before, still = left, 0
        while still < 30:
            if over.wait(0.1):
                return
            before, still = left, still + 1 if left == before else 0
        waits = True
        machine.stop(detail="" if left > 0 else f"the signal before line {{lines}} was lost")

    lines = 0
    waits = False
    while not waits:
        lines += 1
        left = lines
        with Machine(tiny.config({kernel!r})) as machine:
            signal.signal(signal.SIGTERM, lambda *_: machine.stop(detail="signal"))
            over = threading.Event()
            threading.Thread(target=watch, args=[over]).start()
            sys.settrace(trace)
            end = machine.run()
            sys.settrace(None)
            over.set()
            assert (end.kind, end.detail) == ("stopped", "" if waits else "signal"), end
    print(lines)
"""


def test_a_signal_handler_may_stop_the_run_at_any_moment(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.HALT)
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED.format(kernel=kernel)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stderr == ""
    assert int(done.stdout) > 50


@pytest.mark.parametrize("how", GUESTS_THAT_STAY)
@pytest.mark.parametrize("cpus", [1, 3])
def test_close_while_running(tmp_path: Path, pipe: Pipe, how: str, cpus: int) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello"), GUESTS_THAT_STAY[how])
    with Machine(tiny.config(kernel, cpus=cpus, console=pipe.console)) as machine:
        machine.start()
        pipe.wait_for(5)


def test_close_while_the_console_takes_no_more(tmp_path: Path, pipe: Pipe) -> None:
    kernel = tiny.make(tmp_path, tiny.forever(tiny.say("0123456789")))
    with Machine(tiny.config(kernel, console=pipe.console)) as machine:
        machine.start()
        pipe.wait_until_full()


@pytest.mark.parametrize("how", ["spin", "halt"])
def test_statistics_while_the_guest_never_leaves_kvm(tmp_path: Path, pipe: Pipe, how: str) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello"), GUESTS_THAT_STAY[how])
    with Machine(tiny.config(kernel, cpus=2, console=pipe.console)) as machine:
        machine.start()
        pipe.wait_for(5)
        stats = collect(machine)
        assert stats["exits"]["c"] >= 5 and stats["exits"]["python"] == 0
        assert machine.wait(0) is None


def test_close_lets_those_who_wait_go(tmp_path: Path) -> None:
    machine = Machine(tiny.config(tiny.make(tmp_path)))
    machine.start()
    ends = []
    threads = [threading.Thread(target=lambda: ends.append(machine.wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    machine.close()
    for thread in threads:
        thread.join()
    assert [end.kind for end in ends if end] == ["stopped"] * 3


def test_close_from_several_threads_at_once(tmp_path: Path) -> None:
    for _ in range(5):
        machine = Machine(tiny.config(tiny.make(tmp_path), cpus=2))
        machine.start()
        threads = [threading.Thread(target=machine.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_an_exception_inside_of_the_with_block_stops_the_guest(tmp_path: Path) -> None:
    def block() -> None:
        with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN))) as machine:
            machine.start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()


def test_what_is_too_late_is_refused(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path))) as machine:
        machine.attach(Echo())
        machine.start()
        with pytest.raises(ConfigError, match="running"):
            machine.attach(Echo())
        with pytest.raises(ConfigError, match="running"):
            machine.start()
    with pytest.raises(ConfigError, match="closed"):
        machine.start()
    with pytest.raises(ConfigError, match="closed"):
        machine.attach(Echo())


def test_more_devices_than_interrupts_are_refused(tmp_path: Path) -> None:
    devices = tuple(Echo() for _ in range(layout.MMIO_SLOTS - 1))  # and an entropy device
    with Machine(tiny.config(tiny.make(tmp_path, tiny.POWEROFF)), devices=devices) as machine:
        with pytest.raises(ConfigError, match=str(layout.MMIO_SLOTS)):
            machine.attach(Echo())
        assert machine.run(PATIENCE).kind == "poweroff"
    with pytest.raises(ConfigError):
        Machine(tiny.config(tiny.make(tmp_path)), devices=(*devices, Echo()))


def test_one_image_twice_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    writer, reader = DiskConfig(str(image)), DiskConfig(str(image), read_only=True)
    kernel = tiny.make(tmp_path, tiny.POWEROFF)
    for pair in ((writer, writer), (writer, reader), (reader, writer)):
        with pytest.raises(ConfigError, match="in use by") as caught:
            Machine(tiny.config(kernel, disks=pair))
        assert caught.value.code == "disk-in-use" and str(image) in str(caught.value)
    with Machine(tiny.config(kernel, disks=(reader, reader))) as machine:
        assert machine.run(PATIENCE).kind == "poweroff"
    with Machine(tiny.config(kernel, disks=(writer,))) as machine:
        assert machine.run(PATIENCE).kind == "poweroff"


def test_a_machine_that_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path)
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    good, missing = DiskConfig(str(image)), DiskConfig(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="none"):
        Machine(tiny.config(kernel, disks=(good, missing)))
    with pytest.raises(ConfigError, match="No such file"):
        Machine(tiny.config(str(tmp_path / "none"), disks=(good,)))


def test_machines_side_by_side(tmp_path: Path) -> None:
    pipes = [Pipe() for _ in range(3)]
    machines = []
    for number, pipe in enumerate(pipes):
        folder = tmp_path / str(number)
        folder.mkdir()
        machines.append(Machine(tiny.config(tiny.make(folder, tiny.ECHO), console=pipe.console)))
    for machine in machines:
        machine.start()
    for number, (machine, pipe) in enumerate(zip(machines, pipes, strict=True)):
        machine.console_input(b"number %d" % number)
        assert pipe.wait_for(8) == b"number %d" % number
    machines[0].close()
    machines[1].console_input(b"\4")
    end = machines[1].wait(PATIENCE)
    assert end is not None and end.kind == "poweroff"
    machines[2].console_input(b"still here")
    assert pipes[2].wait_for(10) == b"still here"
    for machine in machines:
        machine.close()
    for pipe in pipes:
        pipe.close()


def test_prefault_takes_all_memory_at_once(tmp_path: Path) -> None:
    plain = tiny.config(tiny.make(tmp_path))
    for prefault in (False, True):
        memory = MemoryConfig(plain.memory.size, prefault=prefault, shared=True)
        with Machine(MachineConfig(plain.boot, memory)) as machine:
            taken = os.fstat(machine.memory.fd).st_blocks * 512
            assert (taken >= memory.size) == prefault


# -- a machine in somebody else's program: what the interpreter's end, an exception and logging make of it -----------


EXITS = {
    "main ends": ("machine.start()", 0),
    "sys.exit": ("machine.start(); import sys; sys.exit(3)", 3),
    "on another thread": (
        "import contextlib, threading\n"
        "        def main():\n"
        "            with contextlib.suppress(ConfigError): machine.run()\n"
        "        threading.Thread(target=main, daemon=True).start()\n"
        "        while 'started' not in dict(machine.phases): pass",  # no thread starts at the exit (Python 3.12)
        0,
    ),
    "not started": ("", 0),
    "paused": ("machine.start(); machine.pause()", 0),
    "watched": (
        "import threading; stream = machine.events(); machine.start()\n"
        "        threading.Thread(target=lambda: list(stream), daemon=True).start()",
        0,
    ),
    "debugged": (
        "from vmm.debug import GdbServer, GdbTarget\n"
        "        server = GdbServer(machine, GdbTarget(port=0, wait=True)); machine.start()",
        0,
    ),
    "ended": ("machine.run()", 0),
    "a full console": (
        "machine.start(); import select, time\n        while select.select([], [writer], [], 0)[1]: time.sleep(0.01)",
        0,
    ),
}


@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_may_exit_with_a_machine_around(tmp_path: Path, how: str) -> None:
    statement, status = EXITS[how]
    code = {"ended": tiny.POWEROFF, "a full console": tiny.forever(tiny.say("x"))}.get(how, tiny.SPIN)
    program = f"""if True:
        from tests import tiny
        from vmm import ConfigError, ConsoleConfig, Machine
        import os
        reader, writer = os.pipe()
        machine = Machine(tiny.config({tiny.make(tmp_path, code)!r}, cpus=2, console=ConsoleConfig("fd", writer)))
        {statement}
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_a_machine_whose_threads_cannot_be_started_ends(tmp_path: Path) -> None:
    program = f"""if True:
        import resource, threading
        from tests import tiny
        from vmm import Machine
        machine = Machine(tiny.config({tiny.make(tmp_path, tiny.SPIN)!r}))
        def wait():
            try:
                machine.wait()
            except RuntimeError as error:
                print(error)
        waiting = threading.Thread(target=wait)
        waiting.start()
        threading.stack_size(1 << 30)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), resource.RLIM_INFINITY))
        try:
            machine.start()
        except RuntimeError:
            waiting.join()
            print(machine.state, machine.end.kind)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "can't start new thread\nended error\n", "")


def test_a_machine_whose_caller_is_not_ready_ends(tmp_path: Path) -> None:
    def refuse() -> None:
        raise OSError("not now")

    with Machine(tiny.config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        with pytest.raises(OSError, match="not now"):
            machine.start(refuse)
        with pytest.raises(OSError, match="not now"):
            machine.wait()
        assert machine.state == "ended"
        assert machine.vcpus[0].regs is not None, "what has ended can be looked at"


def test_an_uncaught_exception_ends_the_interpreter_with_its_traceback(tmp_path: Path) -> None:
    program = f"""if True:
        from tests import tiny
        from vmm import Machine
        machine = Machine(tiny.config({tiny.make(tmp_path, tiny.SPIN)!r}))
        machine.start()
        raise RuntimeError("a bug of the program")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: a bug of the program\n")
    assert done.stderr.count("Traceback") == 1


def test_the_root_logger_is_the_programs(tmp_path: Path) -> None:
    program = f"""if True:
        import logging
        from tests import tiny
        from vmm import Machine
        from vmm.debug import GdbServer, GdbTarget
        with Machine(tiny.config({tiny.make(tmp_path, tiny.POWEROFF)!r})) as machine:
            with GdbServer(machine, GdbTarget(port=0)):
                machine.run()
        assert not logging.getLogger().handlers and logging.getLogger().level == logging.WARNING
        loggers = [name for name in logging.root.manager.loggerDict if name.startswith("vmm")]
        assert not any(logging.getLogger(name).handlers for name in loggers)
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


# -- what `top -H` shows of a machine: threads with the names of what they do ----------------------------------------


def names() -> set[str]:
    return {text.strip() for text in of_threads("comm").values()}


def wait_for(wanted: set[str]) -> None:
    deadline = time.monotonic() + 60
    while not wanted <= names():  # a thread names itself when it begins
        assert time.monotonic() < deadline, names()
        time.sleep(0.01)


def test_vcpus_and_the_loop(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("x"), tiny.HALT)
    with Machine(MachineConfig(BootConfig(kernel), cpus=2)) as machine:
        machine.start()
        wait_for({"vcpu0", "vcpu1", "loop"})
    assert not {"vcpu0", "vcpu1", "loop"} & names()


def test_workers_of_a_disk(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with BlkGuest(image, cpus=2) as guest:
        guest.device.thread_name = "blk-vdb-"
        guest.start()
        wait_for({"blk-vdb-0", "blk-vdb-1"})


def test_letters_of_disks() -> None:
    assert [disk_letters(index) for index in (0, 25, 26, 27, 701, 702)] == [
        "vda",
        "vdz",
        "vdaa",
        "vdab",
        "vdzz",
        "vdaaa",
    ]
