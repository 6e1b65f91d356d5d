"""What a container sees at once of what the host wrote a moment before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_tools import Oci, eventually


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oci]:
    made = Oci(tmp_path_factory.mktemp("oci"))
    yield made
    made.close()


def test_start_sees_what_was_written_after_create(oci: Oci, tmp_path: Path) -> None:
    for name in ("file", "folder/inner/deep", "unchanged/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    mounts = [
        {"type": "bind", "source": str(tmp_path / "file"), "destination": "/file", "options": ["rbind"]},
        {"type": "bind", "source": str(tmp_path / "folder"), "destination": "/folder", "options": ["rbind"]},
        # crun looks at what it mounts upon, in the other volume
        {"type": "bind", "source": str(tmp_path / "unchanged"), "destination": "/folder/inner", "options": ["rbind"]},
    ]
    script = "cat /file /folder/new /folder/inner/file; stat -c %a /folder"
    with open(tmp_path / "out", "wb") as out:
        command = oci.command("create", "--bundle", oci.bundle(script, mounts=mounts), "fresh")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    assert done.returncode == 0, (tmp_path / "out").read_text() + oci.console()
    (tmp_path / "file").write_text("file\n")
    (tmp_path / "folder" / "new").write_text("new\n")
    (tmp_path / "folder").chmod(0o711)
    (tmp_path / "unchanged" / "file").write_text("inner\n")
    oci.check("start", "fresh")
    eventually(lambda: oci.state("fresh")["status"] == "stopped", "it does not end")
    assert (tmp_path / "out").read_text() == "file\nnew\ninner\n711\n"
    oci.check("delete", "fresh")
