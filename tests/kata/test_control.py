"""What is said between the commands and a monitor, over a real socket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm_kata.errors import HostError
from pyvmm_kata.oci import control


def test_a_monitor_that_ends_after_it_was_reached(tmp_path: Path) -> None:
    """It may, whenever its container does: `delete`, which asks it last, then clears up by itself."""
    folder = os.open(tmp_path, os.O_PATH)
    monitor = control.listen(folder)
    os.close(folder)
    channel = control.connect(str(tmp_path))
    monitor.close()
    with pytest.raises(HostError, match=f"the monitor of container {tmp_path.name} ended before it was asked"):
        channel.request({"op": "released"})
    channel.close()
