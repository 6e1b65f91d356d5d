"""A directory of the host as the root of a sandbox: a virtio-fs server serves the core, which is a process."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyvmm_sentry import program
from pyvmm_sentry.share import Share
from tests.sentry.conftest import Compile
from tests.sentry.test_command import command_line
from tests.sentry.test_programs import BUSYBOX
from vmm import ShareConfig

MIB = 1 << 20
MANY = 10_000
DEVICE_OR_TRUSTED = re.compile(r"char|trusted|llistxattr|close\(3\)|^ *type |entries, numbers")
"""Lines of what may differ: a call on a device node, a trusted attribute, the type of the file system,
and a sum over what follows short names."""


def make_root(place: Path) -> Path:
    """Fill a directory with busybox, some files, and the places for what is mounted; returns it."""
    for name in ("bin", "dev", "proc", "etc"):
        (place / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, place / "bin" / "busybox")
    (place / "etc" / "motd").write_text("hello\n" * 1000)
    (place / "etc" / "link").symlink_to("motd")
    return place


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root")


def run_program(
    share: Share, platform: Path, *words: str, options: Sequence[str] = (), memory: int = 256, text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program of a shared directory, which is the root.

    :param memory: MiB, as many as the share has
    """
    fds = ",".join(str(fd) for fd in share.fds)
    command = [str(platform), "--memory", str(memory), *options, "--share", fds, "--", *words]
    return subprocess.run(command, pass_fds=share.fds, input=text, capture_output=True, timeout=120)


def run_inside(share: Share, platform: Path, *words: str, memory: int = 64) -> subprocess.CompletedProcess[bytes]:
    """Run busybox with words."""
    return run_program(share, platform, "/bin/busybox", *words, memory=memory)


@pytest.mark.parametrize(
    "words",
    [
        ["cat", "etc/motd"],
        ["cat", "etc/link"],
        ["cat", "etc/absent"],
        ["readlink", "etc/link"],
        ["ls", "-n", "etc"],
        ["wc", "bin/busybox", "etc/motd"],
        ["mkdir", "-p", "etc/a/b/c"],
        ["ln", "-s", "target", "etc/new"],
        ["ln", "etc/motd", "etc/hard"],
        ["mv", "etc/motd", "etc/moved"],
        ["rm", "-r", "etc"],
        ["rmdir", "etc"],
        ["cp", "bin/busybox", "etc/copy"],
        ["cp", "-a", "etc", "copy"],
        ["touch", "-d", "2020-01-02 03:04:05", "etc/motd"],
        ["truncate", "-s", "100", "etc/motd"],
        ["chmod", "600", "etc/motd"],
        ["dd", "if=etc/motd", "of=etc/part", "bs=7", "skip=2", "count=11"],
        ["sed", "-i", "s/hello/there/", "etc/motd"],
        ["find", "etc", "bin", "-type", "f"],
    ],
    ids=" ".join,
)
def test_a_program_does_to_the_root_what_it_does_on_linux(
    tmp_path: Path, root: Path, platform: Path, words: list[str]
) -> None:
    """The same output, and the same files afterwards."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    native = subprocess.run([BUSYBOX, *words], cwd=copy, stdin=subprocess.DEVNULL, capture_output=True)
    with Share(str(root), 64 * MIB) as share:
        ours = run_inside(share, platform, *words)
    assert ours.returncode == native.returncode
    assert sorted(ours.stdout.splitlines()) == sorted(native.stdout.splitlines())
    assert tree(root) == tree(copy)


def tree(place: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, links and content of every file, and of the directory itself."""
    found = {}
    for path in (place, *sorted(place.rglob("*"))):
        status = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else b""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).digest()
        found[str(path.relative_to(place))] = (status.st_mode, status.st_nlink, content)
    return found


def test_calls_for_files_return_what_they_do_on_linux(
    tmp_path: Path, root: Path, platform: Path, compile_static: Compile
) -> None:
    """About 400 results; the server makes no device nodes and has no capability for trusted attributes."""
    shutil.copy(compile_static("files"), root / "bin" / "files")
    native = subprocess.run([root / "bin" / "files", tmp_path / "files"], capture_output=True)
    with Share(str(root), 256 * MIB) as share:
        ours = run_program(share, platform, "/bin/files", "/files")
    assert native.returncode == ours.returncode == 42
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    different = [pair for pair in zip(*rows, strict=True) if pair[0] != pair[1]]
    assert [pair for pair in different if not DEVICE_OR_TRUSTED.search(pair[0])] == []


def test_calls_that_sleep_on_page_faults_disturb_no_other_thread(
    tmp_path: Path, root: Path, platform: Path, compile_static: Compile
) -> None:
    """The totals of entries, events, bytes and packets that threads received, each in a page of a file not yet read."""
    shutil.copy(compile_static("sleeps"), root / "bin" / "sleeps")
    native = subprocess.run([root / "bin" / "sleeps", tmp_path / "sleeps"], capture_output=True)
    with Share(str(root), 256 * MIB) as share:
        ours = run_program(share, platform, "/bin/sleeps", "/sleeps")
    assert native.returncode == ours.returncode == 42, ours
    assert ours.stdout.splitlines() == native.stdout.splitlines()


def test_a_file_of_many_pages_arrives_whole(root: Path, platform: Path) -> None:
    data = os.urandom(9 * MIB + 123)
    (root / "data").write_bytes(data)
    with Share(str(root), 32 * MIB) as share:
        done = run_inside(share, platform, "sha256sum", "/data", memory=32)
    assert done.stdout.split()[0] == hashlib.sha256(data).hexdigest().encode()


def test_pages_of_files_leave_room_for_programs(root: Path, platform: Path) -> None:
    """A file larger than RAM, read twice, and then a program that needs more than the cache leaves."""
    data = os.urandom(50 * MIB)
    (root / "data").write_bytes(data)
    script = "md5sum /data && md5sum /data && dd if=/dev/zero of=/dev/null bs=20M count=1 && md5sum /bin/busybox"
    with Share(str(root), 32 * MIB) as share:
        done = run_inside(share, platform, "sh", "-c", script, memory=32)
    digests = [hashlib.md5(each).hexdigest() for each in (data, data, Path(BUSYBOX).read_bytes())]
    assert (done.returncode, [line.split()[0] for line in done.stdout.decode().splitlines()]) == (0, digests)


def test_entries_of_a_large_directory_cost_no_request_each(root: Path, platform: Path) -> None:
    for number in range(MANY):
        os.symlink("x", root / "etc" / f"{number}")
    with Share(str(root), 256 * MIB) as share:
        done = run_inside(share, platform, "ls", "-l", "/etc", memory=256)
        requests = {name: figures["count"] for name, figures in share.stats()["ops"].items()}
    assert len(done.stdout.splitlines()) == MANY + 3
    assert requests["readdirplus"] < MANY / 20
    assert requests["lookup"] + requests["getattr"] < 100


def requests_of(share: Share) -> dict[str, int]:
    return {name: figures["count"] for name, figures in share.stats()["ops"].items()}


@pytest.mark.parametrize("how", [[], ["closed"]], ids=["open", "closed"])
def test_files_cost_few_requests(root: Path, platform: Path, compile_static: Compile, how: list[str]) -> None:
    """A new one none before it is made, and none when it is read. What the program has done to them, while they were
    open or by name, is on the host when the program's line arrives."""
    shutil.copy(compile_static("creates"), root / "bin" / "creates")
    count = 300
    with Share(str(root), 64 * MIB) as share:
        fds = ",".join(str(fd) for fd in share.fds)
        words = [str(platform), "--memory", "64", "--share", fds, "--", "/bin/creates", "/new", str(count), *how]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, pass_fds=share.fds, stdin=pipe, stdout=pipe) as process:
            assert process.stdout
            assert process.stdout.readline() == b"done\n"
            status = (root / "new" / "really last").stat()
            assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o751, 1_700_000_000_000_000_006)
            process.communicate(b"\n", timeout=60)
        assert process.returncode == 0
        requests, files = requests_of(share), share.stats()["files"]
    assert (requests["create"], requests["mkdir"]) == (count + 2, 1)
    assert requests["lookup"] < 20
    assert requests["open"] < 20
    assert requests["read"] < 20, "what was written is known"
    assert files < 20, "no file stays open at the server"
    assert requests["setattr"] == 3 * (count + 1)
    for number in range(count):
        name = f"file {number}"
        status = (root / "new" / name).stat()
        assert (root / "new" / name).read_text() == name
        assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o751, 1_700_000_000_000_000_006)


def test_what_was_done_is_on_the_host_while_the_program_computes(
    root: Path, platform: Path, compile_static: Compile
) -> None:
    shutil.copy(compile_static("creates"), root / "bin" / "creates")
    with Share(str(root), 64 * MIB) as share:
        fds = ",".join(str(fd) for fd in share.fds)
        words = [str(platform), "--memory", "64", "--share", fds, "--"]
        words += ["/bin/creates", "/new", "1", "closed", "compute"]
        expected = stat.S_IFREG | 0o751, 1_700_000_000_000_000_006
        with subprocess.Popen(words, pass_fds=share.fds) as process:
            last, deadline = root / "new" / "really last", time.monotonic() + 20
            while not last.exists() or (last.stat().st_mode, last.stat().st_mtime_ns) != expected:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            found = last.stat().st_mode, last.stat().st_mtime_ns
            process.kill()
    assert found == expected


def test_small_files_are_read_by_one_request(root: Path, platform: Path) -> None:
    for number in range(100):
        (root / "etc" / f"file-{number}").write_text("x")
    with Share(str(root), 64 * MIB) as share:
        assert run_inside(share, platform, "grep", "-r", "x", "/etc").returncode == 0
        requests = requests_of(share)
    assert requests["open"] < 10, "READ opens a small file itself"
    assert 100 <= requests["read"] < 130


def test_a_directory_that_fits_is_one_request(root: Path, platform: Path) -> None:
    for number in range(50):
        (root / "etc" / f"file-{number}").write_text("x")
    with Share(str(root), 64 * MIB) as share:
        done = run_inside(share, platform, "find", "/etc")
        assert len(done.stdout.splitlines()) == 53
        assert requests_of(share)["readdirplus"] == 1


def test_directories_that_are_read_again_are_as_on_linux(folder: str, compile_static: Compile) -> None:
    """After each kind of change, in any order, and while they change. Both are in a tmpfs, whose order is simple."""
    root = make_root(Path(folder) / "root")
    shutil.copy(compile_static("listings"), root / "bin" / "listings")
    native = subprocess.run([root / "bin" / "listings", root / "native"], capture_output=True)
    with Share(str(root), 64 * MIB) as share:
        ours = run_program(share, program.trap(), "/bin/listings", "/listings", memory=64)
    assert native.returncode == ours.returncode == 42, ours
    assert ours.stdout.splitlines() == native.stdout.splitlines()


def requests_for_directories(root: Path, script: str, memory: int = 64) -> tuple[list[str], int]:
    """Lines of a script's output, and how many requests for entries it needed."""
    with Share(str(root), memory * MIB) as share:
        done = run_inside(share, program.trap(), "sh", "-c", script, memory=memory)
        requests = requests_of(share)
    assert done.returncode == 0, done
    # The last is on its way when the sandbox ends
    assert requests["opendir"] - requests["releasedir"] in (0, 1)
    return done.stdout.decode().splitlines(), requests["opendir"] + requests["readdirplus"]


def test_a_tree_is_read_once(root: Path) -> None:
    """Until the program changes it: then the changed directory is."""
    for number in range(40):
        (root / "etc" / f"folder-{number}" / "deeper").mkdir(parents=True)
    lines, once = requests_for_directories(root, "find /etc")
    assert (len(lines), once) == (83, 2 * 81)
    lines, requests = requests_for_directories(root, "find /etc; find /etc; ls -R /etc >/dev/null; find /etc")
    assert (len(lines), requests) == (3 * 83, once)
    lines, requests = requests_for_directories(root, "find /etc; mkdir /etc/folder-7/new; find /etc; find /etc")
    assert (len(lines), requests) == (83 + 2 * 84, once + 2 * 2)


def fill(place: Path, count: int, length: int) -> None:
    """Make many files with long names."""
    place.mkdir(exist_ok=True)
    for number in range(count):
        os.symlink("x", place / f"{number:0{length}}")


COUNT = "set -- /large/*; echo $#"
"""Reads the entries, and nothing else of the files."""


def test_entries_take_part_of_the_memory(root: Path) -> None:
    """A directory whose entries would take more is read each time, and displaces no other."""
    fill(root / "large", 2200, 250)
    lines, requests = requests_for_directories(root, f"find /etc; {COUNT}", 32)
    assert lines[3:] == ["2200"]
    lines, again = requests_for_directories(root, f"find /etc; {COUNT}; find /etc; {COUNT}", 32)
    assert (lines[3:4], lines[7:], again) == (["2200"], ["2200"], 2 * requests - 2)


def test_entries_leave_their_memory_to_programs(root: Path) -> None:
    """The directory is read again after a program has needed all memory."""
    fill(root / "large", 1500, 200)
    greedy = "for size in 26 27 28 29 30 31; do dd if=/dev/zero of=/dev/null bs=${size}M count=1 2>/dev/null; done"
    lines, requests = requests_for_directories(root, f"{COUNT}; {COUNT}", 32)
    assert lines == ["1500"] * 2
    lines, again = requests_for_directories(root, f"{COUNT}; {greedy}; {COUNT}; {COUNT}", 32)
    assert (lines, again) == (["1500"] * 3, 2 * requests)


def test_changes_of_the_host_show_unless_it_makes_none(root: Path, platform: Path) -> None:
    """The option `cache=auto` of a share leaves the host the right to change it."""
    config = ShareConfig(str(root), tag="root", cache="auto", queues=1, locks="guest")
    with Share(config, 64 * MIB) as share:
        words = [str(platform), "--memory", "64", "--share", ",".join(map(str, share.fds)), "--", "/bin/busybox"]
        script = "ls /etc; ls /etc; echo; read line; ls /etc"
        pipe = subprocess.PIPE
        with subprocess.Popen([*words, "sh", "-c", script], pass_fds=share.fds, stdin=pipe, stdout=pipe) as process:
            assert process.stdout
            while process.stdout.readline() != b"\n":
                pass
            (root / "etc" / "new").touch()
            after, _ = process.communicate(b"\n", timeout=60)
    assert after.split() == [b"link", b"motd", b"new"]


@pytest.mark.parametrize("length", [1, 100, 255])
def test_entries_are_complete_where_answers_end(root: Path, platform: Path, length: int) -> None:
    """Directories of each size around that of an answer."""
    names = {f"{number:0{length}d}"[-length:] for number in range(700)}
    for name in names:
        (root / "etc" / name).touch()
    for name in sorted(names)[:20]:
        with Share(str(root), 64 * MIB) as share:
            found = run_inside(share, platform, "ls", "/etc").stdout.decode().split()
        assert sorted(found) == sorted(os.listdir(root / "etc"))
        (root / "etc" / name).unlink()
        if length == 1:
            break


def test_a_read_only_root_refuses_changes(root: Path, platform: Path) -> None:
    before = tree(root)
    with Share(str(root), 64 * MIB, read_only=True) as share:
        done = run_inside(share, platform, "rm", "-r", "/etc")
    assert (done.returncode, b"Read-only file system" in done.stderr) == (1, True)
    assert tree(root) == before


@pytest.mark.parametrize("name", ["../secret", "/../../secret", "/etc/out"])
def test_a_program_sees_nothing_above_its_root(root: Path, platform: Path, name: str) -> None:
    (root.parent / "secret").write_text("secret")
    (root / "etc" / "out").symlink_to("../../secret")
    with Share(str(root), 64 * MIB) as share:
        done = run_inside(share, platform, "cat", name)
    assert (done.returncode, done.stdout) == (1, b"")


def test_the_command_runs_a_program_of_the_root(tmp_path: Path, root: Path) -> None:
    done = command_line("do", "--platform", "ptrace", "--root", str(root), "/bin/busybox", "cat", "/etc/motd")
    assert (done.returncode, done.stdout) == (0, (root / "etc" / "motd").read_bytes())
    missing = command_line("do", "--platform", "ptrace", "--root", str(tmp_path / "absent"), "/bin/busybox", "true")
    assert (missing.returncode, b"absent: not a directory" in missing.stderr) == (125, True)
    not_there = command_line("do", "--platform", "ptrace", "--root", str(root), "no-such-program")
    assert (not_there.returncode, b"no-such-program: not found in " in not_there.stderr) == (127, True)


CHANGES = (
    *("rm -rf etc", "mkdir etc/new", "echo x >etc/motd", "echo x >>etc/motd", "touch etc/motd", "chmod 0 etc/motd"),
    *("mv etc/motd etc/moved", "ln etc/motd etc/hard", "truncate -s 0 etc/motd", "sed -i s/hello/there/ etc/motd"),
)


def test_the_command_changes_a_root_only_when_it_may(root: Path) -> None:
    before = tree(root)
    do = ("do", "--platform", "ptrace", "--root", str(root))
    script = "; ".join(f"{change} && echo changed" for change in CHANGES)
    done = command_line(*do, "--read-only", "/bin/busybox", "sh", "-c", script)
    assert done.stdout == b"" and done.stderr.count(b"Read-only file system") >= len(CHANGES)
    assert tree(root) == before
    done = command_line(*do, "--writable", "/bin/busybox", "sh", "-c", "echo kept >etc/new")
    assert (done.returncode, (root / "etc" / "new").read_text()) == (0, "kept\n")
    nowhere = command_line("do", "--writable", BUSYBOX, "true")
    assert (nowhere.returncode, b"--writable: no directory is named" in nowhere.stderr) == (125, True)
