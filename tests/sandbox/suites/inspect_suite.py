"""Inspect's checks of sandboxes, on ours."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from inspect_ai.util import SandboxEnvironment
from inspect_ai.util._sandbox.registry import registry_find_sandboxenv
from inspect_ai.util._sandbox.self_check import *  # noqa: F403

from tests.sandbox.fake_machines import fake_machines, options, prepare

AS_ROOT = "files are read and written by root, who may do so whatever the permissions are"
EXCEPTIONS = {
    "test_read_file_not_allowed": AS_ROOT,
    "test_write_text_file_without_permissions": AS_ROOT,
    "test_write_binary_file_without_permissions": AS_ROOT,
}


@pytest.fixture
async def sandbox_env(request: pytest.FixtureRequest) -> AsyncIterator[SandboxEnvironment]:
    """A sandbox as Inspect makes one for a sample."""
    name = request.node.originalname
    if name in EXCEPTIONS:
        request.applymarker(pytest.mark.xfail(reason=EXCEPTIONS[name], strict=True))
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)  # other users' commands start below it
    fake_machines()
    prepare(place)
    kind = registry_find_sandboxenv("pyvmm")
    config = kind.config_deserialize(
        {"image": f"{place}/rootfs", "working_dir": f"{place}/work", "options": options(place)}
    )
    environments = await kind.sample_init("check", config, {})
    try:
        yield environments["default"]
    finally:
        await kind.sample_cleanup("check", config, environments, False)
    assert not list((place / "state").iterdir())
