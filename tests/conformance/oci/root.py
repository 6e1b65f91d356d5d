"""config.md, Root; config-linux.md, Default Devices, Devices, Masked and Readonly Paths, and Default Filesystems."""

from __future__ import annotations

import json
import shutil

from tests.conformance.oci.box import DROP, Box, scene
from tests.conformance.suite import Observation, case, equal, failed, lacks, matches, succeeded

NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}


@scene(
    *(
        case(
            f"config/linux/default-devices-{name}",
            f"/dev/{name} is the character device {major}:{minor}, for all",
            equal(name, f"character special file {major:x}:{minor:x} 666"),
        )
        for name, (major, minor) in NODES.items()
    ),
    case(
        "config/linux/default-devices-ptmx", "/dev/ptmx leads to /dev/pts/ptmx", matches("ptmx", "^(/dev/)?pts/ptmx$")
    ),
    *(
        case(
            f"config/linux/dev-links-{name}",
            f"/dev/{name} is a symbolic link to {target}",
            equal(f"link-{name}", target),
        )
        for name, target in (
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        )
    ),
    case("config/linux/default-devices-work", "the default devices do as they are called", equal("work", "0 0 full 4")),
    *(
        case(
            f"config/linux/default-filesystems-{kind}",
            f"{kind} is at {path}",
            matches("mounts", rf"^\S+ {path} {kind} "),
        )
        for path, kind in (("/proc", "proc"), ("/sys", "sysfs"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs"))
    ),
    case("config/linux/masked-file", "what is masked cannot be read", equal("masked-file", "0")),
    case("config/linux/masked-folder", "a folder that is masked is empty", equal("masked-folder", "")),
    case("config/linux/masked-missing", "a masked path that is not there is no error", succeeded()),
    case(
        "config/linux/readonly-paths",
        "what is read-only cannot be written",
        matches("readonly", "Read-only file system"),
    ),
    case("config/linux/masked-own", "maskedPaths may name any file", equal("own-masked", "")),
    third=True,
)
def devices(box: Box) -> Observation:
    root = box.own_root()
    (root / "etc" / "secret").write_text("secret\n")
    probes = {name: f"stat -c '%F %t:%T %a' /dev/{name}" for name in NODES}
    probes["ptmx"] = "readlink /dev/ptmx"
    probes |= {f"link-{name}": f"readlink /dev/{name}" for name in ("fd", "stdin", "stdout", "stderr")}
    probes["work"] = (
        "head -c 5 /dev/null | wc -c; head -c 9 /dev/zero | tr -d '\\0' | wc -c;"
        " echo x 2>/dev/null >/dev/full || echo full; head -c 4 /dev/urandom | wc -c"
    )
    probes["mounts"] = "cat /proc/mounts"
    probes["masked-file"] = "cat /proc/timer_list | wc -c"
    probes["masked-folder"] = "ls /sys/firmware"
    probes["readonly"] = "echo 1 >/proc/sys/kernel/panic"
    probes["own-masked"] = "cat /etc/secret"
    seen = box.probe(
        probes,
        {
            "root.path": str(root),
            "linux.maskedPaths+": ["/not/there", "/etc/secret"],
        },
    )
    seen["work"] = " ".join(seen.get("work", "").split())
    return seen


@scene(
    case("config/linux/devices-file-mode", "fileMode of a device is set", matches("device", " 640 ")),
    case("config/linux/devices-owner", "uid and gid of a device are set", matches("device", " 7:8$")),
    case(
        "config/linux/devices-type",
        "a device has the type and the numbers given",
        matches("device", "^character special file 1:5 "),
    ),
    case("config/linux/devices-fifo", "a device of type p is a fifo", matches("fifo", "^fifo")),
)
def own_devices(box: Box) -> Observation:
    return box.probe(
        {"device": "stat -c '%F %t:%T %a %u:%g' /dev/mine", "fifo": "stat -c '%F' /dev/pipe"},
        {
            "linux.devices": [
                {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
            ]
        },
    )


@scene(
    case("config/root/readonly-true", "a read-only root cannot be written", matches("write", "Read-only file system")),
    case("config/root/readonly-mounts", "mounts in a read-only root can be", equal("tmpfs?", "0")),
    case("config/root/path-relative", "a relative root.path is below the bundle", succeeded()),
)
def root_readonly(box: Box) -> Observation:
    bundle = box.bundle("true")
    (bundle / "files").symlink_to(box.rootfs)
    seen = box.probe(
        {"write": "touch /new", "tmpfs": "touch /scratch/new"},
        {"root.readonly": True, "mounts+": [{"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}]},
    )
    config = json.loads((bundle / "config.json").read_text())
    config["root"]["path"] = "own"
    shutil.copytree(box.rootfs, bundle / "own", symlinks=True)
    (bundle / "config.json").write_text(json.dumps(config))
    seen["status"] = box.call("run", "--bundle", str(bundle), box.id("relative")).status
    return seen


@scene(case("config/root/path-missing", "a root.path that is not there is an error", failed()))
def root_missing(box: Box) -> Observation:
    return {"status": box.run("true", {"root.path": "/not/there"}).status}


@scene(case("config/root/required", "root is required for a container without a machine's image", failed()))
def root_absent(box: Box) -> Observation:
    return {"status": box.run("true", {"root": DROP}).status}


@scene(
    case(
        "config/root/written",
        "what is written to the root is there afterwards, and is root's",
        equal("file", "kept 0:0 644"),
    ),
    case("config/root/second-run", "a second container sees what the first wrote", equal("again", "kept")),
)
def root_written(box: Box) -> Observation:
    root = box.own_root()
    box.run("umask 22; printf kept >/etc/new", {"root.path": str(root)})
    path = root / "etc" / "new"
    found = path.stat()
    seen = {"file": f"{path.read_text()} {found.st_uid}:{found.st_gid} {found.st_mode & 0o7777:o}"}
    seen["again"] = box.run("cat /etc/new", {"root.path": str(root)}, name="d").out
    return seen


@scene(
    case(
        "config/linux/resources-devices-deny",
        "a device that is denied cannot be opened",
        matches("mine", "Operation not permitted|can't open"),
    ),
    case("config/linux/resources-devices-allow", "a device that is allowed can", equal("zero?", "0")),
)
def device_rules(box: Box) -> Observation:
    # /dev/fuse: no default device, and there in guests
    return box.probe(
        {"mine": "dd if=/dev/mine bs=1 count=0", "zero": "head -c 1 /dev/zero"},
        {
            "linux.devices": [{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}],
            "linux.resources.devices": [{"allow": False, "access": "rwm"}],
        },
    )


@scene(
    case(
        "config/linux/resources-devices-access",
        "a rule allows the access that it names, and no other",
        equal("read?", "0"),
        matches("write", "Operation not permitted|can't create"),
    ),
)
def device_access(box: Box) -> Observation:
    return box.probe(
        {"read": "dd if=/dev/mine bs=1 count=0", "write": "echo x >/dev/mine"},
        {
            "linux.devices": [{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}],
            "linux.resources.devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"},
            ],
        },
    )


@scene(
    case("config/linux/devices-no-type", "a device without a type is an error", failed()),
)
def device_invalid(box: Box) -> Observation:
    return {
        "status": box.run(
            "true", {"linux.devices": [{"path": "/dev/mine", "type": "x", "major": 1, "minor": 5}]}
        ).status
    }


@scene(
    case(
        "config/linux/masked-relative",
        "maskedPaths are absolute: a relative one does not hide anything else",
        lacks("out", "Traceback"),
    ),
)
def masked_relative(box: Box) -> Observation:
    return {"out": box.run("true", {"linux.maskedPaths": ["etc"]}).err}
