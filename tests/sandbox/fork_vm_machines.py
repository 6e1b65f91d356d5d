"""A plug-in of pytest: ``--fork-vm`` has machines that run their programs here, which share one warm pytest."""

from __future__ import annotations

import os
from typing import Any

from pyvmm_sandbox import fork_vm_session
from tests.kata import fake_relay
from tests.sandbox.fake_machines import fake_machines, options

fake_machines()
fake_relay.install()
fork_vm_session.PROCESSES = True


def pytest_fork_vm_options() -> dict[str, Any]:
    from pathlib import Path

    return {**options(Path(os.environ["PYVMM_PLACE"])), "env": dict(os.environ)}
