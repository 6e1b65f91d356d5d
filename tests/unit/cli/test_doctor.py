"""``pyvmm doctor``: the verdict on this machine's KVM, and on trees of /proc and /sys of other machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.where import ROOT
from vmm.cli import doctor
from vmm.cli.main import main
from vmm.kvm import System
from vmm.kvm.probe import EMULATED, NATIVE, Probe, probe

HARDWARE = doctor.cpu_virtualization()
needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")


def tree(root: Path, **files: str) -> str:
    """A folder with *files*; ``__`` in a name is a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return str(root)


@needs_kvm
def test_kvm_is_usable_where_the_cpu_runs_the_guest() -> None:
    """On a machine whose CPU shows VMX or SVM KVM is usable; where it shows none, what KVM does is emulation."""
    verdict = doctor.kvm_verdict()
    assert verdict.usable == bool(HARDWARE)
    assert verdict.cause == ("ok" if HARDWARE else "pvm")
    assert bool(verdict.hint) != verdict.usable, "what to do is said when there is something to do"


@needs_kvm
def test_the_kernels_count_and_the_clock_agree() -> None:
    with System() as system:
        found = probe(system)
    assert found.result == (NATIVE if HARDWARE else EMULATED)
    if found.emulated >= 0:
        assert (found.emulated >= found.instructions // 2) == (found.result == EMULATED)
    assert found.nanoseconds > 0


def test_a_machine_without_kvm(tmp_path: Path) -> None:
    verdict = doctor.kvm_verdict(str(tmp_path / "kvm"))
    assert (verdict.status, verdict.cause) == ("absent", "absent")
    assert ("modprobe" in verdict.hint) == bool(HARDWARE)


def test_a_node_that_is_no_kvm() -> None:
    assert doctor.kvm_verdict("/dev/null").status == "unusable"


@needs_kvm
@pytest.mark.skipif(bool(HARDWARE), reason="this KVM does not emulate")
def test_an_emulating_kvm_is_tried_once_in_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = tmp_path / "pyvmm" / "kvm-verdict"
    tries = []

    def tried(system: System) -> Probe:
        tries.append(1)
        return probe(system)

    monkeypatch.setattr("vmm.kvm.probe.probe", tried)

    def verdict() -> str:
        return doctor.kvm_verdict(remembered=True).cause

    assert doctor.kvm_verdict().cause == "pvm"
    assert not entry.exists(), "doctor tries"
    assert (verdict(), verdict(), len(tries)) == ("pvm", "pvm", 2)
    assert entry.stat().st_mode & 0o777 == 0o600
    text = entry.read_text()
    for broken in ("", text.replace("/dev/kvm", "/dev/KVM"), text[1:]):
        entry.write_text(broken)
        assert verdict() == "pvm"
    assert len(tries) == 5, "not the entry of this device and this boot"
    entry.chmod(0o666)
    verdict()
    assert len(tries) == 6, "anybody could have written it"
    verdict()
    assert len(tries) == 6


@needs_kvm
def test_a_kvm_that_works_is_tried_once_in_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = [doctor.KvmVerdict("broken", "broken", ""), doctor.KvmVerdict("usable", "ok", "a guest has run")]
    monkeypatch.setattr(doctor, "_tried", lambda path: found.pop(0))
    said = [doctor.kvm_verdict(remembered=True) for _ in range(4)]
    assert [(each.status, each.cause) for each in said] == [("broken", "broken"), *[("usable", "ok")] * 3]
    assert said[3].detail == "a guest has run" and not found


@pytest.mark.filterwarnings("ignore:.*multi-threaded")  # KVM's own worker, on its way out
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without permission")
def test_a_kvm_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    node = tmp_path / "kvm"
    node.write_bytes(b"")
    node.chmod(0o600)
    pid = os.fork()
    if not pid:
        status = 99
        try:
            os.setresuid(65534, 65534, 65534)
            verdict = doctor.kvm_verdict(str(node))
            status = 0 if (verdict.status, verdict.cause) == ("unusable", "permission") and verdict.hint else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("files", "present", "detail"),
    [
        ({"sys__module__kvm_intel__parameters__ept": "Y"}, True, "EPT"),
        ({"sys__module__kvm_amd__parameters__npt": "1"}, True, "NPT"),
        ({"sys__module__kvm_intel__parameters__ept": "N"}, False, "EPT is off"),
        ({}, False, "neither"),
    ],
)
def test_second_level_paging(tmp_path: Path, files: dict[str, str], present: bool, detail: str) -> None:
    found = doctor.second_level_paging(tree(tmp_path, **files))
    assert found.present == present
    assert detail in found.detail


@pytest.mark.parametrize(("total", "free", "present"), [("0", "0", False), ("8", "0", False), ("8", "8", True)])
def test_reserved_huge_pages(tmp_path: Path, total: str, free: str, present: bool) -> None:
    base = "sys__kernel__mm__hugepages__hugepages-2048kB__"
    found = doctor.reserved_huge_pages(tree(tmp_path, **{base + "nr_hugepages": total, base + "free_hugepages": free}))
    assert found.present == present
    assert bool(found.hint) != present
    assert not doctor.reserved_huge_pages(str(tmp_path / "none")).present


@pytest.mark.parametrize("mode", ["always", "madvise", "never"])
def test_transparent_huge_pages(tmp_path: Path, mode: str) -> None:
    text = "always madvise never".replace(mode, f"[{mode}]")
    root = tree(tmp_path, sys__kernel__mm__transparent_hugepage__enabled=text)
    assert doctor.transparent_huge_pages(root).present == (mode != "never")


@pytest.mark.parametrize(
    ("spectre", "present", "detail"),
    [("Mitigation: Retpolines", True, "nothing of 2 kinds"), ("Vulnerable; no microcode", False, "open: spectre_v2")],
)
def test_mitigations(tmp_path: Path, spectre: str, present: bool, detail: str) -> None:
    folder = "sys__devices__system__cpu__vulnerabilities__"
    found = doctor.mitigations(tree(tmp_path, **{f"{folder}mds": "Not affected"} | {folder + "spectre_v2": spectre}))
    assert found.present == present and detail in found.detail and bool(found.hint) != present
    assert not doctor.mitigations(str(tmp_path / "none")).present


@pytest.mark.parametrize(("active", "present"), [("1", False), ("0", True), (None, True)])
def test_smt(tmp_path: Path, active: str | None, present: bool) -> None:
    files = {} if active is None else {"sys__devices__system__cpu__smt__active": active}
    assert doctor.no_smt(tree(tmp_path, **files)).present == present


@pytest.mark.parametrize(("run", "present"), [("1", False), ("0", True), ("2", True), (None, True)])
def test_merged_memory(tmp_path: Path, run: str | None, present: bool) -> None:
    files = {} if run is None else {"sys__kernel__mm__ksm__run": run}
    assert doctor.no_ksm(tree(tmp_path, **files)).present == present


def test_memory_on_demand() -> None:
    found = doctor.memory_on_demand()
    if os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        assert found.present
    assert found.present == (not found.hint)


def test_a_device_that_is_there_and_one_that_is_not(tmp_path: Path) -> None:
    assert doctor.device("null", "/dev/null", "none").present
    missing = doctor.device("gone", str(tmp_path / "gone"), "a_module")
    assert not missing.present
    assert "modprobe a_module" in missing.hint


@pytest.mark.parametrize(
    ("flags", "kind"), [("fpu vmx", "vmx"), ("fpu svm", "svm"), ("fpu hypervisor", ""), (None, "")]
)
def test_what_the_cpu_shows(tmp_path: Path, flags: str | None, kind: str) -> None:
    root = tree(tmp_path, **({} if flags is None else {"proc__cpuinfo": f"processor\t: 0\nflags\t\t: {flags}"}))
    assert doctor.cpu_virtualization(root) == kind


def test_the_exit_status_is_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"usable": 0, "unusable": 1, "absent": 2}
    status = main(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert status == expected[answer["kvm"]["status"]]
    assert set(answer["capabilities"]["io_uring"]) == {"present", "detail", "hint"}
    assert main(["doctor", "--quiet"]) == status
    assert capsys.readouterr().out == ""


def test_the_text_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("KVM is ")
    assert any("do:" in line for line in lines) or status == 0
    assert lines[-1].startswith("next: ") and "pyvmm" in lines[-1]


STEPS = "from vmm.cli.doctor import next_steps; print(*next_steps(True), *next_steps(False), sep='\\n')"


def test_what_to_do_next_depends_on_what_is_installed(tmp_path: Path) -> None:
    def steps(*paths: Path) -> str:
        code = f"import sys; sys.path += {list(map(str, paths))}; {STEPS}"
        # No packages but these, as an installation without others
        done = subprocess.run(
            [sys.executable, "-IS", "-c", f"import sys; sys.path.append({str(ROOT)!r}); {code}"],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    assert "--kernel FILE" in steps() and "dist pyvmm-guest" in steps() and "./examples/sentry" in steps()
    for name in ("guest", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "guest" / "pyvmm_guest.py").write_text("def kernel():\n    return __file__\n")
    info = tmp_path / "run" / "a-1.dist-info"
    info.mkdir()
    text = "[pyvmm.commands]\nrun = a_module\n[pyvmm.doctor]\nsentry = another\n"
    (info / "entry_points.txt").write_text(text)
    found = steps(tmp_path / "guest", tmp_path / "run")
    assert "pyvmm boot --rootfs" in found and "pyvmm run IMAGE" in found and "pyvmm-runsc do" in found
    assert "pip install" not in found


def test_help_tells_the_exit_statuses() -> None:
    text = subprocess.run(
        [sys.executable, "-c", "from vmm.cli.doctor import parser; parser().print_help()"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "KVM is there but not usable" in text
