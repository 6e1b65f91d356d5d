#!/usr/bin/env python3
"""Makes the guest's root: an ext4 disk image or an initramfs with busybox, without root and without mounting.

Prints the path of the result on stdout. The same files give the same bytes; the cache is keyed by content.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import recipe
from cpio import write_cpio
from recipe import EPOCH, Progress, RecipeError

HERE = Path(__file__).resolve().parent
FOLDERS = "bin dev etc home mnt proc root run sbin sys tmp usr/bin usr/sbin usr/local/bin usr/local/sbin var"
SCRIPTS = {"init": "sbin/init", "dhcp": "etc/udhcpc/default.script", "clone": "usr/sbin/pyvmm-clone"}
"""Where the files of rootfs/ go."""
SETTINGS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/profile": "export PS1='guest:\\w\\$ '\n",
    "etc/fstab": """\
proc   /proc          proc    nosuid,nodev,noexec         0 0
sysfs  /sys           sysfs   nosuid,nodev,noexec         0 0
pts    /dev/pts       devpts  gid=5,mode=620,ptmxmode=666 0 0
shm    /dev/shm       tmpfs   nosuid,nodev,mode=1777      0 0
run    /run           tmpfs   nosuid,nodev,mode=755       0 0
tmp    /tmp           tmpfs   nosuid,nodev,mode=1777      0 0
cgroup /sys/fs/cgroup cgroup2 nosuid,nodev,noexec         0 0
""",
}
FILESYSTEM_ID = "70796d6d-0000-4000-8000-000000000001"
TOOLS = {"mke2fs": "e2fsprogs", "debugfs": "e2fsprogs"}
_SIZE = re.compile(r"(\d+)([KMGT]?)$")


def parse_size(text: str) -> int:
    """Bytes of "64M", "1G" (powers of 1024) or plain bytes. Raises RecipeError for anything else or under 4 MiB."""
    match = _SIZE.match(text.upper())
    if not match:
        raise RecipeError(f"--size {text}: not a size", "write a number with K, M, G or T, as in 64M")
    size = int(match[1]) << " KMGT".index(match[2] or " ") * 10
    if size < 4 << 20 or size % 4096:
        raise RecipeError(f"--size {text}: a disk has at least 4 MiB and a multiple of 4 KiB")
    return size


def parse_with(text: str) -> tuple[Path, str]:
    """`FILE:DEST` of --with: a file or directory of the host, and the absolute path it gets in the guest."""
    source, colon, destination = text.rpartition(":")
    if not colon or not source:
        raise RecipeError(f"--with {text}: want FILE:DEST", "as in --with /usr/bin/fio:/usr/bin/fio")
    if not destination.startswith("/") or ".." in destination.split("/") or destination.strip("/") == "":
        raise RecipeError(f"--with {text}: {destination or 'DEST'} is not an absolute path of a file in the guest")
    path = Path(source)
    if not path.exists():
        raise RecipeError(f"--with {text}: {source} does not exist")
    return path, destination.strip("/")


def program_files(program: str) -> list[tuple[Path, str]]:
    """A program of the host and the shared libraries it needs, each at its own path. Raises RecipeError."""
    found = shutil.which(program)
    if found is None:
        raise RecipeError(f"--program {program}: not found on PATH")
    listing = subprocess.run(["ldd", found], capture_output=True, text=True, check=False)
    if "not found" in listing.stdout:
        missing = [line.split()[0] for line in listing.stdout.splitlines() if "not found" in line]
        raise RecipeError(f"--program {program}: its library {missing[0]} is not installed")
    libraries = re.findall(r"(/\S+) \(0x", listing.stdout)  # none for a static program: ldd says so and fails
    return [(Path(path), path.strip("/")) for path in [os.path.abspath(found), *libraries]]


def find_busybox(progress: Progress) -> Path:
    """A static busybox: the installed one, or Debian's package from the cache, downloaded when it is not there."""
    for candidate in ("/bin/busybox", "/usr/bin/busybox"):
        path = Path(candidate)
        if path.exists() and _is_static(path):
            return path
    entry = recipe.cache_root() / "rootfs" / "busybox"
    if hit := recipe.cached(entry, "busybox"):
        return hit
    with recipe.lock(entry.parent, progress), recipe.workspace(entry.parent) as work:
        if hit := recipe.cached(entry, "busybox"):
            return hit
        package = work / "package"
        recipe.fetch_package("busybox-static", recipe.candidate_version("busybox-static"), package, progress)
        binary = next((p for p in (package / "bin/busybox", package / "usr/bin/busybox") if p.exists()), None)
        if binary is None:
            raise RecipeError("the package busybox-static has no bin/busybox")
        made = work / "made"
        made.mkdir()
        shutil.copy(binary, made / "busybox")
        return recipe.publish(made, entry, "busybox")


def _is_static(path: Path) -> bool:
    """Whether an ELF file has no interpreter: program headers (64-bit) of type PT_INTERP (3)."""
    with open(path, "rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:5] != b"\x7fELF\x02":
            return False
        file.seek(int.from_bytes(header[32:40], "little"))
        size, count = (int.from_bytes(header[at : at + 2], "little") for at in (54, 56))
        return all(file.read(size)[:4] != b"\x03\0\0\0" for _ in range(count))


def make_tree(tree: Path, busybox: Path, extra: list[tuple[Path, str]]) -> None:
    """Fill the directory `tree` with the guest's files; `extra` is (host file, path in the guest) and goes last."""
    for folder in FOLDERS.split():
        (tree / folder).mkdir(parents=True)
    os.chmod(tree / "tmp", 0o1777)
    os.chmod(tree / "root", 0o700)
    shutil.copyfile(busybox, tree / "bin/busybox")
    os.chmod(tree / "bin/busybox", 0o755)
    for applet in recipe.run([str(busybox), "--list-full"]).split():
        link = tree / applet
        if not link.exists() and applet != "bin/busybox":
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/bin/busybox")
    own = {destination: ((HERE / "rootfs" / name).read_text(), 0o755) for name, destination in SCRIPTS.items()}
    own |= {destination: (text, 0o644) for destination, text in SETTINGS.items()}
    for destination, (text, mode) in own.items():
        path = tree / destination
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.chmod(path, mode)
    (tree / "init").symlink_to("sbin/init")  # the path an initramfs is started by
    (tree / "etc/mtab").symlink_to("/proc/mounts")
    for source, destination in extra:
        _add(tree, source, destination)
    for folder_path, _, files in os.walk(tree, topdown=False):
        for path_text in [*(os.path.join(folder_path, name) for name in files), folder_path]:
            os.utime(path_text, (EPOCH, EPOCH), follow_symlinks=False)


def _add(tree: Path, source: Path, destination: str) -> None:
    target = tree / destination
    if target.is_dir() and not source.is_dir():
        raise RecipeError(f"--with {source}:/{destination}: that is a directory in the guest", "name the file too")
    # A link of the tree (a busybox applet, say) is replaced, never followed: it points outside on this machine.
    for parent in [target, *target.parents]:
        if parent == tree:
            break
        if parent.is_symlink():
            parent.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
        os.chmod(target, stat.S_IMODE(source.stat().st_mode) | 0o444)


def make_disk(tree: Path, image: Path, size: int) -> None:
    """Make the ext4 image `image` of `size` bytes with the files of `tree`, all owned by root.

    Inode tables and journal count as zeroed, which a fresh sparse file is: else a thread of the guest's kernel would
    write them in the first seconds of its life. Raises RecipeError when the files do not fit.
    """
    clock = {"E2FSPROGS_FAKE_TIME": "1", "SOURCE_DATE_EPOCH": "1", "MKE2FS_CONFIG": "/dev/null"}
    image.unlink(missing_ok=True)
    options = (
        f"root_owner=0:0,hash_seed={FILESYSTEM_ID},lazy_itable_init=0,lazy_journal_init=1,"
        "assume_storage_prezeroed=1,packed_meta_blocks=1,nodiscard"
    )
    features = "has_journal,extent,metadata_csum,64bit,dir_index,filetype,extra_isize,huge_file,flex_bg,dir_nlink"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0"]
    command += ["-L", "pyvmm-root", "-U", FILESYSTEM_ID, "-O", features, "-E", options, "-d", str(tree)]
    try:
        recipe.run([*command, str(image), f"{size >> 10}k"], env=clock)
    except RecipeError as error:
        if "llocat" in error.message or "too small" in error.message:
            raise RecipeError(f"--size {size >> 20}M: the files do not fit", "give a larger --size") from None
        raise
    # mke2fs copies the owner of each file, which is whoever runs this.
    commands = []
    for folder, folders, files in os.walk(tree):
        for name in [*folders, *files]:
            path = "/" + os.path.relpath(os.path.join(folder, name), tree)
            if '"' in path or "\n" in path:
                raise RecipeError(f"{path}: a name with a quote or a line break cannot go on the disk")
            commands += [f'set_inode_field "{path}" uid 0', f'set_inode_field "{path}" gid 0']
    script = image.with_suffix(".debugfs")
    script.write_text("\n".join(commands) + "\n")
    recipe.run(["debugfs", "-w", "-f", str(script), str(image)], env=clock)
    script.unlink()


def _fingerprint(source: Path, destination: str) -> str:
    if not source.is_dir():
        return f"{destination} {source.stat().st_mode & 0o777:o} {recipe.file_digest(source)}"
    lines = []
    for folder, folders, files in os.walk(source):
        folders.sort()
        for name in sorted(files):
            path = Path(folder) / name
            content = os.readlink(path) if path.is_symlink() else recipe.file_digest(path)
            lines.append(f"{destination}/{path.relative_to(source)} {path.lstat().st_mode & 0o777:o} {content}")
    return "\n".join(lines)


def make(kind: str, size: int, extra: list[tuple[Path, str]], progress: Progress) -> Path:
    """The path of a "disk" of `size` bytes or an "initrd" (uncompressed) in the cache, made when it is not there."""
    busybox = find_busybox(progress)
    own = [HERE / name for name in ("rootfs.py", "cpio.py")] + sorted((HERE / "rootfs").iterdir())
    parts = {file.name: recipe.file_digest(file) for file in [busybox, *own]}
    parts |= {"kind": kind, "size": str(size if kind == "disk" else 0)}
    parts |= {f"extra {number}": _fingerprint(*pair) for number, pair in enumerate(extra)}
    name = "root.ext4" if kind == "disk" else "root.cpio"
    entry = recipe.cache_root() / "rootfs" / recipe.digest(parts)
    if hit := recipe.cached(entry, name):
        return hit
    if kind == "disk":
        recipe.require_tools(TOOLS, "making a root disk")
    with recipe.lock(entry.parent, progress), recipe.workspace(entry.parent) as work:
        if hit := recipe.cached(entry, name):
            return hit
        tree, made = work / "tree", work / "made"
        tree.mkdir(mode=0o755)
        os.chmod(tree, 0o755)
        made.mkdir()
        make_tree(tree, busybox, extra)
        if kind == "disk":
            make_disk(tree, made / name, size)
        else:
            with open(made / name, "wb") as out:
                write_cpio(tree, out)
        os.chmod(made / name, 0o444)
        progress.say(f"made {name} ({os.stat(made / name).st_blocks >> 11} MiB on the host's disk)")
        return recipe.publish(made, entry, name)


def main() -> Path:
    parser = argparse.ArgumentParser(description="Makes the guest's root disk or initramfs and prints its path.")
    parser.add_argument("--kind", choices=("disk", "initrd"), default="disk", help="ext4 image (default) or cpio")
    parser.add_argument("--size", default="64M", help="of the disk; the file is sparse (default: 64M)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a copy of your own; write to that one only")
    parser.add_argument(
        "--with", dest="extra", action="append", default=[], metavar="FILE:DEST", help="add a file or directory"
    )
    parser.add_argument(
        "--program", action="append", default=[], metavar="NAME", help="add a program of this machine and its libraries"
    )
    arguments = parser.parse_args()
    extra = [parse_with(text) for text in arguments.extra]
    for program in arguments.program:
        extra += program_files(program)
    result = make(arguments.kind, parse_size(arguments.size), extra, Progress())
    return recipe.deliver(result, arguments.output)


if __name__ == "__main__":
    recipe.run_recipe(main)
