"""The part of the build that pyproject.toml cannot say: the page's terminal, which comes from npm's archive."""

import os
import runpy

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPackage(build_py):  # type: ignore[misc]
    """The terminal, then the modules."""

    def run(self) -> None:
        vendor = runpy.run_path(os.path.join("pyvmm_server", "page", "vendor.py"), run_name="vendor")
        vendor["install"]()
        super().run()


setup(cmdclass={"build_py": BuildPackage})
