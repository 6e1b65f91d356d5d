"""The one part of the build that pyproject.toml cannot say: the cffi extension."""

from setuptools import setup

setup(cffi_modules=["vmm/native/build.py:ffibuilder"])
