"""Forks of a jailed machine: the jails of its children, and the privileges of the process that creates them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Command, links_of
from tests.jail_processes import children, descendants, machines, named, names, serves, soon_none, status_of, threads
from tools.where import PYVMM, ROOT
from vmm import DiskConfig
from vmm.control.client import ask
from vmm.errors import ConfigError, HostError
from vmm.lifecycle import CHILDREN_MAX
from vmm.memory.memfd import freeze, open_memory
from vmm.processes.forks import fork_request
from vmm.processes.jail import users
from vmm.processes.jail.restrict import CAPABILITIES
from vmm.processes.parent import Parent
from vmm.processes.runner import Runner
from vmm.processes.spawn import PACKAGE
from vmm.saving.records import plain

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root has more to give up"),
]


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Command]:
    """A machine in a jail with sockets, disks and a control socket "c", which was forked into two."""
    for name in ("disk", "below"):
        (tmp_path / f"{name}.img").write_bytes(b"d" * (1 << 20))
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.ECHO)
    disks = ["--disk", "../disk.img,cow=copy", "--disk", f"{tmp_path}/below.img,cow=overlay"]
    where = ["--vsock", f"cid=3,uds={tmp_path}/v", "--control", f"{tmp_path}/c"]
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", *disks, *where, "--json", "--jail", "on")
    try:
        command.expect("hello")
        done = subprocess.run([PYVMM, "fork", f"{tmp_path}/c", "-n", "2"], capture_output=True, text=True, timeout=100)
        assert (done.stdout.split(), done.stderr) == ([f"{tmp_path}/c.1", f"{tmp_path}/c.2"], "")
        yield command
    finally:
        command.close()


ITS_FILES = {"below.img", "disk.img", "tiny.elf"}


def test_children_of_a_machine_in_a_jail_are_in_jails_of_their_own(forked: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "c")
    (deeper,) = ask(f"{path}.2", "fork")["children"]
    assert deeper == {"control": f"{path}.2.1", "vsock": f"{tmp_path}/v.2.1"}
    everybody = [forked.process.pid, *machines(forked.process.pid)]
    assert len(everybody) == 4
    for pid in everybody:
        for status in threads(pid):
            assert int(status["Uid"].split()[0]) >= users.FIRST and status["Groups"] == "", status["Name"]
            assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16} and status["Seccomp"] == "2"
        assert os.listdir(f"/proc/{pid}/root") == []
        assert not [link for link in links_of(pid).values() if "machine-" in link]
    assert len({status_of(Path(f"/proc/{pid}"))["Uid"] for pid in everybody}) == 4, "no two have one user"
    for place in (path, f"{path}.1", f"{path}.2", f"{path}.2.1"):
        assert ask(place, "status")["state"] == "running"
    forked.type(b"x")
    forked.expect("x")
    ask(f"{path}.1", "snapshot", path=str(tmp_path / "warm"))
    for number in (0, 1):
        assert (tmp_path / "warm" / f"disk{number}").read_bytes() == b"d" * (1 << 20)
    ask(f"{path}.2", "stop")
    assert soon_none(lambda: [name for name in os.listdir(tmp_path) if ".2" in name]) == [], "nor is its child"
    assert ask(f"{path}.1", "status")["state"] == "running"
    ask(path, "stop")
    assert forked.wait() == 20, forked.errors
    assert forked.leftovers() == [] and names(tmp_path) == {*ITS_FILES, "warm"}


def test_a_fork_that_cannot_be_is_none(forked: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "c")
    (tmp_path / "c.4").mkdir()
    with pytest.raises(ConfigError, match=r"c\.4"):
        ask(path, "fork", n=2)  # the third cannot be made then, which could
    assert not (tmp_path / "c.3").exists() and len(machines(forked.process.pid)) == 2
    for number in (0, -1):
        with pytest.raises(ConfigError, match=f"{number} children"):
            ask(path, "fork", n=number)
    assert ask(path, "fork")["children"] == [{"control": f"{path}.5", "vsock": f"{tmp_path}/v.5"}]
    assert ask(path, "status")["state"] == "running"


def test_who_makes_forks_gives_up_what_it_does_not_need(forked: Command, tmp_path: Path) -> None:
    """What runs programs for it has a socket and what its parent is, and no part of the machine."""
    (forks,) = named(descendants(forked.process.pid), "pyvmm-forks")[:1]
    status = status_of(Path(f"/proc/{forks}"))
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16)
    assert int(status["CapEff"], 16) == sum(1 << CAPABILITIES.index(name) for name in ("dac_override", "kill"))
    assert os.stat(f"/proc/{forks}/mem").st_uid == 0, "not dumpable"
    (runner,) = named(children(forks), "pyvmm-runner")
    assert children(runner) == []
    parent, sock = sorted(link for number, link in links_of(runner).items() if int(number) > 2)
    assert sock.startswith("socket:") and parent.startswith("/memfd:machine-parent")
    assert set(machines(forks)) == {*children(forks)} - {runner}
    os.kill(forks, signal.SIGTERM)
    assert len(ask(str(tmp_path / "c"), "fork")["children"]) == 1, "it ends with the machine"
    stopped = machines(forks)[-1]
    os.kill(stopped, signal.SIGSTOP)
    ask(str(tmp_path / "c"), "stop")
    assert forked.wait() == 20
    assert soon_none(forked.leftovers) == [], "a child that does not end is killed"


RUNNER = """
import os, socket, struct, sys
from vmm import BootConfig, MachineConfig
from vmm.processes import runner as module
from vmm.processes.parent import Parent
module.program = lambda *fds: sys.argv[2:]
parent = Parent(MachineConfig(BootConfig("kernel")), "c", "auto")
runner = module.Runner(parent)
def send(data, fds):
    try:
        runner._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(fds)}i", *fds))])
        return runner._sock.recv(100)
    except OSError as error:
        return error.strerror
ours, theirs = socket.socketpair()
wrong = {"run": None, "two": (b"r", [0, 1]), "none": (b"r", []), "long": (b"rr", [0])}[sys.argv[1]]
if wrong:
    print(send(*wrong))
try:
    process = runner.run(theirs.fileno())
except OSError as error:
    print(error.strerror)
else:
    theirs.close()
    print(ours.makefile().read().split(), process.wait(10))
try:
    runner._sock.close()
    os.waitpid(-1, 0)
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child")
"""


@pytest.mark.parametrize("what", ["run", "two", "none", "long"])
def test_what_runs_programs_takes_one_descriptor_alone(what: str) -> None:
    """A program gets its socket and the record of its parent, and is a child of the requester. The runner ends at any
    other request."""
    program = ["/bin/sh", "-c", "for fd in 0 1 2 3 4 5 6 7; do [ -e /proc/$$/fd/$fd ] && echo $fd; done >&3; exit 7"]
    command = [sys.executable, "-c", RUNNER, what, *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    told = done.stdout.splitlines()
    if what == "run":
        assert told == ["['0', '1', '2', '3', '4'] 7", "no child"], done.stdout + done.stderr
    else:
        assert told == ["b''", "Broken pipe", "no child"], done.stdout + done.stderr


def test_a_program_that_is_not_there_is_not_run() -> None:
    command = [sys.executable, "-c", RUNNER, "run", "/nowhere/pyvmm"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "No such file or directory\nno child\n", done.stderr


def helpers(shown: list[dict[str, str]]) -> list[str]:
    return sorted(each["Name"] for each in shown if "pyvmm-" in each["Name"])


def restricted(pid: int, names: list[str]) -> list[dict[str, str]]:
    """The status of a machine's process and of its helpers, once each has a filter and its name: on a busy host a guest
    runs before the last helper, which serves nobody until then, and has the name of what started it."""
    deadline = time.monotonic() + 60
    while True:
        shown = [status_of(Path(f"/proc/{each}")) for each in (pid, *descendants(pid))]
        done = all(status["Seccomp"] == "2" for status in shown) and helpers(shown) == names
        if done or time.monotonic() > deadline:
            return shown
        time.sleep(0.01)


def test_helpers_have_given_up_what_they_can(tmp_path: Path) -> None:
    """All processes of a machine in a jail and of its children, whether they were asked for something or not."""
    (tmp_path / "share").mkdir()
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.SPIN)
    where = ["--vsock", f"cid=3,uds={tmp_path}/v", "--control", f"{tmp_path}/c", "--share", f"{tmp_path}/share"]
    more = ["--transport", "pci", "--shares-from", str(tmp_path), "--disks-from", str(tmp_path)]
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", *where, *more, "--jail", "on")
    try:
        command.expect("hello")
        for wanted in (1, 2):
            names = ["broker", "control", "forks", "fsd"] * wanted + ["shares"] + ["runner"] * (wanted - 1)
            expected = sorted(f"pyvmm-{name}" for name in names)
            shown = restricted(command.process.pid, expected)
            assert helpers(shown) == expected
            for status in shown:
                assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1"), status["Name"]
                assert not int(status["CapBnd"], 16) & 1 << CAPABILITIES.index("sys_module"), status["Name"]
            if wanted == 1:
                assert len(ask(f"{tmp_path}/c", "fork")["children"]) == 1
    finally:
        command.close()


def runner_and_parent(tmp_path: Path) -> Parent:
    """What makes forks of a machine with two disks, one of which it may write."""
    for name in ("one", "two", "other"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    disks = (DiskConfig(str(tmp_path / "one")), DiskConfig(str(tmp_path / "two"), read_only=True))
    return Parent(tiny.config(tiny.make(tmp_path, tiny.SPIN), disks=disks), str(tmp_path / "c"), "on")


def handed(tmp_path: Path) -> list[int]:
    """Files as a child is given."""
    fds = [open_memory(name, 4096) for name in ("ram", "state", "pages")]
    for fd in fds:
        freeze(fd)
    return [*fds, os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)]


ABOUT: dict[str, Any] = {"disks": [0], "areas": None, "files": 4}
REQUEST: dict[str, Any] = {"command": "make", "number": 7, "fork": ABOUT, "package": PACKAGE}
NO_REQUESTS: dict[str, dict[str, Any]] = {
    "another kernel": REQUEST | {"config": {"boot": {"kernel": "/etc/passwd"}}},
    "another jail": REQUEST | {"serve": {"control": "/run/c", "jail": "off"}},
    "a snapshot": REQUEST | {"restore": {"path": "/", "changes": {}, "options": {}}},
    "no number": REQUEST | {"number": "7/../../x"},
    "number 0": REQUEST | {"number": 0},
    "a number that is true": REQUEST | {"number": True},
    "number 2^31": REQUEST | {"number": 1 << 31},
    "no fork": REQUEST | {"fork": None},
    "another package": REQUEST | {"package": "/tmp"},
    "without its disk": REQUEST | {"fork": ABOUT | {"disks": [], "files": 3}},
    "the disk that it may not write": REQUEST | {"fork": ABOUT | {"disks": [1]}},
    "areas of no memory": REQUEST | {"fork": ABOUT | {"areas": [[0, "x"]]}},
    "areas without a file": REQUEST | {"fork": ABOUT | {"areas": [[0, 4096]]}},
    "other files": REQUEST | {"fork": ABOUT | {"files": 5}},
    "nothing": {},
}


def test_a_request_for_a_child_says_what_differs(tmp_path: Path) -> None:
    parent = runner_and_parent(tmp_path)
    copy, fds = Parent.read(parent.write()), handed(tmp_path)
    assert copy.config == parent.config and copy.serves(7) == {"control": f"{tmp_path}/c.7", "jail": "on"}
    assert copy.child(REQUEST, fds)["config"] == plain(parent.config)
    for index, wrong in ((0, os.memfd_create("ram")), (3, os.open(tmp_path / "other", os.O_RDWR)), (3, os.dup(0))):
        with pytest.raises(ConfigError, match=r"an invalid request for a child: .* (write to|without a name)$"):
            copy.child(REQUEST, [*fds[:index], wrong, *fds[index + 1 :]])
        os.close(wrong)
    for fd in fds:
        os.close(fd)
    told = parent.write()
    with pytest.raises(PermissionError):
        os.pwrite(told, b"x", 0)
    os.close(told)


@pytest.mark.parametrize("what", NO_REQUESTS)
def test_who_has_taken_over_the_maker_of_forks_gets_no_other_machine(tmp_path: Path, what: str) -> None:
    """The program that is run for it refuses what is no child of its machine."""
    runner, fds = Runner(runner_and_parent(tmp_path)), handed(tmp_path)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answers, answer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, answers, answer:
        process = runner.run(theirs.fileno())
        theirs.close()
        socket.send_fds(ours, [json.dumps(NO_REQUESTS[what]).encode()], [answer.fileno(), answer.fileno(), *fds])
        answer.close()
        told = json.loads(answers.recv(4096))
        assert told["config"] is True and told["error"].startswith("an invalid request for a child: ")
        assert process.wait(60) == 0
    runner._sock.close()
    os.wait()
    assert sorted(names(tmp_path)) == ["one", "other", "tiny.elf", "two"]
    for fd in fds:
        os.close(fd)


ELSEWHERE = """
import os, sys
from vmm.cli.main import main
from vmm.processes import forks
def taken_over(self, n, first):
    place = os.environ["ELSEWHERE"]
    if first == 1:
        os.open(place + "/made", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.unlink(place + "/there")
forks._Forking._made = taken_over
sys.exit(main(sys.argv[1:]))
"""


def test_who_has_taken_over_the_maker_of_forks_makes_no_file_elsewhere(tmp_path: Path) -> None:
    """But beside disks and the control socket, as root."""
    place, here = tmp_path / "elsewhere", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    (place / "there").touch()
    boot = ["boot", "--kernel", tiny.make(here, tiny.SPIN), "--memory", "32M", "--control", f"{here}/c"]
    command = [sys.executable, "-c", ELSEWHERE, *boot, "--timeout", "60"]
    environment = {**os.environ, "ELSEWHERE": str(place), "TMPDIR": str(here)}
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None and not serves(f"{here}/c"):
            time.sleep(0.01)
        for _ in ("make", "remove"):
            with pytest.raises(HostError, match="Permission denied"):
                ask(f"{here}/c", "fork")
        assert os.listdir(place) == ["there"] and ask(f"{here}/c", "status")["state"] == "running"
        ask(f"{here}/c", "stop")
        assert process.wait(60) == 20


@pytest.mark.parametrize("at_once", [True, False])
def test_a_machine_has_many_children_at_a_time(tmp_path: Path, at_once: bool) -> None:
    """More threads than the C library gives memory of their own without a question."""
    kernel = tiny.make(tmp_path, tiny.say("hello\n"))
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--control", f"{tmp_path}/c", "--timeout", "900")
    try:
        command.expect("hello")
        path, count = f"{tmp_path}/c", 64 if at_once else 20
        for n in (10**9, CHILDREN_MAX + 1, 0):
            with pytest.raises(ConfigError, match=f"a fork into {n} children"):
                ask(path, "fork", n=n)
        if at_once:
            made = ask(path, "fork", n=count)["children"]
        else:
            made = [child for _ in range(count) for child in ask(path, "fork")["children"]]
        assert [child["control"] for child in made] == [f"{path}.{number}" for number in range(1, count + 1)]
        with pytest.raises(ConfigError, match=f"{CHILDREN_MAX - count + 1} children beside {count} that run"):
            ask(path, "fork", n=CHILDREN_MAX - count + 1)
        for child in made[:: 1 if count < 64 else 16]:
            assert ask(child["control"], "status")["state"] == "running"
        ask(path, "stop")
        assert command.wait() == 20
        assert soon_none(command.leftovers) == []
    finally:
        command.close()


FEW = """
import resource, sys
from pathlib import Path
from tests import tiny
from tests.command import Command
from vmm import HostError
from vmm.control.client import ask
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
folder = Path(sys.argv[1])
control = ["--control", str(folder / "c"), "--jail", "on"]
command = Command(folder, "--kernel", tiny.make(folder, tiny.say("hello\\n")), "--memory", "32M", *control)
command.expect("hello")
made = [child["control"] for child in ask(str(folder / "c"), "fork", n=4)["children"]]
for n in (20, 19, 18, 17):
    try:
        ask(str(folder / "c"), "fork", n=n)
    except HostError as error:
        print(n, error.code, "Too many open files" in str(error))
print({ask(path, "status")["state"] for path in made}, len(ask(str(folder / "c"), "fork")["children"]))
ask(str(folder / "c"), "stop")
print(command.wait(), command.leftovers())
"""


def test_a_fork_for_which_there_are_no_descriptors_leaves_the_children_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FEW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    *refused, states, end = done.stdout.splitlines() or ["", ""]
    assert [line.split()[0] for line in refused] == ["20", "19", "18", "17"], done.stdout + done.stderr
    assert all(line.endswith("True") for line in refused), refused
    assert (states, end) == ("{'running'} 1", "20 []")


@pytest.mark.parametrize("which", ["machine", "server", "forks", "runner", "child", "child's server"])
def test_nothing_is_left_of_a_fork_whose_parts_are_killed(forked: Command, tmp_path: Path, which: str) -> None:
    (server,) = named(descendants(forked.process.pid), "pyvmm-control")[:1]
    (forks,) = children(server)
    (runner,) = named(children(forks), "pyvmm-runner")
    child = machines(forked.process.pid)[0]
    other = named(children(child), "pyvmm-control")[0]
    victim = {"machine": forked.process.pid, "server": server, "forks": forks, "runner": runner}
    victim |= {"child": child, "child's server": other}
    os.kill(victim[which], signal.SIGKILL)
    if which in ("machine", "server"):
        assert forked.wait() == (137 if which == "machine" else 1)
    else:
        others = {f"{name}.2{end}" for name, end in (("c", ""), ("v", ""), ("v", ".seqpacket"))}
        left = {"forks": set(), "runner": others | {name.replace("2", "1", 1) for name in others}}.get(which, others)
        its = {*ITS_FILES, "c", "v", "v.seqpacket", *left}
        assert soon_none(lambda: sorted(names(tmp_path) - its)) == []
        forked.type(b"x")
        forked.expect("x")
        if which in ("forks", "runner"):
            with pytest.raises(HostError, match="has ended" if which == "forks" else "Broken pipe"):
                ask(str(tmp_path / "c"), "fork")
        else:
            assert ask(f"{tmp_path}/c.2", "status")["state"] == "running"
            ask(str(tmp_path / "c"), "fork")
        forked.type(b"\4")
        assert forked.wait() == 0
    assert soon_none(forked.leftovers) == []
    assert soon_none(lambda: sorted(names(tmp_path) - ITS_FILES)) == []


def test_a_child_that_does_not_end_with_who_started_it_is_killed(forked: Command, tmp_path: Path) -> None:
    """As one that its guest has taken over."""
    child = machines(forked.process.pid)[0]
    pidfd = os.pidfd_open(child)
    forks = named(descendants(forked.process.pid), "pyvmm-forks")[0]
    os.kill(child, signal.SIGSTOP)
    os.kill(forks, signal.SIGKILL)
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
    assert soon_none(lambda: sorted(names(tmp_path) - {*ITS_FILES, "c", "v", "v.seqpacket"})) == []
    assert ask(str(tmp_path / "c"), "status")["state"] == "running"


@pytest.mark.parametrize(
    "asked", [b"", b"{", b"[1]", b"[1, 2, 3]", b"[true, 1]", b'["1", 1]', b"[-1, 1]", b"[" * 9999, b"\xff"]
)
def test_a_request_for_forks_that_is_none(asked: bytes) -> None:
    with pytest.raises(ConfigError, match="an invalid request for forks"):
        fork_request(asked)
    assert fork_request(b"[2, 7]") == (2, 7)


NO_ROOM_FOR_A_FORK = """
import os, subprocess, sys
from pathlib import Path
from tests import tiny
from tests.command import Command
from vmm import HostError
from vmm.control.client import ask
folder, small = Path(sys.argv[1]), Path(sys.argv[1]) / "small"
(small / "disk.img").write_bytes(b"d" * (1 << 20))
kernel = tiny.make(folder, tiny.say("hello\\n") + tiny.ECHO)
disk, control = ["--disk", str(small / "disk.img")], ["--control", str(folder / "c")]
command = Command(folder, "--kernel", kernel, "--memory", "32M", *disk, *control)
command.expect("hello")
for n in (1, 2):
    try:
        ask(str(folder / "c"), "fork", n=n)
    except HostError as error:
        print(n, error)
print(sorted(os.listdir(small)), ask(str(folder / "c"), "status")["state"])
command.type(b"x\\4")
command.expect("x")
print(command.wait(), command.leftovers(), (folder / "c").exists())
"""


@pytest.mark.parametrize("room", [1, 2])
def test_a_fork_that_has_no_room_leaves_nothing_and_the_machine_goes_on(tmp_path: Path, room: int) -> None:
    """For a copy of the disk, or for the second one."""
    (tmp_path / "small").mkdir()
    size = (room << 20) + (256 << 10)
    mount = ["sh", "-c", f'mount -t tmpfs -o size={size} none {tmp_path}/small && exec "$@"', "sh"]
    command = ["unshare", "-m", *mount, sys.executable, "-c", NO_ROOM_FOR_A_FORK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    *refused, state, end = done.stdout.splitlines() or [""] * 2
    assert [line[:1] for line in refused] == ["1", "2"][room - 1 :], done.stdout + done.stderr
    assert all("No space left" in line for line in refused)
    assert (state, end) == ("['disk.img'] running", "0 [] False")
