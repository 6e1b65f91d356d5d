"""Containers whose guest is the Sentry, in a machine: checkpoints and copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_tools import COUNTER, Oci, eventually, leftovers, numbers

pytestmark = pytest.mark.guest


class SentryOci(Oci):
    """pyvmm-oci with the Sentry as the guest."""

    isolation: tuple[str, ...] = ("--isolation", "sentry")

    def command(self, *arguments: str) -> list[str]:
        head = super().command()
        return [*head, *(self.isolation if arguments[0] == "create" else ()), *arguments]


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentryOci]:
    made = SentryOci(tmp_path_factory.mktemp("sentry"))
    yield made
    made.close()


def test_a_container_goes_on_where_it_was_checkpointed(oci: SentryOci, tmp_path: Path) -> None:
    """Its processes, its files and its names are as they were; the restore finds the kind of guest by itself."""
    oci.start("c1", COUNTER, hostname="kept")
    bundle, image, before = oci.state("c1")["bundle"], tmp_path / "image", oci.folder / "c1.out"
    eventually(lambda: len(numbers(before)) > 3, "it does not count")
    oci.check("checkpoint", "--image-path", str(image), "c1")
    assert oci.run("state", "c1").returncode == 1, "it has ended and is removed"
    told = numbers(before)
    after = oci.restore("c2", image, bundle)
    eventually(lambda: len(numbers(after)) > 3, "it does not go on")
    assert numbers(after)[0] == told[-1] + 1, "each number once"
    show = "cat /proc/1/comm /dev/shm/kept; hostname; echo /proc/[0-9]*"
    assert oci.check("exec", "c2", "sh", "-c", show).splitlines()[:3] == ["sh", "kept", "kept"]
    oci.check("kill", "c2", "TERM")
    eventually(lambda: oci.state("c2")["status"] == "stopped", "it does not end")
    assert after.read_text().splitlines()[-1] == f"asked {numbers(after)[-1]}"
    log = numbers(oci.rootfs / "log")
    assert log == list(range(1, len(log) + 1)), "the open file is the same"
    oci.check("delete", "c2")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_a_checkpoint_of_a_machine_without_a_balloon(oci: SentryOci, tmp_path: Path) -> None:
    oci.check_older_checkpoint(tmp_path / "image")
