"""The guest fixture itself: what a test can rely on when it talks to a guest."""

from __future__ import annotations

import hashlib

import pytest

from tests.guest.conftest import Boot
from tests.guest.vmfixture import Guest, GuestEnded


def test_commands_give_their_status_and_output(vm: Guest) -> None:
    assert vm.run("echo one; echo two >&2; (exit 3)") == (3, "one\ntwo\n")
    assert vm.run("false") == (1, "")
    assert vm.run("printf no-newline; true")[1].startswith("no-newline")


def test_several_lines_and_long_ones_arrive_whole(vm: Guest) -> None:
    assert vm.check("for x in a b; do\n  echo $x\ndone") == "a\nb\n"
    word = "".join(f"{n:05}" for n in range(2000))
    assert vm.check(f"printf %s {word} | md5sum").split()[0] == hashlib.md5(word.encode()).hexdigest()


def test_power_off_ends_the_run(vm: Guest) -> None:
    assert vm.power_off().kind == "poweroff"


def test_a_guest_that_ends_early_fails_the_test_that_waits_for_it(vm: Guest) -> None:
    with pytest.raises(GuestEnded):
        vm.run("poweroff; sleep 60")


def test_every_guest_has_a_disk_of_its_own(boot: Boot) -> None:
    first = boot()
    first.check("echo mark >/root/mark; sync")
    first.power_off()
    assert boot().run("test -e /root/mark")[0] == 1
