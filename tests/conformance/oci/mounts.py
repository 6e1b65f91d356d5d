"""config.md, Mounts; config-linux.md, Rootfs Mount Propagation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conformance.oci.box import Box, scene
from tests.conformance.suite import Observation, case, equal, failed, lacks, matches, succeeded


def bind(source: Path, place: str, *options: str) -> dict[str, Any]:
    """A bind mount."""
    return {"destination": place, "type": "bind", "source": str(source), "options": ["bind", *options]}


def tmpfs(place: str, *options: str) -> dict[str, Any]:
    """A tmpfs."""
    return {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


@scene(
    case("config/mounts/bind", "a bind mount shows the source", equal("read", "content")),
    case("config/mounts/bind-written", "what is written there is in the source", equal("host", "from inside\n")),
    case("config/mounts/bind-file", "a file can be the source, and the destination", equal("file", "of a file")),
    case("config/mounts/bind-file-written", "writing to it writes to the source", equal("host-file", "changed\n")),
    case("config/mounts/destination-made", "a destination that is not there is made", equal("made", "content")),
    case(
        "config/mounts/destination-through-links",
        "a link in a destination is followed inside of the root",
        equal("link", "content"),
        equal("outside", "False"),
    ),
    case("config/mounts/ro", "ro is read-only", matches("ro", "Read-only file system")),
    case("config/mounts/noexec", "noexec keeps programs from running", matches("noexec", "Permission denied")),
    case("config/mounts/nosuid", "nosuid is an option of the mount", matches("options", r"^/nosuid \S*\bnosuid\b")),
    case("config/mounts/nodev", "nodev is an option of the mount", matches("options", r"^/nosuid \S*\bnodev\b")),
    case(
        "config/mounts/relatime", "relatime is an option of the mount", matches("options", r"^/nosuid \S*\brelatime\b")
    ),
    case(
        "config/mounts/order",
        "mounts are made in the order given: a later one covers an earlier",
        equal("order", "second"),
    ),
    case("config/mounts/nested", "a mount can lie in another", equal("nested", "inner")),
    case("config/mounts/tmpfs-size", "the size of a tmpfs is set", matches("size", " 1048576$")),
    case("config/mounts/tmpfs-mode", "the mode of a tmpfs is set", equal("mode", "1750")),
    case("config/mounts/tmpfs-owner", "uid and gid of a tmpfs are set", equal("owner", "7:8")),
    case("config/mounts/over-a-file", "a later volume lies on a file of an earlier one", equal("over", "of a file")),
    third=True,
)
def mounts_of_many_kinds(box: Box) -> Observation:
    root = box.own_root()
    (root / "link").symlink_to("/var/target")
    (root / "var" / "target").mkdir()
    source, second = box.folder / "source", box.folder / "second"
    for folder, text in ((source, "content"), (second, "second")):
        folder.mkdir()
        (folder / "file").write_text(text)
    (source / "program").write_text("#!/bin/sh\necho ran\n")
    (source / "program").chmod(0o755)
    (source / "inner").mkdir()
    plain = box.folder / "plain"
    for path in (plain, box.folder / "other-plain"):
        path.write_text("of a file")
    inner = box.folder / "inner"
    inner.mkdir()
    (inner / "file").write_text("inner")
    seen = box.probe(
        {
            "read": "cat /data/file",
            "write": "echo from inside >/data/made",
            "file": "cat /etc/plain; echo changed >/etc/plain",
            "made": "cat /a/b/c/file",
            "link": "cat /var/target/file",
            "ro": "touch /ro/new",
            "noexec": "/noexec/program",
            "options": "cut -d' ' -f2,4 /proc/mounts",
            "order": "cat /twice/file",
            "nested": "cat /data/inner/file",
            "size": "df -B1 /sized | tail -1 | awk '{print $1, $2}'",
            "mode": "stat -c %a /sized",
            "owner": "stat -c %u:%g /sized",
            "over": "cat /made/file",
        },
        {
            "root.path": str(root),
            "mounts+": [
                bind(source, "/data"),
                bind(inner, "/data/inner"),
                bind(box.folder / "other-plain", "/etc/plain"),
                bind(source, "/a/b/c"),
                bind(source, "/link"),
                bind(source, "/ro", "ro"),
                bind(source, "/noexec", "noexec"),
                bind(source, "/nosuid", "nosuid", "nodev", "relatime"),
                bind(source, "/twice"),
                bind(second, "/twice"),
                tmpfs("/sized", "size=1m", "mode=1750", "uid=7", "gid=8"),
                bind(second, "/made"),
                bind(plain, "/made/file"),
            ],
        },
    )
    made = source / "made"
    seen["host"] = made.read_text() if made.exists() else ""
    seen["host-file"] = (box.folder / "other-plain").read_text()
    seen["outside"] = str(Path("/var/target").exists())
    return seen


@scene(
    case("config/mounts/rbind", "rbind shows what is mounted below the source", equal("rbind", "below")),
    case("config/mounts/bind-not-recursive", "bind does not", matches("bind", "No such file")),
    case(
        "config/mounts/rro", "rro is read-only, what is mounted below included", matches("rro", "Read-only file system")
    ),
)
def mounts_below(box: Box) -> Observation:
    source = box.folder / "source"
    source.mkdir()
    box.mount("-t", "tmpfs", "tmpfs", str(source / "below"))
    (source / "below" / "file").write_text("below")
    return box.probe(
        {"rbind": "cat /r/below/file", "bind": "cat /b/below/file", "rro": "touch /rro/below/new"},
        {
            "mounts+": [
                {"destination": "/r", "type": "bind", "source": str(source), "options": ["rbind"]},
                {"destination": "/b", "type": "bind", "source": str(source), "options": ["bind"]},
                {"destination": "/rro", "type": "bind", "source": str(source), "options": ["rbind", "rro"]},
            ]
        },
    )


@scene(
    case(
        "config/mounts/propagation-slave",
        "what the host mounts later in a slave source is seen",
        equal("slave", "later"),
    ),
    case("config/mounts/propagation-private", "in a private one it is not", matches("private", "No such file")),
)
def mounts_propagation(box: Box) -> Observation:
    source = box.folder / "source"
    box.mount("-t", "tmpfs", "tmpfs", str(source))
    box.host("mount", "--make-shared", str(source))
    (source / "later").mkdir()
    box.start(
        "sleep 600",
        {
            "mounts+": [
                {"destination": "/slave", "type": "bind", "source": str(source), "options": ["rbind", "rslave"]},
                {"destination": "/private", "type": "bind", "source": str(source), "options": ["rbind", "rprivate"]},
            ]
        },
    )
    box.mount("-t", "tmpfs", "tmpfs", str(source / "later"))
    (source / "later" / "file").write_text("later")
    return box.exec({"slave": "cat /slave/later/file", "private": "cat /private/later/file"})


@scene(case("config/mounts/source-missing", "a source that is not there is an error", failed()))
def mounts_source_missing(box: Box) -> Observation:
    return {"status": box.run("true", {"mounts+": [bind(Path("/not/there"), "/data")]}).status}


@scene(case("config/mounts/type-unknown", "a file system that the kernel does not have is an error", failed()))
def mounts_type_unknown(box: Box) -> Observation:
    mount = {"destination": "/data", "type": "nosuchfs", "source": "none"}
    return {"status": box.run("true", {"mounts+": [mount]}).status}


@scene(
    case(
        "config/mounts/source-relative", "a relative source is below the bundle", succeeded(), equal("out", "content")
    ),
)
def mounts_source_relative(box: Box) -> Observation:
    (box.folder / "bundle1").mkdir()
    (box.folder / "bundle1" / "data").mkdir()
    (box.folder / "bundle1" / "data" / "file").write_text("content")
    box._bundles = 1
    bundle = box.bundle("cat /data/file", {"mounts+": [bind(Path("data"), "/data")]})
    (box.folder / "bundle1" / "data").rename(bundle / "data")
    done = box.call("run", "--bundle", str(bundle), box.id())
    return {"status": done.status, "out": done.out}


@scene(
    case("config/mounts/writes-beside", "a mount stays when a file is made beside it", equal("after", "content")),
    case("config/mounts/writes-beside-host", "what is written there later is in the source", equal("host", "later\n")),
)
def mounts_beside(box: Box) -> Observation:
    """On an overlay: the first creation in a lower folder copies it up."""
    upper, work, merged = (box.folder / name for name in ("upper", "work", "merged"))
    for path in (upper, work, box.folder / "source"):
        path.mkdir()
    lower = box.own_root()
    (lower / "var" / "lib" / "d").mkdir(parents=True)
    box.mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay", str(merged))
    (box.folder / "source" / "file").write_text("content")
    seen = box.probe(
        {"beside": "touch /var/lib/other", "after": "cat /var/lib/d/file", "later": "echo later >/var/lib/d/later"},
        {"root.path": str(merged), "mounts+": [bind(box.folder / "source", "/var/lib/d")]},
    )
    later = box.folder / "source" / "later"
    seen["host"] = later.read_text() if later.exists() else ""
    return seen


@scene(
    case("config/linux/rootfs-propagation-private", "rootfsPropagation private is no error", succeeded("private")),
    case("config/linux/rootfs-propagation-slave", "rootfsPropagation rslave is no error", succeeded("rslave")),
    case("config/linux/rootfs-propagation-invalid", "another word is an error", failed("invalid")),
)
def mounts_rootfs_propagation(box: Box) -> Observation:
    words = {"private": "private", "rslave": "rslave", "invalid": "nonsense"}
    return {name: box.run("true", {"linux.rootfsPropagation": word}, name=name).status for name, word in words.items()}


@scene(
    case("config/mounts/host-not-seen", "mounts inside are not seen on the host", lacks("host", "/inside-only")),
)
def mounts_stay_inside(box: Box) -> Observation:
    box.start("sleep 600", {"mounts+": [tmpfs("/inside-only")]})
    return {"host": Path("/proc/self/mountinfo").read_text()}
