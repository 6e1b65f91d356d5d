"""What a guest, or another user of the host, could do to the runtime's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm_kata.errors import HostError
from pyvmm_kata.oci.pid_file import write_pid
from pyvmm_kata.sandbox.console_log import LIMIT, ConsoleLog


def test_the_console_does_not_fill_the_hosts_memory(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    log = ConsoleLog(folder)
    os.write(log.fileno(), b"first\n")
    for _ in range(5 * LIMIT // 4096):
        os.write(log.fileno(), b"x" * 4095 + b"\n")
    os.write(log.fileno(), b"last\n")
    log.close()
    os.close(folder)
    assert sorted(os.listdir(tmp_path)) == ["console.log", "console.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * LIMIT
    assert (tmp_path / "console.log").read_text().endswith("last\n")


def test_a_pid_file_follows_nobodys_link(tmp_path: Path) -> None:
    target = tmp_path / "of somebody else"
    target.write_text("precious")
    for name in ("pid.new", f"pid.{os.getpid()}.new"):
        (tmp_path / name).symlink_to(target)
    with pytest.raises(HostError, match="File exists"):
        write_pid(str(tmp_path / "pid"), 1)
    (tmp_path / f"pid.{os.getpid()}.new").unlink()
    (tmp_path / "pid").symlink_to(target)
    write_pid(str(tmp_path / "pid"), 1)
    assert (tmp_path / "pid").read_text() == "1"
    assert not (tmp_path / "pid").is_symlink()
    assert target.read_text() == "precious"
