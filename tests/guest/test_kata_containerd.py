"""Debian's containerd with our shim: containers and pods in virtual machines."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_kata.errors import VmmError
from pyvmm_kata.pod import pool_client
from pyvmm_kata.pod.agent_client import AgentClient
from pyvmm_kata.shim.bootstrap import ROOT, Place
from tests.command import of_threads
from tests.guest.kata_tools import children, comm, kill_all, make_rootfs
from tests.guest.shared import tool
from tests.kata import containerd_checks as checks
from tests.kata import cri
from tests.kata.containerd import IMAGE, Containerd, need
from tools import guest as recipes

BIN = str(Path(sys.executable).parent)
RUNTIME = "io.containerd.pyvmm.v2"
CYCLES = int(os.environ.get("PYVMM_TEST_CYCLES", "1"))
KILLS = int(os.environ.get("PYVMM_TEST_KILLS", "4"))
LONGEST_RUN = 12.0
"""Seconds; `ctr run -d` takes about so long in the lab."""
PROGRAMS = checks.Programs(
    hello=("echo", "hello"), exit_7=("sh", "-c", "exit 7"), sleep=("sleep", "100000"), cat=("cat",)
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """On tmpfs, with a short name; the settings' file for the shim is in it."""
    need("containerd", "ctr")
    with tempfile.TemporaryDirectory(prefix="ctd") as name:
        settings = Path(name) / "kata.toml"
        settings.write_text(
            f'kernel = "{recipes.kernel()}"\nimage = "{recipes.kata_image()}"\nmemory = "192M"\nannotations = true\n'
        )
        os.environ["PYVMM_KATA_CONFIG"] = str(settings)
        try:
            yield Path(name)
        finally:
            del os.environ["PYVMM_KATA_CONFIG"]


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[Containerd]:
    with Containerd(folder, RUNTIME, BIN).running() as made:
        yield made


def test_run(daemon: Containerd) -> None:
    checks.check_run(daemon, PROGRAMS)


def test_stdin(daemon: Containerd) -> None:
    checks.check_stdin(daemon, PROGRAMS)


def test_terminal(daemon: Containerd) -> None:
    ctr = ["ctr", "-a", daemon.address, "run", "--rm", "-t", "--runtime", RUNTIME, IMAGE, "t1"]
    # ctr tells the size once the program runs
    size = 'for i in $(seq 300); do s=$(stty size 2>/dev/null); [ "$s" ] && break; sleep 0.1; done; echo $s'
    program = ["sh", "-c", f"tty; {size}; exit 5"]
    with_terminal = f"stty rows 33 cols 77; exec {shlex.join([*ctr, *program])}"
    done = subprocess.run(["script", "-qec", with_terminal, "/dev/null"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 5, done.stdout + daemon.log()
    # script says that its own input has ended by a NUL, which the terminal echoes
    assert done.stdout.removeprefix("^@").split()[:3] == ["/dev/pts/0", "33", "77"]
    daemon.wait_until_clean([daemon.place("t1")])


def test_detached(daemon: Containerd) -> None:
    checks.check_detached(daemon, PROGRAMS)


def test_out_of_memory(daemon: Containerd) -> None:
    hog = "exec dd if=/dev/zero of=/dev/null bs=100M"
    done = daemon.ctr(
        "run", "--rm", "--memory-limit", str(32 << 20), "--runtime", RUNTIME, IMAGE, "o1", "sh", "-c", hog, check=False
    )
    assert done.returncode == 137, done.stderr + daemon.log()
    daemon.wait_until_clean([daemon.place("o1")])


def test_a_root_on_a_disk(daemon: Containerd, folder: Path) -> None:
    disk = folder / "root.ext4"
    tool("mke2fs", "-q", "-t", "ext4", "-d", str(make_rootfs(folder / "rootfs")), str(disk), "16M")
    flags = ["run", "--rm", "--rootfs", "--env", "PATH=/bin", "--runtime", RUNTIME, str(disk), "d1"]
    done = daemon.ctr(*flags, "sh", "-c", "echo kept >/root/file; grep ' / ' /proc/mounts")
    assert " / ext4 rw," in done.stdout, done.stderr
    daemon.wait_until_clean([daemon.place("d1")])
    tool("e2fsck", "-fn", str(disk))
    assert tool("debugfs", "-R", "cat /root/file", str(disk)).endswith("kept\n")


@pytest.mark.long
def test_a_checkpoint(daemon: Containerd, tmp_path: Path) -> None:
    """`ctr containers checkpoint` of a running container, which goes on; and copies of it that are restored from the
    image: with its memory, and with the files that it wrote into its layer."""
    word = "read word </proc/sys/kernel/random/uuid; echo $word >/kept; echo $word >/data/first"
    script = f"{word}; until [ -e /data/go ]; do sleep 0.1; done; (echo $word; cat /kept) >/data/after; exit 5"
    volume = f"type=bind,src={tmp_path},dst=/data,options=rbind:rw"
    daemon.run("k1", "sh", "-c", script, flags=("-d", "--mount", volume))
    first = tmp_path / "first"
    daemon.until(lambda: first.exists() and first.read_text(), "the program runs")
    word = first.read_text()
    daemon.ctr("containers", "checkpoint", "--rw", "--image", "--task", "k1", "example.com/saved:1")
    assert daemon.status("k1") == "RUNNING"
    daemon.remove("k1")
    (tmp_path / "go").touch()
    for name in ("k2", "k3"):
        daemon.ctr("containers", "restore", "--rw", "--live", name, "example.com/saved:1")
        daemon.until(lambda name=name: daemon.status(name) == "STOPPED", "it goes on, to its end")
        assert (tmp_path / "after").read_text() == word * 2
        (tmp_path / "after").unlink()
        assert "exit code 5" in daemon.ctr("task", "rm", name).stderr
        daemon.ctr("container", "rm", name)
    daemon.ctr("image", "rm", "example.com/saved:1")
    daemon.wait_until_clean([daemon.place(name) for name in ("k1", "k2", "k3")])


def test_other_ids(daemon: Containerd) -> None:
    """`ctr run --uidmap`: a user namespace, on a snapshot that belongs to its ids."""
    flags = ["--rm", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--runtime", RUNTIME]
    done = daemon.ctr(
        "run", *flags, IMAGE, "u1", "sh", "-c", "id -u; cat /proc/self/uid_map; touch /x && stat -c %u /x"
    )
    assert done.stdout.split() == ["0", "0", "100000", "65536", "0"]
    daemon.wait_until_clean([daemon.place("u1")])


def test_everything_that_is_the_guests(daemon: Containerd) -> None:
    """`ctr run --privileged` names all devices of the host."""
    script = "mount -t tmpfs x /tmp && ls /dev/kmsg; ls /dev | grep -c kvm"
    done = daemon.ctr("run", "--rm", "--privileged", "--runtime", RUNTIME, IMAGE, "p1", "sh", "-c", script, check=False)
    assert done.stdout.split() == ["/dev/kmsg", "0"], done.stderr
    daemon.wait_until_clean([daemon.place("p1")])


BRIDGE = {
    "cniVersion": "1.0.0",
    "name": "ctr",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pyvmmbr1",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.9.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
    ],
}


def test_a_network_that_comes_after_the_machine(daemon: Containerd) -> None:
    """`ctr run --cni` fills the network namespace of the pid between create and start."""
    need("ip")
    Path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    Path("/etc/cni/net.d/10-ctr.conflist").write_text(json.dumps(BRIDGE))
    Path("/opt/cni").mkdir(parents=True, exist_ok=True)
    if not Path("/opt/cni/bin").exists():
        Path("/opt/cni/bin").symlink_to("/usr/lib/cni")
    before = tool("ip", "-o", "addr")
    script = "ip -o -4 addr; ping -c 1 -W 20 10.88.9.1 >/dev/null && echo reached"
    done = daemon.ctr("run", "--rm", "--cni", "--runtime", RUNTIME, IMAGE, "n1", "sh", "-c", script, check=False)
    assert " eth0    inet 10.88.9." in done.stdout, done.stdout + done.stderr + daemon.log()
    assert done.stdout.endswith("reached\n")
    daemon.wait_until_clean([daemon.place("n1")])
    ours = [line for line in tool("ip", "-o", "addr").splitlines() if "pyvmmbr1" not in line and "veth" not in line]
    assert ours == before.splitlines(), "the host's own network has changed"
    done = daemon.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, "n2", "ip", "-o", "link")
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == ["lo"]
    daemon.wait_until_clean([daemon.place("n2")])


def test_the_processes_of_a_pid(daemon: Containerd) -> None:
    """What `nerdctl top` and whoever else joins the mount namespace of the pid find in /proc."""
    daemon.run("p1", "sleep", "3600", flags=["-d"])
    (pid,) = [line.split()[1] for line in daemon.ctr("task", "ls").stdout.splitlines() if line.startswith("p1 ")]
    proc = Path(f"/proc/{pid}/root/proc")
    assert sorted(os.listdir(proc)) == ["1", "stat", "uptime"]
    assert (proc / "1/cmdline").read_bytes() == b"sleep\0" + b"3600\0"
    assert (proc / "1/stat").read_text().startswith("1 (sleep) S 0 1 1 ")
    daemon.remove("p1")
    daemon.wait_until_clean([daemon.place("p1")])


def test_restart_of_containerd(daemon: Containerd) -> None:
    checks.check_restart_of_containerd(daemon, PROGRAMS)


def test_death_of_the_shim(daemon: Containerd) -> None:
    checks.check_death_of_the_shim(daemon, PROGRAMS)


def kill_server(daemon: Containerd, place: Place) -> None:
    """kill -9 of the process that serves the share of a container."""
    below = " ".join(of_threads("children", daemon.shim_pid(place)).values()).split()
    machines = [int(pid) for pid in below if comm(int(pid)) == "pyvmm-machine"]
    kill_all([server for pid in machines for server in children(pid)])


def end_guest(daemon: Containerd, place: Place) -> None:
    """Have the agent end itself, and the guest with it, behind the shim's back."""
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError, VmmError):
        sock.settimeout(60)
        sock.connect(f"{place.sandbox}/vm")
        sock.sendall(b"CONNECT 1024\n")
        if sock.recv(64).startswith(b"OK"):
            sock.settimeout(None)
            agent = AgentClient(sock.dup(), place.group)
            try:
                agent.destroy_sandbox()
            finally:
                agent.close()


@pytest.mark.long  # a minute; those of the commands alone are in test_kata_oci.py
@pytest.mark.parametrize("first", range(0, KILLS, 4))
def test_deaths_at_random(daemon: Containerd, first: int) -> None:
    victims = [checks.kill_shim, end_guest, checks.kill_containerd, kill_server]
    checks.check_deaths_at_random(
        daemon, PROGRAMS, rounds=range(first, first + 4), longest=LONGEST_RUN, victims=victims
    )


@pytest.mark.parametrize("number", range(CYCLES))
def test_cycles(daemon: Containerd, number: int) -> None:
    checks.check_cycle(daemon, PROGRAMS, f"c{number}")
    assert os.listdir(ROOT) == []


def check_what_a_kubelet_mounts_and_rotates(daemon: Containerd, pod: cri.CriPod, folder: Path) -> None:
    """An init container, which ends before the others start; subPaths of a volume, a folder's and a file's;
    terminationMessagePath; and a log that is rotated."""
    part, said = folder / "volume" / "part", folder / "said"
    part.mkdir(parents=True)
    said.touch()
    work: dict[str, object] = {"container_path": "/work", "host_path": str(part)}
    message: dict[str, object] = {"container_path": "/dev/termination-log", "host_path": str(said)}
    pod.run("init", "sh", "-c", "echo made >/work/file; echo why >/dev/termination-log", mounts=(work, message))
    daemon.until(lambda: pod.status("init").state == checks.EXITED, "the init container ends")
    assert (pod.status("init").exit_code, said.read_text(), (part / "file").read_text()) == (0, "why\n", "made\n")
    one: dict[str, object] = {"container_path": "/etc/one", "host_path": str(part / "file"), "readonly": True}
    pod.run("main", "sh", "-c", "while :; do cat /etc/one; sleep 0.2; done", mounts=(one,))
    log = folder / "main.log"
    daemon.until(lambda: "made" in log.read_text(), "it reads the file")
    log.rename(folder / "main.log.1")
    pod.reopen_log("main")
    daemon.until(lambda: log.exists() and "made" in log.read_text(), "its log goes on in a new file")
    assert pod.exec("main", "sh", "-c", "echo x >/etc/one")[1] != 0


def check_that_a_pod_grows(pod: cri.CriPod) -> None:
    """As kubelet has it grow in place: with a container's limits, and back with its CPUs."""

    def machine() -> tuple[int, int]:
        """CPUs; MiB of memory."""
        cpus, kib = pod.exec("app", "sh", "-c", "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo")[0].split()
        return int(cpus), int(kib) >> 10

    cpus, memory = machine()
    assert cpus == 1
    pod.update("app", cpu_quota=150_000, cpu_period=100_000, memory_limit_in_bytes=300 << 20)
    assert machine()[0] == 2 and machine()[1] >= memory + 64
    pod.update("app", cpu_quota=50_000, cpu_period=100_000)
    assert machine()[0] == 1
    limits = pod.exec("app", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max")
    assert limits == (f"50000 100000\n{300 << 20}\n", 0)
    pod.update("app", cpu_quota=-1, cpu_period=100_000)


def check_network(daemon: Containerd, pod: cri.CriPod) -> None:
    """One for both containers, and the host reaches it."""
    fetch = ["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]
    daemon.until(lambda: pod.exec("app", *fetch) == ("from a volume", 0), lambda: pod.exec("app", *fetch))
    url = f"http://{pod.address}:8080/"
    command = ["nsenter", "-t", str(daemon.pid), "-n", "busybox", "wget", "-q", "-O", "-", url]
    assert subprocess.run(command, capture_output=True, text=True, timeout=120).stdout == "from a volume"


def check_namespaces(pod: cri.CriPod) -> None:
    """Each container has processes of its own, unless it is to see those of the pod; names and memory are shared."""
    assert "httpd" not in pod.exec("app", "ps")[0]
    pod.run("first", "sleep", "100001", pid=cri.POD)
    pod.run("second", "sleep", "100002", pid=cri.POD)
    assert "sleep 100001" in pod.exec("second", "ps", "ax")[0]
    assert "httpd" not in pod.exec("second", "ps", "ax")[0]
    same = ("sh", "-c", "readlink /proc/self/ns/ipc /proc/self/ns/uts")
    assert pod.exec("app", *same) == pod.exec("web", *same)
    assert pod.exec("app", "sh", "-c", "echo shared >/dev/shm/file") == ("", 0)
    assert pod.exec("web", "cat", "/dev/shm/file") == ("shared\n", 0)
    assert pod.exec("app", "sh", "-c", "exit 9")[1] == 9


def test_pod_of_the_container_runtime_interface(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("ip", "nsenter")
    (folder / "cri").mkdir()
    settings = folder / "cri" / "kata.toml"
    settings.write_text(f'{(folder / "kata.toml").read_text()}more_memory = "128M"\nmore_cpus = 1\n')
    monkeypatch.setenv("PYVMM_KATA_CONFIG", str(settings))
    daemon = Containerd(folder / "cri", RUNTIME, BIN, cri.section(folder / "cri", "pyvmm", RUNTIME), own_network=True)
    try:
        daemon.start()
        daemon.import_image("k8s.io")
        client = cri.Cri(daemon.address, folder)
        pod = cri.CriPod(client, "pyvmm", "p1", folder, privileged=True)
        (folder / "site").mkdir()
        (folder / "site" / "index.html").write_text("from a volume")
        site = {"container_path": "/srv", "host_path": str(folder / "site"), "readonly": True}
        pod.run("web", "httpd", "-f", "-p", "8080", "-h", "/srv", mounts=(site,))
        pod.run("app", "sh", "-c", "cat /etc/resolv.conf /etc/hosts; hostname; exec sleep 100000")
        assert daemon.shim_pid(daemon.place_of_pod(pod.id)), "one shim serves the pod"
        check_network(daemon, pod)
        check_namespaces(pod)
        check_that_a_pod_grows(pod)

        # All that is the machine's, and nothing of the host's devices.
        pod.run("root", "sleep", "100003", privileged=True)
        assert pod.exec("root", "sh", "-c", "mount -t tmpfs x /tmp && ls /dev/kmsg && test -w /sys/kernel")[1] == 0
        first = (folder / "app.log").read_text()
        assert "nameserver 192.0.2.53" in first and "127.0.0.1" in first, "its first program sees what is for the pod"
        assert "p1" in first

        check_what_a_kubelet_mounts_and_rotates(daemon, pod, folder)

        pod.stop_container("app")
        assert pod.status("app").exit_code == 137
        assert pod.status("web").state == 1, "the other goes on"
        pod.remove()
        daemon.wait_until_clean([daemon.place_of_pod(pod.id)])
        checks.check_death_of_a_pod(daemon, cri.CriPod(client, "pyvmm", "p2", folder), folder / "cri")
        client.close()
    finally:
        daemon.stop()


@pytest.mark.long  # a template is made, and four machines; tests/kata has the rest
def test_pods_have_machines_of_a_pool_until_it_is_killed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("ip", "nsenter")
    work = folder / "pool"
    work.mkdir()
    settings = tmp_path / "kata.toml"
    settings.write_text(f'{(folder / "kata.toml").read_text()}template = "auto"\npool = 1\n')
    monkeypatch.setenv("PYVMM_KATA_CONFIG", str(settings))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    daemon = Containerd(work, RUNTIME, BIN, cri.section(work, "pyvmm", RUNTIME), own_network=True)
    daemon.start()
    command = ["nsenter", "-t", str(daemon.pid), "-m", "-n", f"{BIN}/pyvmm-poold", "--pods"]
    pool = subprocess.Popen(command)

    def figures() -> dict[str, int]:
        time.sleep(3)  # what makes a machine has the CPUs when nobody else wants them
        done = subprocess.run([*command, "--status"], capture_output=True, text=True, timeout=120, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"ready": 0, "made": 0, "given": 0}

    try:
        daemon.import_image("k8s.io")
        client = cri.Cri(daemon.address, work)
        # The first one boots, and a template is made; a clone of that takes its place
        daemon.until(lambda: figures()["ready"] == 1 and figures()["made"] > 1, "a machine is ready")
        pod = cri.CriPod(client, "pyvmm", "p1", work)
        shim = daemon.shim_pid(daemon.place_of_pod(pod.id))
        assert (figures()["given"], checks.parent_of(shim)) == (1, pool.pid), daemon.log()
        pool.kill()
        pool.wait()
        (work / "site").mkdir()
        (work / "site" / "index.html").write_text("from a volume")
        site: dict[str, object] = {"container_path": "/srv", "host_path": str(work / "site"), "readonly": True}
        pod.run("web", "sh", "-c", "hostname; exec httpd -f -p 8080 -h /srv", mounts=(site,))
        fetch = ["busybox", "wget", "-q", "-O", "-", f"http://{pod.address}:8080/"]
        fetch = ["nsenter", "-t", str(daemon.pid), "-n", *fetch]
        daemon.until(
            lambda: subprocess.run(fetch, capture_output=True, text=True, timeout=120).stdout == "from a volume",
            "the pod's network leads into its guest",
        )
        assert pod.exec("web", "sh", "-c", "cat /srv/index.html; exit 9") == ("from a volume", 9)
        assert (work / "web.log").read_text().endswith("p1\n")
        pod.remove()
        daemon.wait_until_clean([daemon.place_of_pod(pod.id)])
        pod = cri.CriPod(client, "pyvmm", "p2", work)
        assert "its machine is a clone of" in daemon.log()
        checks.check_death_of_a_pod(daemon, pod, work)
        assert not list(Path(pool_client.PODS).glob("@*")), "a machine of the pool is left"
        client.close()
    finally:
        pool.kill()
        pool.wait()
        daemon.stop()
