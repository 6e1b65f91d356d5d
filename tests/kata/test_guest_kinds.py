"""A second kind of guest: what a sandbox needs of it is :class:`pyvmm_kata.pod.guest_kind.GuestKind`."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from pyvmm_kata.bundle.guest_config import GuestConfig
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.pod import guest_kinds, templates
from pyvmm_kata.pod.guest_kind import Capabilities, Wiring
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.pod.virtual_machine import PyvmmVm
from pyvmm_kata.pod.vm import Vm
from pyvmm_kata.state import Json
from tests import tiny
from vmm import MachineConfig
from vmm.faststart.record import replace

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a jail with all its parts needs root"),
]


class TinyGuest:
    """Says hello and powers off; there are no templates of it."""

    name = "tiny"
    can = Capabilities(
        memory=False,
        cpus=False,
        disks=False,
        templates=False,
        checkpoints=False,
        network=False,
        networks=False,
        forwarding=False,
        policy=False,
        users=True,
        rereads=False,
    )

    def check(self, config: SandboxConfig) -> None:
        if not os.path.exists(config.kernel):
            raise ConfigError(f"{config.kernel} does not exist", code="kernel-file")

    def machine(self, config: SandboxConfig, wiring: Wiring) -> MachineConfig:
        return replace(tiny.config(config.kernel, console=wiring.console), isolation=wiring.isolation)

    def start_process(self, config: SandboxConfig, folder: str, shared: str) -> Vm | None:
        return None

    def describe(self, spec: Json, hostname: str, *, shared_pids: bool) -> GuestConfig:
        raise NotImplementedError

    def describe_process(self, process: Json) -> tuple[Any, str]:
        raise NotImplementedError

    def template(self, config: SandboxConfig, nets: int) -> templates.Kind:
        raise NotImplementedError

    def template_machine(self, kind: templates.Kind, wiring: Wiring) -> MachineConfig:
        raise NotImplementedError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxConfig:
    monkeypatch.setitem(guest_kinds.KINDS, "tiny", TinyGuest())
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.POWEROFF)
    return SandboxConfig("s1", str(tmp_path), kernel, "", guest="tiny", template=True)


def test_a_kind_without_templates_boots_and_asks_for_none(config: SandboxConfig, tmp_path: Path) -> None:
    """Although the settings allow templates."""
    (tmp_path / "shared").mkdir()
    vm, ended, reasons = PyvmmVm(config, str(tmp_path), str(tmp_path / "shared")), Event(), []

    def on_end(reason: str) -> None:
        reasons.append(reason)
        ended.set()

    try:
        assert (vm.template, vm.why, vm.wanted) == ("", "", None)
        vm.watch(on_end)
        assert ended.wait(60)
    finally:
        vm.close()
    assert reasons == ["poweroff"]
    assert "hello" in (tmp_path / "console.log").read_text()


def test_what_a_kind_boots_from_is_checked_before_there_is_a_machine(config: SandboxConfig, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(ConfigError, match="missing does not exist"):
        PyvmmVm(config._replace(kernel=missing), str(tmp_path), str(tmp_path))


def test_a_kind_that_there_is_not(config: SandboxConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no kind of guest 'none'"):
        PyvmmVm(config._replace(guest="none"), str(tmp_path), str(tmp_path))
