"""Pods of containerd's CRI plugin with our shim, whatever kind of guest their machines have, see
:mod:`tests.guest.containerd_cases`."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from pyvmm_kata.pod import pool_client
from tests.guest.containerd_cases import BIN, RUNTIME, Cases
from tests.kata import containerd_checks as checks
from tests.kata import cri
from tests.kata.containerd import Containerd, need


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
    for text in ("changed\n", "changed again\n"):
        (part / "file").write_text(text)
        assert pod.exec("main", "cat", "/etc/one") == (text, 0), "a probe sees what was written before"
    assert pod.exec("main", "sh", "-c", "echo x >/etc/one")[1] != 0


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


SERVE = ("httpd", "-f", "-p", "8080", "-h", "/srv")


def run_web(pod: cri.CriPod, work: Path, *program: str) -> None:
    """A container with a server of a volume's file."""
    (work / "site").mkdir()
    (work / "site" / "index.html").write_text("from a volume")
    site: dict[str, object] = {"container_path": "/srv", "host_path": str(work / "site"), "readonly": True}
    pod.run("web", *(program or SERVE), mounts=(site,))


class PodCases(Cases):
    """Pods.

    :cvar handler: the runtime handler of the CRI plugin
    :cvar annotations: of a pod
    :cvar pool_settings: the lines of kata.toml for a pool
    :cvar pooled: how the log says where a machine of the pool comes from
    """

    handler: ClassVar[str] = "pyvmm"
    annotations: ClassVar[dict[str, str]] = {}
    pool_settings: ClassVar[str] = 'template = "auto"\npool = 1\n'
    pooled: ClassVar[str] = "is a clone of"

    def pod_settings(self) -> str:
        """The shim's kata.toml for pods."""
        return self.settings()

    @contextmanager
    def pods(self, work: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> Iterator[Containerd]:
        """A containerd for pods, with the image.

        :param work: its folder, which is made
        :param more: lines for the shim's kata.toml
        """
        need("ip", "nsenter")
        work.mkdir()
        settings = work / "kata.toml"
        settings.write_text(self.pod_settings() + more)
        monkeypatch.setenv("PYVMM_KATA_CONFIG", str(settings))
        section = cri.section(work, self.handler, RUNTIME, "io.pyvmm.*")
        with Containerd(work, RUNTIME, BIN, section, own_network=True).running("k8s.io") as daemon:
            yield daemon

    def pod(self, client: cri.Cri, name: str, logs: Path) -> cri.CriPod:
        """A pod."""
        return cri.CriPod(client, self.handler, name, logs, privileged=True, **self.annotations)

    def check_size(self, pod: cri.CriPod) -> None:
        """Change the limits of the container "app"."""
        raise NotImplementedError

    def check_privileged(self, pod: cri.CriPod) -> None:
        """A privileged container has everything in the machine, and no device of the host."""
        pod.run("root", "sleep", "100003", privileged=True)
        assert pod.exec("root", "sh", "-c", "mount -t tmpfs x /tmp && ls /dev/kmsg && test -w /sys/kernel")[1] == 0

    def test_pod_of_the_container_runtime_interface(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        work = folder / "cri"
        with self.pods(work, monkeypatch) as daemon:
            client = cri.Cri(daemon.address, work)
            pod = self.pod(client, "p1", work)
            run_web(pod, work)
            pod.run("app", "sh", "-c", "cat /etc/resolv.conf /etc/hosts; hostname; exec sleep 100000")
            assert daemon.shim_pid(daemon.place_of_pod(pod.id)), "one shim serves the pod"
            check_network(daemon, pod)
            check_namespaces(pod)
            self.check_size(pod)
            self.check_privileged(pod)
            first = (work / "app.log").read_text()
            assert "nameserver 192.0.2.53" in first and "127.0.0.1" in first, (
                "its first program sees what is for the pod"
            )
            assert "p1" in first
            check_what_a_kubelet_mounts_and_rotates(daemon, pod, work)
            pod.stop_container("app")
            assert pod.status("app").exit_code == 137
            assert pod.status("web").state == 1, "the other goes on"
            pod.remove()
            daemon.wait_until_clean([daemon.place_of_pod(pod.id)])
            checks.check_death_of_a_pod(daemon, self.pod(client, "p2", work), work)
            client.close()

    @pytest.mark.long  # a template is made, and four machines; tests/kata has the rest
    def test_pods_have_machines_of_a_pool_until_it_is_killed(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = folder / "pool"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with self.pods(work, monkeypatch, self.pool_settings) as daemon:
            self.check_pool(daemon, work)

    def check_pool(self, daemon: Containerd, work: Path) -> None:
        """A pod gets a machine of the pool, and goes on without that; nothing is left of both."""
        command = ["nsenter", "-t", str(daemon.pid), "-m", "-n", f"{BIN}/pyvmm-poold", "--pods"]
        pool = subprocess.Popen(command)

        def figures() -> dict[str, int]:
            time.sleep(3)  # what makes a machine has the CPUs when nobody else wants them
            done = subprocess.run([*command, "--status"], capture_output=True, text=True, timeout=120, check=False)
            return json.loads(done.stdout) if done.returncode == 0 else {"ready": 0, "made": 0, "given": 0}

        try:
            client = cri.Cri(daemon.address, work)
            # Without a template, the first one boots, and a clone of the template takes its place
            most = 1 if "has booted" in self.pooled else 2
            daemon.until(lambda: figures()["ready"] == 1 and figures()["made"] >= most, "a machine is ready")
            pod = self.pod(client, "p1", work)
            shim = daemon.shim_pid(daemon.place_of_pod(pod.id))
            assert (figures()["given"], checks.parent_of(shim)) == (1, pool.pid), daemon.log()
            pool.kill()
            pool.wait()
            run_web(pod, work, "sh", "-c", "hostname; exec httpd -f -p 8080 -h /srv")
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
            pod = self.pod(client, "p2", work)
            assert f"its machine {self.pooled}" in daemon.log()
            checks.check_death_of_a_pod(daemon, pod, work)
            assert not list(Path(pool_client.PODS).glob("@*")), "a machine of the pool is left"
            client.close()
        finally:
            pool.kill()
            pool.wait()
