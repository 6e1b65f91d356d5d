"""``pyvmm-oci checkpoint ID`` saves a container in a folder, ``restore ID`` continues it from there, and ``fork ID
NEW...`` makes running copies of it.

It saves the whole virtual machine: the memory of the processes, and of the guest's kernel.
:mod:`pyvmm_kata.pod.checkpoint_folder` has the form.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pyvmm_kata import state
from pyvmm_kata.bundle.bundle import OVERLAY
from pyvmm_kata.bundle.checks import check_id
from pyvmm_kata.bundle.guest_mounts import is_bind
from pyvmm_kata.errors import ConfigError, HostError, bad
from pyvmm_kata.oci.delete import delete
from pyvmm_kata.oci.options import FLAG, LIST, NUMBER, VALUE, one_id, parse
from pyvmm_kata.pod import checkpoint_folder
from pyvmm_kata.pod.sandbox_config import Forked
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.pod.checkpoint_folder import Kept
    from pyvmm_kata.state import Json

DEFAULT = "checkpoint"
SAVE_S = 1800.0
"""Seconds that a machine may take to be saved: it is written to a disk."""

STATS_MAGIC = struct.pack("<II", 0x55105940, 0x57093306)
"""What a file of CRIU's with times and numbers of pages begins with."""

WITHOUT_EFFECT = {
    "tcp-established": FLAG,
    "tcp-skip-in-flight": FLAG,
    "ext-unix-sk": FLAG,
    "shell-job": FLAG,
    "file-locks": FLAG,
    "link-remap": FLAG,
    "auto-dedup": FLAG,
    "manage-cgroups-mode": VALUE,
    "empty-ns": LIST,
    "lsm-profile": VALUE,
    "lsm-mount-context": VALUE,
}
"""Options of runc and crun about what the guest's kernel keeps in any case: connections, sockets, terminals, locks."""
REFUSED = {
    "pre-dump": (FLAG, "a checkpoint is made at once: leave it out"),
    "parent-path": (VALUE, "a checkpoint is whole: leave it out"),
    "lazy-pages": (FLAG, "memory is read from the image when it is touched, in any case"),
    "page-server": (VALUE, "there is no server of pages: save to a folder, and copy that"),
    "status-fd": (NUMBER, "nothing is told by a descriptor: the command ends when the checkpoint is there"),
}
_PLACES = {"image-path": VALUE, "work-path": VALUE}
_COMMON = {**_PLACES, **WITHOUT_EFFECT, **{name: kind for name, (kind, _) in REFUSED.items()}, "help": FLAG}
CHECKPOINT = {**_COMMON, "leave-running": FLAG}
RESTORE = {
    **_COMMON,
    "bundle": VALUE,
    "console-socket": VALUE,
    "pid-file": VALUE,
    "detach": FLAG,
    "no-subreaper": FLAG,
    "no-new-keyring": FLAG,
    "no-pivot": FLAG,
    "keep": FLAG,
}
FORK = {"image-path": VALUE, "bundles": VALUE, "help": FLAG}
MODES = ("", "soft", "full", "strict", "ignore")

_TEXTS = {
    "checkpoint": """\
usage: pyvmm-oci checkpoint [OPTION]... ID

Save a running container with all of its memory.  Without --leave-running it ends, and is removed.

  --image-path DIR   where to save it (./checkpoint); replaces the checkpoint that is there
  --leave-running    let it go on afterwards
  --work-path DIR    where to write stats-dump, as CRIU does
""",
    "restore": """\
usage: pyvmm-oci restore [OPTION]... ID

Let a container go on where a checkpoint was made, in a machine of its own and with new standard streams.

  --image-path DIR        of the checkpoint (./checkpoint)
  --bundle DIR            with config.json (.): the same program, the same mounts
  --detach                do not wait for its end
  --pid-file FILE         where to write its pid
  --console-socket FILE   who gets its terminal
  --work-path DIR         where to write stats-restore, as CRIU does
""",
    "fork": """\
usage: pyvmm-oci fork [OPTION]... ID NEW...

Make running copies of a container, each in a machine of its own, with a copy of its root file system unless that is
read-only, and the same volumes.  The container goes on.

  --bundles DIR      where folders NEW with their bundles are made (beside the container's bundle)
  --image-path DIR   where its memory is saved meanwhile, if it cannot be copied in memory ($TMPDIR)
""",
}
_SAME = "accepted, since a guest keeps what they are about: {}\n"


# -- commands --------------------------------------------------------------------------------------------------------


def checkpoint(context: Context, arguments: Sequence[str]) -> int:
    """Run ``checkpoint``; returns the exit status."""
    options = _options(arguments, CHECKPOINT, "checkpoint")
    if options is None:
        return 0
    folder = context.folder(one_id(options["rest"], "checkpoint"))
    end = not options["leave-running"]
    began = time.monotonic()
    place = os.path.abspath(options["image-path"] or DEFAULT)
    save(folder, place, end=end)
    if options["work-path"]:
        us = _microseconds_since(began)
        memory = os.stat(os.path.join(checkpoint_folder.read(place, verified=True).machine, "memory"))
        scanned, written = memory.st_size // mmap.PAGESIZE, memory.st_blocks * 512 // mmap.PAGESIZE
        # dump_stats_entry: freezing, frozen, memdump, memwrite; pages scanned, skipped, written
        _write_stats(os.path.join(options["work-path"], "stats-dump"), 1, (0, us, us, us, scanned, 0, written))
    if end:
        delete(folder, force=True)
    return 0


def restore(context: Context, arguments: Sequence[str]) -> int:
    """Run ``restore``; returns the exit status: the container's, or 0 with ``--detach``."""
    from pyvmm_kata.oci.run import run

    options = _options(arguments, RESTORE, "restore")
    if options is None:
        return 0
    container_id = one_id(options["rest"], "restore")
    began = time.monotonic()
    found = checkpoint_folder.read(os.path.abspath(options["image-path"] or DEFAULT))

    def note() -> None:
        if options["work-path"]:
            # restore_stats_entry: pages compared, skipped; forking, restore
            us = _microseconds_since(began)
            _write_stats(os.path.join(options["work-path"], "stats-restore"), 2, (0, 0, 0, us))

    return run(context, container_id, {**options, "preserve-fds": 0}, kept=found, then=note)


def fork(context: Context, arguments: Sequence[str]) -> int:
    """Run ``fork``; returns the exit status."""
    options = _options(arguments, FORK, "fork")
    if options is None:
        return 0
    rest = options["rest"]
    container_id = one_id(rest[:1], "fork")
    names = [check_id(name) for name in rest[1:]]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"fork: {'two copies have one id' if names else 'the ids of the copies are missing'}", code="oci-usage"
        )
    fork_container(context, container_id, names, options["bundles"], options["image-path"])
    return 0


def _options(arguments: Sequence[str], options: dict[str, str], command: str) -> dict[str, Any] | None:
    """The validated options, with the other words as ``rest``; None: the usage was printed."""
    found, rest = parse(arguments, options, {"b": "bundle", "d": "detach", "h": "help"}, command)
    if found["help"]:
        same = ", ".join(f"--{name}" for name in WITHOUT_EFFECT if name in options)
        sys.stdout.write(_TEXTS[command] + (f"\n{_SAME.format(same)}" if same else ""))
        return None
    for name, (_, why) in REFUSED.items():
        if found.get(name):
            raise ConfigError(f"{command}: --{name} cannot be done", code="oci-usage", hint=why)
    mode = found.get("manage-cgroups-mode", "")
    if mode not in MODES:
        raise ConfigError(
            f"{command}: --manage-cgroups-mode {mode!r:.20} is not one of {', '.join(MODES[1:])}", code="oci-usage"
        )
    return {**found, "rest": rest}


def _microseconds_since(began: float) -> int:
    return min(int((time.monotonic() - began) * 1e6), 0xFFFFFFFF)


def _write_stats(path: str, kind: int, values: Sequence[int]) -> None:
    """Write a file of CRIU's (``stats.proto``), which podman exports with a checkpoint, and reads for --print-stats."""
    entry = b"".join(bytes([number << 3]) + _varint(value) for number, value in enumerate(values, 1))
    message = bytes([kind << 3 | 2]) + _varint(len(entry)) + entry
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(STATS_MAGIC + struct.pack("<I", len(message)) + message)
    except OSError as error:  # the operation itself has succeeded
        sys.stderr.write(f"warning: {path}: {error.strerror}\n")


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


# -- copying ----------------------------------------------------------------------------------------------------------


def fork_container(
    context: Context, container_id: str, names: Sequence[str], bundles: str = "", place: str = ""
) -> dict[str, int]:
    """Make running copies of a container; the pid of each, a child of this process, by its id.

    :param bundles: where their bundles are made; empty: beside the container's
    :param place: where its memory is saved meanwhile if it has to be; empty: a folder with room
    :raises VmmError: there are no copies
    """
    from pyvmm_kata.oci.create import create

    folder = context.folder(container_id)
    known = state.read(folder)
    if known["process"].get("terminal"):
        raise ConfigError(
            f"fork: the container {container_id} has a terminal, and its copies would have none",
            code="checkpoint-terminal",
            hint="checkpoint --leave-running, then restore with a --console-socket for each",
        )
    for name in names:
        if os.path.lexists(context.folder(name)):
            raise ConfigError(f"container with id {name} exists already", code="container-exists")
    place_of_bundles = os.path.abspath(bundles or os.path.dirname(known["bundle"]))
    made: list[str] = []
    copies: dict[str, int] = {}
    try:
        with ExitStack() as freed:

            def copy(spec: Json) -> None:
                """Its files, while its processes are frozen."""
                _copy_bundles(known, spec, place_of_bundles, names, made)

            found = _exported(folder, len(names), copy, freed) or _saved(folder, place, copy, freed)
            for name in names:
                options = {"bundle": os.path.join(place_of_bundles, name), "preserve-fds": 0}
                copies[name] = create(context, name, {**options, "console-socket": "", "pid-file": ""}, kept=found)
    except BaseException:
        for name in copies:
            delete(context.folder(name), force=True)
        _remove(made)
        raise
    return copies


def _saved(folder: str, place: str, meanwhile: Callable[[Json], None], freed: ExitStack) -> Kept:
    """The container's machine as a snapshot in a new folder below *place*, which *freed* removes."""
    import tempfile

    saved = tempfile.mkdtemp(prefix="pyvmm-fork-", dir=place or _roomy())
    freed.callback(_remove, [saved])
    save(folder, saved, end=False, meanwhile=meanwhile)
    return checkpoint_folder.read(saved, verified=True)


def _remove(folders: Sequence[str]) -> None:
    import shutil  # a restore does without, which takes a tenth of its time

    for path in folders:
        shutil.rmtree(path, ignore_errors=True)


def _exported(folder: str, count: int, meanwhile: Callable[[Json], None], freed: ExitStack) -> Kept | None:
    """The container's machine as it runs, which continues; None: it is no process of its own, or its memory limit has
    no room for a copy.

    :param freed: closes the descriptors, of which each copy has its own
    """
    channel = control.connect(folder)
    try:
        channel.request({"op": "fork", "count": count})
        answer = channel.answer(SAVE_S)
        fds, channel.fds = channel.fds, []
        for fd in fds:
            freed.callback(os.close, fd)
        found = None
        if answer["machine"] is not None:
            meanwhile(answer["spec"])
            found = checkpoint_folder.of_fork(answer["saved"], answer["spec"], Forked(answer["machine"], fds))
            channel.send({})
            channel.answer()
    finally:
        channel.close()
    return found


# -- saving ----------------------------------------------------------------------------------------------------------


def save(folder: str, place: str, *, end: bool, meanwhile: Callable[[Json], None] = lambda spec: None) -> None:
    """Save the container whose state is in *folder* as a checkpoint in the folder *place*.

    :param end: the container ends then; otherwise it continues
    :param meanwhile: called with its config.json while its processes are frozen, when the machine is saved
    :raises VmmError: it cannot be saved; it continues, and *place* is unchanged
    """
    known = state.read(folder)
    if known["status"] not in ("running", "paused"):
        raise ConfigError(
            f"container {known['id']} cannot be checkpointed: it is {known['status']}", code="container-state"
        )
    with checkpoint_folder.place_for(place) as name:
        channel = control.connect(folder)
        try:
            channel.request({"op": "checkpoint", "folder": os.path.join(place, name)})
            answer = channel.answer(SAVE_S)
            meanwhile(answer["spec"])
            checkpoint_folder.write(place, name, answer["saved"], answer["spec"])
            channel.send({"end": end})
            channel.answer()
        finally:
            channel.close()


# -- copies ----------------------------------------------------------------------------------------------------------


def _roomy() -> str:
    return os.environ.get("TMPDIR") or "/var/tmp"


def _copy_bundles(known: Json, spec: Json, bundles: str, names: Sequence[str], made: list[str]) -> None:
    """Make a bundle for each copy; *made* receives their folders."""
    for name in names:
        path = os.path.join(bundles, name)
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            raise HostError(
                f"fork: {path}: {error.strerror}", code="checkpoint-bundle", hint="--bundles DIR names another place"
            ) from error
        made.append(path)
        copy_bundle(known, spec, path)


def copy_bundle(known: Json, spec: Json, path: str) -> None:
    """Write a bundle for a copy of a container into the folder *path*, while the container's processes are frozen.

    :param known: the container's state
    :param spec: its config.json
    :raises HostError: the files of its root cannot be copied
    """
    own = _own_spec(spec, known["bundle"])
    rootfs = own["root"]["path"]
    in_memory = (spec.get("annotations") or {}).get(OVERLAY)
    # A stored image never changes: what the container has written is in the guest's memory
    if not own["root"].get("readonly") and os.path.isdir(rootfs) and not in_memory:
        own["root"]["path"] = "rootfs"
        command = ["cp", "-a", "--reflink=auto", "--", rootfs, os.path.join(path, "rootfs")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = done.stderr.strip().splitlines()
            raise HostError(f"fork: {words[0] if words else 'cp failed'}", code="checkpoint-bundle")
    for mount in own["mounts"]:
        source = mount.get("source", "")
        if is_bind(mount) and os.path.dirname(source) == known["bundle"] and os.path.isfile(source):
            import shutil

            shutil.copy2(source, path)  # it is removed with the original's bundle
            mount["source"] = os.path.basename(source)
    with open(os.path.join(path, "config.json"), "w") as file:
        file.write(json.dumps(own))


def _own_mount(index: int, mount: Json, path: str) -> Json:
    if mount.get("type") == "overlay":
        raise bad(
            f"mounts[{index}].type",
            f"{mount['destination']} is an overlay, which cannot be written by two machines",
            "checkpoint --leave-running, then restore with layers of its own",
        )
    return {**mount, "source": os.path.join(path, mount["source"])} if is_bind(mount) else mount


def _own_spec(spec: Json, path: str) -> Json:
    """A copy's config.json: it has its own namespaces and cgroup, and no hooks, which belong to the container's
    creator."""
    own = {
        **spec,
        "root": {**spec["root"], "path": os.path.join(path, spec["root"]["path"])},
        "linux": {**spec.get("linux", {})},
    }
    own.pop("hooks", None)
    own["mounts"] = [_own_mount(index, mount, path) for index, mount in enumerate(spec.get("mounts") or ())]
    own["linux"].pop("cgroupsPath", None)
    own["linux"]["namespaces"] = [
        {key: value for key, value in entry.items() if key != "path"} for entry in own["linux"].get("namespaces") or ()
    ]
    return own
