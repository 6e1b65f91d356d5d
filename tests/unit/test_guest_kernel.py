"""The recipes of guest-kernel, run as programs; a source tree of three files stands for the kernel's.  Modules of a
distribution's kernel: which are loaded, in which order, and what an initrd gets of them."""

from __future__ import annotations

import base64
import lzma
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tools import deps, kernels, versions
from tools.distribution import (
    DistributionError,
    Kernel,
    Modules,
    cache_dir,
    find_kernel,
    newest_kernel,
    without_signature,
    write_modules,
)

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "guest-kernel"


PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
KERNEL_TOOLS = ("gcc", "make", "ld", "strip", "flex", "bison", "bc", "patch", "tar", "xz")
can_build = pytest.mark.skipif(
    any(shutil.which(tool, path=PATH) is None for tool in KERNEL_TOOLS) or not Path("/usr/include/gelf.h").exists(),
    reason="the tools that build a kernel are not installed (make deps)",
)

# Answers to make as the kernel's top Makefile does, as far as the recipe asks.
MAKEFILE = """
allnoconfig:
	@grep -v '{dropped}' $(KCONFIG_ALLCONFIG) > $(O)/.config
vmlinux:
	@echo x >> {count}
	@{compile}
	@echo 'int main(void) {{ return 0; }}' > $(O)/vmlinux.c
	@gcc -nostdlib -static -Wl,-Ttext=0x1000000,-e,main -o $(O)/vmlinux $(O)/vmlinux.c
	@nm $(O)/vmlinux > $(O)/System.map
"""

Recipe = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "pyvmm"


@pytest.fixture
def run(cache: Path) -> Recipe:
    """Run a recipe with a cache of its own."""

    def run(*command: object, path: str = PATH) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent), "PATH": path}
        words = [sys.executable, str(RECIPES / str(command[0])), *map(str, command[1:])]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run


def kernel_tree(folder: Path, *, dropped: str = "NOTHING", compile: str = "true") -> Path:
    folder.mkdir()
    (folder / "Kconfig").touch()
    makefile = MAKEFILE.format(dropped=dropped, count=folder.parent / "builds", compile=compile)
    (folder / "Makefile").write_text(makefile)
    return folder


def left_over(cache: Path) -> list[str]:
    return [path.name for path in cache.glob("*/.work-*")]


# -- build.py ---------------------------------------------------------------------------------------------------------


@can_build
def test_a_kernel_is_built_once_and_then_found(tmp_path: Path, cache: Path, run: Recipe) -> None:
    tree = kernel_tree(tmp_path / "linux")
    first = run("build.py", "--source", tree)
    assert first.returncode == 0, first.stderr
    vmlinux = Path(first.stdout.strip())
    assert vmlinux.parent.parent == cache / "kernel"
    assert vmlinux.read_bytes()[:4] == b"\x7fELF"
    assert "main" in (vmlinux.parent / "System.map").read_text()
    assert left_over(cache) == []
    second = run("build.py", "--source", tree)
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert (tmp_path / "builds").read_text() == "x\n"


@can_build
def test_cached_looks_and_does_not_build(tmp_path: Path, run: Recipe) -> None:
    tree = kernel_tree(tmp_path / "linux")
    before = run("build.py", "--source", tree, "--cached")
    assert (before.returncode, before.stdout) == (1, "") and "not in the cache" in before.stderr
    built = run("build.py", "--source", tree)
    assert run("build.py", "--source", tree, "--cached").stdout == built.stdout


@can_build
def test_two_runs_at_once_build_once(tmp_path: Path, cache: Path) -> None:
    command = [sys.executable, str(RECIPES / "build.py"), "--source", str(kernel_tree(tmp_path / "linux"))]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0] for process in both]
    assert answers[0] == answers[1] != ""
    assert (tmp_path / "builds").read_text() == "x\n"


@can_build
def test_other_options_and_another_source_make_another_kernel(tmp_path: Path, run: Recipe) -> None:
    tree = kernel_tree(tmp_path / "linux")
    mine = tmp_path / "mine.config"
    mine.write_text("CONFIG_BRIDGE=n\n")
    paths = {run("build.py", "--source", tree).stdout, run("build.py", "--source", tree, "--config", mine).stdout}
    (tree / "new.c").touch()
    paths.add(run("build.py", "--source", tree).stdout)
    assert len(paths) == 3 and "" not in paths


@can_build
def test_output_gets_a_copy_that_is_not_the_cache(tmp_path: Path, run: Recipe) -> None:
    tree, copy = kernel_tree(tmp_path / "linux"), tmp_path / "vmlinux"
    assert run("build.py", "--source", tree, "--output", copy).stdout == f"{copy}\n"
    copy.write_bytes(b"")
    assert Path(run("build.py", "--source", tree).stdout.strip()).stat().st_size > 0


@can_build
def test_a_source_that_drops_an_option_fails_the_build_by_its_name(tmp_path: Path, cache: Path, run: Recipe) -> None:
    done = run("build.py", "--source", kernel_tree(tmp_path / "linux", dropped="CONFIG_FUSE_DAX="))
    assert (done.returncode, done.stdout) == (1, "")
    assert "CONFIG_FUSE_DAX=y (became n)" in done.stderr
    assert not (tmp_path / "builds").exists()
    assert left_over(cache) == []


@can_build
def test_a_compiler_error_is_shown_and_nothing_is_kept(tmp_path: Path, cache: Path, run: Recipe) -> None:
    tree = kernel_tree(tmp_path / "linux", compile="echo 'fs/exec.c:9:1: error: no such thing' && false")
    done = run("build.py", "--source", tree)
    assert (done.returncode, done.stdout) == (1, "")
    assert "fs/exec.c:9:1: error: no such thing" in done.stderr and "build.log" in done.stderr
    assert {path.name for path in (cache / "kernel").iterdir()} == {"build.log", ".lock"}


@can_build
@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_make_and_removes_the_tree(tmp_path: Path, cache: Path, number: int, status: int) -> None:
    sleeper = tmp_path / "sleeper"
    tree = kernel_tree(tmp_path / "linux", compile=f"sh -c 'echo $$$$ > {sleeper}; exec sleep 600'")
    command = [sys.executable, str(RECIPES / "build.py"), "--source", str(tree)]
    with subprocess.Popen(command, env={**os.environ, "XDG_CACHE_HOME": str(cache.parent)}) as process:
        while not (sleeper.exists() and sleeper.read_text().endswith("\n")):
            assert process.poll() is None
            time.sleep(0.02)
        pidfd = os.pidfd_open(int(sleeper.read_text()))
        process.send_signal(number)
        assert process.wait(60) == status
    assert left_over(cache) == []
    assert select.select([pidfd], [], [], 60)[0], "it is killed; the kernel ends it, and init reaps it, later"
    os.close(pidfd)


@can_build
def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path, cache: Path, run: Recipe) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale, living = (cache / "kernel" / f".work-{pid}-abc" for pid in (dead.pid, os.getpid()))
    stale.mkdir(parents=True)
    living.mkdir()
    assert run("build.py", "--source", kernel_tree(tmp_path / "linux")).returncode == 0
    assert left_over(cache) == [living.name]


def before_patch(patch: Path, tree: Path) -> list[Path]:
    """Make files in *tree* that *patch* fits, of nothing but lines that it removes and those around, where it has them;
    which they are."""
    made: dict[Path, list[str]] = {}
    for line in patch.read_text().splitlines():
        if line.startswith("+++ b/"):
            made[path := tree / line[6:]] = []
        elif made and line.startswith("@@ -"):
            start = int(line[4:].split(",")[0])
            made[path] += [""] * (start - 1 - len(made[path]))
        elif made and line[:1] in (" ", "-") and not line.startswith("--- a/"):
            made[path].append(line[1:])
    for path, lines in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return list(made)


OF_VIRTIOFS, OF_VMGENID = (
    sorted(path.name for path in (RECIPES / "patches" / name).glob("*.patch")) for name in ("virtiofs", "vmgenid")
)


def packed_tree(tmp_path: Path, seen: Path, *, virtiofs: str = OF_VIRTIOFS[-1], spoilt: Sequence[str] = ()) -> Path:
    """A tarball of a tree that `virtiofs`, a variant of that patch, fits; and where each file in `spoilt`, by name, is
    of another version, that none fits."""
    tree = kernel_tree(tmp_path / "linux", compile=f"cat fs/fuse/* drivers/virt/* > {seen}")
    with (tree / "Makefile").open("a") as makefile:
        makefile.write("VERSION = 9\nPATCHLEVEL = 1\nSUBLEVEL = 2\n")
    files = before_patch(RECIPES / "patches/virtiofs" / virtiofs, tree)
    files += before_patch(RECIPES / "patches/vmgenid" / OF_VMGENID[-1], tree)
    for file in files:
        if file.name in spoilt:
            file.write_text("another version\n")
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "linux.tar", "linux"], check=True)
    return tmp_path / "linux.tar"


@can_build
@pytest.mark.parametrize("variant", OF_VIRTIOFS)
def test_the_variant_that_fits_the_source_is_applied(tmp_path: Path, run: Recipe, variant: str) -> None:
    seen = tmp_path / "seen"
    done = run("build.py", "--source", packed_tree(tmp_path, seen, virtiofs=variant))
    assert done.returncode == 0, done.stderr
    assert f"applied virtiofs/{variant}" in done.stderr and "applied vmgenid/" in done.stderr
    assert "atomic_read(&fm->requests)" in seen.read_text()
    assert "NEW_VMGENID=1" in seen.read_text()


@can_build
def test_a_source_that_no_variant_fits_is_not_built(tmp_path: Path, run: Recipe) -> None:
    """Nothing is left out silently: the error names the version and the option that builds it all the same."""
    seen = tmp_path / "seen"
    tarball = packed_tree(tmp_path, seen, spoilt=("xattr.c", "vmgenid.c"))
    folders = [tmp_path / "linux" / name for name in ("fs/fuse", "drivers/virt")]
    before = b"".join(path.read_bytes() for folder in folders for path in sorted(folder.iterdir()))
    done = run("build.py", "--source", tarball)
    assert (done.returncode, done.stdout) == (1, "")
    assert "fits Linux 9.1.2" in done.stderr and "--without-patches=virtiofs,vmgenid" in done.stderr
    assert not seen.exists()
    done = run("build.py", "--source", tarball, "--without-patches")
    assert done.returncode == 0, done.stderr
    assert seen.read_bytes() == before


@can_build
def test_one_patch_may_be_left_out_and_the_other_is_applied(tmp_path: Path, run: Recipe) -> None:
    seen = tmp_path / "seen"
    tarball = packed_tree(tmp_path, seen, spoilt=("xattr.c",))
    done = run("build.py", "--source", tarball)
    assert "--without-patches=virtiofs builds" in done.stderr
    done = run("build.py", "--source", tarball, "--without-patches=virtiofs")
    assert done.returncode == 0, done.stderr
    assert "NEW_VMGENID=1" in seen.read_text() and "fm->requests" not in seen.read_text()
    done = run("build.py", "--source", tarball, "--without-patches=virtio")
    assert "there is no patch virtio" in done.stderr and "virtiofs, vmgenid" in done.stderr


@can_build
def test_a_source_that_has_a_change_already_is_not_patched(tmp_path: Path, run: Recipe) -> None:
    """Linux 6.8 sends that event itself, from another place."""
    seen = tmp_path / "seen"
    packed_tree(tmp_path, seen)
    (tmp_path / "linux/drivers/virt/vmgenid.c").write_text('char *envp[] = { "NEW_VMGENID=1", NULL };\n')
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "linux.tar", "linux"], check=True)
    done = run("build.py", "--source", tmp_path / "linux.tar")
    assert done.returncode == 0, done.stderr
    assert "Linux 9.1.2 has the change of patches/vmgenid" in done.stderr
    assert 'char *envp[] = { "NEW_VMGENID=1", NULL };' in seen.read_text()


# -- versions of the archive ------------------------------------------------------------------------------------------


def apt_knows(package: str) -> bool:
    """Whether this machine's package index has it."""
    if shutil.which("apt-cache") is None:
        return False
    return bool(subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).stdout)


def test_a_version_that_the_archive_had_earlier_is_not_used_for_ever(cache: Path, run: Recipe) -> None:
    if not apt_knows("linux-source-6.12"):
        pytest.skip("apt does not know linux-source-6.12")
    pin = cache / "kernel" / "package-default"
    pin.parent.mkdir(parents=True)
    for old in ("linux-source-6.12 6.12.1-1\n", '{"index": "another", "answer": "linux-source-6.12 6.12.1-1"}'):
        pin.write_text(old)
        run("build.py", "--cached")
        assert "6.12.1-1" not in pin.read_text()
        assert "linux-source-6.12 6.12." in pin.read_text()


def test_a_version_that_is_named_needs_no_package_index(tmp_path: Path, cache: Path, run: Recipe) -> None:
    done = run("build.py", "--version", "6.12.1-1", "--cached", path=str(tmp_path))
    assert "not in the cache" in done.stderr
    assert not list(cache.glob("kernel/package-*"))


def package_index(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "lock").touch()
    (folder / "trixie_Packages").write_text(content)
    return folder


def test_the_archive_is_asked_once_for_each_package_index(tmp_path: Path) -> None:
    lists, pin = package_index(tmp_path / "lists", "one"), tmp_path / "cache" / "pin"
    asked = iter(["1.0", "2.0"])
    first = [archive.remembered(pin, lambda: next(asked), Progress(), lists) for _ in range(3)]
    package_index(lists, "another")
    second = [archive.remembered(pin, lambda: next(asked), Progress(), lists) for _ in range(3)]
    assert first == ["1.0"] * 3 and second == ["2.0"] * 3


def test_what_an_earlier_index_had_is_used_and_said_when_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown() -> str:
        raise RecipeError("apt does not know it")

    lists, pin = package_index(tmp_path / "lists", "one"), tmp_path / "pin"
    with pytest.raises(RecipeError, match="apt does not know it"):
        archive.remembered(pin, unknown, Progress(), lists)
    archive.remembered(pin, lambda: "1.0", Progress(), lists)
    (lists / "trixie_Packages").unlink()
    assert archive.remembered(pin, unknown, Progress(), lists) == "1.0"
    assert "apt does not know it; using what an earlier package index had: 1.0" in capsys.readouterr().err


def test_what_no_run_used_for_a_month_leaves_the_cache(tmp_path: Path) -> None:
    entries = [tmp_path / name for name in ("old", "used", "new")]
    for entry in entries:
        entry.mkdir()
        (entry / "image").touch()
        os.utime(entry, (0, 0))
    os.utime(entries[2])
    mark_used(entries[1])
    sweep(entries)
    assert [entry.exists() for entry in entries] == [False, True, True]


@pytest.mark.parametrize("version,names", [("6.12.118", {"6.12", "6.12.111"}), ("6.1.2", set()), ("", None)])
def test_a_patch_for_a_later_series_makes_no_other_kernel(version: str, names: set[str] | None) -> None:
    found = {patch.stem for patch in PATCHES[0].variants(archive.version_key(version))}
    assert found == ({path.removesuffix(".patch") for path in OF_VIRTIOFS} if names is None else names)


def test_a_later_version_changes_options_and_the_users_win() -> None:
    older, later = (all_options(version, {"CONFIG_HZ_250": "n"}) for version in ([6, 12, 118], [7, 3, 4]))
    assert older["CONFIG_PREEMPT_NONE"] == "y" and later["CONFIG_PREEMPT_NONE"] == "n"
    assert later["CONFIG_PREEMPT_LAZY"] == "y" and "CONFIG_PREEMPT_LAZY" not in older
    assert older["CONFIG_HZ_250"] == later["CONFIG_HZ_250"] == "n"


def test_missing_tools_are_named_with_their_packages(tmp_path: Path, run: Recipe) -> None:
    some = tmp_path / "bin"
    some.mkdir()
    for tool in ("gcc", "make", "tar"):
        (some / tool).symlink_to("/bin/true")
    done = run("build.py", "--source", kernel_tree(tmp_path / "linux"), path=str(some))
    assert done.returncode == 1
    assert "ld, strip, flex, bison, bc, patch, xz" in done.stderr
    assert "apt-get install bc binutils bison flex patch xz-utils" in done.stderr


@pytest.mark.parametrize("name", ["nowhere", "empty", "text"])
def test_a_source_that_is_none_is_refused(tmp_path: Path, run: Recipe, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive\n")
    done = run("build.py", "--source", tmp_path / name)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(tmp_path / name) in done.stderr and "Traceback" not in done.stderr


def test_a_tested_kernel_that_is_not_the_newest_is_named(tmp_path: Path) -> None:
    if not apt_knows("linux-source-6.12"):
        pytest.skip("apt does not know linux-source-6.12")
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"\x7fELF\0Linux version 6.12.1 (pyvmm@pyvmm) (gcc) #1\n\0")
    newest = versions.newest_source()
    expected = f"Linux 6.12.1 without patches: NOT the newest of the package index, {newest}"
    assert versions.guest_kernel(str(kernel)).startswith(expected)
    (tmp_path / "System.map").write_text("ffffffff81000000 T fuse_file_tell\nffffffff81000010 T fuse_file_open\n")
    kernel.write_bytes(kernel.read_bytes().replace(b"6.12.1 ", newest.encode() + b" "))
    assert versions.guest_kernel(str(kernel)).startswith(f"Linux {newest} with patches: virtiofs")
    assert "NOT" not in versions.guest_kernel(str(kernel))


# -- the initramfs ----------------------------------------------------------------------------------------------------


def test_the_initrd_has_init_and_console(run: Recipe) -> None:
    done = run("rootfs.py", "--kind", "initrd")
    assert done.returncode == 0, done.stderr
    lister = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    archive = Path(done.stdout.strip())
    listing = subprocess.run([*lister, "-tv"], stdin=archive.open("rb"), check=True, capture_output=True, text=True)
    lines = {line.split()[-1]: line for line in listing.stdout.splitlines()}
    assert "sbin/init" in lines["sbin/init"] and lines["sbin/init"].startswith("-rwxr-xr-x")
    assert lines["dev/console"].startswith("crw-------")
    assert "init -> sbin/init" in listing.stdout


# -- the disk ---------------------------------------------------------------------------------------------------------


def debugfs(image: Path, command: str) -> str:
    words = ["debugfs", "-R", command, str(image)]
    return subprocess.run(words, env={"PATH": PATH}, check=True, capture_output=True, text=True).stdout


def make_disk(run: Recipe, *options: object) -> Path:
    done = run("rootfs.py", *options)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_the_disk_is_a_sound_file_system_with_init_on_it(run: Recipe) -> None:
    image = make_disk(run)
    assert image.stat().st_size == 64 << 20
    checked = subprocess.run(["e2fsck", "-f", "-n", str(image)], env={"PATH": PATH}, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert debugfs(image, "cat /sbin/init") == (RECIPES / "rootfs" / "init").read_text()
    assert "Mode:  0755" in debugfs(image, "stat /sbin/init")
    assert 'Fast link dest: "/bin/busybox"' in debugfs(image, "stat /bin/sh")
    assert "Mode:  01777" in debugfs(image, "stat /tmp")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, cache: Path, run: Recipe) -> None:
    first = make_disk(run).read_bytes()
    cache.rename(tmp_path / "elsewhere")
    assert make_disk(run).read_bytes() == first


def test_files_are_added_and_replace_applets(tmp_path: Path, run: Recipe) -> None:
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o750)
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a b").write_text("inside\n")
    image = make_disk(run, "--with", f"{mine}:/bin/ls", "--with", f"{folder}:/opt/data", "--size", "32M")
    assert image.stat().st_size == 32 << 20
    assert debugfs(image, "cat /bin/ls") == "#!/bin/sh\n"
    assert debugfs(image, 'cat "/opt/data/sub/a b"') == "inside\n"
    mine.write_text("#!/bin/sh\necho\n")
    changed = make_disk(run, "--with", f"{mine}:/bin/ls", "--with", f"{folder}:/opt/data", "--size", "32M")
    assert changed != image and debugfs(changed, "cat /bin/ls") == "#!/bin/sh\necho\n"


def test_a_program_comes_with_its_libraries(run: Recipe) -> None:
    image = make_disk(run, "--program", "xz", "--size", "128M")
    program = shutil.which("xz")
    assert program is not None
    loader = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "libc.so.6" in loader
    assert "Type: regular" in debugfs(image, f"stat {os.path.abspath(program)}")
    for line in loader.splitlines():
        path = line.split(" (")[0].split("=> ")[-1].strip()
        if path.startswith("/"):
            assert "Type: regular" in debugfs(image, f"stat {path}")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else; for anybody else the others test it")
def test_everything_belongs_to_root_whoever_makes_it() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own is closed to others
        os.chmod(folder, 0o755)
        cache, recipes = Path(folder, "cache"), Path(folder, "recipes")
        cache.mkdir()
        os.chown(cache, 65534, 65534)
        shutil.copytree(RECIPES, recipes, ignore=shutil.ignore_patterns("__pycache__"))
        python = os.path.realpath(sys.executable)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-B"]
        if subprocess.run([*command, "-c", ""], capture_output=True, check=False).returncode:
            pytest.skip(f"{python} is not for others")
        environment = {"XDG_CACHE_HOME": str(cache), "PATH": PATH, "HOME": str(cache)}
        words = [*command, str(recipes / "rootfs.py")]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        image = Path(done.stdout.strip())
        assert image.stat().st_uid == 65534
        for path in ("/", "/bin", "/bin/busybox", "/bin/sh", "/sbin/init", "/tmp"):
            assert "User:     0   Group:     0" in debugfs(image, f"stat {path}")


def test_a_cached_disk_that_was_written_to_is_made_again(run: Recipe) -> None:
    image = make_disk(run)
    good = image.read_bytes()
    image.chmod(0o644)
    with open(image, "r+b") as file:
        file.seek(1 << 20)
        file.write(b"the guest was here")
    assert make_disk(run) == image
    assert image.read_bytes() == good


def test_a_disk_too_small_for_its_files_says_so(tmp_path: Path, run: Recipe) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(20 << 20))
    done = run("rootfs.py", "--size", "16M", "--with", f"{large}:/large")
    assert done.returncode == 1
    assert "--size 16M" in done.stderr


# -- init -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cmdline,name,value",
    [
        ('quiet pyvmm.run="echo a  b; exit 3" rw', "pyvmm.run", "echo a  b; exit 3"),
        ('quiet "pyvmm.run=echo a" rw', "pyvmm.run", "echo a"),
        ("pyvmm.run=reboot", "pyvmm.run", "reboot"),
        ("pyvmm.run64=" + base64.b64encode(b"x").decode(), "pyvmm.run64", "eA=="),
        ('pyvmm.run=first pyvmm.run="the last wins"', "pyvmm.run", "the last wins"),
        ("pyvmm.runaway=1 quiet", "pyvmm.run", None),
        ("", "pyvmm.run", None),
    ],
)
def test_init_reads_its_options_from_the_command_line(cmdline: str, name: str, value: str | None) -> None:
    source = (RECIPES / "rootfs" / "init").read_text()
    start = source.index("option() {")
    function = source[start : source.index("\n}\n", start) + 3]
    shell = f'words=" $1 "\n{function}\noption "$2" && printf "<%s>" "$value"'
    done = subprocess.run(["busybox", "sh", "-c", shell, "sh", cmdline, name], capture_output=True, text=True)
    assert done.stdout == ("" if value is None else f"<{value}>")
    assert done.returncode == (1 if value is None else 0)


# -- the files that guest-kernel's recipes read and write: options, ELF kernels, cpio archives, arguments ------------


FILES = Path(__file__).resolve().parents[2] / "guest-kernel"
sys.path.insert(0, str(FILES))

from compact import compact  # noqa: E402
from rootfs import parse_size, parse_with  # noqa: E402

import archive  # noqa: E402
import kconfig  # noqa: E402
from build import PATCHES, all_options  # noqa: E402
from cpio import write_cpio  # noqa: E402
from recipe import Progress, RecipeError, mark_used, sweep  # noqa: E402

# -- options ----------------------------------------------------------------------------------------------------------


def test_the_fragments_are_well_formed_and_ask_for_what_pyvmm_needs() -> None:
    options = kconfig.read_fragments(FILES / "config")
    for name in ("PVH", "KVM_GUEST", "VIRTIO_MMIO", "VIRTIO_PCI", "VIRTIO_BLK", "EXT4_FS", "FUSE_DAX", "CGROUP_BPF"):
        assert options[f"CONFIG_{name}"] == "y"
    assert options["CONFIG_MODULES"] == "n"


def test_a_configuration_reads_as_options_and_values() -> None:
    text = '# a reason\n\nCONFIG_A=y\nCONFIG_B="two words"\n# CONFIG_C is not set\nCONFIG_D=64\n'
    options = kconfig.parse_config(text, "x.config", strict=True)
    assert options == {"CONFIG_A": "y", "CONFIG_B": '"two words"', "CONFIG_C": "n", "CONFIG_D": "64"}
    assert kconfig.parse_config(kconfig.render(options), "again", strict=True) == options


@pytest.mark.parametrize("line", ["CONFIG_A", "A=y", "# CONFIG_A is not sett", "CONFIG_A=", "CONFIG_OK=n"])
def test_a_line_that_kconfig_would_drop_in_silence_is_named(line: str) -> None:
    with pytest.raises(RecipeError, match=r"my\.config:2: ") as caught:
        kconfig.parse_config(f"CONFIG_OK=y\n{line}\n", "my.config", strict=True)
    assert caught.value.hint


def test_options_that_did_not_survive_are_named_with_what_became_of_them() -> None:
    wanted = {"CONFIG_A": "y", "CONFIG_B": "y", "CONFIG_C": "n", "CONFIG_D": "n"}
    with pytest.raises(RecipeError) as caught:
        kconfig.verify(wanted, {"CONFIG_A": "y", "CONFIG_C": "y"})
    assert "CONFIG_B=y (became n)" in caught.value.message
    assert "CONFIG_C=n (became y)" in caught.value.message
    assert "CONFIG_A" not in caught.value.message and "CONFIG_D" not in caught.value.message


# -- compact ----------------------------------------------------------------------------------------------------------

Segment = tuple[int, int, bytes, int]  # flags, physical address, bytes in the file, bytes of memory


def elf(segments: list[Segment], note: tuple[int, int] | None = None) -> bytes:
    """An ELF kernel; `note` is (physical address, size) of a part of a segment."""
    table, body, offsets = b"", b"", []
    begin = 0x1000
    for flags, address, data, memory in segments:
        offsets.append(begin + len(body))
        table += struct.pack("<IIQQQQQQ", 1, flags, offsets[-1], address + (1 << 40), address, len(data), memory, 4096)
        body += data + bytes(-len(data) % 4096)
    if note:
        at, size = note
        where = next(o + at - s[1] for o, s in zip(offsets, segments, strict=True) if s[1] <= at < s[1] + len(s[2]))
        table += struct.pack("<IIQQQQQQ", 4, 4, where, at + (1 << 40), at, size, size, 4)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = len(segments) + bool(note)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, 0x1234, 64, 0, 0, 64, 56, count, 64, 0, 0)
    return (header + table).ljust(begin, b"\0") + body


def load(file: bytes, base: int, size: int) -> tuple[bytes, list[bytes]]:
    """What a loader makes of `file` in memory full of 0xEE, and its notes."""
    memory, notes = bytearray(b"\xee" * size), []
    table, count = struct.unpack_from("<Q", file, 32)[0], struct.unpack_from("<H", file, 56)[0]
    for index in range(count):
        kind, _, offset, virtual, address, filled, total, align = struct.unpack_from(
            "<IIQQQQQQ", file, table + 56 * index
        )
        assert offset + filled <= len(file) and filled <= total
        if kind == 1:
            assert offset % align == virtual % align == address % align
            memory[address - base : address - base + total] = file[offset : offset + filled].ljust(total, b"\0")
        else:
            notes.append(file[offset : offset + filled])
    return bytes(memory), notes


def test_a_compacted_kernel_loads_the_same_but_for_padding_in_code() -> None:
    code, zeros, gap = os.urandom(0x5000 - 1), bytes(0x40000), b"\xcc" * 0x200000
    segments = [
        (5, 0x100000, code + b"\xcc" + gap + code + zeros + code, 0x300000),
        (6, 0x400000, zeros + code, 0x80000),
        (6, 0x500000, code + zeros, 0x45000),
        (6, 0x600000, b"", 0x3000),
    ]
    whole = elf(segments, note=(0x100123, 0x40))
    small = compact(whole)
    assert len(small) < len(whole) - len(gap) - 2 * len(zeros)
    before, notes = load(whole, 0x100000, 0x600000)
    after, same_notes = load(small, 0x100000, 0x600000)
    assert same_notes == notes == [code[0x123:0x163]]
    hole = slice(0x5000, 0x5000 + len(gap))
    assert after[hole] == b"\xee" * len(gap)
    assert before[: hole.start] + before[hole.stop :] == after[: hole.start] + after[hole.stop :]
    assert small[24:32] == whole[24:32]  # the entry
    assert compact(small) == small


def test_short_padding_stays() -> None:
    data = b"x" * 0x1000 + bytes(0x4000) + b"\xcc" * 0x4000 + b"y" * 0x1000
    before, _ = load(elf([(5, 0x1000, data, len(data))]), 0, 0x10000)
    file = compact(elf([(5, 0x1000, data, len(data))]))
    assert struct.unpack_from("<H", file, 56)[0] == 1
    assert load(file, 0, 0x10000)[0] == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: b"",
        lambda file: b"#!/bin/sh\n" * 20,
        lambda file: file[:0x1800],
        lambda file: file[:54] + b"\x20" + file[55:],
        lambda file: file[:56] + b"\xff\xff" + file[58:],
        lambda file: elf([(5, 0x1001, b"x" * 4096, 4096)]),
    ],
    ids=["empty", "script", "truncated", "entry size", "too many entries", "not at a page"],
)
def test_what_is_no_kernel_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(RecipeError, match="what the linker made"):
        compact(damage(elf([(5, 0x1000, b"x" * 0x2000, 0x2000)])))


# -- cpio -----------------------------------------------------------------------------------------------------------


def test_cpio_unpacks_what_was_written(tmp_path: Path) -> None:
    tree, archive, out = tmp_path / "tree", tmp_path / "a.cpio", tmp_path / "out"
    (tree / "bin" / "déjà").mkdir(parents=True)
    for size in range(5):  # every padding
        (tree / "bin" / ("x" * (10 + size))).write_bytes(b"y" * size)
    (tree / "bin" / "tool").write_bytes(os.urandom(100_000))
    (tree / "bin" / "tool").chmod(0o755)
    (tree / "sh").symlink_to("bin/tool")
    (tree / "lib").symlink_to("bin")
    with open(archive, "wb") as file:
        write_cpio(tree, file)
    out.mkdir()
    unpack = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    with open(archive, "rb") as file:
        subprocess.run([*unpack, "-i", "-d", "-m"], stdin=file, cwd=out, check=True, capture_output=True)
    for path in tree.rglob("*"):
        other = out / path.relative_to(tree)
        assert other.lstat().st_mode == path.lstat().st_mode
        if path.is_symlink():
            assert os.readlink(other) == os.readlink(path)
        elif path.is_file():
            assert other.read_bytes() == path.read_bytes()
    assert len(list(out.rglob("*"))) == len(list(tree.rglob("*")))


def test_cpio_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(os.devnull, "wb") as file, pytest.raises(ValueError, match="fifo"):
        write_cpio(tmp_path, file)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "x", "-1", "12Q", "1.5G", "1M", "5000000"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--size"):
        parse_size(text)


def test_sizes_are_powers_of_1024() -> None:
    assert [parse_size(text) for text in ("4M", "1g", "8388608")] == [4 << 20, 1 << 30, 8 << 20]


@pytest.mark.parametrize("text", ["/bin/sh", ":/x", "/bin/sh:", "/bin/sh:x", "/bin/sh:/", "/bin/sh:/a/../b", "/no:/x"])
def test_files_to_add_must_be_well_formed(text: str) -> None:
    with pytest.raises(RecipeError, match="--with"):
        parse_with(text)


# -- a distribution's kernel -----------------------------------------------------------------------------------------


def module(**fields: str) -> bytes:
    """What matters of a module file: its .modinfo, strings that end with a NUL."""
    info = "".join(f"{field}={value}\0" for field, value in fields.items())
    return b"\x7fELF\0" + info.encode()


def test_the_newest_kernel_of_the_archive_is_taken_not_the_first_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not apt_knows("linux-image-amd64"):
        pytest.skip("apt does not know linux-image-amd64")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    image, version = newest_kernel().split()[0].split("=")
    release = image.removeprefix("linux-image-")
    for name in ("0.1", f"{release}-{version}", "9.9-1"):
        folder = cache_dir() / f"kernel-{name}"
        folder.mkdir()
        (folder / "vmlinuz").touch()
        (folder / "release").write_text(name)
    assert find_kernel().directory.name == f"kernel-{release}-{version}"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A module tree as distributions ship it: compressed or not, in subdirectories, with built-in ones listed."""
    files = {
        "fs/ext4/ext4.ko.xz": module(softdep="pre: crypto-crc32c", depends="jbd2,mbcache"),
        "fs/jbd2/jbd2.ko": module(depends=""),
        "fs/mbcache.ko.xz": module(depends=""),
        "crypto/crc32c_generic.ko.xz": module(depends="virtio"),
        "drivers/block/virtio_blk.ko.xz": module(depends="virtio-ring"),
        "drivers/virtio/virtio-ring.ko": module(depends="virtio"),
    }
    tree = tmp_path / "kernel-6" / "modules"
    for name, content in files.items():
        path = tree / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    (tree / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    return Kernel("6", tree.parent)


def test_what_a_module_needs_is_loaded_before_it(kernel: Kernel) -> None:
    order = list(Modules(kernel.modules, ["virtio_blk", "ext4", "virtio"]).order)
    assert order[:2] == ["virtio_ring", "virtio_blk"]
    assert set(order[2:-1]) == {"jbd2", "mbcache", "crc32c_generic"} and order[-1] == "ext4"


def test_a_module_that_is_not_there_is_named(kernel: Kernel) -> None:
    with pytest.raises(DistributionError, match="no module btrfs"):
        Modules(kernel.modules, ["btrfs"])


def test_an_initrd_gets_unpacked_files_and_their_order(kernel: Kernel, tmp_path: Path) -> None:
    made = write_modules(kernel, ["ext4"], tmp_path)
    names = (made / "order").read_text().split()
    assert names[-1] == "ext4.ko" and {path.name for path in made.iterdir()} == {*names, "order"}
    assert (made / "ext4.ko").read_bytes().startswith(b"\x7fELF")
    assert write_modules(kernel, ["ext4"], tmp_path) == made, "it is made once"
    more = write_modules(kernel, ["virtio_blk", "ext4"], tmp_path)
    assert "virtio_blk.ko" in (more / "order").read_text(), "who asks for others does not get those"


def test_a_signature_is_cut_off() -> None:
    signature = b"s" * 100
    trailer = bytes(8) + len(signature).to_bytes(4, "big") + b"~Module signature appended~\n"
    assert without_signature(b"\x7fELF module" + signature + trailer) == b"\x7fELF module"
    assert without_signature(b"\x7fELF module") == b"\x7fELF module"


# -- what the tests run with -------------------------------------------------------------------------------------------


def test_what_is_tested_on_each_kernel_is_there() -> None:
    for _, _, tests in kernels.KERNELS.values():
        for test in tests:
            file, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text() or not name, test
    assert kernels.main(["hurd"]) == 2


@pytest.mark.parametrize(
    "name,said", [("/nowhere/python3", "does not run"), ("/bin/true", "does not run"), (sys.executable, "")]
)
def test_an_interpreter_that_is_named_is_taken_or_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setenv("PYVMM_PYTHON", name)
    if said:
        with pytest.raises(SystemExit, match=f"PYVMM_PYTHON={name} {said}"):
            deps.pick_python()
    else:
        assert deps.pick_python() == (name, sys.version_info[:2])


# -- the library is typed for those who use it: a program of theirs is checked by mypy --strict, mistakes included


PROGRAM = """
import asyncio
from vmm import AsyncMachine, BootConfig, DiskConfig, EndEvent, Event, Machine, MachineConfig

def run(config: MachineConfig) -> str:
    with Machine(config) as machine:
        machine.start()
        for event in machine.events():
            if isinstance(event, EndEvent):
                return event.kind
        rip: int = machine.vcpus[0].regs.rip
        data: bytes = machine.memory.read(rip, 4)
        end: EndEvent | None = machine.shutdown(timeout=1.0)
    return ""

async def arun(config: MachineConfig) -> bytes:
    async with AsyncMachine(config) as vm:
        end: EndEvent = await vm.run(timeout=3)
        return await vm.console.readline()

print(run(MachineConfig(BootConfig("vmlinux"), rootfs=DiskConfig("root.img"))))
"""
MISTAKES = """
from vmm import BootConfig, Machine, MachineConfig

Machine(MachineConfig("vmlinux"))
Machine(MachineConfig(BootConfig("vmlinux"))).run(timeout="60")
"""


def check(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), "program.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)


def test_a_program_that_uses_the_library_is_checked(tmp_path: Path) -> None:
    done = check(tmp_path, PROGRAM)
    assert done.returncode == 0, done.stdout


def test_its_mistakes_are_found(tmp_path: Path) -> None:
    done = check(tmp_path, MISTAKES)
    assert 'program.py:4: error: Argument 1 to "MachineConfig"' in done.stdout
    assert 'program.py:5: error: Argument "timeout" to "run"' in done.stdout
