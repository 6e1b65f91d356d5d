"""Containers and pods of podman's and of CRI, again and again: nothing is lost, and nothing is left.

PYVMM_TEST_CYCLES, PYVMM_TEST_KILLS and PYVMM_TEST_RUNS say how often, PYVMM_TEST_PODS how many pods a node has.  Pods
have the checkout's shim, which starts from no image, or the one in the folder PYVMM_TEST_PROGRAMS, and its caches in
a tmpfs, in the lab, or in PYVMM_TEST_CACHE.  As they are these tests take six minutes: `make test-long-guest` runs
them; test_kata_oci.py and test_kata_containerd.py have a turn of theirs with the other tests.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.guest.kata_podman import Podman
from tests.guest.kata_tools import PATIENCE, VICTIMS, Oci, eventually, kill_all, leftovers, members, words
from tests.kata import cri
from tests.kata.containerd import Containerd, need
from tools import guest as recipes

pytestmark = pytest.mark.long
CYCLES = int(os.environ.get("PYVMM_TEST_CYCLES", "1"))
KILLS = int(os.environ.get("PYVMM_TEST_KILLS", "4"))
PROGRAMS = os.environ.get("PYVMM_TEST_PROGRAMS", str(Path(sys.executable).parent))
PODS = int(os.environ.get("PYVMM_TEST_PODS", "5"))
"""At once.  50 are for a host of 16 GiB."""
RUNS = int(os.environ.get("PYVMM_TEST_RUNS", "6"))
AT_ONCE, AT_ONCE_S = (4, 5) if RUNS < 100 else (20, 60)
"""Processes that run containers for so many seconds."""
LONGEST = {"create": 3.0, "start": 10.0, "run": 12.0, "exec": 6.0, "rm": 6.0}
"""Seconds; commands of podman take about so long in the lab."""
QUIET: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


@pytest.fixture(autouse=True)
def as_long_as_it_takes() -> None:
    """A test has as many steps as it is told, and each has a patience of its own: pytest's ends the run."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    made = Podman(tmp_path_factory.mktemp("cycles"))
    yield made
    made.close()


def nothing_left(podman: Podman) -> bool:
    """Of containers; podman's storage is a mount."""
    left = [each for each in leftovers(podman.folder) if "pyvmm" in each or f"{podman.folder}/state" in each]
    return not left and podman.check("ps", "--all", "--quiet") == ""


@pytest.mark.parametrize("number", range(CYCLES))
def test_cycles_of_podman(podman: Podman, tmp_path: Path, number: int) -> None:
    script = "cat; echo to stderr >&2; cat /data/in; echo kept >/data/out; exit 3"
    (tmp_path / "in").write_text(f"given {number}\n")
    options = ["-i", "--rm", "--network", "none", "-v", f"{tmp_path}:/data"]
    done = podman.run("run", *options, "box", "sh", "-c", script, text=f"typed {number}\n")
    assert (done.returncode, done.stdout) == (3, f"typed {number}\ngiven {number}\n"), done.stderr
    assert done.stderr == "to stderr\n"
    assert (tmp_path / "out").read_text() == "kept\n"
    eventually(lambda: nothing_left(podman), "something is left")


@pytest.mark.parametrize("number", range(CYCLES))
def test_cycles_of_pods_of_podman(podman: Podman, number: int) -> None:
    pod, served = f"p{number}", f"served {number}"
    podman.check("pod", "create", "--name", pod, "--network", "none")
    podman.check("run", "-d", "--pod", pod, "--name", f"s{number}", "box", "nc", "-l", "-p", "77", "-e", "echo", served)
    fetch = "until nc 127.0.0.1 77; do sleep 0.1; done; hostname"
    assert podman.check("run", "--rm", "--pod", pod, "box", "sh", "-c", fetch) == f"{served}\n{pod}\n"
    podman.check("pod", "rm", "--force", "--time", "0", pod)
    eventually(lambda: nothing_left(podman), "something is left")


@pytest.mark.parametrize("number", range(KILLS))
def test_deaths_at_random_of_podman(podman: Podman, number: int) -> None:
    """kill -9 of podman, conmon, the monitor, the face or the share's server at some time of each command: `rm --force`
    clears what is left."""
    chance = random.Random(number)
    name, operation = f"k{number}", list(LONGEST)[number % len(LONGEST)]
    make = ("--name", name, "--network", "none", "box", "sleep", "600")
    if operation == "start":
        podman.check("create", *make)
    elif operation in ("exec", "rm"):
        podman.check("run", "-d", *make)
    arguments = {
        "create": ("create", *make),
        "start": ("start", name),
        "run": ("run", "-d", *make),
        "exec": ("exec", name, "sleep", "2"),
        "rm": ("rm", "--force", "--time", "0", name),
    }[operation]
    running = subprocess.Popen(podman.command(*arguments), **QUIET)
    delay, victim = chance.uniform(0, LONGEST[operation]), chance.choice((*VICTIMS, "conmon"))
    time.sleep(delay)  # the time is the test's subject
    pids = {"command": [running.pid], "conmon": conmons(podman), **members(podman.folder / "state")}[victim]
    print(f"{name}: {operation}: {victim} {pids} after {delay:.2f} s")
    kill_all(pids)
    running.wait(PATIENCE)
    # With any runtime podman says once, of a container that lost its conmon, that it could not be stopped
    podman.run("rm", "--force", "--ignore", "--time", "0", name)
    podman.check("rm", "--force", "--ignore", "--time", "0", name)
    eventually(lambda: nothing_left(podman), f"something is left of {name}")


def conmons(podman: Podman) -> list[int]:
    """Those of its containers; there may be none yet."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    lines = {pid: words(pid) for pid in pids}
    return [
        pid
        for pid, line in lines.items()
        if line[0].endswith(b"conmon") and os.fsencode(podman.folder) in b" ".join(line)
    ]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Containerd]:
    need("containerd", "ctr", "ip", "nsenter")
    with tempfile.TemporaryDirectory(prefix="cyc") as name:
        folder = Path(name)
        settings = folder / "kata.toml"
        lines = (f'kernel = "{recipes.kernel()}"', f'image = "{recipes.kata_image()}"', 'memory = "192M"')
        settings.write_text("\n".join((*lines, 'template = "auto"', "")))
        os.environ["PYVMM_KATA_CONFIG"] = str(settings)
        os.environ["XDG_CACHE_HOME"] = os.environ.get("PYVMM_TEST_CACHE", str(folder / "cache"))
        runtime = "io.containerd.pyvmm.v2"
        section = cri.section(folder, "pyvmm", runtime)
        made = Containerd(folder, runtime, PROGRAMS, section, own_network=True)
        try:
            made.start()
            made.import_image("k8s.io")
            yield made
        finally:
            made.stop()
            del os.environ["PYVMM_KATA_CONFIG"], os.environ["XDG_CACHE_HOME"]


@pytest.mark.parametrize("number", range(CYCLES))
def test_cycles_of_pods_of_the_container_runtime_interface(daemon: Containerd, tmp_path: Path, number: int) -> None:
    client = cri.Cri(daemon.address, tmp_path)
    try:
        pod = cri.CriPod(client, "pyvmm", f"p{number}", tmp_path)
        mount: dict[str, object] = {"container_path": "/data", "host_path": str(tmp_path)}
        pod.run("one", "sh", "-c", f"echo kept {number} >/data/out; exec sleep 100000", mounts=(mount,))
        pod.run("two", "sh", "-c", "exit 7")
        assert pod.exec("one", "sh", "-c", "cat /data/out; hostname; exit 5") == (f"kept {number}\np{number}\n", 5)
        daemon.until(lambda: pod.status("two").exit_code == 7, lambda: str(pod.status("two")))
        place = daemon.place_of_pod(pod.id)
        pod.remove()
        daemon.wait_until_clean([place])
        assert (tmp_path / "out").read_text() == f"kept {number}\n"
    finally:
        client.close()


def runtimes(oci: Oci) -> dict[str, list[str]]:
    """Ours, and runc where it is installed."""
    found = {"pyvmm-oci": oci.command()}
    if (runc := shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin")) is not None:
        found["runc"] = [runc, "--root", str(oci.folder / "runc")]
    return found


def run_one(command: list[str], bundle: str, name: str) -> None:
    """`run` of a container that is removed when it ends."""
    done = subprocess.run([*command, "run", "--bundle", bundle, name], **{**QUIET, "stderr": -1}, timeout=PATIENCE)
    assert done.returncode == 7, f"{name}: {done.returncode} {done.stderr!r}"


@pytest.fixture
def oci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Oci]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Oci(tmp_path)
    with made.settings.open("a") as settings:
        settings.write('template = "auto"\n')
    made.check("template", "build")
    yield made
    made.close()


def test_many_runs_in_a_row(oci: Oci) -> None:
    bundle = oci.bundle("exit 7")
    for runtime, command in runtimes(oci).items():
        began = time.monotonic()
        for number in range(RUNS):
            run_one(command, bundle, f"r{number}")
        took = time.monotonic() - began
        print(f"{runtime}: {RUNS} runs in {took:.1f} s, {RUNS / took:.2f} a second", flush=True)
        eventually(lambda: not leftovers(oci.folder), "something is left")


def test_many_runs_at_once(oci: Oci) -> None:
    bundle = oci.bundle("exit 7")
    run_one(oci.command(), bundle, "first")
    for runtime, command in runtimes(oci).items():
        began = time.monotonic()

        def runs(number: int, command: list[str] = command, until: float = began + AT_ONCE_S) -> int:
            count = 0
            while time.monotonic() < until:
                run_one(command, bundle, f"a{number}-{count}")
                count += 1
            return count

        with ThreadPoolExecutor(AT_ONCE) as threads:
            total = sum(threads.map(runs, range(AT_ONCE)))
        took = time.monotonic() - began
        print(f"{runtime}: {AT_ONCE} at once, {total} runs in {took:.1f} s, {total / took:.2f} a second", flush=True)
        eventually(lambda: not leftovers(oci.folder), "something is left")


def available() -> float:
    """MiB that the host has left."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 1024


def test_a_node_full_of_pods(daemon: Containerd, tmp_path: Path) -> None:
    """Half of them start, containerd is killed, and the others start; each runs what is asked of it and writes to its
    own volume; containerd is killed again while they are removed."""
    client = cri.Cri(daemon.address, tmp_path)
    pods: list[cri.CriPod] = []

    def restart() -> cri.Cri:
        client.close()
        daemon.kill()
        daemon.start()
        again = cri.Cri(daemon.address, tmp_path)
        eventually(again.is_ready, "containerd's CRI does not answer")
        for pod in pods:
            pod.use(again)
        return again

    def clones() -> int:
        return (daemon.folder / "log").read_text(errors="replace").count("its machine is a clone of")

    began, whole, before = time.monotonic(), available(), clones()
    templates = Path(os.environ["XDG_CACHE_HOME"]) / "pyvmm" / "templates"
    try:
        for number in range(PODS):
            if number == PODS // 2:
                client = restart()
            data = tmp_path / f"n{number}"
            data.mkdir()
            pods.append(pod := cri.CriPod(client, "pyvmm", f"n{number}", data))
            mount: dict[str, object] = {"container_path": "/data", "host_path": str(data)}
            pod.run("one", "sh", "-c", f"echo kept {number} >/data/out; exec sleep 100000", mounts=(mount,))
            used = whole - available()
            print(f"pods {number + 1}: {time.monotonic() - began:.1f} s, {used:.0f} MiB of MemAvailable", flush=True)
            daemon.until(lambda: any(templates.glob("?" * 32)), "there is no template")
        daemon.until(lambda: clones() - before >= PODS - 1, lambda: f"{clones() - before} machines are clones")
        began = time.monotonic()
        for number, pod in enumerate(pods):
            assert pod.exec("one", "sh", "-c", "cat /data/out; hostname") == (f"kept {number}\nn{number}\n", 0)
        print(f"exec in each: {time.monotonic() - began:.1f} s", flush=True)
        assert len({pod.address for pod in pods}) == PODS
        places = [daemon.place_of_pod(pod.id) for pod in pods]
        began = time.monotonic()
        for number, pod in enumerate(list(pods)):
            if number == PODS // 2:
                client = restart()
            pod.remove()
        print(f"all removed: {time.monotonic() - began:.1f} s", flush=True)
        daemon.wait_until_clean(places)
        print(f"{whole - available():.0f} MiB less than before", flush=True)
        for number in range(PODS):
            assert (tmp_path / f"n{number}" / "out").read_text() == f"kept {number}\n"
    finally:
        client.close()
