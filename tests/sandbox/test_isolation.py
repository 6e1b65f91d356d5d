"""The sandbox library on the Sentry, which runs here without a machine: the same calls, with the same results."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE
from tests.sentry.small_root import make
from vmm import kvm_verdict

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts of a container need root"),
    pytest.mark.skipif(kvm_verdict().usable, reason="with KVM, the Sentry is the kernel of a machine"),
]
README = Path(__file__).parents[2] / "examples" / "sandbox" / "README.md"
BEGIN = """
import sys, time
from pyvmm_sandbox import *
rootfs, place = sys.argv[1:]
where = {"root": place + "/state"}
def raises(kind, call, *args, **options):
    try:
        call(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")
"""
Python = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture
def python(rootfs: Path, tmp_path: Path) -> Python:
    """Runs a program that uses the library."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(rootfs), str(tmp_path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=rootfs.parent,
            env={**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        assert [name for name in os.listdir(tmp_path) if name.startswith("pyvmm-")] == []
        return done

    return run


def test_the_readme_runs(python: Python, rootfs: Path) -> None:
    block = re.search("```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    assert 'Sandbox("./rootfs", ' in block[1]
    code = block[1].replace("timeout=5", "timeout=60")  # 5 s are short for a host that runs other tests
    done = python(code.replace('Sandbox("./rootfs", ', f'Sandbox({str(rootfs)!r}, isolation="sentry", '))
    twins = "a,b\n1,2\n\n" * 3
    assert done.stdout == f"42\n\nstdout 1\n\nstdout 2\n\nstdout 3\n\nexit \n{twins}", done.stderr
    assert done.returncode == 0, done.stderr


def test_copies_have_the_memory_and_the_files_and_the_source_runs_on(python: Python) -> None:
    """Programs continue in all of them; streams of a command in the source stay whole meanwhile."""
    code = """
def word(box):
    return box.run("echo go >/dev/shm/ask; cat /dev/shm/answer").stdout
with Sandbox(rootfs, isolation="sentry", memory="128M", **where) as box:
    box.run("echo kept >/root-file; mkfifo /dev/shm/ask /dev/shm/answer; echo in memory >/dev/shm/word")
    box.run("cd /dev/shm; (read word <word; read go <ask; echo $word >answer) >/dev/null 2>&1 </dev/null &")
    with box.popen("while read line; do echo $line; done; exit 4") as begun:
        begun.write("0\\n")
        events = iter(begun)
        assert next(events).text == "0\\n"
        twins = box.fork(2)
        saved = box.snapshot(place + "/saved")
        rest = "".join(f"{i}\\n" for i in range(1, 10))
        begun.write(rest), begun.close_stdin()
        assert "".join(each.text for each in events if each.kind == "stdout") == rest
        assert begun.wait() == 4
    copies = [*twins, saved.start(**where), saved.start(**where)]
    copies[0].files.write("/root-file", "changed")
    ids = {each.run("cat /proc/sys/kernel/random/boot_id").stdout for each in (box, *copies)}
    assert len(ids) == 5
    assert [each.files.read_text("/root-file") for each in (box, *copies)] == ["kept\\n", "changed", *["kept\\n"] * 3]
    assert [word(each) for each in (box, *copies)] == ["in memory\\n"] * 5
    grandchild, = copies[3].fork()
    copies[3].kill()
    assert grandchild.run("cat /root-file /dev/shm/word").stdout == "kept\\nin memory\\n"
    for each in (*copies, grandchild):
        each.kill()
    assert box.run("echo still here").stdout == "still here\\n"
    suspended = box.suspend(place + "/suspended")
raises(SandboxGone, box.run, "true")
with suspended.start(**where) as box:
    assert box.run("cat /root-file /dev/shm/word").stdout == "kept\\nin memory\\n"
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr


TESTS = """
import pytest
@pytest.fixture(scope="session")
def warm():
    return []
@pytest.mark.parametrize("number", [1, 2])
def test_alone(warm, number):
    assert warm == []
    warm.append(number)
def test_wrong(warm):
    print("from inside")
    assert warm == [1]
"""


def test_pytest_runs_each_test_in_a_copy(rootfs: Path, tmp_path: Path) -> None:
    """Also while its captured output is in files without a name, which no copy of a shared directory would have."""
    own = tmp_path / "own"
    subprocess.run(["cp", "-a", rootfs, own], check=True)
    packages = own / "packages"
    packages.mkdir()
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        distribution = importlib.metadata.distribution(name)
        for top in {each.parts[0] for each in distribution.files or () if each.parts[0] != ".."}:
            subprocess.run(["cp", "-a", str(distribution.locate_file(top)), packages], check=True)
    place = tmp_path / "tests"
    place.mkdir()
    (place / "test_them.py").write_text(TESTS)
    options = {"env": {"PYTHONPATH": "/packages"}, "isolation": "sentry", "root": str(tmp_path / "state")}
    (place / "conftest.py").write_text(f"def pytest_fork_vm_options():\n    return {options!r}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fork-vm", f"--fork-vm-image={own}", "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        cwd=place,
        timeout=PATIENCE,
        env={**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "from inside" in done.stdout


def test_examples_that_fork_run_here(rootfs: Path, tmp_path: Path) -> None:
    """A search that forks at each step, and a grader whose submissions do not see each other."""
    examples = README.parent / "examples"
    (tmp_path / "tests.py").write_text(
        "import submission\nprint(sum(submission.double(n) == 2 * n for n in range(5)), 5, sep='/')\n"
    )
    codes = {
        "right": "def double(n): return n + n",
        "broken": "def double(n): return m",
        "evil": "import os; os.unlink('/grader/tests.py')\ndef double(n): return n * n",
    }
    for name, code in codes.items():
        (tmp_path / f"{name}.py").write_text(code)
    grader = ["grader.py", str(rootfs), *(f"{tmp_path}/{name}.py" for name in ("tests", *codes))]
    printed = []
    for program, *words in (["tree_search.py", str(rootfs), "16"], grader):
        done = subprocess.run(
            [sys.executable, examples / program, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert (done.returncode, done.stderr) == (0, "")
        printed.append([" ".join(line.split()) for line in done.stdout.splitlines()])
    assert printed == [
        ["16 by n + 7, n * 2"],
        ["right 5/5", "broken NameError: name 'm' is not defined", "evil 2/5"],
    ]


def test_saving_again_and_again_keeps_no_descriptor_and_no_process(python: Python) -> None:
    code = """
import json, os, subprocess
with Sandbox(rootfs, isolation="sentry", memory="64M", **where) as box:
    monitor = json.load(open(f"{place}/state/{box.name}/state.json"))["monitor"]
    def used():
        listed = subprocess.run(["ps", "--ppid", str(monitor), "-o", "stat="], capture_output=True, text=True).stdout
        return len(os.listdir(f"/proc/{monitor}/fd")), len(listed.split())
    def save(times):
        for _ in range(times):
            box.snapshot(place + "/saved")
    save(4)
    before = used()
    save(8)
    assert used() <= before, (used(), before)
    assert box.run("echo here").stdout == "here\\n"
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_saved_goes_on(python: Python) -> None:
    """A file without a name on the shared root: the error names it, and nothing is lost."""
    code = """
import os
with Sandbox(rootfs, isolation="sentry", memory="128M", **where) as box:
    program = "import os, sys; kept = open('/removed', 'w'); os.remove('/removed')\\n"
    program += "for line in sys.stdin: print(line, end='')"
    with box.popen(["python3", "-u", "-c", program]) as begun:
        begun.write("one\\n")
        events = iter(begun)
        assert next(events).text == "one\\n"
        for call in (box.fork, lambda: box.snapshot(place + "/saved"), lambda: box.suspend(place + "/saved")):
            error = raises(Exception, call)
            assert "/removed" in str(error) and "deleted" in str(error), error
        begun.write("two\\n"), begun.close_stdin()
        assert next(events).text == "two\\n" and begun.wait() == 0
    assert not os.path.exists(place + "/saved")
    twin, = box.fork()
    assert twin.run("echo copied").stdout == "copied\\n"
    twin.kill()
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr


def test_a_copy_has_owners_and_device_nodes(python: Python, rootfs: Path) -> None:
    """As in a root directory of debootstrap, with a /dev/full that has no end."""
    code = """
import os, subprocess
own = place + "/own"
subprocess.run(["cp", "-a", rootfs, own], check=True)
os.makedirs(own + "/dev", exist_ok=True)
os.mknod(own + "/dev/full", 0o666 | 0o020000, os.makedev(1, 7))
with open(own + "/theirs", "w") as file:
    os.fchown(file.fileno(), 1234, 5678)
template = Template.build(place + "/template", own, isolation="sentry", memory="128M", **where)
with template.start(**where) as box:
    entry, = [each for each in box.files.list("/") if each.name == "theirs"]
    assert (entry.uid, entry.gid) == (1234, 5678)
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr


def test_the_calls_of_the_library(python: Python) -> None:
    """Where no KVM works, "auto" chooses the Sentry, and logs that once."""
    code = """
import logging
logging.basicConfig(level="INFO")
Sandbox(rootfs, **where).kill()
with Sandbox(rootfs, env={"A": "from the sandbox"}, **where) as box:
    assert box.isolation == "sentry"
    assert box.run("echo hi; echo err >&2; exit 3") == Result("hi\\n", "err\\n", 3)
    assert box.run(["cat"], stdin="typed").stdout == "typed"
    done = box.run("echo $A $B; pwd; id -u 2>/dev/null || readlink /proc/self", env={"B": "b"}, cwd="/tmp")
    assert done.stdout.startswith("from the sandbox b\\n/tmp\\n")
    assert box.run(["/none"]).exit_code == 127 and box.run("kill -9 $$").exit_code == 137
    error = raises(CommandTimeout, box.run, "echo begun; sleep 600 & setsid sleep 600 & sleep 600", timeout=1)
    assert error.result.stdout == "begun\\n"
    assert "sleep" not in box.run("cat /proc/[0-9]*/comm").stdout
    data = bytes(range(256)) * 8192
    box.files.write("/new/deep/data", data)
    assert box.files.read("/new/deep/data") == data
    assert [each.name for each in box.files.list("/new", depth=2)] == ["deep", "data"]
    raises(FileNotFoundError, box.files.read, "/none")
    box.files.download("/new", place + "/down")
    box.files.upload(place + "/down", "/up")
    assert open(place + "/down/deep/data", "rb").read() == box.files.read("/up/deep/data") == data
    with box.files.watch("/new") as watch:
        box.run("echo >/new/file")
        assert next(iter(watch)).path == "/new/file"
    with box.popen("read line; echo got $line; cat") as command:
        command.write("one\\n")
        assert next(iter(command)).text == "got one\\n"
        box.pause()
        box.resume()
        command.close_stdin()
        assert command.wait() == 0
    with box.popen("yes") as command:
        assert next(iter(command)).text.startswith("y\\ny\\n")
    box.files.remove("/new"), box.files.remove("/up")
    assert box.stats()
raises(SandboxGone, box.run, "true")
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.startswith("INFO:pyvmm_kata.isolation:containers run on the Sentry")
        and done.stderr.count("\n") == 1
    )


def test_hundreds_of_commands_run_at_the_same_time(python: Python) -> None:
    """One that is too many is refused; after the end of another one there is room."""
    code = f"""{BEGIN}
with Sandbox(rootfs, isolation="sentry", processes=1000, **where) as box:
    started = []
    while True:
        try:
            started.append(box.popen(["sleep", "1000"]))
        except TooManyCommands as error:
            print(len(started), error, error.hint)
            break
    started.pop().close()
    print(box.run("echo on").stdout)
"""
    done = python(code)
    said = done.stdout.splitlines()
    assert said[0].startswith("255 sandbox ") and said[0].endswith(
        " has no room for another command wait for others to end"
    )
    assert said[1] == "on", done.stderr


def test_what_it_cannot_do_fails_before_anything_is_made(python: Python) -> None:
    code = """
import os
for call in (
    lambda: Sandbox(rootfs, isolation="none", **where),
):
    raises(UsageError, call)
assert not os.path.exists(place + "/state")
with Sandbox(rootfs, isolation="sentry", name="mine", detach=True, timeout=None, **where) as box:
    assert Sandbox.connect("mine", **where).isolation == "sentry"
"""
    done = python(BEGIN + code)
    assert done.returncode == 0, done.stderr


def test_ports_lead_to_servers_inside(python: Python) -> None:
    """Without a network, and nothing is left of a connection."""
    code = """
import socket
def ask(sock, data):
    sock.sendall(data), sock.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))
def relays():
    return box.run("cat /proc/[0-9]*/cmdline | tr '\\\\0' ' '").stdout.count("box relay")
with Sandbox(rootfs, network="none", **where) as box:
    box.files.write("/tmp/server.py", open(upper_server, "rb").read())
    begun = box.popen(["python3", "/tmp/server.py"])
    port = int(next(iter(begun)).text)
    with box.ports.connect(port) as sock:
        assert ask(sock, b"one") == b"ONE"
    with box.ports.forward(port) as forward:
        big = b"x" * (4 << 20)
        socks = [socket.create_connection((forward.host, forward.port)) for _ in range(5)]
        assert ask(socks[3], big) == big.upper() and ask(socks[1], b"two") == b"TWO"
    while relays():
        time.sleep(0.05)  # they end by themselves, and report nothing
    six = box.popen(["python3", "-c", SIX])
    with box.ports.connect(int(next(iter(six)).text)) as sock:
        assert sock.recv(9) == b"six"
    raises(ConnectionRefusedError, box.ports.connect, 1)
    raises(UsageError, box.ports.connect, 0), raises(UsageError, box.ports.forward, 70000)
    open_one = box.ports.connect(port)
    begun.close()
    assert open_one.recv(1) == b""
    box.kill()
    raises(SandboxGone, box.ports.connect, port)
"""
    six = "import socket; s = socket.create_server(('::1', 0), family=socket.AF_INET6); "
    six += "print(s.getsockname()[1], flush=True); c = s.accept()[0]; c.send(b'six'); c.close()"
    server = Path(__file__).with_name("upper_server.py")
    done = python(BEGIN + f"SIX = {six!r}\nupper_server = {str(server)!r}\n" + code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_network_of_its_own_and_a_published_port(python: Python) -> None:
    code = """
import urllib.request
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
with Sandbox(rootfs, network="user", ports=[f"{port}:80"], **where) as box:
    assert "eth0" in box.run("cat /proc/net/dev").stdout
    with box.popen(["python3", "-m", "http.server", "-d", "/etc", "80"]):
        while True:
            try:
                print(urllib.request.urlopen(f"http://127.0.0.1:{port}/").status)
                break
            except OSError:
                pass
"""
    done = python(BEGIN.replace("import sys,", "import socket, sys,") + code)
    assert (done.stdout, done.stderr) == ("200\n", "")
