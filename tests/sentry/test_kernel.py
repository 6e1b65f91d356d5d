"""The Sentry as a guest kernel: programs run in ring 3, on a CPU that QEMU emulates. No KVM is needed."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pyvmm_sentry import archive, program
from pyvmm_sentry.boot import Output, Start
from tests.sentry import small_root
from tests.sentry.conftest import Compile
from tests.sentry.test_cpus import STORMS
from tests.sentry.test_programs import BUSYBOX, ENDS
from tests.tiny import Console
from tools.where import PYVMM
from vmm import BootConfig, ConsoleConfig, Machine, MachineConfig, MemoryConfig, ShareConfig

HERE = Path(__file__).parent
REAL = ("shell.sh", "threads.py", "files.py")
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
READS = re.compile(r"^(.*read\(0, page|.*readv\(0|.*readv has).*\n", re.MULTILINE)
"""Lines about how much is read at once: a serial port has a byte at a time."""
needs_qemu = pytest.mark.skipif(not shutil.which(QEMU), reason="QEMU is not installed")


@pytest.fixture(scope="module")
def kernel() -> Path:
    return program.kernel()


def boot(kernel: Path, initrd: str | Path, words: str, text: bytes = b"", *, memory: int = 64, cpus: int = 1) -> bytes:
    """Boot the kernel with a program; what the serial port prints until it powers off."""
    machine = [QEMU, "-M", "pc", "-accel", "tcg,thread=multi", "-smp", f"{cpus}", "-cpu", "max"]
    ports = ["-m", f"{memory}", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]
    options = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", f"quiet -- {words}"]
    done = subprocess.run([*machine, *ports, *options], input=text, capture_output=True, timeout=300)
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


def end(console: bytes) -> int | None:
    """The status in what came from the console of a machine with a start record; prints the program's output."""
    output = Output()
    os.write(output.writer, console)
    output.close()
    assert not output.kernel
    return output.status


@needs_qemu
@pytest.mark.parametrize(
    "script", ["printf '%s\\n' \"$WORD\" \"\" '$1' >&2; exit 137", "kill -9 $$", "cat | od -c | tail -n 3"]
)
def test_arguments_environment_and_streams_pass_through_a_start_record(
    kernel: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], script: str
) -> None:
    words, environment = [BUSYBOX, "sh", "-c", script, ""], {"WORD": "two  words\n\x01", "PATH": "/bin"}
    native = subprocess.run(words, input=b"text\x10\x04", env=environment, capture_output=True)
    (tmp_path / "record").write_bytes(Start(BUSYBOX, words, environment).record())
    status = end(boot(kernel, tmp_path / "record", "", b"text\x10\x50\x10\x44\x04"))
    assert (status, *capfd.readouterr()) == (native.returncode, native.stdout.decode(), native.stderr.decode())


PROGRAMS = (
    "breakpoints",
    "errors",
    "events",
    "files",
    "inet",
    "memory",
    "pipes",
    "processes",
    "seccomp",
    "sockets",
    "threads",
    "tracers",
    "vdso",
    "watches",
)


@needs_qemu
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_does_what_it_does_on_linux(
    kernel: Path, tmp_path: Path, compile_static: Compile, folder: str, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Processes, threads, signals, memory and files of the same programs as on the other platforms."""
    compiled = str(compile_static(name))
    words = [compiled, *([] if name in ("errors", "memory", "processes", "threads", "vdso") else [folder])]
    text = b"abcdefghijklmnop"
    native = subprocess.run(words, input=text, capture_output=True)
    (tmp_path / "record").write_bytes(Start(compiled, words, {}).record())
    status = end(boot(kernel, tmp_path / "record", "", text + b"\x04", memory=256))
    rows = [READS.sub("", each).splitlines() for each in (native.stdout.decode(), capfd.readouterr().out)]
    assert len(rows[0]) > 10
    assert rows[1] == rows[0]
    assert status == native.returncode


@needs_qemu
def test_work_is_cpu_time_wherever_calls_are(
    kernel: Path, tmp_path: Path, compile_static: Compile, capfd: pytest.CaptureFixture[str]
) -> None:
    compiled = str(compile_static("cpu_time"))
    (tmp_path / "record").write_bytes(Start(compiled, [compiled], {}).record())
    assert end(boot(kernel, tmp_path / "record", "", memory=256)) == 0
    assert capfd.readouterr().out.count(": 1\n") == 3


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with the host's shells and Python."""
    folder = tmp_path_factory.mktemp("debian")
    root = small_root.make(folder / "root")
    for name in REAL:
        shutil.copy(HERE / "real" / name, root / "tmp")
    with open(folder / "archive", "wb") as out:
        archive.pack(root, out)
    shutil.rmtree(root)
    return folder / "archive"


@needs_qemu
@pytest.mark.parametrize("name", REAL)
def test_dynamic_programs_of_a_root_in_memory_behave_as_on_linux(
    kernel: Path, debian: Path, tmp_path: Path, folder: str, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """The host's bash and python3, from an archive behind the start record."""
    interpreter = small_root.PYTHON if name.endswith(".py") else "/bin/bash"
    script = f"mkdir -p {folder}/work && cd {folder}/work && exec {interpreter} "
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": folder, "TMPDIR": folder}
    command = ["/bin/sh", "-c", f"{script} {HERE}/real/{name}"]
    native = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, capture_output=True)
    start = Start("/bin/sh", ["/bin/sh", "-c", f"{script} /tmp/{name}"], environment, root="/")
    (tmp_path / "initrd").write_bytes(start.record() + debian.read_bytes())
    status = end(boot(kernel, tmp_path / "initrd", "", memory=768))
    printed = capfd.readouterr().out.replace(f"/tmp/{name}", f"{HERE}/real/{name}")
    assert (status, printed) == (native.returncode, native.stdout.decode())


@needs_qemu
def test_input_comes_from_the_serial_port(kernel: Path) -> None:
    assert boot(kernel, BUSYBOX, "busybox sort", b"two\none\n\x04") == b"one\ntwo\n"


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


@needs_qemu
@pytest.mark.parametrize("storm", STORMS)
def test_two_cpus_survive_storms(kernel: Path, compile_static: Compile, storm: str) -> None:
    """Of wake-ups, signals, forks and changes of memory that the other CPU uses."""
    done = boot(kernel, compile_static("storms"), f"storms {storm} 1", memory=256, cpus=2)
    assert done == f"{storm}\n".encode()


@needs_qemu
def test_input_that_no_program_reads_does_not_keep_a_cpu_in_the_core(kernel: Path) -> None:
    count = "i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); done"
    words = f'busybox sh -c "{count}; busybox sleep 0.3; echo counted; busybox cat"'  # the sleep makes both CPUs idle
    assert boot(kernel, BUSYBOX, words, b"hello\n\x04", cpus=2) == b"counted\nhello\n"


@needs_qemu
def test_a_cpu_that_waits_for_a_device_stays_in_the_core(kernel: Path) -> None:
    """Programs on two CPUs get random numbers of a device, for which the core waits in the middle of a system call."""
    script = "for i in 1 2 3 4; do busybox dd if=/dev/urandom bs=4096 count=40 2>&- | busybox wc -c & done; wait"
    machine = microvm("-smp", "2", "-device", "virtio-rng-device", "-serial", "stdio", cpu="max,-rdrand")
    words = ["-kernel", str(kernel), "-initrd", BUSYBOX, "-append", f'quiet -- busybox sh -c "{script}"']
    done = subprocess.run([*machine, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert done.stdout == b"163840\n" * 4


@needs_qemu
def test_programs_see_the_cpus_of_the_machine(kernel: Path) -> None:
    assert boot(kernel, BUSYBOX, "busybox nproc", cpus=3) == b"3\n"


def run_on_machine(
    kernel: Path, initrd: str | Path | None, cmdline: str, *, root: Path | None = None, device: str = "serial"
) -> tuple[bytes, str]:
    """The same on a machine of pyvmm's own; what it prints, and how it ends.

    :param root: a directory for the root, in which the program is then
    :param device: that of the console
    """
    console = Console()
    config = MachineConfig(
        BootConfig(str(kernel), None if initrd is None else str(initrd), cmdline),
        MemoryConfig(64 * MIB),
        console=ConsoleConfig("fd", console.writer, device=device),
        shares=() if root is None else (ShareConfig(str(root), cache="always", locks="guest"),),
    )
    try:
        with Machine(config) as machine:
            end = machine.run(60)
            assert end, "it does not power off"
        os.close(console.writer)
        with open(console.reader, "rb", closefd=False) as output:
            return output.read(), end.kind
    finally:
        os.close(console.reader)


def boot_on_machine(kernel: Path, initrd: str | Path, cmdline: str) -> bytes:
    """What a machine that powers off prints."""
    output, end = run_on_machine(kernel, initrd, cmdline)
    assert end == "poweroff", output
    return output


def test_a_machine_boots_the_core(kernel: Path, tmp_path: Path) -> None:
    """As far as a KVM that has no ring 3 can: the core refuses a file."""
    (tmp_path / "text").write_text("text" * 100)
    assert boot_on_machine(kernel, tmp_path / "text", "") == b"sentry: not an ELF program\n"


def test_a_machine_reads_the_program_from_a_shared_directory(kernel: Path, tmp_path: Path) -> None:
    """As far as the same goes: what is no program, and what is not there."""
    (tmp_path / "text").write_text("text" * 100)
    for name, why in (("/text", b"not an ELF program"), ("/absent", b"not found in the root")):
        assert run_on_machine(kernel, None, f"-- {name}", root=tmp_path) == (b"sentry: " + why + b"\n", "poweroff")
    assert b"neither a program" in run_on_machine(kernel, None, "-- /text")[0]


@pytest.mark.parametrize(
    ("words", "why"),
    [(["/a text"], b"not an ELF program"), (["/a", "text"], b"not found in the root"), ([], b"not found in the root")],
)
def test_the_command_that_boots_kernels_passes_the_words_of_a_program(
    kernel: Path, tmp_path: Path, words: list[str], why: bytes
) -> None:
    (tmp_path / "a text").write_text("text" * 100)
    command = [PYVMM, "boot", "--kernel", str(kernel), "--share", f"{tmp_path},ro", "--cmdline", "quiet", "--", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.stdout == b"sentry: " + why + b"\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("null", rb"exception 0+e error 0+2\n"),
        ("write-code", rb"exception 0+e error 0+3\n"),
        ("write-code-alias", rb"exception 0+e error 0+3\n"),
        ("run-data", rb"exception 0+e error 0+11\n"),
        ("run-data-alias", rb"exception 0+e error 0+11\n"),
        ("stack", rb"panic: a stack has overflowed\n"),
    ],
)
def test_a_fault_of_the_core_ends_the_machine_as_a_panic(kernel: Path, tmp_path: Path, fault: str, what: bytes) -> None:
    """Also one that W^X stops: the kernel writes no code, and executes no data, at neither of their addresses."""
    (tmp_path / "text").write_text("text" * 100)
    output, end = run_on_machine(kernel, tmp_path / "text", f"sentry.crash={fault}")
    assert end == "panic"
    assert re.search(what, output)
    assert re.search(rb"called from( ffffffff80[0-9a-f]{6})+\n", output)
    if fault != "stack":
        assert len(set(re.findall(rb"\b(r[a-z0-9]+) +[0-9a-f]{16}", output))) == 17, "not every register"


@needs_qemu
def test_the_calendar_is_the_hosts(kernel: Path) -> None:
    assert abs(int(boot(kernel, BUSYBOX, "busybox date +%s")) - time.time()) < 1000


def microvm(*devices: str, acpi: str = "on", cpu: str = "max") -> list[str]:
    """The start of a command that runs a machine with virtio-mmio devices."""
    parts = f"microvm,acpi={acpi},pit=on,pic=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off"
    machine = [QEMU, "-M", parts, "-accel", "tcg", "-cpu", cpu, "-m", "64", "-nodefaults", "-no-reboot"]
    return [*machine, "-display", "none", "-global", "virtio-mmio.force-legacy=false", *devices]


@needs_qemu
def test_the_console_can_be_virtio(kernel: Path) -> None:
    ports = ["-serial", "null", "-chardev", "stdio,id=out", "-device", "virtconsole,chardev=out"]
    command = [*microvm("-device", "virtio-serial-device"), *ports, "-kernel", str(kernel), "-initrd", BUSYBOX]
    text = b"".join(b"%05d\n" % (number * 7919 % 10007) for number in range(500))
    done = subprocess.run(
        [*command, "-append", "-- busybox sort"], input=text + b"\x04", capture_output=True, timeout=60
    )
    assert done.stdout == b"".join(sorted(text.splitlines(keepends=True)))


@needs_qemu
@pytest.mark.parametrize("where", ["acpi", "command-line"])
def test_a_machine_without_rdrand_takes_random_numbers_from_virtio(kernel: Path, where: str) -> None:
    """The device is found by ACPI's tables, or by the kernel's command line."""
    acpi, word = ("on", "quiet") if where == "acpi" else ("off", "virtio_mmio.device=512@0xfeb00e00:12")
    device = ["-device", "virtio-rng-device"]
    options = ["-serial", "stdio", "-kernel", str(kernel), "-initrd", BUSYBOX]
    words = ["-append", f"{word} -- busybox mktemp -u xXXXXXX"]
    machine = microvm(acpi=acpi, cpu="max,-rdrand")
    with_it, without = (
        subprocess.run([*machine, *each, *options, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        for each in (device, [])
    )
    assert re.fullmatch(rb"x[0-9A-Za-z]{6}\n", with_it.stdout)
    assert b"neither RDRAND nor virtio-rng" in without.stdout


@needs_qemu
def test_a_server_outside_is_reached_by_virtio_net(kernel: Path) -> None:
    """Through QEMU's own network, whose 10.0.2.2 is the host."""
    data = os.urandom(1 << 18).hex().encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()  # also when QEMU does not end in time
        devices = ["-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"]
        words = f"busybox wget -q -O - http://10.0.2.2:{server.server_port}/"
        options = ["-serial", "stdio", "-kernel", str(kernel), "-initrd", BUSYBOX, "-append", f"quiet -- {words}"]
        done = subprocess.run([*microvm(*devices), *options], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        server.shutdown()
    assert done.stdout == data
