"""What containerd does with our shim, whatever kind of guest its machines have: each kind inherits these cases.

A case that a kind cannot pass is a method that it overrides, with what happens instead.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyvmm_kata.errors import VmmError
from pyvmm_kata.pod.agent_client import AgentClient
from pyvmm_kata.shim.bootstrap import ROOT, Place
from tests.command import of_threads
from tests.guest.kata_tools import children, comm, kill_all, make_rootfs
from tests.guest.shared import tool
from tests.kata import containerd_checks as checks
from tests.kata.containerd import IMAGE, Containerd, need

BIN = str(Path(sys.executable).parent)
RUNTIME = "io.containerd.pyvmm.v2"
CYCLES = int(os.environ.get("PYVMM_TEST_CYCLES", "1"))
KILLS = int(os.environ.get("PYVMM_TEST_KILLS", "4"))
LONGEST_RUN = 12.0
"""Seconds; `ctr run -d` takes about so long in the lab."""
PROGRAMS = checks.Programs(
    hello=("echo", "hello"), exit_7=("sh", "-c", "exit 7"), sleep=("sleep", "100000"), cat=("cat",)
)
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
GATEWAY = "10.88.9.1"


@contextlib.contextmanager
def site(folder: Path) -> Iterator[int]:
    """Serve the files of a folder; the port."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("0.0.0.0", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def kill_server(daemon: Containerd, place: Place) -> None:
    """kill -9 of the process that serves the share of a container."""
    below = " ".join(of_threads("children", daemon.shim_pid(place)).values()).split()
    machines = [int(pid) for pid in below if comm(int(pid)) == "pyvmm-machine"]
    kill_all([server for pid in machines for server in children(pid)])


def end_guest(daemon: Containerd, place: Place) -> None:
    """End the agent, and with it the guest, by a call that the shim did not make."""
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


class Cases:
    """What the cases of a kind of guest have in common."""

    def settings(self) -> str:
        """The shim's kata.toml."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def folder(self) -> Iterator[Path]:
        """On tmpfs, with a short name; the settings' file for the shim is in it."""
        need("containerd", "ctr")
        with tempfile.TemporaryDirectory(prefix="ctd") as name, pytest.MonkeyPatch.context() as patch:
            settings = Path(name) / "kata.toml"
            settings.write_text(self.settings())
            patch.setenv("PYVMM_KATA_CONFIG", str(settings))
            yield Path(name)


class ContainerCases(Cases):
    """Containers of `ctr`."""

    @pytest.fixture(scope="class")
    def daemon(self, folder: Path) -> Iterator[Containerd]:
        """With the image."""
        with Containerd(folder, RUNTIME, BIN).running() as made:
            yield made

    def test_run(self, daemon: Containerd) -> None:
        checks.check_run(daemon, PROGRAMS)

    @pytest.mark.long  # half a minute; pods and podman have standard input
    def test_stdin(self, daemon: Containerd) -> None:
        checks.check_stdin(daemon, PROGRAMS)

    def test_terminal(self, daemon: Containerd) -> None:
        ctr = ["ctr", "-a", daemon.address, "run", "--rm", "-t", "--runtime", RUNTIME, IMAGE, "t1"]
        # ctr tells the size once the program runs
        size = 'for i in $(seq 300); do s=$(stty size 2>/dev/null); [ "$s" ] && break; sleep 0.1; done; echo $s'
        program = ["sh", "-c", f"tty; {size}; exit 5"]
        with_terminal = f"stty rows 33 cols 77; exec {shlex.join([*ctr, *program])}"
        script = ["script", "-qec", with_terminal, "/dev/null"]
        done = subprocess.run(script, capture_output=True, text=True, timeout=180)
        assert done.returncode == 5, done.stdout + daemon.log()
        # script sends a NUL at the end of its own input, and the terminal echoes it
        assert done.stdout.removeprefix("^@").split()[:3] == ["/dev/pts/0", "33", "77"]
        daemon.wait_until_clean([daemon.place("t1")])

    def test_detached(self, daemon: Containerd) -> None:
        checks.check_detached(daemon, PROGRAMS)

    def test_out_of_memory(self, daemon: Containerd) -> None:
        """The status is SIGKILL's, and containerd's clients hear why."""
        hog = "exec dd if=/dev/zero of=/dev/null bs=100M"
        flags = ["run", "--rm", "--memory-limit", str(32 << 20), "--runtime", RUNTIME]
        with daemon.events() as events:
            done = daemon.ctr(*flags, IMAGE, "o1", "sh", "-c", hog, check=False)
            assert done.returncode == 137, done.stderr + daemon.log()
            daemon.until(lambda: '/tasks/delete {"container_id":"o1"' in events.read_text(), events.read_text)
        assert '/tasks/oom {"container_id":"o1"}' in events.read_text()
        daemon.wait_until_clean([daemon.place("o1")])

    @pytest.mark.long  # half a minute; test_kata_disk.py has such roots
    def test_a_root_on_a_disk(self, daemon: Containerd, folder: Path) -> None:
        disk = folder / "root.ext4"
        tool("mke2fs", "-q", "-t", "ext4", "-d", str(make_rootfs(folder / "rootfs")), str(disk), "16M")
        flags = ["run", "--rm", "--rootfs", "--env", "PATH=/bin", "--runtime", RUNTIME, str(disk), "d1"]
        done = daemon.ctr(*flags, "sh", "-c", "echo kept >/root/file; grep ' / ' /proc/mounts")
        assert " / ext4 rw," in done.stdout, done.stderr
        daemon.wait_until_clean([daemon.place("d1")])
        tool("e2fsck", "-fn", str(disk))
        assert tool("debugfs", "-R", "cat /root/file", str(disk)).endswith("kept\n")

    def test_other_ids(self, daemon: Containerd) -> None:
        """`ctr run --uidmap`: a user namespace, on a snapshot that belongs to its ids."""
        flags = ["--rm", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--runtime", RUNTIME]
        done = daemon.ctr(
            "run", *flags, IMAGE, "u1", "sh", "-c", "id -u; cat /proc/self/uid_map; touch /x && stat -c %u /x"
        )
        assert done.stdout.split() == ["0", "0", "100000", "65536", "0"]
        daemon.wait_until_clean([daemon.place("u1")])

    @pytest.mark.long
    def test_a_checkpoint(self, daemon: Containerd, tmp_path: Path) -> None:
        """`ctr containers checkpoint` of a running container, which goes on; and copies that are restored from the
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

    def test_everything_that_is_the_guests(self, daemon: Containerd) -> None:
        """`ctr run --privileged` names all devices of the host."""
        script = "mount -t tmpfs x /tmp && ls /dev/kmsg; ls /dev | grep -c kvm"
        done = daemon.ctr(
            "run", "--rm", "--privileged", "--runtime", RUNTIME, IMAGE, "p1", "sh", "-c", script, check=False
        )
        assert done.stdout.split() == ["/dev/kmsg", "0"], done.stderr
        daemon.wait_until_clean([daemon.place("p1")])

    @pytest.mark.long  # a minute; pods have networks in containerd_pod_cases.py
    def test_a_network_that_comes_after_the_machine(self, daemon: Containerd, folder: Path) -> None:
        """`ctr run --cni` fills the network namespace of the pid between create and start."""
        need("ip")
        Path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
        Path("/etc/cni/net.d/10-ctr.conflist").write_text(json.dumps(BRIDGE))
        Path("/opt/cni").mkdir(parents=True, exist_ok=True)
        if not Path("/opt/cni/bin").exists():
            Path("/opt/cni/bin").symlink_to("/usr/lib/cni")
        before = tool("ip", "-o", "addr")
        page = folder / "page"
        page.write_text("reached\n")
        with site(folder) as port:
            script = f"ip -o -4 addr; wget -q -O - http://{GATEWAY}:{port}/page"
            done = daemon.ctr(
                "run", "--rm", "--cni", "--runtime", RUNTIME, IMAGE, "n1", "sh", "-c", script, check=False
            )
        assert " eth0    inet 10.88.9." in done.stdout, done.stdout + done.stderr + daemon.log()
        assert done.stdout.endswith("reached\n")
        daemon.wait_until_clean([daemon.place("n1")])
        ours = [line for line in tool("ip", "-o", "addr").splitlines() if "pyvmmbr1" not in line and "veth" not in line]
        assert ours == before.splitlines(), "the host's own network has changed"
        done = daemon.ctr("run", "--rm", "--runtime", RUNTIME, IMAGE, "n2", "ip", "-o", "link")
        assert [line.split(": ")[1] for line in done.stdout.splitlines()] == ["lo"]
        daemon.wait_until_clean([daemon.place("n2")])

    @pytest.mark.long  # half a minute; test_kata_face.py has podman top
    def test_the_processes_of_a_pid(self, daemon: Containerd) -> None:
        """What `nerdctl top` and whoever else joins the mount namespace of the pid find in /proc."""
        daemon.run("p1", "sleep", "3600", flags=["-d"])
        (pid,) = [line.split()[1] for line in daemon.ctr("task", "ls").stdout.splitlines() if line.startswith("p1 ")]
        proc = Path(f"/proc/{pid}/root/proc")
        assert sorted(os.listdir(proc)) == ["1", "stat", "uptime"]
        assert (proc / "1/cmdline").read_bytes() == b"sleep\0" + b"3600\0"
        assert (proc / "1/stat").read_text().startswith("1 (sleep) S 0 1 1 ")
        daemon.remove("p1")
        daemon.wait_until_clean([daemon.place("p1")])

    def test_restart_of_containerd(self, daemon: Containerd) -> None:
        checks.check_restart_of_containerd(daemon, PROGRAMS)

    def test_death_of_the_shim(self, daemon: Containerd) -> None:
        checks.check_death_of_the_shim(daemon, PROGRAMS)

    @pytest.mark.long  # a minute; those of the commands alone are in test_kata_oci.py
    @pytest.mark.parametrize("first", range(0, KILLS, 4))
    def test_deaths_at_random(self, daemon: Containerd, first: int) -> None:
        victims = [checks.kill_shim, end_guest, checks.kill_containerd, kill_server]
        checks.check_deaths_at_random(
            daemon, PROGRAMS, rounds=range(first, first + 4), longest=LONGEST_RUN, victims=victims
        )

    @pytest.mark.parametrize("number", range(CYCLES))
    def test_cycles(self, daemon: Containerd, number: int) -> None:
        checks.check_cycle(daemon, PROGRAMS, f"c{number}")
        assert os.listdir(ROOT) == []
