"""What secrets and volumes do for a sandbox, by E2B's own client, with sandboxes on the Sentry."""

from __future__ import annotations

from pathlib import Path

from tests.sandbox.test_network import rootfs  # noqa: F401  # a fixture
from tests.server import on_sentry
from tests.server.on_sentry import pytestmark as pytestmark

VALUE = "sk-0123456789-never-inside"


def test_secrets_reach_their_hosts_alone_and_volumes_outlive_sandboxes(
    rootfs: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    found, _ = on_sentry.run("sentry_vault.py", rootfs, tmp_path)
    assert found["secrets"].pop("refused").startswith("400: secret 'no' does not exist")
    (status, echo), *others = found["secrets"].pop("answers")
    assert status == 200 and echo.startswith("pyvmm-secret-") and others == [[200, "mine"], [200, "mine"]]
    assert found == {
        "secrets": {
            "sent": {
                "/one": [f"Bearer {VALUE}", "kept"],
                "/two": ["mine", "kept"],  # not encrypted
                "/three": ["mine", "kept"],  # another host
            },
            "shown": False,
            "kept": 0,
        },
        "volumes": {"both": "one\ntwo\n", "kept": True, "after": "one\ntwo\n", "destroyed": True, "left": []},
    }
