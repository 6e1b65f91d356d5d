"""What tools of the host that join the namespaces of a container's pid find, and that the host stays as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_podman import Podman
from tests.guest.kata_tools import PATIENCE

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")

MARK = "pyvmm-face-test"


@pytest.fixture(scope="module")
def container(podman: Podman) -> Iterator[str]:
    """One for all tests, which leave it running."""
    (podman.folder / "data").mkdir(exist_ok=True)
    (podman.folder / "fixed").mkdir(exist_ok=True)
    volumes = ["-v", f"{podman.folder}/data:/var/lib/data", "-v", f"{podman.folder}/fixed:/fixed:ro"]
    podman.check("run", "-d", "--name", "c", "--network", "none", *volumes, "box", "sh", "-c", "sleep 3600")
    yield "c"
    podman.check("rm", "--force", "--ignore", "--time", "0", "c")


def others(podman: Podman) -> set[str]:
    """Containers beside that one."""
    return set(podman.check("ps", "--all", "--format", "{{.Names}}").split()) - {"c"}


def monitor_of(podman: Podman, name: str) -> int:
    """The process that has a container's machine."""
    pid = int(podman.check("inspect", "--format", "{{.State.Pid}}", name))
    states = [json.loads(path.read_text()) for path in podman.folder.glob("state/*/state.json")]
    (found,) = [int(known["monitor"]) for known in states if known.get("pid") == pid]
    return found


def host_is_untouched() -> None:
    for folder in ("/", "/usr", "/etc", "/var/lib", "/tmp", "/run", "/dev", "/proc", "/sys"):
        assert not any(MARK in name for name in os.listdir(folder)), folder


def test_cp_both_ways(podman: Podman, container: str) -> None:
    source = podman.folder / MARK
    source.write_text("from the host\n")
    places = ("/etc", "/var/lib/data")
    for place in places:
        podman.check("cp", str(source), f"{container}:{place}/{MARK}")
    copies = [f"{place}/{MARK}" for place in places]
    assert podman.check("exec", container, "cat", *copies) == "from the host\n" * len(places)
    assert (podman.folder / "data" / MARK).read_text() == "from the host\n"
    podman.check("exec", container, "sh", "-c", "echo from the guest >/var/lib/data/out; echo guest >/etc/shadow")
    back = podman.folder / "back"
    podman.check("cp", f"{container}:/var/lib/data/out", str(back))
    assert back.read_text() == "from the guest\n"
    podman.check("cp", f"{container}:/etc/shadow", str(back))
    assert back.read_text() == "guest\n"
    host_is_untouched()


def test_cp_to_what_only_the_guest_has_fails(podman: Podman, container: str) -> None:
    source = podman.folder / MARK
    source.write_text("from the host\n")
    for place in ("/dev", "/proc", "/sys", "/fixed", "/dev/shm"):
        assert podman.run("cp", str(source), f"{container}:{place}/{MARK}").returncode != 0, place
    assert podman.run("cp", f"{container}:/proc/version", "-").returncode != 0
    assert os.listdir(podman.folder / "fixed") == []
    host_is_untouched()


@pytest.mark.long  # 50 seconds; test_cp_both_ways is about a container that runs
def test_cp_when_it_has_stopped(podman: Podman, container: str) -> None:
    podman.check("exec", container, "sh", "-c", "echo kept >/etc/kept; echo kept >/var/lib/data/kept")
    podman.check("stop", "--time", "0", container)
    source, back = podman.folder / MARK, podman.folder / "back"
    source.write_text("later\n")
    for place in ("/etc", "/var/lib/data"):
        podman.check("cp", f"{container}:{place}/kept", str(back))
        assert back.read_text() == "kept\n"
        podman.check("cp", str(source), f"{container}:{place}/{MARK}")
    podman.check("start", container)
    assert podman.check("exec", container, "cat", f"/etc/{MARK}", f"/var/lib/data/{MARK}") == "later\n" * 2
    host_is_untouched()


def test_links_of_the_container_do_not_lead_to_the_host(podman: Podman, container: str) -> None:
    podman.check(
        "exec", container, "sh", "-c", "ln -s ../../../../../../usr /etc/up; ln -s /usr /etc/root; mkdir -p /usr"
    )
    source = podman.folder / MARK
    source.write_text("x\n")
    for place in ("/etc/up", "/etc/root"):
        podman.run("cp", str(source), f"{container}:{place}/{MARK}")
    host_is_untouched()


def test_nsenter(podman: Podman, container: str) -> None:
    pid = podman.check("inspect", "--format", "{{.State.Pid}}", container).strip()
    assert sorted(os.listdir(f"/proc/{pid}/root/fixed")) == []
    assert Path(f"/proc/{pid}/root/bin/busybox").exists()
    entered = subprocess.run(
        ["nsenter", "-t", pid, "-m", "/bin/sh", "-c", "echo ran"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (entered.returncode, entered.stdout) != (0, "ran\n"), "a program of the guest's has run on the host"
    links = subprocess.run(["nsenter", "-t", pid, "-n", "ip", "-o", "link"], capture_output=True, text=True).stdout
    assert "lo:" in links
    assert links.count("\n") == 1


TOP = "user,group,pid,ppid,pgid,nice,comm,args,state,capeff,capbnd,seccomp"


@pytest.mark.skipif(shutil.which("crun") is None, reason="crun is not installed")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), marks=pytest.mark.long),  # the others have more columns that could differ
        pytest.param(("--user", "1234:77", "-t"), marks=pytest.mark.long),  # as the next, but for the terminal
        ("--user", "1234:77", "--init"),
    ],
)
def test_top(podman: Podman, options: tuple[str, ...]) -> None:
    """The container's processes, as crun has them for the same program."""
    command = ["box", "sh", "-c", "sleep 3600 & exec sleep 7200"]
    names = [f"{name}{len(options)}" for name in ("ours", "theirs")]
    for name, runtime in zip(names, ("", "crun"), strict=True):
        podman.check("run", "-d", "--name", name, "--network", "none", *options, *command, runtime=runtime)
    ours, theirs = (lines_of_top(podman, name, TOP) for name in names)
    assert ours == theirs
    ours, theirs = (lines_of_top(podman, name) for name in names)
    assert [line.split()[:3] for line in ours] == [line.split()[:3] for line in theirs]
    if "-t" not in options:  # its terminal is the guest's
        assert [line.split()[5] for line in ours] == [line.split()[5] for line in theirs]
    assert all(re.fullmatch(r"([0-9]+m)?[0-9.]+m?s", line.split()[4]) for line in ours[1:]), (
        "not the time since the start"
    )
    podman.check("rm", "--force", "--time", "0", *names)


def test_top_says_the_pid_on_the_host(podman: Podman, container: str) -> None:
    pid = podman.check("inspect", "--format", "{{.State.Pid}}", container).strip()
    assert lines_of_top(podman, container, "hpid,args")[1].split() == [pid, "sleep", "3600"]


def test_top_when_the_monitor_is_killed(podman: Podman) -> None:
    podman.check("run", "-d", "--name", "killed", "--network", "none", "box", "sleep", "3600")
    assert "sleep 3600" in lines_of_top(podman, "killed")[-1]
    pid = podman.check("inspect", "--format", "{{.State.Pid}}", "killed").strip()
    held = os.open(f"/proc/{pid}/root/proc", os.O_RDONLY | os.O_DIRECTORY)
    os.kill(monitor_of(podman, "killed"), signal.SIGKILL)
    looks = [sys.executable, "-c", f"import os; os.listdir({held})"]
    deadline = time.monotonic() + PATIENCE
    words = ""
    while "endpoint is not connected" not in words and time.monotonic() < deadline:
        words = subprocess.run(looks, pass_fds=(held,), capture_output=True, text=True, timeout=PATIENCE).stderr
    os.close(held)
    assert "endpoint is not connected" in words
    podman.run("rm", "--force", "--time", "0", "killed")
    podman.check("rm", "--force", "--ignore", "--time", "0", "killed")


def lines_of_top(podman: Podman, name: str, *columns: str) -> list[str]:
    """Once the program has started its child."""
    found: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while "sleep 3600" not in str(found) and time.monotonic() < deadline:
        found = podman.check("top", name, *columns).splitlines()
    return found


@pytest.mark.long  # a minute; test_kata_fresh.py and test_kata_sockets.py have pods
def test_pods(podman: Podman) -> None:
    podman.check("pod", "create", "--name", "p", "--network", "none")
    podman.check("run", "-d", "--pod", "p", "--name", "b", "box", "sh", "-c", "echo in shm >/tmp/x; sleep 3600")
    podman.check("run", "-d", "--pod", "p", "--name", "s", "box", "nc", "-l", "-p", "77", "-e", "echo", "over loopback")
    assert monitor_of(podman, "b") == monitor_of(podman, "s")
    script = "hostname; cat /tmp/x; until nc 127.0.0.1 77; do sleep 0.1; done"
    assert podman.check("exec", "b", "sh", "-c", script) == "p\nin shm\nover loopback\n"
    podman.check("pod", "stop", "--time", "1", "p")
    podman.check("pod", "start", "p")
    assert podman.check("exec", "b", "cat", "/tmp/x") == "in shm\n"
    podman.check("pod", "rm", "--force", "--time", "0", "p")
    assert others(podman) == set()


KUBE = """
apiVersion: v1
kind: Pod
metadata: {name: k}
spec:
  restartPolicy: Never
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - {name: one, image: localhost/box, command: [sh, -c, "echo one >/s/one; sleep 3600"],
     volumeMounts: [{name: shared, mountPath: /s}]}
  - {name: two, image: localhost/box, command: [sh, -c, "until cat /s/one; do sleep 0.1; done; sleep 3600"],
     volumeMounts: [{name: shared, mountPath: /s}]}
"""


@pytest.mark.long  # a pod, as above, and a volume that containers share; `make conformance` plays one, too
def test_kube_play(podman: Podman) -> None:
    podman.check("kube", "play", "--network", "none", "-", text=KUBE)
    podman.check("exec", "k-two", "sh", "-c", "until test -e /s/one; do sleep 0.1; done")
    assert podman.check("exec", "k-two", "cat", "/s/one") == "one\n"
    podman.check("kube", "down", "-", text=KUBE)
    assert others(podman) == set()
