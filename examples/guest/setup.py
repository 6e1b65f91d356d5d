"""The part of the build that pyproject.toml cannot say: the files, which the recipes of this repository make.

An editable installation has none: a checkout names the files that `make guest-kernel kata-image` prints.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[2]
KERNEL_RECIPE, KATA = Path("guest-kernel"), Path("examples", "kata")
IMAGE_RECIPE = KATA / "linux-guest"
LICENSES = Path("/usr/share/common-licenses")
INDEX = """\
The kernel, and the programs in the image, are built from these packages of the distribution.
`apt-get source SOURCE=VERSION` fetches the source of one; the terms are in licenses/.  Both are built again by
recipe/guest-kernel/build.py and recipe/examples/kata/linux-guest/image/build.py.

file        package                 source               version
"""


class BuildPackage(build_py):  # type: ignore[misc]
    """The modules, then the files."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)  # modules of older versions would be in the wheel
        super().run()
        if not self.editable_mode:
            add_files(Path(self.build_lib, "pyvmm_guest", "files"))


class AnyPython(bdist_wheel):  # type: ignore[misc]
    """One wheel for all versions of Python; the files belong to no C library of the host."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", "manylinux2014_x86_64"


class NativeDistribution(Distribution):  # type: ignore[misc]
    """For one architecture: that of the guests."""

    def has_ext_modules(self) -> bool:
        return True


def run(*command: str) -> str:
    """The output of a command, without the line's end."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()


def add_files(folder: Path) -> None:
    """Build the kernel and the image, unless the cache has them, and copy them and all about them."""
    licenses = folder / "sources" / "licenses"
    licenses.mkdir(parents=True)
    kernel = Path(run(sys.executable, str(KERNEL_RECIPE / "build.py")))
    shutil.copy(kernel, folder / "vmlinux")
    shutil.copy(kernel.with_name("config"), folder / "sources" / "kernel-config")
    shutil.copy(run(sys.executable, str(IMAGE_RECIPE / "image" / "build.py")), folder / "kata.erofs")
    for each in (KERNEL_RECIPE, IMAGE_RECIPE, KATA / "proto"):
        ignored = shutil.ignore_patterns("__pycache__", "rootfs", "rootfs.py", "container.py", "debian.py", "initrd")
        shutil.copytree(ROOT / each, folder / "sources" / "recipe" / each, ignore=ignored)
    for name in ("GPL-2", "LGPL-2.1"):
        shutil.copy(LICENSES / name, licenses / name)
    rows = [("vmlinux", *linux_package()), *image_packages(licenses)]
    table = "".join("{:<11} {:<23} {:<20} {}\n".format(*row) for row in rows)
    (folder / "sources" / "packages").write_text(INDEX + table)


def linux_package() -> tuple[str, str, str]:
    """The package with the kernel's source, its source package and their version."""
    sys.path.insert(0, str(ROOT / KERNEL_RECIPE))
    from archive import kernel_source
    from recipe import Progress

    package, version = kernel_source(None, Progress()).split()
    return package, "linux", version


def image_packages(licenses: Path) -> list[tuple[str, str, str, str]]:
    """The same of what the image contains; copies the terms of each."""
    sys.path.insert(0, str(ROOT / IMAGE_RECIPE))
    from image import build

    libraries = ["/usr/lib/x86_64-linux-gnu/libc.a", "/usr/lib/x86_64-linux-gnu/libprotobuf-nanopb.a"]
    files = [*map(os.path.realpath, build.crun_files()), *libraries]
    owners = sorted({run("dpkg", "-S", file).partition(": ")[0] for file in files})
    rows = []
    for owner in owners:
        form = "${Package} ${source:Package} ${source:Version}"
        package, source, version = run("dpkg-query", "-W", "-f", form, owner).split()
        shutil.copy(f"/usr/share/doc/{package}/copyright", licenses / package)
        rows.append(("kata.erofs", package, source, version))
    return rows


setup(
    cmdclass={"build_py": BuildPackage, "bdist_wheel": AnyPython},
    distclass=NativeDistribution,
    options={"build": {"build_base": str(ROOT / "build" / "pyvmm-guest")}},
)
