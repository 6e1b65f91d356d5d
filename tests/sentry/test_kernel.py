"""The Sentry as a guest kernel: programs run in ring 3, on a CPU that QEMU emulates. No KVM is needed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from pyvmm_sentry import program
from tests.sentry.conftest import Compile
from tests.sentry.test_programs import BUSYBOX, ENDS
from tests.tiny import Console
from vmm import BootConfig, Machine, MachineConfig, MemoryConfig

QEMU = "qemu-system-x86_64"
MIB = 1 << 20

DEEDS = (
    "read_kernel",
    "write_code",
    "jump_data",
    "undefined",
    "divide",
    "breakpoint",
    "privileged",
    "single_step",
    "no_stack",
)
"""What a CPU reports in different ways."""
needs_qemu = pytest.mark.skipif(not shutil.which(QEMU), reason="QEMU is not installed")


@pytest.fixture(scope="module")
def kernel() -> Path:
    return program.kernel()


def boot(kernel: Path, initrd: str | Path, words: str, text: bytes = b"") -> bytes:
    """Boot the kernel with a program; what the serial port prints until it powers off."""
    machine = [QEMU, "-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults", "-no-reboot"]
    ports = ["-display", "none", "-serial", "stdio"]
    options = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", f"quiet -- {words}"]
    done = subprocess.run([*machine, *ports, *options], input=text, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_qemu
@pytest.mark.parametrize(
    "words",
    [
        "busybox echo hello world",
        "busybox uname -m",
        "busybox factor 1000000007",
        "busybox awk BEGIN{for(i=0;i<500;i++)s+=i/7;print(s)}",
    ],
)
def test_busybox_has_its_output(kernel: Path, words: str) -> None:
    native = subprocess.run([BUSYBOX, *words.split()[1:]], capture_output=True, check=True)
    assert boot(kernel, BUSYBOX, words) == native.stdout


@needs_qemu
def test_input_comes_from_the_serial_port(kernel: Path) -> None:
    assert boot(kernel, BUSYBOX, "busybox sort", b"two\none\n\x04") == b"one\ntwo\n"


@needs_qemu
def test_errors_are_those_of_linux(kernel: Path, compile_static: Compile) -> None:
    """The same answers as the host's, but for how much is read at once: a serial port has a byte at a time."""
    errors = compile_static("errors")
    native = subprocess.run([errors], input=b"abcdefghijklmnop", capture_output=True).stdout
    ours = boot(kernel, errors, "errors", b"abcdefghijklmnop\x04")
    rows = [re.sub(rb"(read\(0, page|readv\(0|readv has).*\n", b"", each).splitlines() for each in (native, ours)]
    assert len(rows[0]) > 180
    assert rows[1] == [*rows[0], b"sentry: the program exited with 42"]


@needs_qemu
def test_bad_programs_end_and_the_kernel_does_not(kernel: Path, compile_static: Compile) -> None:
    hostile = compile_static("hostile")
    deeds = {deed: ENDS[deed] for deed in DEEDS} | {"thirty_two": signal.SIGSEGV}
    wrong = {}
    for deed, end in deeds.items():
        output = boot(kernel, hostile, f"hostile {deed}").decode()
        if not output.endswith(f"sentry: the program was ended by signal {end:d}\n"):
            wrong[deed] = output
    assert wrong == {}


@needs_qemu
def test_a_file_that_is_no_program_is_refused(kernel: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text" * 100)
    assert boot(kernel, tmp_path / "text", "") == b"sentry: not an ELF program\n"


def boot_on_machine(kernel: Path, initrd: str | Path, cmdline: str) -> bytes:
    """The same on a machine of pyvmm's own."""
    console = Console()
    config = MachineConfig(
        BootConfig(str(kernel), str(initrd), cmdline), MemoryConfig(64 * MIB), console=console.config
    )
    try:
        with Machine(config) as machine:
            machine.start()
            assert machine.wait(60), "it does not power off"
        os.close(console.writer)
        with open(console.reader, "rb", closefd=False) as output:
            return output.read()
    finally:
        os.close(console.reader)


def test_a_machine_boots_the_core(kernel: Path, tmp_path: Path) -> None:
    """As far as a KVM that has no ring 3 can: the core refuses a file."""
    (tmp_path / "text").write_text("text" * 100)
    assert boot_on_machine(kernel, tmp_path / "text", "") == b"sentry: not an ELF program\n"
