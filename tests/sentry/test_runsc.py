"""runsc's command line, as scripts have it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm_sentry import __main__ as runsc
from pyvmm_sentry import flags, stacks
from tests.sentry.test_command import command_line
from tools.where import ROOT

CLIENT = ROOT / "examples" / "kata" / "pyvmm_kata" / "pyvmm-oci-client"
PROGRAM = str(Path(sys.executable).parent / "pyvmm-runsc")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts of a container need root")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--platform=gpu", "do", "true"), b"--platform gpu: there are kvm, systrap, trap, ptrace, auto"),
        (("--network", "host", "run", "c"), b"--network host: a sandbox never has the host's network"),
        (("--overlay2=all:memory", "run", "c"), b"--overlay2: only changes of the root can be in memory"),
        (("--host-uds=open", "state", "c"), b"--host-uds: programs reach no socket of the host"),
        (("--nvproxy", "run", "c"), b"flag --nvproxy is not known\n  hint: pyvmm-runsc flags lists them"),
        (("--log",), b"flag --log needs a value"),
        (("install",), b"there is no command install"),
        (("debug", "--signal", "9", "c"), b"debug: there are --ps ID and --stacks ID"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(words: tuple[str, ...], reason: bytes) -> None:
    done = command_line(*words)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"pyvmm-runsc: " + reason)


def test_flags_before_do_hold_for_it() -> None:
    words = ("-rootless", "--platform=ptrace", "--network", "none", "-strace=true", "--debug=false")
    done = command_line(*words, "do", "busybox", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    assert b'write(1, "hello\\n", 6) = 6\n' in done.stderr


def test_every_flag_is_listed() -> None:
    listed = command_line("flags").stdout.decode().split()
    assert {f"--{name}" for name in (*flags.USED, *flags.IGNORED)} <= set(listed)


EVERY_FLAG = [
    word
    for table in (flags.USED, flags.IGNORED)
    for name, kind in table.items()
    if name not in ("version", "help", "overlay", "overlay2", "host-uds", "platform", "network")
    for word in ([f"-{name}"] if kind == flags.FLAG else [f"--{name}", f"the {name}"])
]


@pytest.mark.parametrize(
    "line",
    [
        ("list",),
        (*EVERY_FLAG, "run", "--bundle", "/b", "c1"),
        (*EVERY_FLAG, "exec", "-t", "c1", "sh", "-c", "echo --strace"),
        *((f"--platform={name}", "create", "c1") for name in flags.PLATFORMS),
        *(("--network", name, "restore", "c1") for name in flags.NETWORKS),
        ("-strace=false", "--debug=F", "--systemd-cgroup=0", "-rootless=x", "run", "c1"),
        ("--debug-log", "/logs/", "--overlay2=none", "--host-uds", "none", "state", "c1"),
        ("--root=", "--log=/l", "--debug-log=/other", "--root", "/r", "kill", "c1", "9"),
    ],
)
def test_the_launcher_translates_as_the_command_does(line: tuple[str, ...], tmp_path: Path) -> None:
    options, words = flags.split([*line])
    assert launched(tmp_path, line) == ["-IS", "OCI", *runsc.container_command(options, words)[1:]]


@pytest.mark.parametrize(
    "line",
    [
        (),
        ("--platform", "gpu", "run", "c1"),
        ("--network=host", "run", "c1"),
        ("--overlay", "run", "c1"),
        ("--overlay2=root:self", "run", "c1"),
        ("--host-uds=all", "run", "c1"),
        ("--nvproxy", "run", "c1"),
        ("--version",),
        ("--", "run", "c1"),
        ("--root",),
        ("--debug", "do", "--strace", "true"),
        ("debug", "--ps", "c1"),
    ],
)
def test_the_launcher_leaves_the_rest_to_the_command(line: tuple[str, ...], tmp_path: Path) -> None:
    assert launched(tmp_path, line) == ["-IS", "RUNSC", *line]


def launched(folder: Path, line: tuple[str, ...]) -> list[str]:
    """The command line that the launcher starts a Python with."""
    python = folder / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    command = [str(CLIENT), "--runsc", "RUNSC", "/none", str(python), "OCI", "--", *line]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


@needs_root
def test_a_container_with_runscs_flags(tmp_path: Path) -> None:
    """It runs on the platform named, and its log has the system calls."""
    bundle = tmp_path / "bundle"
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", bundle / "rootfs" / "bin" / "sh")
    before = ("--root", str(tmp_path / "state"), "--rootless=true", "--platform=systrap", "--network", "none")
    log = ("--debug", "--debug-log", str(tmp_path / "log"), "--strace", "--overlay2=none", "--ignore-cgroups")
    subprocess.run(runsc.container_command(flags.Flags({}), ["spec"]), cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"args": ["sh", "-c", "echo hello; exit 3"], "terminal": False}
    (bundle / "config.json").write_text(json.dumps(spec))
    words = (*before, *log, "run", "--bundle", str(bundle), "c1")
    done = subprocess.run([PROGRAM, *words], input=b"", capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, b"hello\n"), done.stderr
    text = (tmp_path / "log").read_text()
    assert "the Sentry runs on trap, without a machine" in text
    assert "hello" in text and "exit_group(3)" in text
    assert command_line(*before, "list", "--quiet").stdout == b""
    refused = command_line("--root", str(tmp_path / "state"), "--platform=ptrace", "run", "--bundle", str(bundle), "c1")
    assert (refused.returncode, b"'ptrace' is not one of auto, kvm, trap" in refused.stderr) == (1, True)


@needs_root
def test_changes_of_the_root_in_memory(tmp_path: Path) -> None:
    """The host's root stays as it is, whatever the container does, and so do those of its copies."""
    bundle = tmp_path / "bundle"
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    for name in ("sh", "sleep", "cat", "rm", "ls"):
        shutil.copy("/bin/busybox", bundle / "rootfs" / "bin" / name)
    (bundle / "rootfs" / "kept").write_text("of the host\n")
    before = ("--root", str(tmp_path / "state"), "--platform=systrap", "--network", "none")
    subprocess.run(runsc.container_command(flags.Flags({}), ["spec"]), cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    script = "echo changed >/kept; echo new >/new; rm /bin/ls; exec sleep 1000"
    spec["process"] |= {"args": ["sh", "-c", script], "terminal": False}
    spec["root"]["readonly"] = False
    (bundle / "config.json").write_text(json.dumps(spec))
    quiet = subprocess.DEVNULL
    words = [PROGRAM, *before, "--overlay2=root:self", "run", "--detach", "--bundle", str(bundle), "c1"]
    subprocess.run(words, stdin=quiet, stdout=quiet, stderr=quiet, timeout=60, check=True)
    look = ("exec", "c1", "sh", "-c", "while ! [ -e /new ]; do sleep 0.1; done; cat /kept /new; echo /bin/*")
    wanted = b"changed\nnew\n/bin/cat /bin/rm /bin/sh /bin/sleep\n"
    try:
        assert command_line(*before, *look).stdout == wanted
        oci = [str(Path(PROGRAM).with_name("pyvmm-oci")), "--root", str(tmp_path / "state")]
        copies = [*oci, "fork", "--bundles", str(tmp_path), "c1", "c2"]
        subprocess.run(copies, stdin=quiet, stdout=quiet, stderr=quiet, timeout=60, check=True)
        assert command_line(*before, "exec", "c2", *look[2:]).stdout == wanted
        assert not (tmp_path / "c2" / "rootfs").exists()
        command_line(*before, "exec", "c2", "sh", "-c", "echo copy >/kept")
        assert command_line(*before, *look).stdout == wanted
    finally:
        for name in ("c1", "c2"):
            command_line(*before, "delete", "--force", name)
    assert (bundle / "rootfs" / "kept").read_text() == "of the host\n"
    assert sorted(each.name for each in (bundle / "rootfs" / "bin").iterdir()) == ["cat", "ls", "rm", "sh", "sleep"]
    assert not (bundle / "rootfs" / "new").exists()
    refused = command_line(*before, "--overlay2=root:self", "create", "--bundle", "/none", "c3")
    assert refused.returncode == 1


@needs_root
def test_stacks_show_where_the_tasks_of_a_container_are(tmp_path: Path) -> None:
    """In the core, by its functions, with the call and its arguments; a program that runs has none."""
    bundle = tmp_path / "bundle"
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    for name in ("sh", "sleep"):
        shutil.copy("/bin/busybox", bundle / "rootfs" / "bin" / name)
    before = ("--root", str(tmp_path / "state"), "--platform=systrap", "--network", "none")
    subprocess.run(runsc.container_command(flags.Flags({}), ["spec"]), cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"args": ["sh", "-c", "(while :; do :; done) & echo on; sleep 1000; :"], "terminal": False}
    (bundle / "config.json").write_text(json.dumps(spec))
    words = [PROGRAM, *before, "run", "--bundle", str(bundle), "c1"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stdout.readline() == b"on\n"
        found: dict[str, str] = {}
        while not (("wait" in found.get("1", "")) and "nanosleep" in found.get("3", "")):  # they are on their way
            done = command_line(*before, "debug", "--stacks", "c1")
            assert done.returncode == 0, done.stderr
            found = {each.split(",")[0]: each for each in done.stdout.decode().split("process ")[1:]}
        assert command_line(*before, "kill", "c1", "KILL").returncode == 0
        assert running.wait(60) == 128 + 9
    assert re.fullmatch(
        r"1, task 1 \(sh\): sleeping\n    call wait4\(0xf+, 0x[0-9a-f]+, 0x0, 0x0\)\n"
        r"    program at 0x[0-9a-f]+, stack 0x[0-9a-f]+\n(    [a-z][a-z0-9_.]+\+0x[0-9a-f]+\n)+",
        found["1"],
    )
    assert "    sys_wait4+0x" in found["1"] and "    sys_clock_nanosleep+0x" in found["3"]
    assert found["2"].startswith("2, task 2 (sh): r") and "call" not in found["2"]


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (b"", "its last line is missing"),
        (b"[1,2]", "its last line is missing"),
        (b"end\n", "no address of the core"),
        (b"core 0x10\ntask 1 1 sleeping sh\n", "its last line is missing"),
        (b"core 0xg\nend\n", "invalid literal"),
        (b"core\nend\n", "no address of the core"),
        (b"core 0x10\ntask 1 x sleeping sh\nend\n", "invalid literal"),
        (b"core 0x10\ntask 1 1 sleeping \x1b[2J\nend\n", "a word cannot be printed"),
        (b"core 0x10\ntask 1 1 sleeping \xff\nend\n", "ascii"),
        (b"core 0x10\nframes 0x\nend\n", "invalid literal"),
        (b"core 0x10\nelse\nend\n", "a line begins with 'else'"),
        (b"core 0x10\n" + b"frames 0x1\n" * 100_000 + b"end\n", "it has 1100014 bytes"),
    ],
)
def test_a_report_that_a_guest_has_made_up_is_refused(report: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        stacks.describe(report, [])


def test_the_stacks_of_another_build_have_addresses(tmp_path: Path) -> None:
    report = b"core 0x10\ntask 1 2 ready sh\ncall 999 0x1\nprogram 0x20 0x30\nframes 0x40 0x50\nend\n"
    (tmp_path / "none").write_bytes(b"no program")
    first, rest = stacks.describe(report, [sys.executable, str(tmp_path / "none"), str(tmp_path)]).split("\n", 1)
    assert first.startswith("another build of the core runs")
    assert rest == (
        "process 1, task 2 (sh): ready\n    call 999(0x1)\n    program at 0x20, stack 0x30\n    0x40\n    0x50\n"
    )
