"""Debian's containerd with our shim and a guest that is none: all of the host's side in seconds, without KVM."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata import containerd_checks as checks
from tests.kata import cri
from tests.kata.containerd import Containerd, need
from tests.kata.fake_guest import RUNTIME, write_shim

PROGRAMS = checks.Programs(hello=("print", "hello\n"), exit_7=("exit", "7"), sleep=("sleep",), cat=("cat",))


@pytest.fixture(scope="module")
def daemon() -> Iterator[Containerd]:
    need("containerd", "ctr")
    with tempfile.TemporaryDirectory(prefix="ctd") as name:
        folder = Path(name)
        write_shim(folder)
        made = Containerd(folder, RUNTIME, name)
        try:
            made.start()
            made.import_image()
            yield made
        finally:
            made.stop()


def test_run(daemon: Containerd) -> None:
    checks.check_run(daemon, PROGRAMS)


def test_stdin(daemon: Containerd) -> None:
    checks.check_stdin(daemon, PROGRAMS)


def test_detached(daemon: Containerd) -> None:
    checks.check_detached(daemon, PROGRAMS)


def test_restart_of_containerd(daemon: Containerd) -> None:
    checks.check_restart_of_containerd(daemon, PROGRAMS)


def test_death_of_the_shim(daemon: Containerd) -> None:
    checks.check_death_of_the_shim(daemon, PROGRAMS)


def test_deaths_at_random(daemon: Containerd) -> None:
    checks.check_deaths_at_random(daemon, PROGRAMS, rounds=range(12), longest=0.6)


def test_pod_of_the_container_runtime_interface() -> None:
    need("containerd", "ctr", "ip", "nsenter")
    with tempfile.TemporaryDirectory(prefix="cri") as name:
        folder = Path(name)
        write_shim(folder)
        daemon = Containerd(folder, RUNTIME, name, cri.section(folder, "vm", RUNTIME), own_network=True)
        try:
            daemon.start()
            daemon.import_image("k8s.io")
            client = cri.Cri(daemon.address, folder)
            pod = cri.CriPod(client, "vm", "p1", folder)
            pod.run("one", "sleep")
            pod.run("two", "print", "hello")
            assert pod.address.startswith("10.88.7.")
            assert daemon.shim_pid(daemon.place_of_pod(pod.id)), "the shim of the pod serves its containers"
            assert not any(os.path.exists(daemon.place(each, "k8s.io").folder) for each in pod.containers.values())
            assert pod.exec("one", "print", "by exec") == ("by exec", 0)
            daemon.until(lambda: pod.status("two").state == 2, "the second container ends")
            assert pod.status("two").exit_code == 0
            assert "hello" in (folder / "two.log").read_text()
            pod.stop_container("one")
            assert pod.status("one").exit_code == 137
            pod.remove()
            daemon.wait_until_clean([daemon.place_of_pod(pod.id)])
            pod = cri.CriPod(client, "vm", "p2", folder)
            pod.run("one", "sleep")
            checks.check_death_of_a_pod(daemon, pod, folder)
            client.close()
        finally:
            daemon.stop()
