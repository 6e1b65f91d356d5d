"""E2B's rules for the network of a sandbox, by its own client, with sandboxes on the Sentry."""

from __future__ import annotations

from pathlib import Path

from tests.sandbox.outside import OTHER, SERVER
from tests.sandbox.test_network import rootfs  # noqa: F401  # a fixture
from tests.server import on_sentry
from tests.server.on_sentry import pytestmark as pytestmark


def test_rules_of_a_sandbox_hold_and_are_replaced(rootfs: Path, tmp_path: Path) -> None:  # noqa: F811
    found, output = on_sentry.run("sentry_server.py", rootfs, tmp_path)
    first, direct = "http good.test 80", f"http {SERVER} 7000"
    assert found == {
        "reached": [[first, direct], [first, direct], []],
        "packets": [["tcp", SERVER, 80], ["tcp", SERVER, 7000]],
        "refused": ["400", "400", "400"],
        "left": [],
    }
    assert OTHER not in output
