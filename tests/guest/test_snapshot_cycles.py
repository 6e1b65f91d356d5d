"""A guest with databases is saved, killed and restored again and again: nothing that was acknowledged is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from tests.guest.clones import HANGS, Clone
from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk
from tests.guest.vmfixture import Guest
from vmm import HostError, ShareConfig
from vmm.saving import verify as whole

PLACES = {"disk": "/root/disk", "share": "/mnt/share", "tmpfs": "/mnt/tmpfs"}
START = """
mkdir -p /root/disk /mnt/share /mnt/tmpfs
mount -t virtiofs share /mnt/share && mount -t tmpfs none /mnt/tmpfs
for each in disk:/root/disk share:/mnt/share tmpfs:/mnt/tmpfs; do
    mkdir /tmp/${each%%:*}; cd /tmp/${each%%:*}
    ledger run ${each#*:} 2>/tmp/trouble.${each%%:*} &
    echo $! >pid
done; cd /
"""
HOLD, GO_ON = "kill -STOP $(cat /tmp/share/pid); sync", "kill -CONT $(cat /tmp/share/pid)"


def acknowledged(guest: Guest) -> dict[str, int]:
    """Of each database the number of the last transaction that counts."""
    lines = guest.check("cat /tmp/disk/acknowledged /tmp/share/acknowledged /tmp/tmpfs/acknowledged").split()
    return dict(zip(PLACES, map(int, lines), strict=True))


def wait_for_more(guest: Guest, than: dict[str, int]) -> None:
    """Until each has committed two more."""
    for name, number in than.items():
        last = f"$(sed 's/^0*//' /tmp/{name}/acknowledged)"
        guest.check(f"while last={last}; [ ${{last:-0}} -lt {number + 2} ]; do sleep 0.01; done")


def kill(guest: Guest) -> None:
    """The machine's process ends as by a power failure."""
    with contextlib.suppress(ProcessLookupError):  # it may have been killed before
        os.kill(guest.machine.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(HostError):
        guest.machine.wait(60)
    guest.close()


def save_and_kill(guest: Guest, warm: Path, how: str, chance: random.Random) -> dict[str, int]:
    """Snapshot *guest* and kill it; what its databases had acknowledged before."""
    if how == "at that moment":
        before = acknowledged(guest)
        guest.machine.pause()  # its share is not to be ahead of the snapshot
        guest.machine.snapshot(str(warm))
    elif how == "later":
        guest.check(HOLD)
        before = acknowledged(guest)
        guest.machine.snapshot(str(warm))
        wait_for_more(guest, {name: number for name, number in before.items() if name != "share"})
    else:
        guest.check(HOLD)
        before = acknowledged(guest)
        guest.machine.snapshot(str(warm))
        when = chance.randrange(100)

        def at(done: int, size: int) -> None:
            if done * 100 >= size * when:
                os.kill(guest.machine.pid, signal.SIGKILL)  # type: ignore[attr-defined]

        try:
            guest.machine.snapshot(str(warm), progress=at)
        except HostError:
            pass  # or it came too late, and there is the new one
    kill(guest) if guest.machine.end is None else guest.close()
    return before


@pytest.mark.long  # a minute for three rounds
@pytest.mark.parametrize(("rounds", "cpus"), [(3, 1), pytest.param(50, 2, marks=pytest.mark.long)])
def test_nothing_that_was_acknowledged_is_lost(boot: Boot, tmp_path: Path, rounds: int, cpus: int) -> None:
    chance = random.Random(rounds)
    folder, warm = tmp_path / "share", tmp_path / "warm"
    folder.mkdir()
    share = ShareConfig(str(folder), tag="share")
    guest: Guest = boot(cpus=cpus, memory="96M", shares=[share], disks=[programs_disk()], isolation="process")
    guest.check(INSTALL_PROGRAMS)
    guest.check(START)
    wait_for_more(guest, dict.fromkeys(PLACES, 0))
    for number in range(rounds):
        how = ("at that moment", "later", "in the middle")[number % 3]
        before = save_and_kill(guest, warm, how, chance)
        whole.verify_snapshot(str(warm))
        guest = Clone(warm, guest, isolation="process", cow=("copy", "overlay")[number % 2])
        try:
            if how != "at that moment":
                guest.check(GO_ON)
            after = acknowledged(guest)
            assert all(after[name] >= before[name] for name in PLACES), (number, how, before, after)
            wait_for_more(guest, after)
            assert guest.check(f"cat /tmp/trouble.*; {HANGS}; nproc") == f"{cpus}\n"
        except BaseException:
            guest.close()
            raise
    try:
        before = acknowledged(guest)
        guest.check("kill -9 $(cat /tmp/*/pid); sync; echo 3 >/proc/sys/vm/drop_caches")
        for name, place in PLACES.items():
            assert int(guest.check(f"cd /; ledger check {place}")) >= before[name]
        assert guest.power_off().kind == "poweroff"
    finally:
        guest.close()
    assert [name for name in os.listdir(tmp_path) if "warm." in name or "clone" in name] == []
