"""A container's mounts, sent from the process that sees the host's files to the one that holds the machine.

The mount namespaces of the two may differ: the monitor, left by the ``create`` of a pod's first container, does not see
podman's mounts for the second. So the mounts are sent as descriptors (open_tree(2)).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyvmm_kata.bundle import guest_spec
from pyvmm_kata.bundle.guest_mounts import root_of_layers, shm_storages
from pyvmm_kata.bundle.guest_share import Recorder
from pyvmm_kata.bundle.storage import Storage
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host import mounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.host.mounts import SharedDirectory
    from pyvmm_kata.host.namespaces import Member
    from pyvmm_kata.state import Json

MAX_TREES = 8192
"""For each mount two processes have a descriptor for a moment."""
_OTHERS = 256
"""Descriptors that are open besides."""


class Placed:
    """The config.json of the guest, and the mounts that belong to it.

    :ivar spec: as :func:`pyvmm_kata.bundle.guest_spec.place` makes it
    :ivar trees: descriptors of detached mounts, owned by this, in the order of *names* and then of *sockets*
    """

    def __init__(
        self,
        spec: Json,
        names: Sequence[str],
        trees: Sequence[int],
        overlays: Sequence[tuple[str, list[str], bool]],
        storages: Sequence[Storage],
        sockets: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.names = list(names)
        self.trees = list(trees)
        self.overlays = list(overlays)
        self.storages = list(storages)
        self.sockets = list(sockets)

    @classmethod
    def of(cls, bundle: Bundle, container_id: str, members: Sequence[Member]) -> Placed:
        """That of a bundle, with the mounts that this process sees.

        :raises ConfigError: a volume, device or namespace cannot be given to a guest
        :raises HostError: something cannot be bound
        """
        if bundle.machine_disk is not None:
            raise ConfigError(
                f"container {container_id}: its root is a disk, and the machine that it shares has no room for one",
                code="root-disk-late",
                hint="more_disks = true in kata.toml makes the machines of pods with room for disks",
            )
        recorder = Recorder()
        root, layers = root_of_layers(bundle, container_id, recorder)
        spec = guest_spec.place(bundle, container_id, recorder, root, members)
        if len(recorder.binds) + len(recorder.sockets) > MAX_TREES:
            raise ConfigError(f"container {container_id}: more than {MAX_TREES} volumes", code="oci-config")
        _allow_files(container_id, len(recorder.binds) + len(recorder.sockets))
        sockets = [name for _, name in recorder.sockets]
        made = cls(
            spec,
            [bind.name for bind in recorder.binds],
            (),
            recorder.overlays,
            [*layers, *shm_storages(bundle)],
            sockets,
        )
        try:
            for bind in recorder.binds:
                made.trees.append(
                    mounts.open_tree(
                        bind.source, recursive=bind.recursive, read_only=bind.read_only, follow=bind.follow
                    )
                )
            for source, _ in recorder.sockets:
                made.trees.append(mounts.open_tree(source, recursive=False))
        except BaseException:
            made.close()
            raise
        return made

    def to_json(self) -> Json:
        """All but the descriptors."""
        storages = [storage._asdict() for storage in self.storages]
        return {
            "spec": self.spec,
            "names": self.names,
            "overlays": self.overlays,
            "storages": storages,
            "sockets": self.sockets,
        }

    @classmethod
    def from_json(cls, value: Json, trees: Sequence[int]) -> Placed:
        """The same, with the descriptors, which it then owns."""
        storages = [Storage(**fields) for fields in value["storages"]]
        return cls(value["spec"], value["names"], trees, value["overlays"], storages, value["sockets"])

    def attach(self, shared: SharedDirectory) -> None:
        """Attach the mounts to the share.

        :raises HostError: something cannot be mounted
        """
        if len(self.trees) != len(self.names) + len(self.sockets):
            raise HostError(f"{len(self.trees)} descriptors of mounts came", code="mount")
        for name, tree in zip(self.names, self.trees, strict=False):
            shared.attach(tree, name)
        for name, tree in zip(self.sockets, self.trees[len(self.names) :], strict=True):
            shared.attach_socket(tree, name)
        for name, options, read_only in self.overlays:
            shared.overlay(name, options, read_only=read_only)

    def close(self) -> None:
        """Close the descriptors."""
        while self.trees:
            os.close(self.trees.pop())


def _allow_files(container_id: str, count: int) -> None:
    """Raise the limit of open files, if necessary."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHERS
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise ConfigError(
            f"container {container_id}: {count} volumes, and this process may open {hard} files",
            code="oci-config",
            hint=f"raise its limit to {wanted} (ulimit -n)",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
