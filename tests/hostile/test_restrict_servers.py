"""What a program that serves others has given up, when it serves: `pyvmm serve`, `pyvmm mcp`, `pyvmm-firecracker`."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.firecracker.program import Program
from tests.kata.oci_runtime import PATIENCE
from tools import calls
from tools.where import ROOT
from vmm.processes.jail.restrict import CAPABILITIES

UNISTD = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
STARTS = {"userfaultfd", "open_by_handle_at"}
"""Calls of forbidden.h that a machine or a server of shares makes while it starts."""
GIVEN_UP = {"sys_module", "sys_rawio", "sys_boot", "sys_time", "syslog", "perfmon", "checkpoint_restore", "mac_admin"}
LAUNCH = "import sys; from {} import main; sys.exit(main(sys.argv[1:]))"


def _check(pid: int) -> None:
    """Of each thread."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        rows = (line.split(":", 1) for line in (task / "status").read_text().splitlines())
        status = {name: rest.strip() for name, rest in rows}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), task
        if os.geteuid() == 0:
            for kind in ("CapEff", "CapPrm", "CapBnd"):
                held = {name for bit, name in enumerate(CAPABILITIES) if int(status[kind], 16) >> bit & 1}
                assert not held & GIVEN_UP, (task, kind)
    if os.geteuid() == 0:
        assert os.readlink(f"/proc/{pid}/ns/ipc") != os.readlink("/proc/self/ns/ipc")


@pytest.mark.parametrize(
    ("module", "options", "ready"),
    [
        ("pyvmm_mcp.command", ["--image", "none", "--http", "127.0.0.1:0"], "http://"),
        ("pyvmm_server.command", ["--port", "0"], "running on"),
    ],
    ids=["mcp", "serve"],
)
def test_a_server_has_given_up_rights_when_it_serves(
    tmp_path: Path, module: str, options: list[str], ready: str
) -> None:
    places = ["--root", str(tmp_path / "containers")]
    if "server" in module:
        places += ["--state", str(tmp_path / "state")]
    command = [sys.executable, "-c", LAUNCH.format(module), *options, *places]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stderr
            lines: list[str] = []
            while not lines or ready not in lines[-1]:
                lines.append(process.stderr.readline())
                assert lines[-1], lines
            _check(process.pid)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def test_firecracker_has_given_up_rights_when_it_serves(tmp_path: Path) -> None:
    program = Program(tmp_path)
    try:
        program.wait_for_socket()
        assert program.request("GET", "/")[0] == 200
        _check(program.process.pid)
    finally:
        program.process.terminate()
        program.process.communicate()


CALLS = """
import ctypes, os, subprocess, sys
from vmm import restrict_server
libc = ctypes.CDLL(None, use_errno=True)
def answers():
    return [ctypes.get_errno() if libc.syscall(*map(ctypes.c_long, (int(each), -1, 0, 0, 0, 0, 0))) < 0 else 0
            for each in sys.argv[1:]]
if os.environ.get("CHILD"):
    print(*answers())
else:
    restrict_server()
    print(*answers(), flush=True)
    os.environ["CHILD"] = "1"
    subprocess.run([sys.executable, "-c", os.environ["CODE"], *sys.argv[1:]], check=True)
"""


@pytest.mark.skipif(not UNISTD.exists(), reason="no numbers of system calls")
def test_neither_a_server_nor_its_programs_make_forbidden_calls() -> None:
    rows = (line.split() for line in UNISTD.read_text().splitlines() if line.startswith("#define __NR_"))
    numbers = {name.removeprefix("__NR_"): number for _, name, number in rows}
    names = sorted(calls.names_of("calls/forbidden.h") - STARTS)
    words = [numbers[name] for name in names]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, *words],
        cwd=ROOT,
        env={**os.environ, "CODE": CALLS},
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        assert dict(zip(names, map(int, line.split()), strict=True)) == dict.fromkeys(names, errno.EPERM)
    assert done.stdout.count("\n") == 2
