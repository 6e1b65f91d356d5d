"""Debian's containerd with our shim and a guest that is none: all of the host's side in seconds, without KVM."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_kata.bundle.settings import PREFIX, VARIABLE
from tests.installed import wait_for_image
from tests.kata import containerd_checks as checks
from tests.kata import cri
from tests.kata.containerd import SEARCH, Collector, Containerd, need
from tests.kata.fake_guest import RUNTIME, Pods, write_shim
from tests.kata.oci_runtime import PROGRAM, SHIM_CLIENT, WARM

PROGRAMS = checks.Programs(hello=("print", "hello\n"), exit_7=("exit", "7"), sleep=("sleep",), cat=("cat",))


@pytest.fixture(scope="module")
def daemon() -> Iterator[Containerd]:
    need("containerd", "ctr")
    with tempfile.TemporaryDirectory(prefix="ctd") as name:
        folder = Path(name)
        write_shim(folder)
        with Containerd(folder, RUNTIME, name).running() as made:
            yield made


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


def test_the_second_shim_starts_from_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what containerd has in its environment. A program in C is first, as in the script, and starts pyvmm-warm."""
    need("containerd", "ctr")
    with tempfile.TemporaryDirectory(prefix="ctw") as name:
        folder = Path(name)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / "cache").mkdir()
        write_shim(folder)
        script = (folder / "containerd-shim-fake-v2").rename(folder / "containerd-shim-of-python")
        os.utime(script, (1, 1))  # of what has just changed no image is made
        first = folder / "containerd-shim-fake-v2"
        first.write_text(f'#!/bin/sh\nexec {SHIM_CLIENT} {WARM} {sys.executable} {script} -- "$@"\n')
        first.chmod(0o755)
        made = Containerd(folder, RUNTIME, name)
        programs = []
        try:
            made.start()
            made.import_image()
            for each in ("i1", "i2"):
                made.run(each, *PROGRAMS.sleep, flags=["-d"])
                programs.append(os.readlink(f"/proc/{made.shim_pid(made.place(each))}/exe"))
                wait_for_image(folder / "cache" / "pyvmm")
            for each in ("i1", "i2"):
                made.remove(each)
            made.wait_until_clean([made.place(each) for each in ("i1", "i2")])
        finally:
            made.stop()
        assert programs == [os.path.realpath(sys.executable), str(WARM)]


def test_a_trace_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps follow each other, in one span; who has no collector starts all the same."""
    need("containerd", "ctr")
    collector = Collector()
    settings = tmp_path / "traced.toml"
    monkeypatch.setenv(VARIABLE, str(settings))
    with tempfile.TemporaryDirectory(prefix="otl") as name:
        folder = Path(name)
        write_shim(folder)
        files = f'kernel = "{folder}/kernel"\nimage = "{folder}/image"\n'
        settings.write_text(f'{files}traces = "{collector.url}"\n')
        made = Containerd(folder, RUNTIME, name)
        try:
            made.start()
            made.import_image()
            assert made.run("t1", "print", "hello\n", flags=("--rm",)) == "hello\n"
            spans = collector.spans()
            names = ["pod start", "machine", "connected", "sandbox", "container", "started"]
            assert [span.name for span in spans] == names
            root, *steps = spans
            assert {step.parent_span_id for step in steps} == {root.span_id}
            assert [one.end_time_unix_nano for one in steps[:-1]] == [one.start_time_unix_nano for one in steps[1:]]
            assert [(one.key, one.value.string_value) for one in root.attributes] == [("container.id", "t1")]
            collector.close()
            assert made.run("t2", "print", "again\n", flags=("--rm",)) == "again\n"
            made.wait_until_clean([made.place("t1"), made.place("t2")])
        finally:
            made.stop()


def test_pod_of_the_container_runtime_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    need("containerd", "ctr", "ip", "nsenter")
    with tempfile.TemporaryDirectory(prefix="cri") as name:
        folder = Path(name)
        write_shim(folder)
        monkeypatch.setenv(VARIABLE, str(folder / "kata.toml"))
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
            metrics = [sys.executable, str(PROGRAM), "--root", str(folder / "none"), "metrics"]
            page = subprocess.run(metrics, capture_output=True, text=True, timeout=60, check=True).stdout
            assert f'pyvmm_sandbox_up{{sandbox_id="{pod.id}",kind="containerd"}} 1\n' in page
            labels = f'sandbox_id="{pod.id}",container_id="{pod.containers["one"]}"'
            assert f"pyvmm_container_processes{{{labels}}} " in page
            daemon.until(lambda: pod.status("two").state == 2, "the second container ends")
            assert pod.status("two").exit_code == 0
            assert "hello" in (folder / "two.log").read_text()
            pod.stop_container("one")
            assert pod.status("one").exit_code == 137
            pod.remove()
            daemon.wait_until_clean([daemon.place_of_pod(pod.id)])
            pods = Pods(folder, ("nsenter", "-t", str(daemon.pid), "-m", "-n"))
            try:
                pods.wait_until_full()
                pod = cri.CriPod(client, "vm", "p2", folder)
                pod.run("one", "sleep")
                assert pods.figures()["given"] == 1
                assert checks.parent_of(daemon.shim_pid(daemon.place_of_pod(pod.id))) == pods.process.pid, daemon.log()
            finally:
                pods.kill()
            assert pod.exec("one", "print", "by exec") == ("by exec", 0)
            pod.run("two", "sleep", pid=cri.POD)
            checks.check_death_of_a_pod(daemon, pod, folder)
            assert not pods.left
            client.close()
        finally:
            daemon.stop()


# -- the configuration that the guide tells people to use ------------------------------------------------------------


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "kata" / "kubernetes"
CRI = "io.containerd.grpc.v1.cri"


def test_containerd_understands_its_configuration() -> None:
    need("containerd")
    command = ["containerd", "-c", str(FOLDER / "containerd.toml"), "config", "dump"]
    dumped = subprocess.run(command, env={"PATH": SEARCH}, capture_output=True, text=True, check=True).stdout
    section = tomllib.loads(dumped)["plugins"][CRI]["containerd"]
    types = {name: runtime["runtime_type"] for name, runtime in section["runtimes"].items()}
    assert section["default_runtime_name"] == "runc"
    assert types == {
        "runc": "io.containerd.runc.v2",
        "pyvmm": "io.containerd.pyvmm.v2",
        "runsc": "io.containerd.runsc.v1",
    }


def test_pods_may_choose_their_size_and_nothing_else() -> None:
    section = tomllib.loads((FOLDER / "containerd.toml").read_text())["plugins"][CRI]["containerd"]
    allowed = section["runtimes"]["pyvmm"]["pod_annotations"]
    assert sorted(allowed) == [f"{PREFIX}default_memory", f"{PREFIX}default_vcpus"]


def test_classes_name_runtimes_that_are_configured() -> None:
    runtimes = tomllib.loads((FOLDER / "containerd.toml").read_text())["plugins"][CRI]["containerd"]["runtimes"]
    classes = (FOLDER / "runtimeclasses.yaml").read_text()
    handlers = {line.split()[1] for line in classes.splitlines() if line.startswith("handler:")}
    names = {line.split()[1] for line in classes.splitlines() if line.startswith("  name:")}
    used = {
        line.split()[1]
        for line in (FOLDER / "mixed.yaml").read_text().splitlines()
        if line.startswith("  runtimeClassName:")
    }
    assert handlers <= set(runtimes)
    assert used <= names
