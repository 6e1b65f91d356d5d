"""Where the machine of ``pyvmm-firecracker`` runs, as /proc shows it from outside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.firecracker.program import Program
from tests.jail_processes import status_of, threads
from vmm.processes.jail import users

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root has more to give up"),
]


def machine_of(program: Program) -> int:
    """The process with the vCPU, which the program has started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(status_of(folder)["PPid"])
        except FileNotFoundError:
            pass  # it has ended
    mine = [pid for pid, parent in parents.items() if parent == program.process.pid]
    (found,) = [pid for pid in mine if any(each["Name"] == "vcpu0" for each in threads(pid))]
    return found


def links(pid: int) -> list[str]:
    """What its descriptors are."""
    return [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]


def check(program: Program) -> None:
    """The machine can do nothing but run, and the program has nothing of the machine."""
    machine, front = machine_of(program), program.process.pid
    found = threads(machine)
    assert len(found) >= 3, "the first thread, the loop, the vCPU"
    for status in found:
        (user,) = set(status["Uid"].split())
        assert users.FIRST <= int(user) < users.FIRST + users.COUNT, status["Name"]
        assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapBnd")} == {0}, status["Name"]
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status["Name"]
    assert os.listdir(f"/proc/{machine}/root") == []
    for kind in ("mnt", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{machine}/ns/{kind}") != os.readlink(f"/proc/{front}/ns/{kind}"), kind
    kvm = ("anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0")
    assert [each for each in links(machine) if each in kvm] and not [each for each in links(front) if each in kvm]
    assert all(each["NoNewPrivs"] == "1" and each["Seccomp"] == "2" for each in threads(front))
    assert program.request("GET", "/")[1]["state"] == "Running"


def test_the_machine_is_in_a_jail(start: Callable[..., Program], tmp_path: Path) -> None:
    """One that boots with a disk and metadata, and one that is loaded."""
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    program = start()
    program.put("/boot-source", kernel_image_path=tiny.make(tmp_path, tiny.forever(tiny.say(">"))))
    program.put("/machine-config", vcpu_count=1, mem_size_mib=32)
    program.put("/drives/one", drive_id="one", path_on_host=str(tmp_path / "disk"), is_root_device=False)
    program.put("/actions", action_type="InstanceStart")
    program.read(1)
    check(program)
    program.request("PATCH", "/vm", {"state": "Paused"})
    files = {"snapshot_path": str(tmp_path / "state"), "mem_file_path": str(tmp_path / "memory")}
    program.put("/snapshot/create", **files)
    program.close()
    copy = start(name="two")
    copy.put("/snapshot/load", **files, resume_vm=True)
    copy.read(1)
    check(copy)
