"""The part of the build that pyproject.toml cannot say: the messages of proto/, compiled."""

import os
import runpy

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildMessages(build_py):  # type: ignore[misc]
    """The descriptor set, then the modules."""

    def run(self) -> None:
        runpy.run_path(os.path.join("proto", "compile.py"), run_name="build")["compile_messages"]()
        super().run()


setup(cmdclass={"build_py": BuildMessages})
