"""The list of system calls of ``pyvmm-fsd``, tried by a process that has installed it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.native.programs import NATIVE, SRC

FORBIDDEN = {
    "open by the old call": (2,),
    "socket": (41, 1, 1, 0),
    "connect": (42,),
    "fork": (57,),
    "vfork": (58,),
    "execve": (59,),
    "kill": (62, 1, 0),
    "ptrace": (101,),
    "mount": (165,),
    "pivot_root": (155,),
    "chroot": (161,),
    "setns": (308,),
    "process_vm_writev": (311,),
    "bpf": (321,),
    "userfaultfd": (323,),
    "io_uring_setup": (425,),
    "pidfd_getfd": (438, 0, 0, 0),
    "pidfd_send_signal": (424, 0, 9, 0),
    "memory that is code": (9, 0, 4096, 4),
    "memory that becomes code": (10, 0, 4096, 4),
    "a namespace": (272, 0x20000),
    "a process by clone": (56, 17),
    "another personality": (135,),
    "any prctl": (157, 4, 1),
    "the x32 calls": (0x4000_0000,),
}
ALLOWED = {
    "getpid": (39,),
    "openat2 (a bad address)": (437, -1, 0, 0),
    "getdents64 of no file": (217, -1),
    "memory": (9, 0, 4096, 3),
    "a thread's own file system": (272, 0x200),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    target = tmp_path_factory.mktemp("seccomp") / "forbidden"
    sources = [str(SRC / "forbidden.c"), str(NATIVE / "fsd/fsd_seccomp.c")]
    subprocess.run([compiler, "-std=gnu11", f"-I{NATIVE}", "-o", str(target), *sources], check=True)
    return target


@pytest.mark.parametrize("call", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_is_not_on_the_list_ends_the_process(program: Path, call: tuple[int, ...]) -> None:
    assert subprocess.run([program, *map(str, call)]).returncode == -signal.SIGSYS


@pytest.mark.parametrize("call", ALLOWED.values(), ids=ALLOWED)
def test_what_is_on_the_list_is_done(program: Path, call: tuple[int, ...]) -> None:
    assert subprocess.run([program, *map(str, call)]).returncode == 0


def test_new_threads_are_asked_for_the_way_that_can_be_checked(program: Path) -> None:
    """clone3() has its flags in memory: it is said not to exist."""
    assert subprocess.run([program, "435", "0", "0"]).returncode == 0
