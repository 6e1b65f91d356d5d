"""The part of the build that pyproject.toml cannot say: the cffi extension, and the programs beside it."""

import glob
import os
import runpy

from setuptools import setup
from setuptools.command.build_ext import build_ext

NATIVE = os.path.join("vmm", "native")


class BuildNative(build_ext):
    """The extension, then the programs."""

    def run(self) -> None:
        super().run()
        build = runpy.run_path(os.path.join(NATIVE, "build.py"), run_name="build")
        build["build_programs"]("vmm" if self.inplace else os.path.join(self.build_lib, "vmm"))


setup(
    cffi_modules=["vmm/native/build.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
    data_files=[("share/man/man1", sorted(glob.glob("man/*.1")))],  # which tools/man.py writes
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for this and all newer ones
)
