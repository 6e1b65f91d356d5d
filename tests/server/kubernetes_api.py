"""A Kubernetes API server for tests: ``kubernetes_api.py``.

It is kmock's emulator, with what controllers and clients rely on and the emulator lacks: uids, resource versions,
conflicts, field selectors, and ``watch=True`` as the official client spells it.  Prints its port; ends with its
input.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import attrs
import kmock

RESOURCES = (
    "agents.x-k8s.io/v1beta1/sandboxes",
    "extensions.agents.x-k8s.io/v1beta1/sandboxclaims",
    "extensions.agents.x-k8s.io/v1beta1/sandboxtemplates",
    "extensions.agents.x-k8s.io/v1beta1/sandboxwarmpools",
    "coordination.k8s.io/v1/leases",
)


@attrs.frozen
class Conflict(kmock.KubernetesError):
    status: int = 409
    reason: str = "Conflict"
    message: str = "the object has been modified"


@attrs.define(kw_only=True)
class ApiServer(kmock.KubernetesEmulator):
    _version: int = attrs.field(default=0, init=False)

    async def _handle(self, request: Any) -> Any:
        if request.params.get("watch", "") == "True":
            object.__setattr__(request, "action", kmock.action.WATCH)  # filters know this very object
        if request.resource is not None and request.action == kmock.action.CREATE:
            self._stamp(request)
        elif request.resource is not None and request.action == kmock.action.UPDATE:
            self._check(request)
        elif request.resource is not None and request.action == kmock.action.DELETE:
            key = (request.resource, request.namespace, request.name)
            if key in self._objects and not self._objects[key].deleted:
                found = self._objects[key]
                if "deletionTimestamp" not in found["metadata"]:
                    found.patch({"metadata": {"resourceVersion": self._next()}})
        return await super()._handle(request)

    def _stamp(self, request: Any) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        new = {"uid": str(uuid.uuid4()), "creationTimestamp": now, "generation": 1, "namespace": request.namespace}
        request.data.setdefault("metadata", {}).update(new, resourceVersion=self._next())

    def _check(self, request: Any) -> None:
        key = (request.resource, request.namespace, request.name)
        if key not in self._objects or self._objects[key].deleted:
            return
        known = self._objects[key].last.raw["metadata"]
        metadata = request.data.setdefault("metadata", {})
        if metadata.get("resourceVersion", known["resourceVersion"]) != known["resourceVersion"]:
            raise Conflict()
        metadata["resourceVersion"] = self._next()
        if request.subresource is None and "spec" in request.data:
            metadata["generation"] = known["generation"] + 1

    def _next(self) -> str:
        self._version += 1
        return str(self._version)

    async def _serve_list(self, request: Any) -> Any:
        found: Any = await super()._serve_list(request)
        items = [each for each in found["items"] if _is_selected(request, each)]
        return {"metadata": {"resourceVersion": str(self._version)}, "items": items}

    async def _serve_watch(self, request: Any) -> AsyncIterator[Any]:
        event: Any
        async for event in super()._serve_watch(request):
            if isinstance(event, bytes) or _is_selected(request, event["object"]):
                yield event


def _is_selected(request: Any, found: dict[str, Any]) -> bool:
    name = request.params.get("fieldSelector", "").removeprefix("metadata.name=")
    return not name or bool(found["metadata"]["name"] == name)


async def _main() -> None:
    async with ApiServer() as api, kmock.Server(api) as server:
        for each in RESOURCES:
            api.resources[each].namespaced = True
        print(server.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
