"""The standard streams of tasks: FIFOs, files and terminals."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyvmm_kata import ttrpc
from tests.kata.fake_guest import PATIENCE
from tests.kata.shim_rig import Shim


def test_output_and_input_go_through_fifos(shim: Shim, tmp_path: Path) -> None:
    stdin, stdout = tmp_path / "in", tmp_path / "out"
    os.mkfifo(stdin)
    os.mkfifo(stdout)
    reader = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    shim.run("c1", "cat", stdin=str(stdin), stdout=str(stdout))
    writer = os.open(stdin, os.O_WRONLY)
    os.write(writer, b"through the guest")
    got = b""
    while len(got) < 17:
        got += os.read(reader, 100)
    assert got == b"through the guest"
    os.close(writer)  # cat ends with its input
    assert shim.wait("c1") == 0
    assert os.read(reader, 100) == b"", "the FIFO has another writer left"
    os.close(reader)


def test_input_that_is_closed_is_read_to_its_end(shim: Shim, tmp_path: Path) -> None:
    stdin, stdout = tmp_path / "in", tmp_path / "out"
    os.mkfifo(stdin)
    shim.run("c1", "cat", stdin=str(stdin), stdout=f"file://{stdout}")
    writer = os.open(stdin, os.O_WRONLY)
    os.write(writer, b"before")
    shim.call("CloseIO", "CloseIORequest", id="c1", stdin=True)
    os.write(writer, b" and after")
    os.close(writer)
    assert shim.wait("c1") == 0
    assert stdout.read_text() == "before and after"


def test_input_that_nobody_ever_writes_can_be_closed(shim: Shim, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in")
    shim.run("c1", "cat", stdin=str(tmp_path / "in"))
    while shim.state("c1") == "RUNNING":  # once the shim reads it
        shim.call("CloseIO", "CloseIORequest", id="c1", stdin=True)
    assert shim.wait("c1") == 0


def test_output_goes_to_a_file(shim: Shim, tmp_path: Path) -> None:
    shim.run("c1", "print", "hello", stdout=f"file://{tmp_path}/logs/out")
    assert shim.wait("c1") == 0
    assert (tmp_path / "logs" / "out").read_text() == "hello"


def test_output_waits_for_its_reader(shim: Shim, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    got: list[bytes] = []
    running = threading.Thread(target=shim.run, args=("c1", "print", "hello"), kwargs={"stdout": str(tmp_path / "out")})
    running.start()
    with (tmp_path / "out").open("rb") as reader:  # opens when there is a writer, which there is not before a reader is
        got.append(reader.read())
    running.join(PATIENCE)
    assert got == [b"hello"]


def test_output_that_nobody_reads(shim: Shim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyvmm_kata.shim.stdio.READER_S", 0.05)
    os.mkfifo(tmp_path / "out")
    with pytest.raises(ttrpc.RpcError, match="nobody reads it"):
        shim.create("c1", "print", "hello", stdout=str(tmp_path / "out"))
    assert shim.pod.is_empty


def test_a_terminal_has_a_size(shim: Shim) -> None:
    shim.run("c1", "sleep", terminal=True)
    shim.call("ResizePty", "ResizePtyRequest", id="c1", width=80, height=25)
    assert shim.guest.processes["c1", "c1"].size == (25, 80)
