"""Stored images as roots on the Sentry, which reads them itself: their files, changes, copies, and damaged ones."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm_kata.image_store.store import ImageStore, StoredImage
from tests.sandbox.test_isolation import BEGIN, Python, python
from tests.sentry.small_root import make
from vmm import kvm_verdict

__all__ = ["python"]  # a fixture
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts of a container need root"),
    pytest.mark.skipif(kvm_verdict().usable, reason="with KVM, the Sentry is the kernel of a machine"),
]
LISTING = """
import hashlib, os, stat, sys
top = sys.argv[1]
def lines(path, shown):
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    words = [shown, oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, os.major(found.st_rdev)]
    words += [os.minor(found.st_rdev)]
    if kind != stat.S_IFDIR:
        words += [found.st_size, found.st_nlink]
    names = sorted(os.listxattr(path, follow_symlinks=False))
    words += [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
    if kind == stat.S_IFLNK:
        words += [os.readlink(path)]
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            words += [hashlib.sha256(file.read()).hexdigest()]
    print(*words)
    if kind == stat.S_IFDIR:
        for name in sorted(os.listdir(os.fsencode(path))):
            lines(os.path.join(os.fsencode(path), name), os.path.join(shown, name))
lines(os.fsencode(top), b"")
"""
"""Prints all that programs can see of a folder."""


def _fill(folder: Path) -> None:
    """Files of all kinds, at the limits of what a directory and an inode can be."""
    many, deep = folder / "many", folder / "deep"
    many.mkdir(parents=True)
    for number in range(3000):
        (many / f"{number:x}-{'name' * (number % 30)}").write_text(str(number))
    for odd in (b"!", b"-", b"\xff\xfe", b"\xc3\xa9", b"a" * 255, b" ", b"..."):
        (many / os.fsdecode(odd)).write_bytes(odd)
    deep.joinpath(*["below"] * 20).mkdir(parents=True)
    for size in (0, 1, 4095, 4096, 4097, 8192, 1_000_003):
        (folder / f"size-{size}").write_bytes(random.Random(size).randbytes(size))
    (folder / "empty").mkdir(mode=0o1777)
    (folder / "link").symlink_to("size-1")
    (folder / "long-link").symlink_to("x/" * 2000)
    os.link(folder / "size-4097", folder / "empty" / "hard")
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "device", 0o600 | 0o020000, os.makedev(10, 200))
    (folder / "set-id").write_text("")
    os.chown(folder / "set-id", 70_000, 80_000)
    os.chmod(folder / "set-id", 0o6755)
    os.utime(folder / "set-id", ns=(1, 2_000_000_001_000_000_003))
    for name in ("size-0", "size-1", "size-4096", "size-4097", "many"):
        os.setxattr(folder / name, "user.shared", b"by several")
    os.setxattr(folder / "size-1", "user.own", b"")
    os.setxattr(folder / "size-1", "user.big", b"t" * 2000)


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make(tmp_path_factory.mktemp("tree"))
    _fill(root / "data")
    return root


@pytest.fixture(scope="module")
def image(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> StoredImage:
    return ImageStore(str(tmp_path_factory.mktemp("store"))).add(str(rootfs), "box")


Run = Callable[[str], str]


@pytest.fixture
def run(python: Python, image: StoredImage, rootfs: Path) -> Run:
    """Runs a program that uses the library, with `image` and `tree`; returns what it prints."""
    names = f"image, tree = {image.path!r}, {str(rootfs)!r}\nsentry = {{'isolation': 'sentry', **where}}\n"

    def run_it(code: str) -> str:
        done = python(BEGIN + names + code)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_it


def test_an_image_has_the_files_of_its_folder(run: Run, rootfs: Path) -> None:
    command = [sys.executable, "-c", LISTING, str(rootfs / "data")]
    wanted = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(wanted.splitlines()) > 3000
    code = f"""
with Sandbox(image, memory="256M", **sentry) as box:
    box.files.write("/listing", {LISTING!r})
    for _ in range(2):
        print(box.run(["python3", "/listing", "/data"], check=True).stdout, end="")
"""
    assert run(code) == wanted * 2


def test_a_sandbox_changes_its_own_files_alone(run: Run, image: StoredImage) -> None:
    """All that can be changed is, and the next sandbox sees none of it."""
    before = Path(image.path).read_bytes()
    code = """
change = '''
set -e; cd /data
echo more >>size-4096; echo less >size-8192; chmod 600 size-1; touch -d 2001-01-01 size-0
mkdir new; echo new >new/file; python3 -c "
import os, shutil
os.unlink('link'); os.rename('fifo', 'pipe'); shutil.move('deep', 'new/deep'); os.truncate('size-1000003', 5000)
os.link('size-4095', 'second'); os.setxattr('size-1', 'user.own', b'other'); os.removexattr('size-4097', 'user.shared')
[os.unlink('many/' + name) for name in os.listdir('many')]; os.rmdir('many')
os.chown('set-id', 5, 6)"
'''
with Sandbox(image, memory="256M", **sentry) as box:
    box.run(["sh", "-c", change], check=True)
    print(box.run("cd /data; cat size-8192 new/file; echo *; wc -c <size-1000003").stdout)
    box.files.write("/listing", LISTING)
    changed = box.run(["python3", "/listing", "/data"], check=True).stdout
    with box.fork()[0] as copy, box.snapshot(place + "/saved").start(**where) as other:
        for each in (copy, other):
            assert each.run(["python3", "/listing", "/data"], check=True).stdout == changed
        copy.run("echo copy >/data/new/file", check=True)
        assert box.run("cat /data/new/file").stdout == other.run("cat /data/new/file").stdout == "new\\n"
with Sandbox(image, memory="256M", **sentry) as box:
    box.files.write("/listing", LISTING)
    assert box.run(["python3", "/listing", "/data"], check=True).stdout != changed
    assert box.run("cat /data/link /data/many/0-; test -p /data/fifo && test ! -e /data/new").ok
"""
    found = run(f"LISTING = {LISTING!r}\n" + code)
    assert "less\nnew\ndevice empty long-link new pipe second set-id size-0 " in found and "5000" in found
    assert Path(image.path).read_bytes() == before


def test_an_image_of_the_store_by_its_name(run: Run) -> None:
    code = """
from pyvmm_kata.image_store import store
store.SYSTEM_STORE = place + "/store"
store.ImageStore().add(tree, "debian:small")
with Sandbox("debian:small", **where) as first, Sandbox("debian:small", **where) as second:
    first.files.write("/etc/own", "first")
    assert first.files.read_text("/etc/own") == "first" and not second.files.exists("/etc/own")
    print(second.run("python3 -c 'print(6*7)'; echo $PATH").stdout)
"""
    assert run(code).startswith("42\n/")


def test_copies_of_a_sandbox_copy_no_root(run: Run) -> None:
    code = """
import os
with Sandbox(image, **sentry) as box:
    with box.fork()[0] as copy:
        print(sorted(os.listdir(copy._container.bundle)))
"""
    assert "rootfs" not in run(code)


def test_the_store_keeps_an_image_in_use(run: Run, rootfs: Path) -> None:
    code = """
from pyvmm_kata.image_store.store import ImageStore
from pyvmm_kata.errors import ConfigError
store = ImageStore(place + "/store")
own = store.add(tree, "own")
with Sandbox(own.path, **sentry) as box:
    print(raises(ConfigError, store.remove, "own").code)
    with box.fork()[0] as copy:
        box.kill()
        print(raises(ConfigError, store.remove, "own").code)
store.remove("own")
"""
    assert run(code) == "image-used\nimage-used\n"


def test_other_disks_are_refused(run: Run, tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("a" * 100_000)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", tmp_path / "ext4", "8M"], check=True)
    subprocess.run(["mkfs.erofs", "-zlz4", tmp_path / "small", tmp_path / "tree"], check=True, capture_output=True)
    code = """
for name in ("ext4", "small"):
    error = raises(VmmError, Sandbox, place + "/" + name, **sentry)
    print(error, error.hint, sep=" | ")
"""
    found = run("from vmm import VmmError\n" + code)
    first, second = found.splitlines()
    assert "a Sentry has no disks (use --isolation vm)" in first
    assert "reads no erofs that is compressed" in second and "pyvmm image import" in second


def test_damaged_images_end_nothing(run: Run, tmp_path: Path) -> None:
    """Programs get errors, or other files; the core goes on, and so does the host."""
    tree = tmp_path / "tree"
    _fill(tree / "data")
    (tree / "bin").mkdir()
    (tree / "bin" / "sh").symlink_to("busybox")
    subprocess.run(["cp", "/bin/busybox", tree / "bin"], check=True)
    subprocess.run(["rm", "-r", tree / "data" / "many"], check=True)
    damaged = ImageStore(str(tmp_path / "store")).add(str(tree)).path
    code = f"""
import random
from vmm import VmmError
rng = random.Random({os.environ.get("PYVMM_TEST_SEED", "1")})
data = open({damaged!r}, "rb").read()
read = "cd /; find . -xdev; cat data/size-* data/empty/*; ls -l data; echo {{}} >/data/x; echo the end"
ends = starts = 0
for number in range({os.environ.get("PYVMM_TEST_RUNS", "12")}):
    damaged = bytearray(data)
    for _ in range(rng.choice((3, 30, 300, 3000))):
        damaged[rng.randrange(1152, len(data.rstrip(bytes(1))))] = rng.choice((0, 255, rng.randrange(256)))
    path = place + "/damaged"
    open(path, "wb").write(damaged)
    try:
        with Sandbox(path, **sentry) as box:
            starts += 1
            ends += "the end" in box.run(["/bin/busybox", "sh", "-c", read], timeout=5).stdout
            assert box.run(["/.pyvmm/box"], timeout=20).exit_code >= 0
    except (VmmError, SandboxError, TimeoutError) as error:
        assert not isinstance(error, SandboxGone) and "ended" not in str(error), error
print(starts > ends > 0)
"""
    assert run(code) == "True\n"
