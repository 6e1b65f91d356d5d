"""Python decides system calls, sees them, and serves files, in a machine whose kernel is the Sentry."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm_sentry import SentrySandbox
from pyvmm_sentry.guest import Guest
from tests.sentry.conftest import compile_static as compile_static
from tests.sentry.test_hooks import root as root
from tests.sentry.test_hooks import shell
from tests.sentry.test_hooks import (
    test_a_file_that_python_serves as test_a_file_that_python_serves,
)
from tests.sentry.test_hooks import (
    test_a_flood_of_events_is_bounded_and_counted as test_a_flood_of_events_is_bounded_and_counted,
)
from tests.sentry.test_hooks import (
    test_a_hook_that_fails_or_hangs_refuses as test_a_hook_that_fails_or_hangs_refuses,
)
from tests.sentry.test_hooks import (
    test_a_path_is_seen_from_its_directory as test_a_path_is_seen_from_its_directory,
)
from tests.sentry.test_hooks import test_a_program_is_refused as test_a_program_is_refused
from tests.sentry.test_hooks import test_addresses_of_sockets as test_addresses_of_sockets
from tests.sentry.test_hooks import test_events_are_seen_with_their_results as test_events_are_seen_with_their_results
from tests.sentry.test_hooks import (
    test_only_what_is_subscribed_costs_an_exchange as test_only_what_is_subscribed_costs_an_exchange,
)
from tests.sentry.test_hooks import test_processes_and_stats as test_processes_and_stats
from tests.sentry.test_hooks import test_what_cannot_be_is_refused as test_what_cannot_be_is_refused
from tests.sentry.test_hooks import test_what_was_decided_is_what_is_done as test_what_was_decided_is_what_is_done
from vmm import ConfigError

pytestmark = pytest.mark.guest


@pytest.fixture
def host() -> str:
    return "kvm"


def exits(root: Path, count: int, *, hook: str = "", traced: str = "") -> tuple[int, int]:
    """How often a machine left the guest while a program called newfstatat so often; and questions to the host."""
    script = f"i=0; while [ $i -lt {count} ]; do i=$((i + 1)); [ -e /good/file ]; done"
    with shell(root, script, "kvm") as sandbox:
        if hook:
            sandbox.on(hook)(lambda event: None)
        if traced:
            sandbox.events(traced)
        sandbox.run(60)
        assert isinstance(sandbox._guest, Guest)
        counts = sandbox._guest.machine.vcpus[0].stats()
        # What a slice of time and the host's own interrupts cost is the same without any call
        return counts["exits"] - counts["irq_exits"] - 3 * counts["irq_injections"], sandbox.exchanges


def test_a_call_that_nobody_subscribes_to_does_not_leave_the_guest(root: Path) -> None:
    few, many = (exits(root, count, hook="mkdir", traced="rmdir") for count in (50, 350))
    assert many[0] - few[0] < 150
    assert few[1] == many[1] == 0


def test_a_question_leaves_the_guest_a_few_times(root: Path) -> None:
    """Six times: the device is notified, the CPU waits, the answer comes, and buffers are given back."""
    few, many = (exits(root, count, hook="newfstatat") for count in (20, 220))
    assert many[1] - few[1] == 200
    assert many[0] - few[0] < 200 * 8


def test_a_program_with_hooks_is_not_frozen(root: Path) -> None:
    with shell(root, "echo ready; cat", "kvm") as sandbox:
        sandbox.on("mkdir")(lambda event: None)
        sandbox.run(60, until="ready")
        assert [process.name for process in sandbox.processes()] == ["cat", "sh"] or sandbox.processes()
        with pytest.raises(ConfigError, match="has hooks"):
            sandbox.freeze()
    with SentrySandbox(root, ["sh", "-c", "echo ready; cat"], platform="kvm", env={"PATH": "/bin"}) as sandbox:
        sandbox.run(60, until="ready").freeze().fork().close()
