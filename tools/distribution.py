"""The distribution's kernel package: downloaded, unpacked, kept in a cache, and never installed.

The lab runs on this kernel, and `make demo` boots it while there is no kernel of our own. Debian and Ubuntu: the
package comes by `apt-get download`, and `dpkg-deb -x` unpacks it.
"""

from __future__ import annotations

import fcntl
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tools.step import say

sys.path.append(str(Path(__file__).resolve().parents[1] / "guest-kernel"))

import archive as archive
from recipe import Progress, candidate_version
from recipe import RecipeError as RecipeError
from recipe import digest as digest
from recipe import mark_used as mark_used
from recipe import sweep as sweep

META_PACKAGES = ("linux-image-amd64", "linux-image-generic")
"""Debian's and Ubuntu's package that depends on the newest kernel."""

SIGNATURE_MARK = b"~Module signature appended~\n"


class DistributionError(Exception):
    """The kernel package cannot be had, or lacks something; the message says what to do."""


class Log(Progress):
    """Where recipes report progress: as the tools do."""

    def say(self, text: str) -> None:
        """One line."""
        say(text)


class Kernel(NamedTuple):
    """A kernel in the cache."""

    release: str
    directory: Path  # in the cache: vmlinuz, perhaps vmlinux, modules/ (what /lib/modules/RELEASE holds)

    @property
    def modules(self) -> Path:
        """The module tree."""
        return self.directory / "modules"

    @property
    def file(self) -> Path:
        """What QEMU boots: the unpacked kernel where there is one, since unpacking takes the emulated CPU a second."""
        unpacked = self.directory / "vmlinux"
        return unpacked if unpacked.exists() else self.directory / "vmlinuz"


def cache_dir() -> Path:
    """Where the kernel is, and what the lab makes of it: ${XDG_CACHE_HOME:-~/.cache}/pyvmm/lab; made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "pyvmm" / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the cache directory `path`, so that two labs started at once build one image."""
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_tool(argv: list[str], cwd: Path | None = None) -> str:
    """Run a packaging tool; returns its stdout. Raises DistributionError with its own words when it fails."""
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise DistributionError(f"no {argv[0]} here; the kernel comes from a Debian or Ubuntu package") from None
    if done.returncode:
        raise DistributionError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def kernel_packages(options: Sequence[str] = ()) -> list[str]:
    """The packages that hold the newest kernel and its modules, by the names that the package index gives now.

    :param options: apt's, of another package index than the machine's
    """
    for meta in META_PACKAGES:
        try:
            listing = run_tool(["apt-cache", *options, "depends", "--no-recommends", "--no-suggests", meta])
        except DistributionError:
            continue
        if images := re.findall(r"Depends: (linux-image-\d\S+)", listing):
            image = images[0]
            # Ubuntu has the modules in packages of their own, as newer Debians have, and the kernel, too.
            release = image.removeprefix("linux-image-")
            known = run_tool(["apt-cache", *options, "pkgnames", "linux-"]).split()
            wanted = {f"linux-{kind}-{release}" for kind in ("base", "binary", "modules", "modules-extra")}
            return [image, *sorted(wanted.intersection(known))]
    raise DistributionError(f"apt knows none of {', '.join(META_PACKAGES)}: run `apt-get update` as root")


def find_kernel(*, backports: bool = False) -> Kernel:
    """The newest kernel that the package index has, from the cache when it is there. Raises DistributionError.

    :param backports: the newest of Debian's backports
    """
    cache = cache_dir()
    with locked(cache):
        return _find_kernel(cache, archive.Backports(cache.parent / "backports", Log()) if backports else None)


def newest_kernel(options: Sequence[str] = ()) -> str:
    """The packages that hold the newest kernel, as `PACKAGE=VERSION` with spaces between. Raises RecipeError."""
    try:
        return " ".join(f"{package}={candidate_version(package, options)}" for package in kernel_packages(options))
    except DistributionError as error:
        raise RecipeError(str(error)) from None


def _find_kernel(cache: Path, backports: archive.Backports | None) -> Kernel:
    for again in (False, True):
        try:
            if backports is None:
                chosen = archive.remembered(cache / "kernel-newest", newest_kernel, Log())
            else:
                chosen = backports.remembered(cache / "kernel-backports", partial(newest_kernel, backports.options))
        except RecipeError as error:
            raise DistributionError(error.message) from None
        packages = chosen.split()
        image, version = packages[0].split("=", 1)
        # A release can have several versions: what is built again of the same source keeps its name.
        target = cache / f"kernel-{image.removeprefix('linux-image-')}-{version.replace(':', '.')}"
        try:
            if not target.exists():
                _unpack_kernel_packages(packages, target, backports.options if backports else ())
        except DistributionError as error:
            if not again and backports is None and os.geteuid() == 0:
                run_tool(["apt-get", "-q", "update"])  # the archive may have other versions by now
                continue
            others = sorted(cache.glob("kernel-*/release"), key=lambda path: archive.version_key(path.parent.name))
            if not others or backports is not None:
                raise DistributionError(f"{error}\nif the package index is old: run `apt-get update` as root") from None
            target = others[-1].parent
            say(f"using {target.name}, since {packages[0]} cannot be had: {error}")
        mark_used(target)
        sweep(path for path in cache.glob("kernel-*/") if path != target)
        return Kernel((target / "release").read_text(), target)
    raise AssertionError


def _unpack_kernel_packages(packages: list[str], target: Path, options: Sequence[str]) -> None:
    """Make `target` of the packages, downloaded for that. Raises DistributionError."""
    say(f"downloading {', '.join(packages)} (unpacked into {target.parent}, not installed)")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="new-") as scratch:
        root = Path(scratch) / "root"
        # apt's own unprivileged user cannot write to our cache.
        run_tool(["apt-get", "-q", "-o", "APT::Sandbox::User=root", *options, "download", *packages], Path(scratch))
        for package in Path(scratch).glob("*.deb"):
            run_tool(["dpkg-deb", "-x", str(package), str(root)])
        trees = [*root.glob("usr/lib/modules/*"), *root.glob("lib/modules/*")]
        if len(trees) != 1:
            raise DistributionError(f"no modules of one kernel in {', '.join(packages)}")
        (modules,) = trees
        release = modules.name
        # Newer Debians have it beside the modules.
        image = next((path for path in (root / f"boot/vmlinuz-{release}", modules / "vmlinuz") if path.exists()), None)
        if image is None:
            raise DistributionError(f"no kernel in {', '.join(packages)}")
        made = Path(scratch) / "kernel"
        made.mkdir()
        shutil.move(image, made / "vmlinuz")
        if elf := unpack_kernel((made / "vmlinuz").read_bytes()):
            (made / "vmlinux").write_bytes(elf)
        # depmod wants the tree under lib/modules/RELEASE.
        run_tool(["busybox", "depmod", "-b", str(modules.parents[2]), release])
        shutil.move(modules, made / "modules")
        (made / "release").write_text(release)
        made.rename(target)


def unpack_kernel(image: bytes) -> bytes | None:
    """The ELF inside a bzImage (Documentation/arch/x86/boot.rst, payload_offset), None if we cannot decompress it."""
    setup_sectors = image[0x1F1] or 4
    offset, length = (int.from_bytes(image[at : at + 4], "little") for at in (0x248, 0x24C))
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]  # less the unpacked size that the build appends
    if payload.startswith(b"\x28\xb5\x2f\xfd") and (zstd := shutil.which("zstd")):
        done = subprocess.run([zstd, "-dcq"], input=payload, stdout=subprocess.PIPE)
        elf = done.stdout if done.returncode == 0 else b""
    elif payload.startswith(b"\xfd7zXZ"):
        elf = lzma.decompress(payload)
    else:
        return None
    return elf if elf.startswith(b"\x7fELF") else None


def read_module(path: Path) -> bytes:
    """The uncompressed ELF of a module file (.ko, .ko.xz or .ko.zst), with its signature if it has one."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE, check=True).stdout
    return path.read_bytes()


def without_signature(image: bytes) -> bytes:
    """The module `image` unsigned: checking signatures would take the lab's CPU longer than all else of a module."""
    if not image.endswith(SIGNATURE_MARK):  # struct module_signature before it ends with the signature's length
        return image
    end = len(image) - len(SIGNATURE_MARK)
    return image[: end - 12 - int.from_bytes(image[end - 4 : end], "big")]


def listed(image: bytes, field: str) -> list[str]:
    """The names in a field of a module's .modinfo, such as `depends=a,b` or `softdep=pre: a b`."""
    found = re.findall(rb"\0" + field.encode() + rb"([^\0]*)\0", image)
    return [name.replace("-", "_") for text in found for name in re.split(r"[ ,]+", text.decode()) if name]


class Modules:
    """The modules `names` of the module tree `tree` with what they need; `order` has them as they are to be loaded.

    Raises DistributionError when there is no such module.
    """

    def __init__(self, tree: Path, names: Iterable[str]) -> None:
        self.files = {path.name.split(".ko")[0].replace("-", "_"): path for path in tree.glob("kernel/**/*.ko*")}
        self.builtin = {
            Path(line).name.split(".ko")[0].replace("-", "_")
            for line in (tree / "modules.builtin").read_text().splitlines()
        }
        self.order: dict[str, bytes] = {}
        for name in names:
            self._add(name)

    def _add(self, name: str) -> None:
        """Queue `name` after what it depends on."""
        if name in self.builtin or name in self.order:
            return
        if name not in self.files:
            raise DistributionError(f"the distribution's kernel has no module {name}")
        image = read_module(self.files[name])
        for needed in listed(image, "depends="):
            self._add(needed)
        for wanted in listed(image, "softdep=pre: "):
            # What is asked for by an algorithm's name ("crypto-crc32c") is in several modules; one runs on every CPU.
            for candidate in {wanted, wanted.removeprefix("crypto_") + "_generic"} & self.files.keys():
                self._add(candidate)
        self.order[name] = image


def write_modules(kernel: Kernel, names: Iterable[str], folder: Path) -> Path:
    """A directory for an initrd with the modules `names` and what they need, and a file `order`; returns its path.

    It is made inside of `folder` when it is not there. Raises DistributionError when there is no such module.
    """
    names = list(names)
    made = folder / f"modules-{kernel.directory.name}-{digest({'names': ' '.join(names)})[:8]}"
    if (made / "order").exists():
        return made
    made.mkdir(parents=True, exist_ok=True)
    modules = Modules(kernel.modules, names)
    for name, image in modules.order.items():
        (made / f"{name}.ko").write_bytes(image)
    new = made / "order.new"
    new.write_text("".join(f"{name}.ko\n" for name in modules.order))
    new.rename(made / "order")
    return made
