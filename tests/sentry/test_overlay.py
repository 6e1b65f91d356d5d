"""A scratch layer above a directory of the host: programs change it as they change the directory itself."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pyvmm_sentry.share import Share
from tests.sentry.conftest import Compile
from tests.sentry.test_command import command_line
from tests.sentry.test_programs import BUSYBOX
from tests.sentry.test_share import run_program

MIB = 1 << 20
MANY = 10_000
FOLDERS = (
    *("dir/sub", "deep/er", "full/sub", "empty", "names", "watched", "many", "target", "other/sub"),
    *("open", "sticky", "locked"),
)
_FILES = """
    file append truncated shortened lengthened mode owner times attributes gone mapped removed from swap1 hard1 pair1
    single public dir/a dir/b deep/top deep/er/est full/a full/b full/c names/two names/three watched/file
    watched/other target/in other/sub/x open/theirs sticky/theirs
    """
FILES = _FILES.split()


def make_tree(folder: Path) -> Path:
    """Make the tree that `layers.c` changes."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    text = "".join(f"line {number}\n" for number in range(1000))
    for name in FILES:
        (folder / name).write_text(f"{name}\n{text}")
    (folder / "swap2").write_text("2")
    (folder / "big").write_bytes(bytes(range(256)) * 240)
    with open(folder / "sparse", "wb") as file:
        file.seek(200_000)
        file.write(b"end")
    for name in ("hard", "pair"):
        os.link(folder / f"{name}1", folder / f"{name}2")
    os.setxattr(folder / "attributes", "user.one", b"value")
    for name, target in (("link", "file"), ("dangling", "nowhere")):
        (folder / name).symlink_to(target)
    for name in ("fifo", "pipe"):
        os.mkfifo(folder / name)
    for number in range(500):
        (folder / "many" / f"{number}").touch()
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1_000_000, 900_000), follow_symlinks=False)
    return folder


def make_root(folder: Path) -> Path:
    """Make a root with busybox and without mount points."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin" / "busybox")
    return folder


def everything(place: Path) -> dict[str, object]:
    """Attributes, times except that of the last access, and contents, by path."""
    found: dict[str, object] = {}
    for path in (place, *sorted(place.rglob("*"))):
        status = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else b""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).digest()
        numbers = (status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_size)
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        found[str(path)] = (*numbers, status.st_mtime_ns, status.st_ctime_ns, content, attributes)
    return found


def run_above(
    share: Share, platform: Path, *words: str, memory: int = 256, text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program of a shared directory above which there is a scratch layer."""
    return run_program(share, platform, *words, options=["--scratch"], memory=memory, text=text)


def test_a_tree_changes_above_as_it_does_on_linux(tmp_path: Path, platform: Path, compile_static: Compile) -> None:
    """All lines are equal, except for mknod() of a device that would be a whiteout."""
    program = compile_static("layers")
    native = subprocess.run([program, make_tree(tmp_path / "tree")], capture_output=True)
    root = make_root(tmp_path / "root")
    make_tree(root / "tree")
    shutil.copy(program, root / "bin" / "layers")
    before = everything(root)
    with Share(str(root), 256 * MIB, read_only=True) as share:
        ours = run_above(share, platform, "/bin/layers", "/tree")
    assert native.returncode == ours.returncode == 42, ours.stderr
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) > 250
    different = [pair for pair in zip(*rows, strict=True) if pair[0] != pair[1]]
    assert [pair[1] for pair in different] == [row for row in rows[1] if 'mknod("whiteout"' in row]
    assert everything(root) == before


@pytest.mark.parametrize("name", ["files", "pipes", "watches"])
def test_calls_return_above_what_they_return_on_linux(platform: Path, compile_static: Compile, name: str) -> None:
    """In a new folder of the upper layer. The type of the file system, on which the program's report of the sizes of
    directories depends, and calls on its root may differ."""
    program = compile_static(name)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        native = subprocess.run([program, f"{folder}/{name}"], capture_output=True)
    ours = subprocess.run([platform, "--scratch", "--", program, f"/{name}"], capture_output=True, timeout=120)
    assert native.returncode == ours.returncode == 42, ours.stderr
    texts = [re.sub(r"(mode 4\d{4} links \d+) size \d+", r"\1", each.stdout.decode()) for each in (native, ours)]
    rows = [text.splitlines() for text in texts]
    different = [pair[1] for pair in zip(*rows, strict=True) if pair[0] != pair[1]]
    assert [row for row in different if not row.startswith("    type ") and 'rename("/"' not in row] == []


def test_two_threads_change_files_at_once(tmp_path: Path, platform: Path, compile_static: Compile) -> None:
    """One waits for the lower layer, and the other one changes the file or directory in the meantime."""
    program = compile_static("races")
    root = make_root(tmp_path / "root")
    shutil.copy(program, root / "bin" / "races")
    for tree in (root / "tree", tmp_path / "tree"):
        for number in range(50):
            (tree / "folders" / f"{number}").mkdir(parents=True)
        (tree / "mapped").mkdir()
        for number in range(50):
            (tree / "mapped" / f"{number}").write_bytes(b"x" * (256 << 10))
        for name in ("large", "buffers"):
            (tree / name).write_bytes(b"x" * (13 * MIB))
    native = subprocess.run([program, tmp_path / "tree"], capture_output=True)
    with Share(str(root), 256 * MIB, read_only=True) as share:
        ours = run_above(share, platform, "/bin/races", "/tree")
    assert native.returncode == ours.returncode == 42, ours.stderr
    assert ours.stdout == native.stdout


def test_the_command_forgets_what_a_program_changes(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    make_tree(root / "tree")
    before = everything(root)
    script = """
        echo new >/tree/file && rm -r /tree/full /tree/deep && mv /tree/many /tree/moved && chmod 600 /bin/busybox &&
        chmod 755 /bin/busybox && mkdir /new && cp -a /tree /new/copy && rm -rf /tree && ls /new/copy | wc -l &&
        echo x >/tmp/x && test -c /dev/null && test -d /proc/1 && test -d /sys/devices && cat /new/copy/file
    """
    done = command_line("do", "--platform", "ptrace", "--root", str(root), "/bin/busybox", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split() == [str(len(list((root / "tree").iterdir())) - 2).encode(), b"new"]
    assert everything(root) == before


def test_the_layer_is_limited_by_the_memory(tmp_path: Path, platform: Path) -> None:
    """A write fails when no memory is left; what was removed makes room again."""
    root = make_root(tmp_path / "root")
    (root / "large").write_bytes(bytes(range(256)) * 4096 * 30)
    script = """
        dd if=/dev/zero of=/full bs=1M count=64; rm /full; echo x >>/large; chmod 600 /large && wc -c /large
        dd if=/dev/zero of=/small bs=1M count=1 && cmp /large - && echo equal
    """
    with Share(str(root), 64 * MIB, read_only=True) as share:
        words = ("/bin/busybox", "sh", "-c", script)
        done = run_above(share, platform, *words, memory=64, text=(root / "large").read_bytes() + b"x\n")
    assert done.stderr.count(b"No space left on device") == 1, done
    assert b"equal" in done.stdout


def test_a_change_costs_no_content_that_is_not_needed(tmp_path: Path, platform: Path) -> None:
    """Two files are larger than the memory. Neither chmod and rename nor a truncation reads their contents."""
    root = make_root(tmp_path / "root")
    for name in ("stays", "goes"):
        with open(root / name, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 200 * MIB)
    with Share(str(root), 64 * MIB, read_only=True) as share:
        script = "chmod 600 /stays; mv /stays /moved; echo x >/goes; stat -c %s:%a /moved /goes"
        done = run_above(share, platform, "/bin/busybox", "sh", "-c", script, memory=64)
        reads = share.stats()["ops"]["read"]["count"]
    assert (done.stdout, done.stderr) == (f"{200 * MIB}:600\n2:644\n".encode(), b"")
    assert reads < 100


def test_entries_of_a_large_directory_cost_no_request_each(tmp_path: Path, platform: Path) -> None:
    """Also when both layers have entries of it."""
    root = make_root(tmp_path / "root")
    (root / "many").mkdir()
    for number in range(MANY):
        os.symlink("x", root / "many" / f"{number}")
    with Share(str(root), 256 * MIB, read_only=True) as share:
        script = "ls -l /many | wc -l; rm /many/17; mkdir /many/new; ls -l /many | wc -l"
        done = run_above(share, platform, "/bin/busybox", "sh", "-c", script)
        requests = {name: figures["count"] for name, figures in share.stats()["ops"].items()}
    assert done.stdout.split() == [b"%d" % (MANY + 1), b"%d" % (MANY + 1)]
    assert requests["readdirplus"] < MANY / 10
    assert requests["lookup"] + requests["getattr"] < 100
