"""Firecracker's API, as a client of its socket sees it; the guests are a few instructions, so any KVM runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.firecracker.program import PATIENCE, Program
from tests.netns import ip, own_network

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
KINDS = pytest.mark.parametrize("flags", [(), ("--no-seccomp",)], ids=["jail", "no-jail"])


def echo(folder: Path) -> str:
    return tiny.make(folder, tiny.say(">"), tiny.ECHO)


@needs_kvm
@KINDS
def test_a_machine_runs_pauses_and_ends(start: Callable[..., Program], tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = start(*flags, "--id", "first")
    info = {"app_name": "Firecracker", "id": "first", "state": "Not started", "vmm_version": "1.17.0"}
    assert program.request("GET", "/") == (200, info)
    program.put("/boot-source", kernel_image_path=echo(tmp_path), boot_args="console=ttyS0")
    program.put("/machine-config", vcpu_count=1, mem_size_mib=32)
    program.put("/metrics", metrics_path=str(tmp_path / "metrics"), emit_id=True)
    program.put("/actions", action_type="InstanceStart")
    assert program.request("GET", "/")[1]["state"] == "Running"
    assert program.read(1) == b">"
    assert program.request("PATCH", "/vm", {"state": "Paused"}) == (204, None)
    assert program.request("GET", "/")[1]["state"] == "Paused"
    program.type(b"hello")
    for _ in range(2):
        assert program.request("PATCH", "/vm", {"state": "Resumed"}) == (204, None)
    assert program.read(5) == b"hello"
    program.put("/actions", action_type="FlushMetrics")
    metrics = json.loads((tmp_path / "metrics").read_text())
    assert (metrics["id"], metrics["put_api_requests"]["actions_count"]) == ("first", 1)
    assert metrics["vcpus"]
    assert metrics["get_api_requests"] == {"instance_info_count": 3}
    assert metrics["patch_api_requests"] == {"vm_count": 3}
    assert {*metrics["latencies_us"]} == {"pause_vm", "resume_vm"}
    assert metrics["api_server"]["process_startup_time_us"] > 0
    assert "not supported after starting" in program.fault(
        "PUT", "/machine-config", {"vcpu_count": 2, "mem_size_mib": 64}
    )
    assert "not supported after starting" in program.fault("PUT", "/actions", {"action_type": "InstanceStart"})
    program.type(b"\x04")
    assert program.process.wait(PATIENCE) == 0
    assert not program.socket.exists()
    log = (tmp_path / "one" / "log").read_text()
    assert "Running Firecracker v1.17.0" in log and "The guest has ended: poweroff" in log
    last = json.loads((tmp_path / "metrics").read_text().splitlines()[-1])
    assert last["put_api_requests"]["actions_count"] == 2, "since the line before"
    assert last["put_api_requests"]["machine_cfg_fails"] == 1
    assert last["get_api_requests"] == {"instance_info_count": 0}


@needs_kvm
@KINDS
def test_snapshots(start: Callable[..., Program], tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A copy continues where the machine was, with the disk at its place and another socket."""
    disk, kernel = tmp_path / "disk", echo(tmp_path)
    disk.write_bytes(bytes(1 << 20))
    source = start(*flags)
    source.put("/boot-source", kernel_image_path=kernel)
    source.put("/machine-config", vcpu_count=1, mem_size_mib=32)
    source.put("/drives/root", drive_id="root", path_on_host=str(disk), is_root_device=True)
    source.put("/vsock/vsock0", vsock_id="vsock0", guest_cid=3, uds_path=str(tmp_path / "vsock"))
    source.put("/actions", action_type="InstanceStart")
    assert source.read(1) == b">"
    files = {"snapshot_path": str(tmp_path / "state"), "mem_file_path": str(tmp_path / "memory")}
    assert "not paused" in source.fault("PUT", "/snapshot/create", files)
    source.request("PATCH", "/vm", {"state": "Paused"})
    source.put("/snapshot/create", snapshot_type="Full", **files)
    source.put("/metrics", metrics_path=str(tmp_path / "metrics"))
    source.put("/actions", action_type="FlushMetrics")
    metrics = json.loads((tmp_path / "metrics").read_text())
    assert metrics["block"] == metrics["block_root"] and metrics["block"]["read_count"] == 0
    assert metrics["vsock"]["conns_added"] == 0
    assert metrics["latencies_us"]["full_create_snapshot"] > 0
    described = start("--describe-snapshot", files["snapshot_path"], name="described", wait=False).process
    assert described.communicate(timeout=PATIENCE)[0] == b"v1.0.0\n"
    assert (tmp_path / "memory").stat().st_size == 32 << 20
    source.process.send_signal(signal.SIGTERM)
    assert source.process.wait(PATIENCE) == 128 + signal.SIGTERM

    backend = {"backend_type": "File", "backend_path": files["mem_file_path"]}
    load = {"snapshot_path": files["snapshot_path"], "mem_backend": backend}
    copy = start(*flags, name="two")
    copy.put("/snapshot/load", **load, vsock_override={"uds_path": str(tmp_path / "vsock2")})
    assert copy.request("GET", "/")[1]["state"] == "Paused"
    config = copy.request("GET", "/vm/config")[1]
    assert config["drives"][0]["path_on_host"] == str(disk)
    assert config["vsock"]["uds_path"] == str(tmp_path / "vsock2")
    assert (tmp_path / "vsock2").is_socket()
    other = tmp_path / "other"
    other.write_bytes(disk.read_bytes())
    moved = {"drive_id": "root", "path_on_host": str(other)}
    assert copy.request("PATCH", "/drives/root", moved) == (204, None)
    assert copy.request("PATCH", "/vm", {"state": "Resumed"}) == (204, None)
    assert "while the guest runs" in copy.fault("PATCH", "/drives/root", {**moved, "path_on_host": str(disk)})
    copy.type(b"again\x04")
    assert copy.read(5) == b"again"
    assert copy.process.wait(PATIENCE) == 0

    third = start(*flags, name="three")
    assert "Uffd" in third.fault("PUT", "/snapshot/load", {**load, "mem_backend": {**backend, "backend_type": "Uffd"}})
    assert "no snapshot" in third.fault("PUT", "/snapshot/load", {**load, "snapshot_path": str(disk)})
    assert "not the memory" in third.fault(
        "PUT", "/snapshot/load", {**load, "mem_backend": {**backend, "backend_path": str(disk)}}
    )
    third.put("/snapshot/load", **load, resume_vm=True)
    third.type(b"x")
    assert third.read(1) == b"x"


@needs_kvm
@KINDS
def test_the_metadata_service(start: Callable[..., Program], tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A machine with a network card starts with it, and a copy has its configuration but not its data."""
    (tmp_path / "data").write_text('{"a": {"b": "c"}}')
    with own_network():
        ip("tuntap add t0 mode tap; link set t0 up")
        source = start(*flags, "--metadata", str(tmp_path / "data"), "--mmds-size-limit", "100")
        source.put("/boot-source", kernel_image_path=echo(tmp_path))
        source.put("/machine-config", vcpu_count=1, mem_size_mib=32)
        source.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name="t0")
        for address in ("8.8.8.8", "169.254.0.1", "169.254.255.1", "x"):
            config = {"network_interfaces": ["eth0"], "ipv4_address": address}
            assert "not link local" in source.fault("PUT", "/mmds/config", config)
        source.put("/mmds/config", network_interfaces=["eth0"], version="V2")
        source.put("/actions", action_type="InstanceStart")
        assert source.read(1) == b">"
        assert source.request("GET", "/mmds") == (200, {"a": {"b": "c"}})
        assert source.request("PATCH", "/mmds", {"a": {"d": [1]}}) == (204, None)
        assert source.request("GET", "/mmds") == (200, {"a": {"b": "c", "d": [1]}})
        assert source.request("PUT", "/mmds", {"a": "x" * 100})[0] == 413
        assert "after starting" in source.fault("PUT", "/mmds/config", {"network_interfaces": ["eth0"]})
        source.request("PATCH", "/vm", {"state": "Paused"})
        files = {"snapshot_path": str(tmp_path / "state"), "mem_file_path": str(tmp_path / "memory")}
        source.put("/snapshot/create", **files)
        source.process.send_signal(signal.SIGTERM)
        source.process.wait(PATIENCE)

        copy = start(*flags, name="two")
        copy.put("/snapshot/load", **files, resume_vm=True)
        saved = {"network_interfaces": ["eth0"], "version": "V2", "ipv4_address": "169.254.169.254"}
        assert copy.request("GET", "/vm/config")[1]["mmds-config"] == {**saved, "imds_compat": False}
        assert copy.request("GET", "/mmds") == (200, {})
        copy.type(b"x")
        assert copy.read(1) == b"x"


@needs_kvm
@KINDS
def test_the_balloon(start: Callable[..., Program], tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Its size, statistics and hints, of a guest without a driver."""
    program = start(*flags)
    program.put("/boot-source", kernel_image_path=echo(tmp_path))
    program.put("/machine-config", vcpu_count=1, mem_size_mib=32)
    balloon = {"amount_mib": 1, "deflate_on_oom": True, "stats_polling_interval_s": 1, "free_page_hinting": True}
    program.put("/balloon", **balloon)
    assert program.request("GET", "/balloon") == (200, balloon)
    assert "smaller than the previously set balloon" in program.fault("PATCH", "/machine-config", {"mem_size_mib": 1})
    assert "before starting" in program.fault("GET", "/balloon/statistics")
    program.put("/actions", action_type="InstanceStart")
    assert program.read(1) == b">"
    sizes = {"target_pages": 256, "target_mib": 1, "actual_pages": 0, "actual_mib": 0}
    assert program.request("GET", "/balloon/statistics") == (200, sizes)
    assert program.request("PATCH", "/balloon", {"amount_mib": 2}) == (204, None)
    assert program.request("GET", "/balloon/statistics")[1]["target_pages"] == 512
    assert "not a multiple of 4096 below" in program.fault("PATCH", "/balloon", {"amount_mib": 32})
    assert program.request("PATCH", "/balloon/statistics", {"stats_polling_interval_s": 5}) == (204, None)
    assert "enabled/disabled" in program.fault("PATCH", "/balloon/statistics", {"stats_polling_interval_s": 0})
    assert program.request("GET", "/balloon") == (200, {**balloon, "amount_mib": 2, "stats_polling_interval_s": 5})
    assert program.request("GET", "/balloon/hinting/status") == (200, {"host_cmd": 0, "guest_cmd": 0})
    assert program.request("PATCH", "/balloon/hinting/start", {"acknowledge_on_stop": False}) == (204, None)
    assert program.request("GET", "/balloon/hinting/status") == (200, {"host_cmd": 2, "guest_cmd": 0})
    assert program.request("PATCH", "/balloon/hinting/stop") == (204, None)
    assert program.request("PATCH", "/balloon/hinting/start") == (204, None)
    assert program.request("GET", "/balloon/hinting/status") == (200, {"host_cmd": 3, "guest_cmd": 0})


@needs_kvm
def test_a_balloon_without_statistics_and_hints(start: Callable[..., Program], tmp_path: Path) -> None:
    program = start()
    program.put("/boot-source", kernel_image_path=echo(tmp_path))
    program.put("/machine-config", vcpu_count=1, mem_size_mib=32)
    program.put("/balloon", amount_mib=1, deflate_on_oom=False)
    program.put("/actions", action_type="InstanceStart")
    assert "not enabled" in program.fault("GET", "/balloon/statistics")
    assert "enabled/disabled" in program.fault("PATCH", "/balloon/statistics", {"stats_polling_interval_s": 1})
    assert "not enabled" in program.fault("PATCH", "/balloon/hinting/stop")
    assert "not enabled" in program.fault("GET", "/balloon/hinting/status")


@needs_kvm
@KINDS
def test_memory_that_can_be_plugged_in(start: Callable[..., Program], tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = start(*flags)
    program.put("/boot-source", kernel_image_path=echo(tmp_path))
    program.put("/machine-config", vcpu_count=1, mem_size_mib=32)
    program.put("/hotplug/memory", total_size_mib=256)
    program.put("/actions", action_type="InstanceStart")
    sizes = {"total_size_mib": 256, "slot_size_mib": 128, "block_size_mib": 2, "plugged_size_mib": 0}
    assert program.request("GET", "/hotplug/memory") == (200, {**sizes, "requested_size_mib": 0})
    assert program.request("PATCH", "/hotplug/memory", {"requested_size_mib": 128}) == (204, None)
    assert program.request("GET", "/hotplug/memory") == (200, {**sizes, "requested_size_mib": 128})
    assert "greater than total" in program.fault("PATCH", "/hotplug/memory", {"requested_size_mib": 512})
    assert "multiple of block" in program.fault("PATCH", "/hotplug/memory", {"requested_size_mib": 3})


@needs_kvm
@KINDS
def test_a_cpu_template_changes_what_the_guest_sees(
    start: Callable[..., Program], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """CPUID leaf 1 has the stepping and the model in EAX."""
    ask = b"\xb8\x01\x00\x00\x00\x31\xc9\x0f\xa2"  # mov eax, 1; xor ecx, ecx; cpuid
    send = b"\x66\xba\xf8\x03\xee"  # mov dx, 0x3f8; out dx, al
    program = start(*flags)
    program.put("/boot-source", kernel_image_path=tiny.make(tmp_path, ask, send, tiny.POWEROFF))
    program.put("/machine-config", vcpu_count=1, mem_size_mib=32)
    modifier = {"register": "eax", "bitmap": f"0b{'x' * 24}{ord('#'):08b}"}
    leaf = {"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [modifier]}
    program.put("/cpu-config", cpuid_modifiers=[leaf], msr_modifiers=[], kvm_capabilities=[])
    assert program.request("GET", "/vm/config")[1]["cpu-config"]["cpuid_modifiers"] == [leaf]
    program.put("/actions", action_type="InstanceStart")
    assert program.read(1) == b"#"
    other = start(*flags, name="two")
    other.put("/boot-source", kernel_image_path=str(tmp_path / "tiny.elf"))
    other.put("/cpu-config", cpuid_modifiers=[{**leaf, "leaf": "0x123"}])
    assert "leaf 0x123.0x0, which this host does not have" in other.fault(
        "PUT", "/actions", {"action_type": "InstanceStart"}
    )


@needs_kvm
def test_a_configuration_file_boots_without_an_api(start: Callable[..., Program], tmp_path: Path) -> None:
    config = {
        "boot-source": {"kernel_image_path": echo(tmp_path), "boot_args": "console=ttyS0"},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 32},
        "drives": [],
        "vsock": None,
    }
    (tmp_path / "config").write_text(json.dumps(config))
    program = start("--no-api", "--config-file", str(tmp_path / "config"), wait=False)
    assert program.read(1) == b">"
    program.type(b"\x04")
    assert program.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("PUT", "/boot-source", {"kernel_image_path": "/missing"}, "/missing cannot be opened: No such file"),
        ("PUT", "/boot-source", {"kernel_image_path": "/dev/zero"}, "neither a file nor a block device"),
        ("PUT", "/boot-source", {}, "missing field `kernel_image_path`"),
        ("PUT", "/boot-source", [], "the body is not a map"),
        ("PUT", "/boot-source", None, "Empty PUT request"),
        ("PUT", "/boot-source", {"kernel_image_path": "a\0b"}, "invalid value of `kernel_image_path`"),
        ("PUT", "/boot-source", {"kernel_image_path": "\ud800"}, "invalid value of `kernel_image_path`"),
        ("PUT", "/machine-config", {"vcpu_count": 3, "mem_size_mib": 32, "smt": True}, "1 or an even number"),
        ("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 33, "huge_pages": "2M"}, "not a multiple"),
        ("PUT", "/balloon", {"amount_mib": 128, "deflate_on_oom": True}, "less than the memory"),
        ("PUT", "/hotplug/memory", {"total_size_mib": 100}, "Total size must not be lower"),
        ("PUT", "/hotplug/memory", {"total_size_mib": 128, "block_size_mib": 3}, "power of 2"),
        ("PUT", "/hotplug/memory", {"total_size_mib": 192}, "multiple of slot size"),
        ("PUT", "/cpu-config", {"kvm_capabilities": ["121"]}, "KVM capabilities"),
        ("PUT", "/cpu-config", {"msr_modifiers": [{"addr": "0x1", "bitmap": "0b1"}]}, "the MSR 0x1"),
        ("PUT", "/cpu-config", {"cpuid_modifiers": [{"leaf": "x", "subleaf": "0", "flags": 0, "modifiers": []}]}, "32"),
        ("PUT", "/cpu-config", {"msr_modifiers": [{"addr": "0x10a", "bitmap": "1"}]}, "Invalid bitmap"),
        ("GET", "/balloon/statistics", None, "No balloon device found"),
        ("PATCH", "/balloon/hinting/start", None, "No balloon device found"),
        ("PATCH", "/pmem/a", {"id": "a"}, "Invalid pmem device ID"),
        ("PUT", "/machine-config", {"vcpu_count": 64, "mem_size_mib": 32}, "expected 1 to 32"),
        ("PUT", "/machine-config", {"vcpu_count": True, "mem_size_mib": 32}, "expected an integer"),
        ("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 32, "cpu_template": "T2"}, "template T2"),
        ("PATCH", "/machine-config", {}, "Empty PATCH request"),
        ("PUT", "/drives/a", {"drive_id": "b", "is_root_device": False}, "does not match"),
        ("PUT", "/drives/..", {"drive_id": "..", "is_root_device": False}, "Invalid resource ID"),
        ("PUT", "/drives/a", {"drive_id": "a", "is_root_device": False, "socket": "/s"}, "vhost-user"),
        ("PUT", "/drives/a", {"drive_id": "a", "is_root_device": False, "more": 1}, "unknown field `more`"),
        ("PUT", "/network-interfaces/a", {"iface_id": "a", "host_dev_name": "t", "guest_mac": "x"}, "Invalid device"),
        ("PUT", "/vsock", {"guest_cid": 2, "uds_path": "/s"}, "expected 3 to"),
        ("PUT", "/actions", {"action_type": "Dance"}, "unknown variant `Dance`"),
        ("PUT", "/actions", {"action_type": "InstanceStart"}, "without kernel configuration"),
        ("PUT", "/actions", {"action_type": "FlushMetrics"}, "no metrics file"),
        ("PATCH", "/vm", {"state": "Paused"}, "before starting"),
        ("PATCH", "/balloon", {"amount_mib": 1}, "No balloon device found"),
        ("PATCH", "/drives/a", {"drive_id": "a"}, "Invalid block device ID"),
        ("DELETE", "/drives/a", None, "before starting"),
        ("GET", "/drives/a", None, "Invalid request method"),
        ("GET", "/balloon", None, "No balloon device found"),
        ("PUT", "/mmds/config", {"network_interfaces": []}, "is empty"),
        ("PUT", "/mmds/config", {"network_interfaces": ["a"]}, "does not correspond to any existing"),
        ("PATCH", "/mmds", {"a": 1}, "not initialized"),
        ("POST", "/mmds", {}, "Invalid request method and/or path"),
        ("PUT", "/logger", {"log_path": "/missing/log"}, "Failed to open the log file"),
    ],
)
def test_wrong_requests_get_a_sentence(api: Program, method: str, path: str, body: Any, message: str) -> None:
    assert message in api.fault(method, path, body)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("api"))
    program.wait_for_socket()
    yield program
    program.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"PUT /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{a}", b"400"),
        (b"PUT /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", b"413"),
        (b"PUT /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999999999999\r\n\r\n", b"4"),
        (b"PUT /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n[[[[", b"400"),
        (b"\x00\x01\x02\r\n\r\n", b"400"),
        (b"HEAD /version HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"HEAD /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n", b"400"),
        (b"GET " + b"/" * 20000, b"4"),
        (b"PUT /vm HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n", b"4"),
        (b"PUT /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n" + b"[" * 40000, b"400"),
    ],
)
def test_broken_http_is_refused(api: Program, data: bytes, status: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(api.socket))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert api.request("GET", "/version") == (200, {"firecracker_version": "1.17.0"})


def test_silent_clients_do_not_keep_others_out(api: Program) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    for each in silent:
        each.connect(str(api.socket))
        each.sendall(b"GET / HT")
    assert api.request("GET", "/version")[0] == 200
    for each in silent:
        each.close()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--id", "a/b"), 2, "--id"),
        (("--no-api",), 2, "--config-file"),
        (("--seccomp-filter", "x"), 2, "not supported"),
        (("--describe-snapshot", "/dev/null"), 1, "neither a file"),
        (("--metadata", "/missing"), 152, "/missing"),
        (("--config-file", "/missing"), 152, "/missing"),
        (("--api-sock", "/missing/socket"), 153, "/missing/socket"),
    ],
)
def test_wrong_flags(start: Callable[..., Program], flags: tuple[str, ...], status: int, message: str) -> None:
    program = start(*flags, wait=False)
    assert program.process.wait(PATIENCE) == status
    assert program.process.stderr
    assert message in program.process.stderr.read().decode()
