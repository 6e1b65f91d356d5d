"""Debian's containerd with our shim, whose guests are the Sentry in a machine: tests of Linux guests that hold there.

docs/reference/sentry-containers.md has those that do not, with reasons.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import test_kata_containerd as linux
from tests.kata import containerd_checks as checks
from tests.kata import cri
from tests.kata.containerd import IMAGE, Containerd, need

HANDLER, ANNOTATION = "pyvmm-sentry", "io.pyvmm.isolation"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """On tmpfs, with a short name."""
    need("containerd", "ctr")
    with tempfile.TemporaryDirectory(prefix="ctd") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def settings(folder: Path) -> Iterator[Path]:
    """The shim's, by default with the Sentry."""
    path = folder / "kata.toml"
    path.write_text('guest = "sentry"\nmemory = "192M"\nannotations = ["isolation"]\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYVMM_KATA_CONFIG", str(path))
        yield path


@pytest.fixture(scope="module")
def daemon(folder: Path, settings: Path) -> Iterator[Containerd]:
    with Containerd(folder, linux.RUNTIME, linux.BIN).running() as made:
        yield made


test_run = linux.test_run
test_stdin = linux.test_stdin
test_detached = linux.test_detached
test_the_processes_of_a_pid = linux.test_the_processes_of_a_pid


def test_what_it_cannot_do_is_refused(daemon: Containerd) -> None:
    run = ["run", "--rm", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536", "--runtime", linux.RUNTIME]
    done = daemon.ctr(*run, IMAGE, "u1", "true", check=False)
    assert done.returncode != 0
    assert "a Sentry has no user namespace" in done.stderr
    daemon.wait_until_clean([daemon.place("u1")])


def test_pod_of_the_container_runtime_interface(folder: Path, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a runtime handler whose pods may choose, and this one chooses the Sentry by its annotation: the settings name
    no kernel of Linux."""
    need("ip", "nsenter")
    work = folder / "cri"
    work.mkdir()
    own = work / "kata.toml"
    own.write_text(settings.read_text().replace('guest = "sentry"\n', ""))
    monkeypatch.setenv("PYVMM_KATA_CONFIG", str(own))
    section = cri.section(work, HANDLER, linux.RUNTIME, "io.pyvmm.*")
    daemon = Containerd(work, linux.RUNTIME, linux.BIN, section, own_network=True)
    try:
        daemon.start()
        daemon.import_image("k8s.io")
        client = cri.Cri(daemon.address, work)
        pod = cri.CriPod(client, HANDLER, "p1", work, privileged=False, **{ANNOTATION: "sentry"})
        (work / "site").mkdir()
        (work / "site" / "index.html").write_text("from a volume")
        site: dict[str, object] = {"container_path": "/srv", "host_path": str(work / "site"), "readonly": True}
        pod.run("web", "httpd", "-f", "-p", "8080", "-h", "/srv", mounts=(site,))
        pod.run("app", "sh", "-c", "cat /etc/resolv.conf /etc/hosts; hostname; exec sleep 100000")
        assert daemon.shim_pid(daemon.place_of_pod(pod.id)), "one shim serves the pod"
        linux.check_network(daemon, pod)
        linux.check_namespaces(pod)
        first = (work / "app.log").read_text()
        assert "nameserver 192.0.2.53" in first and "127.0.0.1" in first and "p1" in first
        linux.check_what_a_kubelet_mounts_and_rotates(daemon, pod, work)
        pod.update("app", cpu_quota=50_000, cpu_period=100_000, memory_limit_in_bytes=100 << 20)
        limits = pod.exec("app", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max")
        assert limits == (f"50000 100000\n{100 << 20}\n", 0)
        pod.stop_container("app")
        assert pod.status("app").exit_code == 137
        assert pod.status("web").state == 1, "the other goes on"
        pod.remove()
        daemon.wait_until_clean([daemon.place_of_pod(pod.id)])
        pod = cri.CriPod(client, HANDLER, "p2", work, privileged=False, **{ANNOTATION: "sentry"})
        checks.check_death_of_a_pod(daemon, pod, work)
        client.close()
    finally:
        daemon.stop()
