"""`make demo`, in a pipe, with either kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Command
from tests.guest.vmfixture import PROMPT
from tests.installed import install, wait_for_image
from tools.where import ROOT


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.demo", *options]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400, check=False
    )


@pytest.mark.parametrize(
    ("options", "about", "transport"),
    [
        ((), "pyvmm's own kernel; `make demo KERNEL=debian`", ""),
        (("--kernel", "debian"), "the distribution's kernel", " --transport pci "),
    ],
    ids=["own, which is there already", "the distribution's"],
)
def test_a_guest_boots_answers_and_powers_off(options: tuple[str, ...], about: str, transport: str) -> None:
    done = demo(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert about in done.stderr and transport in done.stderr
    assert "Linux version " in done.stdout, "the boot is seen"
    assert "under KVM" in done.stdout and "disk    vda" in done.stdout, "the guest says where it is"
    assert "\nhello from the guest" in done.stdout, "and takes a command"
    assert "the guest powered off: exit status 0" in done.stderr


def test_a_kernel_that_does_not_exist_is_a_usage_error() -> None:
    done = demo("--kernel", "hurd")
    assert done.returncode == 2 and "choose from own, debian, ubuntu" in done.stderr.replace("'", "")


# -- an installed `pyvmm`, which starts from an image of a started Python: with every kind of device -----------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("installed"))


@pytest.mark.parametrize("transport", ["mmio", pytest.param("pci", marks=pytest.mark.long)])
def test_guests_with_all_devices(
    installed: Path,
    guest_kernel: str,
    fresh_disk: Path,
    tmp_path: Path,
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("shared\n")
    with (tmp_path / "data").open("wb") as data:
        data.truncate(4 << 20)
    arguments = ["--kernel", guest_kernel, "--rootfs", str(fresh_disk), "--timeout", "200", "--transport", transport]
    arguments += [
        "--share",
        str(folder),
        "--vsock",
        f"cid=5,uds={tmp_path / 'vsock'}",
        "--balloon",
        "on",
        "--cpus",
        "2",
    ]
    arguments += ["--disk", str(tmp_path / "data"), "--console-device", "virtio", "--stats"]
    for turn in ("first", "second"):
        wait_for_image(tmp_path / "cache" / "pyvmm")
        command = Command(tmp_path, *arguments, program=installed)
        try:
            command.expect(PROMPT)
            assert os.readlink(f"/proc/{command.process.pid}/exe").endswith("pyvmm-warm") == (turn == "second")
            command.type(b"mkdir -p /mnt/s && mount -t virtiofs share /mnt/s && cat /mnt/s/file && nproc\n")
            command.expect("^shared\n2$")
            command.type(f"echo {turn} >/mnt/s/file2 && dd if=/dev/urandom of=/dev/vdb bs=1M count=4 2>&1\n".encode())
            command.expect("4\\+0 records out")
            command.type(b"sync; ls /sys/bus/virtio/devices | wc -l; poweroff\n")
            command.expect("^[67]$")
            assert command.wait() == 0, command.errors
            assert (folder / "file2").read_text() == f"{turn}\n"
            assert "exits" in command.errors
        finally:
            command.close()
        assert not command.leftovers()


def test_ctrl_c_ends_it_and_its_helpers(installed: Path, guest_kernel: str, guest_disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    arguments = ["--kernel", guest_kernel, "--rootfs", f"{guest_disk},ro", "--share", str(folder), "--timeout", "200"]
    for _ in range(2):
        command = Command(tmp_path, *arguments, program=installed)
        try:
            command.expect(PROMPT)
            command.process.send_signal(signal.SIGINT)
            assert command.wait() == 130
            assert "SIGINT" in command.errors
        finally:
            command.close()
        assert not command.leftovers()
