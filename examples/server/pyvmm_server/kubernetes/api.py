"""The Kubernetes API: writes objects, and follows all objects of the kinds that matter here.

By lightkube, since it is typed, asynchronous and small: it imports in 0.2 s and 32 MiB, ``kubernetes.aio`` in 0.4 s and
56 MiB.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

from pyvmm_server.kubernetes.objects import Key, Object, key, meta
from vmm import ConfigError

log = logging.getLogger("pyvmm_server")
GROUP, EXTENSIONS, VERSION = "agents.x-k8s.io", "extensions.agents.x-k8s.io", "v1beta1"
_AGAIN_S = 1.0
"""Between two tries to follow a kind."""


class Kind(NamedTuple):
    group: str
    version: str
    name: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"


SANDBOX = Kind(GROUP, VERSION, "Sandbox", "sandboxes")
CLAIM = Kind(EXTENSIONS, VERSION, "SandboxClaim", "sandboxclaims")
TEMPLATE = Kind(EXTENSIONS, VERSION, "SandboxTemplate", "sandboxtemplates")
POOL = Kind(EXTENSIONS, VERSION, "SandboxWarmPool", "sandboxwarmpools")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")


class Refused(Exception):
    """The API server has refused a request, or does not answer.

    :ivar status: of its answer; 0: there was none
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_conflict(self) -> bool:
        """Somebody else was faster."""
        return self.status == 409


class Api:
    """
    :param namespace: whose objects are followed; empty: those of all
    :raises ConfigError: lightkube is not installed, or there is no configuration of a cluster
    """

    def __init__(self, namespace: str) -> None:
        try:
            import httpx2
            import lightkube
            from lightkube import generic_resource
        except ImportError as error:
            raise ConfigError("lightkube is not installed", hint="pip install lightkube") from error
        self._make = generic_resource.create_namespaced_resource
        self._failures = (httpx2.HTTPError, lightkube.ApiError)
        self._classes: dict[Kind, Any] = {}
        try:
            self._client: Any = lightkube.AsyncClient()
        except (lightkube.ConfigError, OSError, ValueError) as error:
            raise ConfigError(f"no Kubernetes cluster: {error}", hint="set KUBECONFIG, or run in a pod") from error
        self.scope = namespace or "*"
        self.home: str = self._client.namespace
        """The namespace of the server itself."""

    def _class(self, kind: Kind) -> Any:
        if kind not in self._classes:
            self._classes[kind] = self._make(kind.group, kind.version, kind.name, kind.plural)
        return self._classes[kind]

    async def _call(self, work: Any) -> Object:
        try:
            return dict(await work or {})
        except self._failures as error:
            response = getattr(error, "response", None)
            raise Refused(0 if response is None else response.status_code, _words(error)) from error

    async def create(self, kind: Kind, made: Object) -> Object:
        """
        :raises Refused: its status is 409: there is one of that name
        """
        body = self._class(kind)({"apiVersion": kind.api_version, "kind": kind.name, **made})
        return await self._call(self._client.create(body, namespace=meta(made)["namespace"]))

    async def patch(self, kind: Kind, at: Key, change: Object) -> Object:
        """Merge a change into an object.

        :param change: with the ``resourceVersion`` that it must have, if it matters
        :raises Refused: its status is 409: it has another one
        """
        from lightkube.types import PatchType

        work = self._client.patch(self._class(kind), at[1], change, namespace=at[0], patch_type=PatchType.MERGE)
        return await self._call(work)

    async def patch_status(self, kind: Kind, at: Key, status: Object) -> Object:
        """
        :raises Refused: it is not written
        """
        from lightkube.types import PatchType

        work = self._client.patch(
            self._class(kind).Status, at[1], {"status": status}, namespace=at[0], patch_type=PatchType.MERGE
        )
        return await self._call(work)

    async def delete(self, kind: Kind, at: Key) -> None:
        """Begin its end, if it is there.

        :raises Refused: it is not begun
        """
        try:
            await self._call(self._client.delete(self._class(kind), at[1], namespace=at[0]))
        except Refused as error:
            if error.status != 404:
                raise

    async def list(self, kind: Kind, namespace: str) -> tuple[dict[Key, Object], str]:
        """All objects of a kind, and the version of the list.

        :raises Refused: there is no answer
        """
        listed = self._client.list(self._class(kind), namespace=namespace)
        try:
            found = {key(each): dict(each) async for each in listed}
            return found, listed.resourceVersion
        except self._failures as error:
            raise Refused(0, _words(error)) from error

    async def watch(self, kind: Kind, version: str) -> Any:
        """Changes since a version of the list: the type and the object of each.

        :raises Refused: the stream is broken
        """
        try:
            async for change, found in self._client.watch(
                self._class(kind), namespace=self.scope, resource_version=version
            ):
                yield change, dict(found)
        except self._failures as error:
            raise Refused(0, _words(error)) from error

    async def close(self) -> None:
        await self._client.close()


class Cache:
    """All objects of some kinds, as far as this server has heard.

    :ivar changed: set when something has changed
    """

    def __init__(self, api: Api, kinds: tuple[Kind, ...]) -> None:
        self.api = api
        self.changed = asyncio.Event()
        self._kinds = kinds
        self._objects: dict[Kind, dict[Key, Object]] = {}

    @property
    def is_whole(self) -> bool:
        """Whether each kind was listed."""
        return len(self._objects) == len(self._kinds)

    def all(self, kind: Kind) -> list[Object]:
        return list(self._objects.get(kind, {}).values())

    def get(self, kind: Kind, at: Key) -> Object | None:
        return self._objects.get(kind, {}).get(at)

    def note(self, kind: Kind, found: Object) -> None:
        """An object as the API server has answered, which can be older than what is known."""
        known = self.get(kind, key(found))
        if known is None or _version(known) < _version(found) or meta(known).get("uid") != meta(found).get("uid"):
            self._objects.setdefault(kind, {})[key(found)] = found
            self.changed.set()

    def forget(self, kind: Kind, found: Object) -> None:
        known = self.get(kind, key(found))
        if known is not None and meta(known).get("uid") == meta(found).get("uid"):
            del self._objects[kind][key(found)]
            self.changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for each in self._kinds:
                group.create_task(self._follow(each))

    async def _follow(self, kind: Kind) -> None:
        while True:
            try:
                self._objects[kind], version = await self.api.list(kind, self.api.scope)
                self.changed.set()
                async for change, found in self.api.watch(kind, version):
                    if change == "DELETED":
                        self.forget(kind, found)
                    elif change in ("ADDED", "MODIFIED"):
                        self.note(kind, found)
            except Refused as error:
                log.warning("the watch of %s has ended: %s", kind.plural, error)
            except Exception as error:  # as of an answer that is damaged
                log.error("the watch of %s", kind.plural, exc_info=error)
            await asyncio.sleep(_AGAIN_S)


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def _version(found: Object) -> int:
    """Versions of one resource can be compared as numbers (KEP-5504)."""
    text = meta(found).get("resourceVersion", "")
    return int(text) if text.isdigit() else 0
