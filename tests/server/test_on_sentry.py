"""The server with sandboxes on the Sentry, where there is no KVM."""

from __future__ import annotations

from pathlib import Path

from tests.sandbox.test_network import rootfs  # noqa: F401  # a fixture
from tests.server import on_sentry
from tests.server.on_sentry import pytestmark as pytestmark


def test_servers_inside_are_reached_in_copies_too_and_templates_are_built(rootfs: Path, tmp_path: Path) -> None:  # noqa: F811
    found, _ = on_sentry.run("sentry_calls.py", rootfs, tmp_path)
    assert found == {
        "root": ["/root", "/"],  # this image lacks the home of root
        "http": "from inside",
        "closed": "502",
        "copies": ["from inside", "from inside"],
        "resumed": "from inside",
        "built": [True, "built\n"],
        "full": True,
        "room": "on\n",
    }
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and '"error"' not in log
