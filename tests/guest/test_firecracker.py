"""Linux in a machine that requests of Firecracker's API describe."""

from __future__ import annotations

from pathlib import Path

from tests.firecracker.program import Program


def ask(program: Program, command: str) -> str:
    """What a command prints in the guest's shell."""
    program.type(f"echo be''gin; {command}; echo e''nd\n".encode())
    found = b""
    while not found.endswith(b"end\r\n"):
        found += program.read(1)
    return found.replace(b"\r", b"").decode().rpartition("begin\n")[2].removesuffix("end\n")


def start(folder: Path, name: str) -> Program:
    (folder / name).mkdir()
    program = Program(folder / name, "--enable-pci")
    program.wait_for_socket()
    return program


def test_linux_boots_gets_a_disk_is_saved_and_loaded(guest_kernel: str, fresh_disk: Path, tmp_path: Path) -> None:
    late = tmp_path / "late"
    late.write_bytes(b"late".ljust(1 << 20, b"."))
    source = start(tmp_path, "source")
    source.put("/boot-source", kernel_image_path=guest_kernel, boot_args="console=ttyS0 reboot=k panic=1")
    source.put("/machine-config", vcpu_count=2, mem_size_mib=128)
    source.put("/drives/root", drive_id="root", path_on_host=str(fresh_disk), is_root_device=True)
    source.put("/vsock", guest_cid=3, uds_path=str(tmp_path / "vsock"))
    source.put("/actions", action_type="InstanceStart")
    found = b""
    while not found.endswith(b":~# "):
        found += source.read(1)
    assert ask(source, "nproc; cat /sys/block/vda/serial").split() == ["2", "root"]
    ask(source, "echo kept >/tmp/kept; sync")
    assert source.request("PATCH", "/vm", {"state": "Paused"}) == (204, None)
    files = {"snapshot_path": str(tmp_path / "state"), "mem_file_path": str(tmp_path / "memory")}
    source.put("/snapshot/create", **files)
    source.close()

    copy = start(tmp_path, "copy")
    copy.put("/snapshot/load", **files, resume_vm=True, clock_realtime=True)
    assert ask(copy, "cat /tmp/kept; nproc") == "kept\n2\n"
    copy.put("/drives/late", drive_id="late", path_on_host=str(late), is_root_device=False)
    seek = "echo 1 >/sys/bus/pci/rescan; until [ -b /dev/vdb ]; do :; done; head -c 4 /dev/vdb"
    assert ask(copy, seek) == "late"
    copy.type(b"poweroff -f\n")
    assert copy.process.wait(60) == 0
