"""The root file system that both programs run from in the lab, as one tar file.

The lab sees the host's files over 9p, where every look-up is slow and is not what is to be measured. So everything that
runs, its libraries and all that it reads go into one archive, at their own paths, and the lab unpacks it into a tmpfs.

What is measured is an ordinary installation of pyvmm and pyvmm-kata, an environment of its own with nothing else in it:
the checkout's has test tools in it, and path hooks that they bring. It is what `pip install` gives, byte code included.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cffi", "pycparser", "construct", "elftools", "cbor2", "zstandard")
"""Python packages that pyvmm needs at run time, with the extension module of cffi."""

UNUSED = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "lib2to3"}
"""Folders of the standard library that nothing here imports."""


class StageError(Exception):
    """A file that belongs into the archive does not exist."""


def libraries(programs: Iterable[str]) -> set[str]:
    """Every shared library, the loader included, that the dynamic ELF files `programs` are linked with."""
    found: set[str] = set()
    for program in programs:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True)
        if "not found" in listing.stdout:
            raise StageError(f"{program}: a library is missing:\n{listing.stdout}")
        found |= set(re.findall(r"(/\S+) \(0x", listing.stdout))
    return found


class Stage:
    """Collects files; each is stored at the path it has here unless `at` says otherwise."""

    def __init__(self, archive: Path) -> None:
        archive.parent.mkdir(parents=True, exist_ok=True)
        self._archive = archive
        self._names: set[str] = set()
        self._tar = tarfile.open(archive, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 - close() does it
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink(f"/{name}"):
                self._tar.add(f"/{name}", name)

    def add(self, path: str | Path, at: str = "") -> None:
        """Add a file or a tree; of a symbolic link, the link and its target."""
        folder, base = os.path.split(os.path.abspath(path))
        full = os.path.join(os.path.realpath(folder), base)
        name = (at or full).lstrip("/")
        if name in self._names:
            return
        self._names.add(name)
        if not os.path.lexists(full):
            raise StageError(f"{full}: no such file")
        if os.path.islink(full) and at:
            full = os.path.realpath(full)
        self._tar.add(full, name, filter=_wanted)
        if os.path.islink(full):
            self.add(os.path.join(os.path.dirname(full), os.readlink(full)))

    def add_program(self, path: str) -> None:
        """Add an executable or a shared object, and its libraries."""
        self.add(path)
        self.add_libraries([path])

    def add_libraries(self, programs: Iterable[str]) -> None:
        """Add the libraries of `programs`."""
        for library in sorted(libraries(programs)):
            self.add(library)

    def close(self) -> Path:
        """Finish the archive and return its path."""
        self._tar.close()
        return self._archive


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = member.name.split("/")
    if "python3" in member.name and parts[-1] in UNUSED and "site-packages" not in parts:
        return None
    return member


def python_files(interpreter: str) -> tuple[str, list[str]]:
    """The standard library's folder of `interpreter`, and its extension modules."""
    code = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    done = subprocess.run([interpreter, "-ISc", code], capture_output=True, text=True, check=True)
    folder = done.stdout.strip()
    return folder, [str(path) for path in sorted(Path(folder, "lib-dynload").glob("*.so"))]


class InstallError(Exception):
    """The installation cannot be made; the message says what to do."""


def venv_base() -> str:
    """The interpreter that the checkout's environment was made from."""
    return os.path.realpath(Path(sys.prefix) / "bin" / "python3")


def site_packages(prefix: Path) -> Path:
    """The folder of packages of the environment `prefix`."""
    return prefix / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"


def install(prefix: Path) -> Path:
    """Make the environment `prefix` anew and return the path of its `pyvmm`.

    Raises InstallError when this does not run in an environment with the extension built.
    """
    source = site_packages(Path(sys.prefix))
    extensions = sorted(source.glob("_cffi_backend*.so"))
    if sys.prefix == sys.base_prefix or not extensions:
        raise InstallError("run this with the checkout's environment: .venv/bin/python -m tests.bench")
    if not list((ROOT / "vmm/native").glob("_native*.so")):
        raise InstallError("the extension is not built: run .venv/bin/python vmm/native/build.py")
    shutil.rmtree(prefix, ignore_errors=True)
    target = site_packages(prefix)
    target.mkdir(parents=True)
    (prefix / "bin").mkdir()
    base = venv_base()
    for name in ("python", "python3"):
        (prefix / "bin" / name).symlink_to(base)
    version = "{}.{}.{}".format(*sys.version_info)
    (prefix / "pyvenv.cfg").write_text(
        f"home = {os.path.dirname(base)}\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    junk = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.o")
    for package in PACKAGES:
        if (source / package).is_dir():
            shutil.copytree(source / package, target / package, ignore=junk)
    for extension in extensions:
        shutil.copy2(extension, target)
    shutil.copytree(ROOT / "vmm", target / "vmm", ignore=junk)
    shutil.copytree(ROOT / "examples/kata/pyvmm_kata", target / "pyvmm_kata", ignore=junk)
    for metadata in source.glob("pyvmm_kata-*.dist-info"):  # names the command `pyvmm run`
        shutil.copytree(metadata, target / metadata.name)
    _add_sentry(target)
    kata = "examples/kata/bin"
    for program in ("bin/pyvmm", f"{kata}/pyvmm-oci", f"{kata}/containerd-shim-pyvmm-v2"):
        shutil.copy2(ROOT / program, prefix / "bin")
    done = subprocess.run([str(prefix / "bin/python3"), "-m", "compileall", "-q", str(target)])
    if done.returncode:
        raise InstallError(f"{target}: some module does not compile")
    return prefix / "bin/pyvmm"


def _add_sentry(site: Path) -> None:
    """Add the Sentry's package with its kernel and the platform trap, as an installation has them."""
    from pyvmm_sentry import program

    folder = site / "pyvmm_sentry"
    shutil.copytree(ROOT / "examples/sentry/pyvmm_sentry", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "built").mkdir()
    for name, path in (("sentry.elf", program.kernel()), ("pyvmm-sentry-trap", program.trap())):
        subprocess.run(["strip", "-o", folder / "built" / name, path], check=True)
