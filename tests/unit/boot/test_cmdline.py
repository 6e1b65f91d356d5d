"""The kernel command line: what is on it by default, what the user adds, what cannot be on it."""

from __future__ import annotations

import pytest

from vmm.boot.cmdline import default_cmdline, encode_cmdline, merge_cmdline
from vmm.errors import ConfigError


@pytest.mark.parametrize(
    "rootfs, read_only, wanted", [(True, False, ["root=/dev/vda", "rw"]), (True, True, ["root=/dev/vda", "ro"])]
)
def test_root_disk_is_named(rootfs: bool, read_only: bool, wanted: list[str]) -> None:
    words = default_cmdline(rootfs=rootfs, read_only=read_only).split()
    assert words[-2:] == wanted
    assert "console=ttyS0" in words and "panic=-1" in words


def test_no_root_disk_no_root() -> None:
    assert "root=" not in default_cmdline()


def test_the_console_is_the_device_that_was_asked_for() -> None:
    assert [word for word in default_cmdline(hvc=True).split() if word.startswith("console=")] == ["console=hvc0"]


def test_pci_is_off_unless_there_is_one() -> None:
    assert "pci=off" in default_cmdline() and "pci=off" not in default_cmdline(pci=True)


@pytest.mark.parametrize(
    "own, whole",
    [("", "a b"), ("  ", "a b"), ("c=1 -- d", "a b c=1 -- d"), ("=x y", "x y"), ("=", ""), ("b=2", "a b b=2")],
)
def test_own_words_come_last_or_replace(own: str, whole: str) -> None:
    assert merge_cmdline("a b", own) == whole


@pytest.mark.parametrize("text", ["", "a", 'dyndbg="file x +p"', "a\tb", "x" * 2047])
def test_good_command_lines_stay_as_they_are(text: str) -> None:
    assert encode_cmdline(text) == text.encode()


@pytest.mark.parametrize(
    "text, told",
    [
        ("x" * 2048, "2048 bytes: Linux takes 2047"),
        ("a\0b", "a NUL at position 1"),
        ("ab\ninit=/bin/sh", "a line break at position 2"),
        ("a\rb", "carriage return"),
        ("caf\u00e9", "'\\xe9' at position 3"),
        ("a\x1b[0m", "'\\x1b' at position 1"),
        ("\udc80", "'\\udc80' at position 0"),
    ],
)
def test_bad_command_lines_are_told(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        encode_cmdline(text)
    assert told in str(caught.value)
    assert caught.value.hint
