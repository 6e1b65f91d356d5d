"""The part of the build that pyproject.toml cannot say: the messages of proto/, and the programs of launcher/."""

import glob
import os
import runpy

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py


class BuildPackage(build_py):  # type: ignore[misc]
    """The descriptor set and the programs, then the modules."""

    def run(self) -> None:
        runpy.run_path(os.path.join("proto", "compile.py"), run_name="build")["compile_messages"]()
        runpy.run_path(os.path.join("launcher", "build.py"), run_name="build")["build_programs"]("pyvmm_kata")
        super().run()


class AnyPython(bdist_wheel):  # type: ignore[misc]
    """One wheel for all versions of Python: none of it is an extension."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class NativeDistribution(Distribution):  # type: ignore[misc]
    """For one architecture, because of the programs."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    cmdclass={"build_py": BuildPackage, "bdist_wheel": AnyPython},
    distclass=NativeDistribution,
    data_files=[("share/man/man1", sorted(glob.glob("man/*.1")))],  # which tools/man.py writes
)
