"""The program that runs inside each sandbox."""

from __future__ import annotations

import os

from pyvmm_sandbox.errors import SandboxError

PATH = "/.pyvmm/box"
"""Where a sandbox has it."""


def program() -> str:
    """Its path on the host.

    :raises SandboxError: it was not built
    """
    path = os.path.join(os.path.dirname(__file__), "pyvmm-box")
    if not os.path.exists(path):
        raise SandboxError(f"{path} does not exist", hint="pip install ./examples/sandbox builds it")
    return path
