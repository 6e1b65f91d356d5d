"""Writes of the controller, each of which is in the cache at once: a later round must not repeat it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_server.kubernetes import objects
from pyvmm_server.kubernetes.objects import Condition, Object

if TYPE_CHECKING:
    from pyvmm_server.kubernetes.api import Cache, Kind


class Writer:
    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    async def create(self, kind: Kind, made: Object) -> Object:
        """
        :raises Refused: its status is 409: there is one of that name
        """
        found = await self.cache.api.create(kind, made)
        self.cache.note(kind, found)
        return found

    async def change(self, kind: Kind, found: Object, metadata: Object) -> Object:
        """Merge changes into the metadata of an object.

        :raises Refused: its status is 409: it has changed since
        """
        version = objects.meta(found)["resourceVersion"]
        change = {"metadata": {**metadata, "resourceVersion": version}}
        changed = await self.cache.api.patch(kind, objects.key(found), change)
        self.cache.note(kind, changed)
        return changed

    async def hold(self, kind: Kind, found: Object) -> Object:
        """Add our finalizer: the object stays until :meth:`release`."""
        if objects.is_held(found):
            return found
        return await self.change(kind, found, {"finalizers": objects.finalizers(found, held=True)})

    async def release(self, kind: Kind, found: Object) -> None:
        """Remove the finalizer: an object that is being deleted disappears."""
        if objects.is_held(found):
            await self.change(kind, found, {"finalizers": objects.finalizers(found, held=False)})

    async def end(self, kind: Kind, found: Object) -> None:
        """Begin its end."""
        if not objects.is_ending(found):
            await self.cache.api.delete(kind, objects.key(found))

    async def report(self, kind: Kind, found: Object, wanted: list[Condition], **fields: object) -> None:
        """Write the status, if it is another one."""
        status = found.get("status") or {}
        made = {"conditions": objects.conditions(found, wanted, objects.now()), **fields}
        if any(status.get(name) != value for name, value in made.items()):
            self.cache.note(kind, await self.cache.api.patch_status(kind, objects.key(found), made))
