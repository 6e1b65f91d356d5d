"""The part of the build that pyproject.toml cannot say: the Sentry's programs. A checkout compiles them when needed."""

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildPackage(build_py):  # type: ignore[misc]
    """The modules, then the programs; an editable installation has none, so that changes of the sources count."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            build_programs(Path(self.build_lib, "pyvmm_sentry", "built"))


class AnyPython(bdist_wheel):  # type: ignore[misc]
    """One wheel for all versions of Python: none of it is an extension."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class NativeDistribution(Distribution):  # type: ignore[misc]
    """For one architecture, because of the programs."""

    def has_ext_modules(self) -> bool:
        return True


def build_programs(folder: Path) -> None:
    """Compile the programs into *folder*, and list there what they answer."""
    sys.path.insert(0, str(HERE))
    from pyvmm_sentry import generate, lwip, program

    program.BUILD = HERE / "build" / "sentry"  # what is above an unpacked sdist is not ours
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in program.PROGRAMS.items():
        shutil.copy(build(), folder / name)
        subprocess.run(["strip", str(folder / name)], check=True)
    (folder / generate.ANSWERED.name).write_text("".join(f"{name}\n" for name in sorted(generate.defined())))
    shutil.copy(lwip.source() / "COPYING", folder / "lwip-COPYING")
    (folder / "lwip-version").write_text(f"lwip {os.path.basename(lwip.source())}, of the distribution's archive\n")


setup(
    cmdclass={"build_py": BuildPackage, "bdist_wheel": AnyPython},
    distclass=NativeDistribution,
    data_files=[("share/man/man1", sorted(glob.glob("man/*.1")))],  # which tools/man.py writes
)
