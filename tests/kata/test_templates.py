"""Templates and pools without a guest: which one is whose, when one is good, who makes one, who gets one."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pyvmm_kata.bundle import settings
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.oci.pool import MAX_CLIENTS
from pyvmm_kata.pod import pool_client, templates
from pyvmm_kata.pod.templates import FILES, Kind
from tests.command import of_threads
from tests.kata.oci_runtime import CLIENT, PATIENCE, PROGRAM, Runtime, eventually, needs_namespaces

READY = 2


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("kernel", "image"):
        (tmp_path / name).write_text(name)
    return Kind(str(tmp_path / "kernel"), str(tmp_path / "image"), "quiet", 128 << 20, 1, "mmio", 1)


class Maker:
    """Writes what a template consists of, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, _kind: Kind, place: str) -> str:
        self.times += 1
        made = Path(place, "made")
        made.mkdir(mode=0o700)
        for name in FILES:
            (made / name).write_text(f"{name} {self.times}")
        return str(made)


def test_another_machine_has_another_template(kind: Kind) -> None:
    others = [
        kind._replace(**change)
        for change in (
            {"cmdline": "loud"},
            {"memory": 256 << 20},
            {"vcpus": 2},
            {"transport": "pci"},
            {"nets": 0},
            {"image": kind.kernel},
        )
    ]
    keys = {each.key() for each in (kind, *others)}
    assert len(keys) == 7
    Path(kind.image).write_text("changed")
    assert kind.key() not in keys
    Path(kind.image).unlink()
    with pytest.raises(ConfigError, match="image"):
        templates.build(kind, Maker())


def test_one_that_is_good_is_not_made_again(kind: Kind) -> None:
    maker = Maker()
    key = templates.build(kind, maker)
    assert templates.build(kind, maker) == key == kind.key()
    assert maker.times == 1
    assert templates.names() == [key]
    assert sorted(os.listdir(templates.folder())) == sorted([key, "lock"])


@pytest.mark.parametrize("damage", ["bytes", "another file", "missing", "readable", "seal", "folder", "link"])
def test_one_that_was_changed_is_made_again(kind: Kind, damage: str) -> None:
    maker = Maker()
    path = Path(templates.folder(), templates.build(kind, maker))
    memory = path / "memory"
    if damage == "bytes":
        memory.chmod(0o600)
        with memory.open("r+b") as file:
            file.write(b"M")
        memory.chmod(0o400)
    elif damage == "another file":
        content = memory.read_bytes()
        memory.unlink()
        memory.write_bytes(content)
        memory.chmod(0o400)
    elif damage == "missing":
        memory.unlink()
    elif damage == "readable":
        memory.chmod(0o404)
    elif damage == "seal":
        (path / templates.SEAL).write_text("[" * 100_000)
    elif damage == "folder":
        path.chmod(0o755)
    else:
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    with pytest.raises(HostError):
        templates.find(path.name)
    templates.build(kind, maker)
    assert maker.times == 2
    assert Path(templates.find(path.name), "memory").read_text() == "memory 2"


def test_many_at_once_make_one(kind: Kind) -> None:
    maker = Maker()
    threads = [threading.Thread(target=templates.build, args=(kind, maker)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert maker.times == 1


def test_a_maker_that_is_killed_leaves_nothing(kind: Kind) -> None:
    code = """
import os, sys, time
from pyvmm_kata.pod import templates
def boot(kind, place):
    open(f"{place}/half", "w").close()
    print("begun", flush=True)
    time.sleep(1000)
templates.build(templates.Kind.parse(sys.argv[1]), boot)
"""
    command = [sys.executable, "-c", code, json.dumps(kind)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        with pytest.raises(HostError, match="made just now"):
            templates.build(kind, Maker(), wait=False)
        process.send_signal(signal.SIGKILL)
    key = templates.build(kind, Maker())
    assert sorted(os.listdir(templates.folder())) == sorted([key, "lock"])


def test_what_cannot_be_made_is_not_tried_at_each_start(kind: Kind) -> None:
    def refuse(_kind: Kind, _place: str) -> str:
        raise HostError("no taps here", code="test")

    assert not templates.has_failed(kind.key())
    with pytest.raises(HostError, match="no taps"):
        templates.build(kind, refuse)
    assert templates.has_failed(kind.key())
    templates.build(kind, Maker())
    assert not templates.has_failed(kind.key())


def test_the_ones_used_last_are_kept(kind: Kind) -> None:
    keys = []
    for vcpus in range(1, templates.MOST + 3):
        keys.append(templates.build(kind._replace(vcpus=vcpus), Maker()))
        for age, key in enumerate(reversed(keys)):
            if (path := Path(templates.folder(), key)).exists():
                os.utime(path, (10**9 - age, 10**9 - age))
    assert templates.names() == keys[:1:-1]


def test_what_settings_and_annotations_say(tmp_path: Path) -> None:
    path = tmp_path / "kata.toml"
    path.write_text('template = "auto"\nannotations = ["template"]\n')
    chosen = settings.load(str(path))
    assert chosen.template == "auto"
    assert chosen.with_annotations({f"{settings.PREFIX}template": "off"}).template == "off"
    with pytest.raises(ConfigError, match=r"template: 'yes' is not one of auto, off"):
        chosen.with_annotations({f"{settings.PREFIX}template": "yes"})
    with pytest.raises(ConfigError, match="may not be set by containers"):
        settings.Settings().with_annotations({f"{settings.PREFIX}template": "auto"})
    path.write_text('template = "always"\n')
    with pytest.raises(ConfigError, match="template = 'always' is not one of"):
        settings.load(str(path))
    assert settings.Settings().isolation == "process", "a wall is what there is unless somebody says otherwise"
    path.write_text('isolation = "thread"\n')
    assert settings.load(str(path)).isolation == "thread"
    path.write_text('isolation = "fork"\n')
    with pytest.raises(ConfigError, match="isolation = 'fork' is not one of process, thread"):
        settings.load(str(path))


MAKER = """
import os, subprocess, sys, threading
from pyvmm_kata.pod import templates
templates.promote_later(float(sys.argv[1]))
templates.become_idle("")
threading.Thread(target=threading.Event().wait, daemon=True).start()
subprocess.Popen(["sleep", "1000"])
print(*(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)), flush=True)
threading.Event().wait()
"""


def maker(after: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", MAKER, str(after)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)


def threads_of(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Policy and nice value of each."""
    numbers = [int(number) for pid in pids for number in os.listdir(f"/proc/{pid}/task")]
    return [(os.sched_getscheduler(number), os.getpriority(os.PRIO_PROCESS, number)) for number in numbers]


def processes_of(session: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.getsid(int(name)) == session and os.sched_getscheduler(int(name)) >= 0:
                found.append(int(name))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="takes CAP_SYS_NICE")
def test_a_maker_that_takes_long_computes_as_others_do() -> None:
    """A host whose CPUs are never idle would else never have a template, and boot each machine."""
    with maker(1) as made:
        try:
            eventually(
                lambda: threads_of(processes_of(made.pid)) == [(os.SCHED_OTHER, 0)] * 3,
                f"it has {threads_of(processes_of(made.pid))}",
            )
        finally:
            os.killpg(made.pid, signal.SIGKILL)


def test_a_maker_is_idle_at_first_and_nothing_of_it_stays() -> None:
    with maker(1000) as made:
        try:
            assert made.stdout is not None
            assert made.stdout.readline().split() == [str(os.SCHED_IDLE), "19"]
            made.kill()
            made.wait(PATIENCE)
            eventually(lambda: len(processes_of(made.pid)) == 1, "there is more than the program that it has started")
        finally:
            os.killpg(made.pid, signal.SIGKILL)


# -- machines that are ready before there is a container -------------------------------------------------------------


class Pool:
    """``pyvmm-poold`` with machines that run nothing, and ``pyvmm-oci`` that asks it."""

    def __init__(self, folder: Path) -> None:
        self.runtime = Runtime(folder)
        for name in ("kernel", "image"):
            (folder / name).write_text(name)
        self.config = folder / "kata.toml"
        self.config.write_text(
            f'kernel = "{folder}/kernel"\nimage = "{folder}/image"\ntemplate = "auto"\npool = {READY}\n'
        )
        self.program = [*self.runtime.program, "poold", "--root", str(self.runtime.root), "--config", str(self.config)]
        self.runtime.program = (*self.runtime.program, "--config", str(self.config))
        self.socket = folder / "state.pool"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.program, stderr=subprocess.PIPE, text=True)
        self.wait_until_full()

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.program, *words], capture_output=True, text=True, timeout=PATIENCE)

    def figures(self) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads(self.say(b'{"op": "status"}\n'))
        except (FileNotFoundError, ConnectionRefusedError):
            return {"ready": -1}
        return found

    def wait_until_full(self) -> None:
        eventually(lambda: self.figures()["ready"] == READY, "the machines do not become ready")

    def say(self, text: bytes, *, then: bytes = b"") -> bytes:
        """What comes back for *text*, and *then*, if the first answer was no error."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.socket))
            sock.settimeout(PATIENCE)
            sock.sendall(text)
            answer = sock.recv(4096)
            if then and b"error" not in answer:
                sock.sendall(then)
                answer = sock.recv(4096)
            return answer

    def small(self, whole: str = "") -> tuple[str, ...]:
        """The program in C; what it cannot do it leaves to *whole*."""
        words = (whole, "whole") if whole else (sys.executable, str(PROGRAM))
        return (str(CLIENT), "", *words, "--", "--config", str(self.config))

    def folders(self) -> list[str]:
        """Of machines."""
        return [path.name for path in self.runtime.root.glob("@*")]

    def name(self) -> str:
        chosen = settings.load(str(self.config))
        return pool_client.name_of(chosen, pool_client.kind_of(chosen, *chosen.size({})))

    def end(self, number: int) -> str:
        """Send it a signal; what it has printed."""
        assert self.process is not None
        self.process.send_signal(number)
        printed = self.process.communicate(timeout=PATIENCE)[1]
        assert self.process.returncode == (0 if number == signal.SIGTERM else -number)
        return printed


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Pool(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGKILL)
    eventually(lambda: not made.folders(), "a machine is left that nobody has")


@needs_namespaces
def test_each_machine_of_a_pool_is_used_once(pool: Pool) -> None:
    pool.start()
    assert json.loads(pool.call("--status").stdout)["ready"] == READY
    assert stat.S_IMODE(pool.socket.stat().st_mode) == 0o600
    assert pool.process is not None
    monitors = set()
    for number in range(READY + 1):
        pool.runtime.started(f"c{number}", "cat /proc/self/cgroup; exec sleep 600")
        known = json.loads((pool.runtime.root / f"c{number}" / "state.json").read_text())
        monitors.add(known["monitor"])
        status = Path(f"/proc/{known['monitor']}/status").read_text().split()
        assert status[status.index("PPid:") + 1] == str(pool.process.pid)
        assert status[status.index("Seccomp:") + 1] == "2", "it has the calls of a list alone"
        assert os.getpriority(os.PRIO_PROCESS, known["monitor"]) == 0, "it computes as a spare is made"
        pool.wait_until_full()
    assert len(monitors) == READY + 1
    assert pool.figures()["given"] == READY + 1
    done = pool.runtime.run("run", "--bundle", pool.runtime.bundle("cat; exit 3"), "last", input="typed\n")
    assert (done.returncode, done.stdout) == (3, "typed\n"), done.stderr
    pool.end(signal.SIGTERM)
    assert not pool.socket.exists()
    eventually(lambda: len(pool.folders()) == READY + 1, "machines that were ready are left")
    for number in range(READY + 1):
        assert pool.runtime.state(f"c{number}")["status"] == "running", "it ended with the pool"
        pool.runtime.check("delete", "--force", f"c{number}")


@needs_namespaces
def test_the_small_program_has_containers_made_by_the_pool(pool: Pool, tmp_path: Path) -> None:
    pool.start()
    runtime, whole = pool.runtime, pool.runtime.program
    runtime.program = pool.small()
    script = "cat; echo words >&2; echo $0 | cut -c1-1; exit 3"
    for number in range(READY + 2):  # the name is free at once
        pool.wait_until_full()
        options = ("--pid-file", f"pid{number}")
        done = runtime.run("run", *options, "-b", runtime.bundle(script), "c1", input="typed\n", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (3, "typed\n/\n", "words\n")
        assert (tmp_path / f"pid{number}").read_text().isdigit()
    done = runtime.run("run", "-b", "/no/such", "c1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "/no/such/config.json: No such file" in done.stderr
    pool.wait_until_full()
    runtime.created("c1", "echo begun; trap 'exit 9' TERM; while :; do sleep 0.1; done")
    pool.wait_until_full()
    done = runtime.run("run", "-b", runtime.bundle("true"), "c1")
    assert (done.returncode, done.stderr) == (1, "container with id c1 exists already\n")
    runtime.check("start", "c1")
    eventually(lambda: runtime.output("c1") == "begun\n", "it does not run")
    runtime.check("kill", "c1", "TERM")
    runtime.program = whole
    runtime.wait("c1", "stopped")
    runtime.check("delete", "c1")
    assert pool.end(signal.SIGTERM) == ""


def sockets_of(pid: int) -> list[str]:
    return [link for each in Path(f"/proc/{pid}/fd").iterdir() if "socket" in (link := os.readlink(each))]


@needs_namespaces
def test_the_small_program_is_there_for_its_container(pool: Pool, tmp_path: Path) -> None:
    """Signals go to the container; and when its monitor is killed, nothing is left."""
    pool.start()
    runtime = pool.runtime
    runtime.program = pool.small()
    output = tmp_path / "output"
    # A process of the guest that is none outlives its monitor
    script = f"trap 'echo told; exit 9' INT; echo begun; while [ -e {output} ]; do sleep 0.1; done"

    def begun() -> subprocess.Popen[bytes]:
        pool.wait_until_full()
        with output.open("wb") as out:
            command = runtime.command("run", "-b", runtime.bundle(script), "c1")
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        eventually(lambda: output.read_text() == "begun\n", "it does not run")
        eventually(lambda: not sockets_of(process.pid), "it is not told that its container runs")
        return process

    process = begun()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 9
    assert output.read_text() == "begun\ntold\n"
    process = begun()
    os.kill(json.loads((runtime.root / "c1" / "state.json").read_text())["monitor"], signal.SIGKILL)
    assert process.wait(PATIENCE) == 137
    assert not (runtime.root / "c1").exists()
    output.unlink()


@needs_namespaces
def test_what_a_pool_cannot_do_for_the_small_program_the_whole_one_does(pool: Pool) -> None:
    pool.start()
    runtime, small = pool.runtime, pool.small("/bin/echo")
    linux = json.loads(Path(runtime.bundle("true"), "config.json").read_text())["linux"]
    linux["resources"] = {"memory": {"limit": 1 << 30}}
    volume = {"destination": "/x", "type": "bind", "source": "/proc/self/cwd", "options": ["rbind"]}
    plain = runtime.bundle("true")
    cases = {
        "limits above its machines": ((), (), runtime.bundle("true", linux=linux)),
        "hooks": ((), (), runtime.bundle("true", hooks={"prestart": [{"path": "/bin/true"}]})),
        "a path of the caller's own": ((), (), runtime.bundle("true", mounts=[volume])),
        "debugging": ((), ("--debug",), plain),
        "another mount namespace": (("unshare", "-m"), (), plain),
        "a pool that does not answer": ((), (), plain),
    }
    assert pool.process is not None
    for why, (before, words, bundle) in cases.items():
        runtime.program = (*before, *small)
        if "answer" in why:
            pool.process.send_signal(signal.SIGSTOP)
        said = runtime.check(*words, "run", "-b", bundle, "c1")
        pool.process.send_signal(signal.SIGCONT)
        assert said.startswith("-IS whole ") and said.endswith(f"run -b {bundle} c1\n"), why
        assert not (runtime.root / "c1").exists(), f"{why}: something was made"
    assert pool.figures()["given"] == 0, "a machine was wasted"


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_a_pool_that_answers_a_machine_is_made(pool: Pool, number: int) -> None:
    pool.start()
    assert pool.process is not None
    if number == signal.SIGKILL:
        pool.end(number)
    else:
        pool.process.send_signal(number)
    done = pool.runtime.run("run", "--bundle", pool.runtime.bundle("echo runs"), "c1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs\n", "")
    if number == signal.SIGKILL:
        eventually(lambda: not pool.folders(), "machines outlive their pool")
        pool.start()  # the socket's name is still there


@needs_namespaces
def test_a_container_with_limits_that_fit_gets_a_machine_of_the_pool(pool: Pool) -> None:
    pool.start()
    limited = json.loads(Path(pool.runtime.bundle("echo runs"), "config.json").read_text())["linux"]
    limited["resources"] = {"memory": {"limit": 64 << 20}, "cpu": {"quota": 100_000, "period": 100_000}}
    pool.runtime.started("c1", "exec sleep 600", linux=limited)
    assert pool.figures()["given"] == 1
    group = json.loads((pool.runtime.root / "c1" / "state.json").read_text())["cgroup"]
    if Path(group, "memory.max").exists():
        assert int(Path(group, "memory.max").read_text()) == (512 + 128) << 20, "what its machine may have"
        assert Path(group, "cpu.max").read_text() == "100000 100000\n"
    pool.runtime.check("delete", "--force", "c1")


@needs_namespaces
def test_a_container_that_needs_another_machine_has_one_made(pool: Pool) -> None:
    pool.start()
    limited = json.loads(Path(pool.runtime.bundle("echo runs"), "config.json").read_text())["linux"]
    limited["resources"] = {"memory": {"limit": 1 << 30}}
    done = pool.runtime.run("run", "--bundle", pool.runtime.bundle("echo runs", linux=limited), "c1")
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
    assert (pool.figures()["given"], pool.figures()["ready"]) == (0, READY)
    (Path(pool.config).parent / "image").write_text("another one")
    done = pool.runtime.run("run", "--bundle", pool.runtime.bundle("echo runs"), "c1")
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
    eventually(lambda: pool.figures()["made"] >= 2 * READY, "its machines are still those of the old image")
    pool.wait_until_full()
    assert pool.runtime.run("run", "--bundle", pool.runtime.bundle("echo runs"), "c1").stdout == "runs\n"
    assert pool.figures()["given"] == 1


@needs_namespaces
def test_what_a_pool_does_not_understand(pool: Pool) -> None:
    pool.start()
    take = {"op": "take", "name": pool.name()}
    for request in (b"\n", b"\xff\0\n", b"{", b"[" * 60_000 + b"\n", b"[1]\n", b"{}\n", b'{"op": []}\n', b'"take"\n'):
        assert b"no such request" in pool.say(request)
    names: tuple[object, ...] = (None, [], {}, "", "x" * 1000, f"{take['name']} ")
    for name in names:
        assert b"no machine is like that" in pool.say(json.dumps({"op": "take", "name": name}).encode() + b"\n")
    assert pool.figures()["given"] == 0
    for number, then in enumerate((b"[]\n", b"{}\n", b"\xff\n", b'{"streams": 3, "placed": {}}\n', b"{" + b"\n")):
        answer = pool.say(json.dumps(take).encode() + b"\n", then=then)
        assert b"error" in answer and b"Traceback" not in answer
        pool.wait_until_full()
        assert pool.figures()["given"] == number + 1
    eventually(lambda: len(pool.folders()) == READY, "machines that nobody has a use for are left")
    pool.say(json.dumps(take).encode() + b"\n")  # who asks, and leaves
    eventually(lambda: pool.figures()["made"] == READY + 6, "no other one is made")
    eventually(lambda: len(pool.folders()) == READY, "the machine of who left is left")
    assert "already" in pool.call().stderr
    assert pool.end(signal.SIGTERM) == ""


@needs_namespaces
def test_who_asks_a_pool_for_nothing_keeps_nobody_else_from_it(pool: Pool) -> None:
    pool.start()
    with contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_CLIENTS):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            silent.connect(str(pool.socket))
            silent.settimeout(PATIENCE)
        assert json.loads(pool.say(b'{"op": "status"}\n'))["ready"] == READY
        assert silent.recv(1) == b"", "who says nothing is not listened to for ever"
    assert pool.end(signal.SIGTERM) == ""


@needs_namespaces
def test_a_pool_without_descriptors_goes_on_when_there_are_some(pool: Pool) -> None:
    pool.start()
    assert pool.process is not None
    pid = pool.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, before[1]))
    for child in " ".join(of_threads("children", pid).values()).split():
        os.kill(int(child), signal.SIGKILL)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(pool.socket))
        assert pool.process.stderr is not None
        assert "Too many open files" in pool.process.stderr.readline()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    pool.wait_until_full()
    assert "Traceback" not in pool.end(signal.SIGTERM)


@pytest.mark.parametrize(
    ("lines", "words", "reason"),
    [
        ('pool = 65\ntemplate = "auto"', (), "pool = 65 is not 0 to 64"),
        ('pool = -1\ntemplate = "auto"', (), "pool = -1 is not 0 to 64"),
        ('pool = "2"\ntemplate = "auto"', (), "pool = '2' is of the wrong kind"),
        ("pool = true", (), "pool = True is of the wrong kind"),
        ('pool = 2\ntemplate = "off"', (), 'it needs template = "auto"'),
        ("pool = 0", (), "there is nothing to do"),
        ("", ("--number", "2"), 'a pool needs template = "auto"'),
        ('template = "auto"', ("--number", "0"), "--number '0' is not 1 to 64"),
        ('template = "auto"', ("--number", "\N{SUPERSCRIPT TWO}"), "is not 1 to 64"),
        ("", ("more",), "'more' is one argument too many"),
        ("", ("--nosuch",), "option --nosuch is not known"),
        ("", ("--status",), "no pool serves"),
    ],
)
def test_what_a_pool_cannot_be(pool: Pool, lines: str, words: tuple[str, ...], reason: str) -> None:
    pool.config.write_text(f"{lines}\n")
    done = pool.call(*words)
    assert done.returncode == 1
    assert reason in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("pyvmm-poold: ")
