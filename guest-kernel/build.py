#!/usr/bin/env python3
"""Builds the guest's kernel, vmlinux, from the distribution's kernel source package and the options in config/.

Prints the path of the result on stdout. The same options and source give the same bytes; the cache is keyed by both.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from compact import compact

import archive
import kconfig
import recipe
from recipe import Progress, RecipeError

Options = dict[str, str]

HERE = Path(__file__).resolve().parent
# Raise this when the steps below change what comes out.
REVISION = "2"
TOOLS = {
    "gcc": "gcc",
    "make": "make",
    "ld": "binutils",
    "strip": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "patch": "patch",
    "tar": "tar",
    "xz": "xz-utils",
}


class Patch(NamedTuple):
    """A change of ours to Linux, for what nothing but the kernel can do. A tree of the user's own stays as it is.

    Its folder in patches/ has variants, named after the first version that they fit; the newest that fits is taken.
    """

    name: str
    mark: tuple[str, str]
    """A file, and a text in it where the change is there already."""
    lack: str
    """What a kernel without it is like."""

    def variants(self, version: Sequence[int] = ()) -> list[Path]:
        """The variants, for the newest version first; without those for later series than that of `version`, if it is
        known."""
        found = ((archive.version_key(path.stem), path) for path in (HERE / "patches" / self.name).glob("*.patch"))
        series = list(version[:2])
        return [path for since, path in sorted(found, reverse=True) if not series or since[:2] <= series]

    def is_in(self, tree: Path) -> bool:
        """Whether the source in `tree` has the change."""
        file, text = self.mark
        try:
            return text in (tree / file).read_text(errors="replace")
        except OSError:
            return False


PATCHES = (
    Patch(
        "virtiofs",
        ("fs/fuse/fuse_i.h", "FUSE_ATTR_SOLE"),
        "shares are slower, and unmounting one under I/O can panic",
    ),
    Patch(
        "vmgenid",
        ("drivers/virt/vmgenid.c", "NEW_VMGENID"),
        "programs of a clone are not notified that it is one",
    ),
)
# How many lines of make's output a build has, for "n of about m"; nothing depends on it.
STEPS = 2120
REPORT_SECONDS = 5.0
STAMP = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "pyvmm",
    "KBUILD_BUILD_HOST": "pyvmm",
    "KBUILD_BUILD_VERSION": "1",
}
# Sources that no option of ours can reach, three quarters of the tarball. Kconfig and make files among them are needed.
UNUSED = (
    *(f"Documentation/*.{kind}" for kind in ("rst", "yaml", "txt", "svg")),
    *("arch/[a-wyz]*/*.[chS]", "arch/[a-wyz]*/*.dts*", "LICENSES", "rust/*.rs", "samples/*.[ch]", "sound/*.[ch]"),
    *(f"tools/{name}" for name in ("perf", "testing", "power", "tracing")),
    *(f"drivers/net/{name}/*.[ch]" for name in ("ethernet", "wireless")),
    *(f"drivers/{name}/*.[ch]" for name in ("accel", "clk", "comedi", "crypto", "gpu", "hwmon", "iio", "infiniband")),
    *(
        f"drivers/{name}/*.[ch]"
        for name in ("media", "pinctrl", "power", "regulator", "scsi", "staging", "usb", "video")
    ),
)


class Source:
    """Where the kernel's source comes from: a name that changes with its content, and how to get it."""

    def __init__(
        self,
        identity: str,
        *,
        path: Path | None = None,
        package: tuple[str, str] = ("", ""),
        apt_options: Sequence[str] = (),
    ) -> None:
        self.identity = identity
        self.path = path
        self.package = package
        self.apt_options = apt_options

    @property
    def version(self) -> list[int]:
        """Linux's version as far as it is known without unpacking: empty for a tarball."""
        if self.path is None:
            return archive.version_key(self.package[1].partition("-")[0])
        return archive.version_key(source_version(self.path)) if self.path.is_dir() else []

    def provide(self, work: Path, progress: Progress, patches: Sequence[Patch]) -> Path:
        """The directory of the unpacked source; inside `work` unless the user gave a tree. Raises RecipeError."""
        if self.path is not None and self.path.is_dir():
            if (self.path / ".config").exists() or (self.path / "include/config").exists():
                raise RecipeError(
                    f"--source {self.path}: something was built in this tree, so make refuses to build outside of it",
                    f"make -C {self.path} mrproper",
                )
            return self.path
        tarball = self.path or _packaged_tarball(*self.package, progress, self.apt_options)
        progress.say(f"unpacking {tarball.name} ({tarball.stat().st_size >> 20} MiB)")
        tree = work / "source"
        tree.mkdir()
        top = _top_folder(tarball)
        command = ["tar", "-x", "-f", str(tarball), "-C", str(tree), "--strip-components=1", "--no-same-owner"]
        excluded = [f"--exclude={top}/{pattern}" for pattern in UNUSED]
        recipe.run([*command, "--anchored", "--wildcards", *excluded])
        if not (tree / "Kconfig").exists():
            raise RecipeError(f"{tarball} does not hold a kernel source tree")
        apply_patches(tree, patches, progress)
        return tree


def apply_patches(tree: Path, patches: Sequence[Patch], progress: Progress) -> None:
    """Apply of each patch the newest variant that fits the source in `tree` exactly. Raises RecipeError when there is
    none, unless the source has the change already.

    No fuzz: with it, patch puts the lines of one variant into the parameter list of another version's function.
    """
    version, unfit = source_version(tree), list[Patch]()
    for patch in patches:
        if patch.is_in(tree):
            progress.say(f"Linux {version} has the change of patches/{patch.name}")
            continue
        for variant in patch.variants(archive.version_key(version)):
            command = ["patch", "-p1", "--force", "--fuzz=0", "--no-backup-if-mismatch", "-d", str(tree)]
            command += ["-i", str(variant)]
            if subprocess.run([*command, "--dry-run"], capture_output=True, check=False).returncode == 0:
                recipe.run(command)
                progress.say(f"applied {patch.name}/{variant.name}")
                break
        else:
            unfit.append(patch)
    if unfit:
        names = ",".join(patch.name for patch in unfit)
        raise RecipeError(
            f"no variant of {' or '.join(f'patches/{patch.name}' for patch in unfit)} fits Linux {version}",
            f"--without-patches={names} builds the kernel without: {'; '.join(patch.lack for patch in unfit)}",
        )


def source_version(tree: Path) -> str:
    """The version that the source's Makefile names, or "of an unknown version"."""
    try:
        text = (tree / "Makefile").read_text()
    except OSError:
        text = ""
    numbers = [re.search(rf"^{name} = (\d+)$", text, re.MULTILINE) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    return ".".join(found[1] for found in numbers if found) or "of an unknown version"


def _top_folder(tarball: Path) -> str:
    try:
        with tarfile.open(tarball) as archive:
            first = archive.next()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise RecipeError(f"{tarball} is not a tar archive: {error}") from None
    return first.name.split("/")[0] if first else ""


def _tarball_place(package: str, version: str) -> tuple[Path, str]:
    name = recipe.digest({"package": package, "version": version})
    return recipe.cache_root() / "kernel" / "source" / name, f"{package}.tar.xz"


def _packaged_tarball(package: str, version: str, progress: Progress, apt_options: Sequence[str]) -> Path:
    """The tarball of a linux-source package, kept in the cache (one at a time) for the next set of options."""
    entry, name = _tarball_place(package, version)
    if hit := recipe.cached(entry, name):
        return hit
    with recipe.workspace(entry.parent.parent) as work:
        recipe.fetch_package(package, version, work / "package", progress, apt_options)
        tarball = work / "package" / "usr" / "src" / name
        if not tarball.is_file():
            raise RecipeError(f"the package {package} {version} has no /usr/src/{name}")
        made = work / "made"
        made.mkdir()
        os.rename(tarball, made / name)
        shutil.rmtree(entry.parent, ignore_errors=True)
        return recipe.publish(made, entry, name)


def find_source(source: Path | None, version: str | None, progress: Progress, *, backports: bool = False) -> Source:
    """The source that --source, --version or --backports asks for. Raises RecipeError when there is none."""
    if source is not None:
        if source.is_dir():
            return Source(_tree_identity(source), path=source.absolute())
        return Source("tarball " + recipe.file_digest(source), path=source.absolute())
    options: list[str] = []
    if backports:
        others = archive.Backports(recipe.cache_root() / "backports", progress)
        options = others.options

        def newest() -> str:
            package = others.newest(r"linux-source-\d+\.\d+")
            return f"{package} {others.candidate_version(package)}"

        answer = others.remembered(recipe.cache_root() / "kernel" / "package-backports", newest)
    elif version is not None and (exact := re.match(r"(\d+\.\d+)\.", version)):
        answer = f"linux-source-{exact[1]} {version}"
    else:
        answer = archive.kernel_source(version, progress)
    package, chosen = answer.split()
    return Source(f"package {package} {chosen}", package=(package, chosen), apt_options=options)


def _tree_identity(tree: Path) -> str:
    """A name for the state of a source tree: every file's path, size and time (reading 1.5 GB would take too long)."""
    if not (tree / "Kconfig").is_file():
        raise RecipeError(f"--source {tree}: no kernel source tree (no Kconfig in it)")
    state = hashlib.sha256()
    for folder, folders, files in os.walk(tree):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            state.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return "tree " + state.hexdigest()


def check_tools() -> None:
    """Check for compiler, tools and libelf's header (objtool needs it). Raises RecipeError with the packages' names."""
    recipe.require_tools(TOOLS, "building a kernel")
    probe = ["gcc", "-fsyntax-only", "-include", "gelf.h", "-x", "c", os.devnull]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        raise RecipeError("building a kernel needs gelf.h, the header of libelf", "apt-get install libelf-dev")


def run_make(arguments: list[str], environment: dict[str, str], log: Path, report: Progress | None) -> None:
    """Run make with its output in the file `log`; with `report`, say every few seconds how far it is.

    Whatever ends this function early (an error, Ctrl-C, SIGTERM) ends make and everything it started first.
    Raises RecipeError with the compiler's first error.
    """
    process = subprocess.Popen(
        ["make", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the whole group
    )
    assert process.stdout is not None
    steps, said = 0, time.monotonic()
    tail: deque[str] = deque(maxlen=5)
    errors: list[str] = []
    try:
        with open(log, "a") as file:
            for line in process.stdout:
                file.write(line)
                tail.append(line.strip())
                steps += line.startswith("  ")
                if not line.startswith(("  ", "make")):
                    errors.append(line.strip())
                if report and time.monotonic() - said >= REPORT_SECONDS:
                    report.say(f"compiling: {steps} of about {max(STEPS, steps)} files")
                    said = time.monotonic()
        status = process.wait()
    except BaseException:
        _end_group(process)
        raise
    if status:
        errors = [line for line in errors if "error" in line.lower()] or errors[-3:] or list(tail)
        raise RecipeError("make failed: " + " / ".join(errors[:3]), f"the whole output is in {log}")


def _end_group(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def make_environment(allconfig: Path) -> dict[str, str]:
    """make's environment: ours without the settings of a make that runs us, and with the fixed stamps."""
    foreign = ("MAKE", "MFLAGS", "KBUILD", "KCONFIG", "KCFLAGS", "CROSS_COMPILE", "ARCH", "CC", "LD", "CFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, **STAMP, "KCONFIG_ALLCONFIG": str(allconfig), "LC_ALL": "C"}


def build(source: Source, more: Options, jobs: int, entry: Path, progress: Progress, patches: Sequence[Patch]) -> Path:
    """Build vmlinux and publish it as the cache entry `entry`, with System.map, the configuration and the symbols."""
    check_tools()
    log = entry.parent / "build.log"
    with recipe.workspace(entry.parent) as work:
        tree = source.provide(work, progress, patches)
        options = all_options(archive.version_key(source_version(tree)), more)
        output, made, fragment = work / "build", work / "made", work / "pyvmm.config"
        output.mkdir()
        made.mkdir()
        fragment.write_text(kconfig.render(options))
        log.write_text("")
        environment = make_environment(fragment)
        common = ["-C", str(tree), f"O={output}", "ARCH=x86_64"]
        progress.say("configuring")
        run_make([*common, "allnoconfig"], environment, log, None)
        kconfig.verify(options, kconfig.parse_config((output / ".config").read_text(), ".config"))
        progress.say(f"compiling with {jobs} jobs")
        # -pipe saves writing and reading each file's assembler text.
        run_make([*common, f"-j{jobs}", "KCFLAGS=-pipe", "vmlinux"], environment, log, progress)
        recipe.run(["strip", "--strip-all", "-o", str(work / "stripped"), str(output / "vmlinux")])
        (made / "vmlinux").write_bytes(compact((work / "stripped").read_bytes()))
        if options.get("CONFIG_DEBUG_INFO_DWARF5") == "y":
            recipe.run(["objcopy", "--only-keep-debug", str(output / "vmlinux"), str(made / "vmlinux.debug")])
        shutil.copy(output / "System.map", made / "System.map")
        shutil.copy(output / ".config", made / "config")
        for file in made.iterdir():
            os.chmod(file, 0o444)
        progress.say(f"built vmlinux ({(made / 'vmlinux').stat().st_size >> 20} MiB)")
        return recipe.publish(made, entry, "vmlinux")


def all_options(version: Sequence[int], more: Options) -> Options:
    """The options of config/ for this version of Linux, and `more`, which win."""
    options = kconfig.read_fragments(HERE / "config")
    for since, changed in kconfig.read_changes(HERE / "config"):
        if list(version) >= since:
            options |= changed
    return {**options, **more}


def kernel_entry(more: Options, source: Source, patches: Sequence[Patch]) -> Path:
    """Where the cache has the kernel that these options and this source make."""
    version = source.version
    parts = {
        "options": kconfig.render(all_options(version, more)),
        "source": source.identity,
        "revision": REVISION,
    }
    if not version:  # what its version changes of the options is known only when it is unpacked
        parts |= {f"since {since}": kconfig.render(made) for since, made in kconfig.read_changes(HERE / "config")}
    if source.path is None or not source.path.is_dir():
        variants = [variant for patch in patches for variant in patch.variants(version)]
        parts |= {f"{path.parent.name}/{path.name}": recipe.file_digest(path) for path in variants}
    return recipe.cache_root() / "kernel" / recipe.digest(parts)


def main() -> Path:
    parser = argparse.ArgumentParser(description="Builds the guest's kernel and prints the path of its vmlinux.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--source", type=Path, metavar="PATH", help="a kernel source tree or tarball of your own")
    source.add_argument(
        "--version",
        metavar="X.Y",
        help=f"of the package linux-source-X.Y (default: {archive.PREFERRED}, else the newest), or one as X.Y.Z-1",
    )
    source.add_argument("--backports", action="store_true", help="the newest package of Debian's backports")
    parser.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE", help="more options; they win over config/"
    )
    # One more than there are CPUs, for the moments in which a job waits.
    jobs = (os.cpu_count() or 1) + 1
    parser.add_argument("--jobs", type=int, default=jobs, metavar="N", help=f"of make (default: {jobs})")
    parser.add_argument(
        "--without-patches",
        nargs="?",
        const=",".join(patch.name for patch in PATCHES),
        default="",
        metavar="NAME,...",
        help="build the source without these patches (default: without any); a tree of your own is never patched",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also copy the result there")
    parser.add_argument("--cached", action="store_true", help="do not build: an error when the cache does not have it")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        raise RecipeError(f"--jobs {arguments.jobs}: at least one is needed")
    more: Options = {}
    for file in arguments.config:
        try:
            more |= kconfig.parse_config(file.read_text(), str(file), strict=True)
        except OSError as error:
            raise RecipeError(f"--config {file}: {error.strerror}") from None
    without = set(filter(None, arguments.without_patches.split(",")))
    if unknown := without - {patch.name for patch in PATCHES}:
        known = ", ".join(patch.name for patch in PATCHES)
        raise RecipeError(f"--without-patches: there is no patch {', '.join(sorted(unknown))}", f"there are {known}")
    patches = [patch for patch in PATCHES if patch.name not in without]
    progress = Progress()
    chosen = find_source(arguments.source, arguments.version, progress, backports=arguments.backports)
    entry = kernel_entry(more, chosen, patches)
    result = recipe.cached(entry, "vmlinux")
    if arguments.cached and result is None:
        raise RecipeError("this kernel is not in the cache", "leave out --cached to build it")
    if result is None:
        with recipe.lock(entry.parent, progress):
            result = recipe.cached(entry, "vmlinux") or build(chosen, more, arguments.jobs, entry, progress, patches)
    return recipe.deliver(result, arguments.output)


if __name__ == "__main__":
    recipe.run_recipe(main)
