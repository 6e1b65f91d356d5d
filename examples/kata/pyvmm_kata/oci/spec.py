"""``pyvmm-oci spec``: writes a config.json to start from, beside a folder ``rootfs``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.options import FLAG, VALUE, parse
from pyvmm_kata.state import OCI_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context

CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP",
    "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
"""podman's default for containers."""


def main(_context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, _ = parse(arguments, {"bundle": VALUE, "rootless": FLAG}, {"b": "bundle"}, "spec")
    path = os.path.join(options["bundle"] or ".", "config.json")
    try:
        with open(path, "x") as file:
            json.dump(default_spec(["sh"], terminal=True), file, indent=4)
            file.write("\n")
    except FileExistsError:
        raise ConfigError(f"{path} exists already", code="oci-spec", hint="remove it first") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="oci-spec") from error
    return 0


def default_spec(command: list[str], *, terminal: bool, root: str = "rootfs") -> dict[str, Any]:
    """A config.json for a program in the root file system *root*."""
    unshared = ("pid", "network", "ipc", "uts", "mount", "cgroup")
    common = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": command,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 65536, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": False},
        "hostname": "pyvmm",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*common, "mode=1777", "size=65536k"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": common},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*common, "ro"]},
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": [*common, "relatime", "ro"],
            },
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in unshared],
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }  # fmt: skip
