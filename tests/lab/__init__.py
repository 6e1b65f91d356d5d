"""The lab: a nested KVM host, emulated by QEMU, for guest tests on machines whose own KVM cannot run them.

`python -m tests.lab run -- CMD...` from the shell, `Lab` from Python.
"""

from .host import Command, Lab
from .image import LabError

__all__ = ["Command", "Lab", "LabError"]
