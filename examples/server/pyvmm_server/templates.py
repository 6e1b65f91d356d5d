"""What sandboxes are started from: images of this host, saved templates, and snapshots of clients."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pyvmm_kata.image_store.store import ImageStore
from pyvmm_sandbox import Sandbox, Template
from pyvmm_sandbox.template import RECORD
from pyvmm_server.choices import NOTHING
from pyvmm_server.errors import ClientError, not_there
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyvmm_server.build_records import Build
    from pyvmm_server.choices import Choices
    from pyvmm_server.settings import Settings
    from pyvmm_server.store import Snapshot, Store

BASE = "base"
ALIASES = dict.fromkeys(
    ("code-interpreter-v1", "e2bdev/base", "e2bdev/base:latest", "e2bdev/code-interpreter:latest"), BASE
)
"""Names that clients use by default, where the administrator has defined none."""
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")


@dataclass(frozen=True)
class Source:
    """Where a sandbox comes from.

    :ivar template: the folder of a saved template; empty: :attr:`image` is the name of an image, or a root file system
    :ivar internet: whether it has the host's network; None: it can be chosen
    :ivar node: that has it; empty: all have
    :ivar is_bound: other nodes cannot get it
    """

    name: str
    settings: Settings
    template: str = ""
    image: str = ""
    internet: bool | None = None
    cpus: float = 0
    memory: int = 0
    envs: Mapping[str, str] = field(default_factory=dict)
    context: str = ""
    user: str = ""
    workdir: str = ""
    node: str = ""
    is_bound: bool = False

    def shaped(self, cpus: float, memory: int, workdir: str) -> Source:
        """The same with another size, unless it was saved with one, and another working directory.

        :param cpus: 0: as it is
        :param memory: in MiB; 0: as it is
        :param workdir: empty: as it is
        """
        if self.template:
            cpus, memory = 0, 0
        return replace(self, cpus=cpus or self.cpus, memory=memory or self.memory, workdir=workdir or self.workdir)

    def start(self, name: str, *, internet: bool, choices: Choices = NOTHING) -> Sandbox:
        """A detached sandbox.

        :param choices: of a client; the rules are of its network, if it has one
        :raises VmmError: it cannot be started; nothing of it is left
        """
        config, root = self.settings.config, self.settings.root
        if self.template:
            return Template(self.template).start(name=name, detach=True, timeout=None, config=config, root=root)
        return Sandbox(
            self.image,
            cpus=self.cpus,
            memory=f"{self.memory}M",
            network=(choices.rules or self.settings.network) if internet else "none",
            secrets=choices.secrets if internet else None,
            volumes=choices.shares,
            name=name,
            detach=True,
            timeout=None,
            config=config,
            root=root,
        )


class Templates:
    """Finds the source of a name.  A name of a client never leads to a path of this host."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    def find(self, owner: str, name: str) -> Source:
        """
        :raises ClientError: there is none
        """
        plain = name.removesuffix(":default")
        for each in (name, plain, ALIASES.get(plain, "")):
            if each in self._settings.templates:
                return self._configured(each, self._settings.templates[each])
        if build := self._store.builds.find(owner, name):
            return self._saved(build.name, build)
        if snapshot := self.snapshot(owner, name):
            return self._saved(snapshot.id, snapshot)
        return self.find_image(name)

    def find_image(self, name: str) -> Source:
        """An image, or a template of the administrator's.

        :raises ClientError: there is none
        """
        for each in (name, ALIASES.get(name, "")):
            if each in self._settings.templates:
                return self._configured(each, self._settings.templates[each])
        if _IMAGE.fullmatch(name) and ".." not in name and not os.path.exists(name):
            try:
                image = ImageStore().find(name)
            except (VmmError, OSError) as error:
                raise ClientError(400, str(error)) from error
            if image is not None:
                return self._source(name, image=image.id)
        raise ClientError(404, f"template {name[:80]!r} does not exist")

    def snapshot(self, owner: str, name: str) -> Snapshot | None:
        """A client's snapshot, by its id or name, each with or without ``:default``."""
        plain = name.removesuffix(":default")
        return next((each for each in self._store.snapshots(owner) if plain in (each.id, each.name) and plain), None)

    def folder(self, snapshot_id: str) -> str:
        """Where the data of a snapshot or of a build is."""
        return os.path.join(self._settings.state, "snapshots", snapshot_id)

    def _saved(self, name: str, saved: Snapshot | Build) -> Source:
        return Source(
            name,
            self._settings,
            template=self.folder(saved.id),
            internet=saved.internet,
            cpus=saved.cpus,
            memory=saved.memory,
            envs=saved.envs,
            context=saved.context,
            user=saved.user,
            workdir=saved.workdir,
            node=saved.node,
        )

    def _configured(self, name: str, value: str) -> Source:
        if os.path.isabs(value) and os.path.exists(os.path.join(value, RECORD)):
            return self._source(name, template=value, internet=self._settings.network != "none")
        return self._source(name, image=value)

    def _source(self, name: str, *, template: str = "", image: str = "", internet: bool | None = None) -> Source:
        return Source(
            name,
            self._settings,
            template=template,
            image=image,
            internet=internet,
            cpus=self._settings.cpus,
            memory=self._settings.memory,
        )


def internet_of(source: Source, wanted: bool | None, available: bool) -> bool:
    """Whether a new sandbox has the host's network.

    :param wanted: by the client; None: it has not chosen
    :param available: this server has a network for sandboxes
    :raises ClientError: it wants none, but a saved machine keeps the network that it was saved with
    """
    if source.internet is None:
        return available if wanted is None else wanted and available
    if wanted is False and source.internet:
        raise not_there(f"allow_internet_access=False for {source.name}, which was saved with a network,")
    return source.internet
