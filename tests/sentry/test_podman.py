"""Debian's podman with pyvmm-runsc as its runtime, which needs no KVM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.guest.kata_podman import Podman
from tests.guest.kata_tools import BIN
from tests.guest.test_kata_podman import test_a_container_in_the_background as test_a_container_in_the_background
from tests.guest.test_kata_podman import test_run as test_run
from tests.kata.oci_runtime import needs_namespaces

pytestmark = [needs_namespaces, pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PODMAN_IGNORE_CGROUPSV1_WARNING", "1")
        made = Podman(tmp_path_factory.mktemp("podman"), driver="vfs", program=f"{BIN}/pyvmm-runsc")
        yield made
        made.close()


def test_a_program_sees_what_podman_has_copied_before(podman: Podman) -> None:
    """Into a file that the sandbox has looked at a moment ago."""
    podman.check("run", "--detach", "--name", "three", "--network", "none", "box", "sleep", "100000")
    source = podman.folder / "source"
    for number in range(1, 5):
        source.write_text(f"{number}\n" * number)
        podman.check("cp", str(source), "three:/root/copy")
        assert podman.check("exec", "three", "cat", "/root/copy") == source.read_text()
    podman.check("rm", "--force", "--time", "0", "three")
