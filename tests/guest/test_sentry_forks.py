"""A program on the Sentry that is stopped, and children that continue from there, each in a machine of its own."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import pytest

from pyvmm_sentry import Template, boot, forks
from tests.sentry.forking import PATIENCE, Make, check_nothing_left, held, settled
from tests.sentry.forking import root as root
from tests.sentry.forking import sandbox as sandbox
from tests.sentry.forking import template as template
from tests.sentry.forking import test_a_child_that_ends_is_an_error as test_a_child_that_ends_is_an_error
from tests.sentry.forking import test_a_child_that_hangs_is_ended as test_a_child_that_hangs_is_ended
from tests.sentry.forking import (
    test_a_child_that_was_stopped_is_a_template as test_a_child_that_was_stopped_is_a_template,
)
from tests.sentry.forking import (
    test_a_program_that_ends_before_the_point_is_an_error as test_a_program_that_ends_before_the_point_is_an_error,
)
from tests.sentry.forking import (
    test_a_server_answers_each_request_in_a_child as test_a_server_answers_each_request_in_a_child,
)
from tests.sentry.forking import (
    test_children_draw_different_random_numbers as test_children_draw_different_random_numbers,
)
from tests.sentry.forking import test_each_child_continues_from_the_point as test_each_child_continues_from_the_point
from tests.sentry.forking import test_points as test_points
from tests.sentry.forking import test_the_calendar_is_the_hosts as test_the_calendar_is_the_hosts
from vmm import CpuConfig, HostError
from vmm.faststart.record import replace
from vmm.kvm.probe import host_cpu

pytestmark = pytest.mark.guest
RDRAND = 1 << 30


@pytest.fixture(scope="module")
def host() -> str:
    return "kvm"


def test_a_program_runs_in_a_machine(sandbox: Make) -> None:
    with sandbox(["sh", "-c", "cat; echo out; echo error >&2; exit 7"]) as box:
        assert box.run(PATIENCE) == (7, b"out\n", b"error\n")


def test_children_of_a_cpu_without_random_numbers_draw_different_ones(
    sandbox: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then they are those of virtio-rng, some of which wait in the core."""
    cpu, config_of = host_cpu(), boot.config_of
    leaves = [replace(leaf, ecx=leaf.ecx & ~RDRAND) if leaf.function == 1 else leaf for leaf in cpu.leaves]
    without = CpuConfig(tuple(leaves), cpu.arch_capabilities)
    monkeypatch.setattr(boot, "config_of", lambda *arguments: replace(config_of(*arguments), cpu=without))
    with sandbox().run(PATIENCE, until="ready").freeze(prepared=0) as template:
        assert len({*template.map(["random"] * 3, workers=1, timeout=PATIENCE)}) == 3


@pytest.mark.parametrize("count", [16, pytest.param(200, marks=pytest.mark.long)])
def test_children_leave_nothing(template: Template, sandbox: Make, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "CHILDREN", 10)
    check_nothing_left(template, sandbox, count)


def open_numbers() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


@contextlib.contextmanager
def limit_of_files(soft: int, hard: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("count", "limit"), [(20, 300), pytest.param(100, 1024, marks=pytest.mark.long)])
def test_more_children_live_than_the_limit_of_open_files_allows_by_itself(
    sandbox: Make, count: int, limit: int
) -> None:
    """The limit is the usual one, or a third of it. A child needs tens of descriptors."""
    with (
        limit_of_files(limit, 1 << 14),
        sandbox().run(PATIENCE, until="ready").freeze() as template,
        contextlib.ExitStack() as stack,
    ):
        children = [stack.enter_context(template.fork()) for _ in range(count)]
        assert [child.call(n, PATIENCE) for n, child in enumerate(children)] == [[n, 1] for n in range(count)]


def test_a_child_for_which_there_are_too_few_descriptors_leaves_nothing(sandbox: Make) -> None:
    """At whatever step they end; children that live already do not notice."""
    with sandbox().run(PATIENCE, until="ready").freeze(prepared=0) as template, template.fork() as first:
        assert first.call(1, PATIENCE) == [1, 1]
        with template.fork() as child:
            assert child.call(1, PATIENCE) == [1, 1]
        before = settled()
        numbers = iter(sorted({*range(1024)} - open_numbers())[1:])
        while True:
            refusal = None
            with limit_of_files(next(numbers), resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
                try:
                    template.fork().close()
                except HostError as error:
                    refusal = str(error), error.hint
            if refusal is None:
                break
            assert "Too many open files" in refusal[0] and "ulimit -n" in refusal[1]
            assert held()[0] == before[0]
        assert settled() == before and first.call(2, PATIENCE) == [2, 2]
