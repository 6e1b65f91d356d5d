"""``pytest --fork-vm``: each test runs in a sandbox of its own, a copy of one that has collected and warmed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyvmm_sandbox.fork_vm_session import ForkVm

_OPTIONS: dict[str, dict[str, Any]] = {
    "--fork-vm-image": {"metavar": "IMAGE", "help": "of the sandboxes, with Python and pytest (ini: fork_vm_image)"},
    "--fork-vm-jobs": {"metavar": "N", "type": int, "default": 1, "help": "tests that run at a time (default: 1)"},
    "--fork-vm-timeout": {"metavar": "SECONDS", "type": float, "help": "a test that takes longer fails"},
}
_SETTINGS = {
    "fork_vm_image": "image of the sandboxes of --fork-vm",
    "fork_vm_memory": "limit for the memory of each sandbox (default: 1G)",
    "fork_vm_network": "network of the sandboxes: none (default) or user",
    "fork_vm_python": "interpreter in the image (default: python3)",
}


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pyvmm_sandbox.pytest_server import Hooks

    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fork-vm", "each test in a sandbox of its own (pyvmm_sandbox)")
    group.addoption("--fork-vm", action="store_true", help="run each test in a copy of one warmed sandbox")
    for name, options in _OPTIONS.items():
        group.addoption(name, **options)
    for name, words in _SETTINGS.items():
        parser.addini(name, words, default="")
    parser.addini("fork_vm_setup", "commands that prepare the sandbox of --fork-vm", type="linelist", default=[])


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("fork_vm"):
        return
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("--fork-vm does not work with -n: use --fork-vm-jobs")
    if config.getoption("usepdb", False):
        raise pytest.UsageError("--fork-vm does not work with --pdb")
    if config.getoption("fork_vm_jobs") < 1:
        raise pytest.UsageError("--fork-vm-jobs is less than 1")
    if not (config.getoption("fork_vm_image") or config.getini("fork_vm_image")):
        raise pytest.UsageError("--fork-vm needs an image: --fork-vm-image, or fork_vm_image in the configuration")
    config.pluginmanager.register(_plugin(config), "fork-vm")


def _plugin(config: pytest.Config) -> ForkVm:
    from pyvmm_sandbox.fork_vm_session import ForkVm

    return ForkVm(config)
