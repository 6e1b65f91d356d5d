"""What a share may be asked for: who serves it, and its window."""

from __future__ import annotations

import pytest

from vmm.errors import ConfigError
from vmm.virtio.fs.config import ShareConfig

MIB = 1 << 20


def test_a_process_serves_what_the_command_line_shares_and_a_thread_what_the_library_does() -> None:
    assert ShareConfig.parse("/srv").isolation == "process"
    assert ShareConfig("/srv").isolation == "thread"
    assert ShareConfig.parse("/srv,isolation=thread").isolation == "thread"
    assert ShareConfig.parse("/srv,isolation=process,ro").isolation == "process"


def test_the_window() -> None:
    assert ShareConfig.parse("/srv").dax == 0
    assert ShareConfig.parse("/srv,dax=1G").dax == 1 << 30


@pytest.mark.parametrize(
    "option",
    ["isolation=jail", "isolation=", "isolation", "locks=", "locks=none", "dax", "dax=", "dax=1", "dax=3M", "dax=1T"],
)
def test_what_is_refused(option: str) -> None:
    with pytest.raises(ConfigError):
        ShareConfig.parse(f"/srv,{option}")
