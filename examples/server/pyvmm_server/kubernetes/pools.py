"""Keeps as many warm sandboxes of each SandboxWarmPool as it wants."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pyvmm_server.kubernetes import blueprint, objects
from pyvmm_server.kubernetes.api import POOL, SANDBOX, TEMPLATE
from pyvmm_server.kubernetes.objects import READY, Object

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_server.kubernetes.writer import Writer

_GONE = ("NodeLost", "PodFailed")
"""Reasons of warm sandboxes that are replaced. One that cannot be started stays, since another could not either."""

_AT_ONCE = 16
"""Sandboxes that one round makes for a pool: other objects wait for the round's end."""


class Pools:
    """
    :param place: the node of a new sandbox; raises :class:`~pyvmm_server.errors.ClientError`: none has room
    """

    def __init__(self, writer: Writer, place: Callable[[Object], str]) -> None:
        self._writer = writer
        self._cache = writer.cache
        self._place = place

    async def settle(self, pool: Object) -> None:
        """Bring a pool closer to what it shall be.

        :raises Refused: the API server has refused a change
        """
        namespace, name = objects.key(pool)
        spec = objects.spec(pool)
        template = self._cache.get(TEMPLATE, (namespace, spec.get("sandboxTemplateRef", {}).get("name", "")))
        wanted = 0 if objects.is_ending(pool) else int(spec.get("replicas", 1))
        members = [each for each in self.members(namespace, name) if not objects.is_ending(each)]
        mark = objects.digest(objects.spec(template)) if template else ""
        renews = (spec.get("updateStrategy") or {}).get("type") == "Recreate"
        stale = [each for each in members if _is_gone(each) or (renews and mark and _mark(each) != mark)]
        for each in stale:
            await self._writer.end(SANDBOX, each)
        members = sorted((each for each in members if each not in stale), key=objects.is_ready)
        for each in members[: max(len(members) - wanted, 0)]:
            await self._writer.end(SANDBOX, each)
        if template is not None:
            most = wanted if blueprint.is_possible(objects.spec(template)) else min(wanted, 1)
            for _ in range(min(most - len(members), _AT_ONCE)):
                members.append(await self._make(pool, template, mark))
        await self._report(pool, members[-wanted:] if wanted else [])

    def members(self, namespace: str, name: str) -> list[Object]:
        """Warm sandboxes that no claim has."""
        return [
            each
            for each in self._cache.all(SANDBOX)
            if objects.label(each, objects.POOL_LABEL) == name and objects.key(each)[0] == namespace
        ]

    async def end_orphans(self) -> None:
        """End warm sandboxes of pools that are not there."""
        for each in self._cache.all(SANDBOX):
            name = objects.label(each, objects.POOL_LABEL)
            if name and self._cache.get(POOL, (objects.key(each)[0], name)) is None:
                await self._writer.end(SANDBOX, each)

    async def _make(self, pool: Object, template: Object, mark: str) -> Object:
        namespace, name = objects.key(pool)
        spec = {key: value for key, value in objects.spec(template).items() if key in ("podTemplate", "service")}
        metadata = {
            "name": f"{name[:200]}-{secrets.token_hex(4)}",
            "namespace": namespace,
            "labels": {objects.POOL_LABEL: name, objects.HASH_LABEL: mark, objects.LAUNCH_LABEL: "warm"},
            "annotations": {objects.NODE: self._place(spec)},
            "finalizers": [objects.FINALIZER],
            "ownerReferences": [objects.owner(pool)],
        }
        return await self._writer.create(SANDBOX, {"metadata": metadata, "spec": spec})

    async def _report(self, pool: Object, members: list[Object]) -> None:
        status = {
            "replicas": len(members),
            "readyReplicas": sum(map(objects.is_ready, members)),
            "selector": f"{objects.POOL_LABEL}={objects.key(pool)[1]}",
        }
        if any((pool.get("status") or {}).get(name) != value for name, value in status.items()):
            found = await self._cache.api.patch_status(POOL, objects.key(pool), status)
            self._cache.note(POOL, found)


def _mark(sandbox: Object) -> str:
    return objects.label(sandbox, objects.HASH_LABEL)


def _is_gone(sandbox: Object) -> bool:
    ready = objects.condition(sandbox, READY)
    return ready is not None and ready.reason in _GONE
