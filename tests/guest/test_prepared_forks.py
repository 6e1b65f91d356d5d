"""Children that are put into machines which were made ahead, and have memory of the source from before their fork.

Not in the hostile lab (tests/claims.py): memory is filled at idle priority, and there a CPU is never idle.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.guest.clones import TROUBLE, Child, prepare_fork
from tests.guest.conftest import Boot
from vmm import ShareConfig


@pytest.mark.parametrize("cpus", [1, pytest.param(2, marks=pytest.mark.long)])
def test_forks_whose_memory_is_filled_ahead_are_used_at_once(boot: Boot, tmp_path: Path, cpus: int) -> None:
    """Prepared machines have pages of the source from before; what it writes until a fork is what the child finds."""
    (tmp_path / "shared").mkdir()
    guest = boot(cpus=cpus, shares=(ShareConfig(str(tmp_path / "shared"), tag="s", isolation="process"),))
    guest.check("mkdir /tmp/s; mount -t virtiofs s /tmp/s")
    filled = []
    seeds = set()
    rounds = 2 if cpus == 1 else 8
    for number in range(rounds):
        prepare_fork(guest)
        # In memory, in the cache of the disk and in that of the share
        command = "yes {0} | head -c 500000 >/tmp/own; yes {0} | head -c 50000 >/root/own; echo {0} >/tmp/s/{0}; sync"
        guest.check(command.format(f"source-{number}"))
        look = f"md5sum </tmp/own; md5sum </root/own; cat /tmp/s/source-{number}"
        expected = guest.check(look)
        with contextlib.closing(Child(guest)) as child:
            assert child.check(look) == expected, f"round {number}"
            child.check(command.format(f"child-{number}"))
            assert guest.check(look) == expected
            seeds.add(child.check("head -c 16 /dev/urandom | md5sum"))
            assert child.check(TROUBLE) == ""
            assert child.machine.memory.on_demand
            filled.append(child.machine.memory.fill_stats()["filled"])
    assert len(seeds) == rounds
    assert all(filled)
    assert guest.check(TROUBLE) == ""
