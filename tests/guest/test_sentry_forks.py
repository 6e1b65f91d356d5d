"""A program on the Sentry that is stopped, and children that continue from there, each in a machine of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm_sentry import ProgramError, SentrySandbox, Template, boot, forks
from tests.sentry.forking import CHECKS, COMMAND, ENVIRONMENT, PATIENCE, check_points, check_server, held, make_root
from vmm import ConfigError, CpuConfig
from vmm.faststart.record import replace
from vmm.kvm.probe import host_cpu

pytestmark = pytest.mark.guest
RDRAND = 1 << 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("forks") / "root")


@pytest.fixture(scope="module")
def template(root: Path) -> Iterator[Template]:
    base = SentrySandbox(root, COMMAND, platform="kvm", env=ENVIRONMENT, memory=64)
    with base.run(PATIENCE, until="ready").freeze() as made:
        yield made


def test_a_program_runs_in_a_machine(root: Path) -> None:
    script = "cat; echo out; echo error >&2; exit 7"
    with SentrySandbox(root, ["sh", "-c", script], platform="kvm", env=ENVIRONMENT, memory=64) as sandbox:
        assert sandbox.run(PATIENCE) == (7, b"out\n", b"error\n")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_children(template: Template, check: Callable[[Template], None]) -> None:
    check(template)


def test_a_server_answers_each_request_in_a_child(root: Path) -> None:
    check_server(root)


def test_points(root: Path) -> None:
    check_points(lambda command: SentrySandbox(root, command, platform="kvm", env=ENVIRONMENT, memory=64))


def test_children_of_a_cpu_without_random_numbers_draw_different_ones(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then they are those of virtio-rng, some of which wait in the core."""
    cpu, config_of = host_cpu(), boot.config_of
    leaves = [replace(leaf, ecx=leaf.ecx & ~RDRAND) if leaf.function == 1 else leaf for leaf in cpu.leaves]
    without = CpuConfig(tuple(leaves), cpu.arch_capabilities)
    monkeypatch.setattr(boot, "config_of", lambda *arguments: replace(config_of(*arguments), cpu=without))
    base = SentrySandbox(root, COMMAND, platform="kvm", env=ENVIRONMENT, memory=64)
    with base.run(PATIENCE, until="ready").freeze(prepared=0) as template:
        assert len({*template.map(["random"] * 3, workers=1, timeout=PATIENCE)}) == 3


@pytest.mark.parametrize("count", [16, pytest.param(200, marks=pytest.mark.long)])
def test_children_leave_nothing(root: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "CHILDREN", 10)
    before = held()
    base = SentrySandbox(root, COMMAND, platform="kvm", env=ENVIRONMENT, memory=64)
    with base.run(PATIENCE, until="ready").freeze() as template:
        answers = template.map(range(count), workers=2, timeout=PATIENCE)
        assert answers == [[number, 1] for number in range(count)]
    assert held() == before
    with pytest.raises(ConfigError, match="closed"):
        template.fork()


def test_a_program_that_ends_before_the_point_is_an_error(root: Path) -> None:
    base = SentrySandbox(root, ["sh", "-c", "echo no >&2; exit 4"], platform="kvm", env=ENVIRONMENT, memory=64)
    with pytest.raises(ProgramError, match="has not written 'ready': the program exited with 4") as caught:
        base.run(PATIENCE, until="ready")
    assert caught.value.stderr == b"no\n"
