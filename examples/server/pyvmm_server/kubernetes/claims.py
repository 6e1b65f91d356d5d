"""Binds claims to sandboxes: warm ones where the pool has some, new ones otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyvmm_server.kubernetes import blueprint, objects
from pyvmm_server.kubernetes.api import CLAIM, POOL, SANDBOX, TEMPLATE, Refused
from pyvmm_server.kubernetes.objects import READY, Condition, Object

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_server.kubernetes.writer import Writer


class Unbound(Exception):
    """A claim that has no sandbox.  Its words are a reason, on which clients decide, and a message."""


class Claims:
    """
    :param place: the node of a new sandbox; raises :class:`~pyvmm_server.errors.ClientError`: none has room
    """

    def __init__(self, writer: Writer, place: Callable[[Object], str]) -> None:
        self._writer = writer
        self._cache = writer.cache
        self._place = place

    async def settle(self, claim: Object) -> None:
        """Bring a claim closer to what it shall be.

        :raises Refused: the API server has refused a change
        """
        bound = [
            each
            for each in self._cache.all(SANDBOX)
            if objects.owner_uid(each) == objects.meta(claim)["uid"] and objects.key(each)[0] == objects.key(claim)[0]
        ]
        if objects.is_ending(claim):
            await self._end(claim, bound)
            return
        claim = await self._writer.hold(CLAIM, claim)
        lifecycle = objects.spec(claim).get("lifecycle") or {}
        end = objects.end_of(lifecycle)
        if end is not None and end <= objects.now():
            await self._expire(claim, bound, lifecycle.get("shutdownPolicy", "Retain"))
            return
        try:
            sandbox = bound[0] if bound else await self._bind(claim)
        except Unbound as error:
            reason, message = error.args
            await self._report(claim, Condition(READY, False, reason, message))
            return
        await self._follow(claim, sandbox)

    async def _end(self, claim: Object, bound: list[Object]) -> None:
        for each in bound:
            await self._writer.end(SANDBOX, each)
        if not bound:
            await self._writer.release(CLAIM, claim)

    async def _expire(self, claim: Object, bound: list[Object], policy: str) -> None:
        if policy.startswith("Delete"):
            await self._writer.end(CLAIM, claim)
            return
        for each in bound:
            await self._writer.end(SANDBOX, each)
        await self._report(claim, Condition(READY, False, "ClaimExpired", "the time of the claim is over"))

    async def _bind(self, claim: Object) -> Object:
        """
        :raises Unbound: it has no sandbox now
        """
        before = ((claim.get("status") or {}).get("sandbox") or {}).get("name")
        if before:  # another one would not have what the claim's user has left in it
            raise Unbound("SandboxMissing", f"the Sandbox {before} was deleted")
        spec, namespace = objects.spec(claim), objects.key(claim)[0]
        name = (spec.get("warmPoolRef") or {}).get("name", "")
        pool = self._cache.get(POOL, (namespace, name))
        if pool is None:
            raise Unbound("WarmPoolNotFound", f"SandboxWarmPool {name} was not found")
        wanted = objects.spec(pool).get("sandboxTemplateRef", {}).get("name", "")
        template = self._cache.get(TEMPLATE, (namespace, wanted))
        if template is None:
            raise Unbound("TemplateNotFound", f"SandboxTemplate {wanted} was not found")
        if spec.get("volumeClaimTemplates"):
            raise Unbound("VolumeClaimTemplatesError", "volumes are not available on this server")
        if not spec.get("env"):
            for each in sorted(self._warm(namespace, name), key=_age):
                try:
                    return await self._adopt(claim, each)
                except Refused as error:
                    if not error.is_conflict:
                        raise
        return await self._make(claim, objects.spec(template))

    def _warm(self, namespace: str, pool: str) -> list[Object]:
        return [
            each
            for each in self._cache.all(SANDBOX)
            if objects.label(each, objects.POOL_LABEL) == pool
            and objects.key(each)[0] == namespace
            and objects.is_ready(each)
            and not objects.is_ending(each)
        ]

    async def _adopt(self, claim: Object, warm: Object) -> Object:
        labels = {objects.POOL_LABEL: None, objects.CLAIM_LABEL: objects.meta(claim)["uid"]}
        return await self._writer.change(SANDBOX, warm, {"labels": labels, "ownerReferences": [objects.owner(claim)]})

    async def _make(self, claim: Object, spec: Object) -> Object:
        wanted = {name: value for name, value in spec.items() if name in ("podTemplate", "service")}
        if variables := objects.spec(claim).get("env"):
            try:
                wanted = blueprint.merge(wanted, variables, spec.get("envVarsInjectionPolicy", ""))
            except blueprint.Invalid as error:
                raise Unbound("EnvVarsInjectionRejected", str(error)) from error
        namespace, name = objects.key(claim)
        labels = {objects.LAUNCH_LABEL: "cold", objects.CLAIM_LABEL: objects.meta(claim)["uid"]}
        metadata = {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": {objects.NODE: self._place(wanted)},
            "finalizers": [objects.FINALIZER],
            "ownerReferences": [objects.owner(claim)],
        }
        try:
            return await self._writer.create(SANDBOX, {"metadata": metadata, "spec": wanted})
        except Refused as error:
            if error.is_conflict:
                raise Unbound("SandboxNotReady", f"another Sandbox is named {name}") from error
            raise

    async def _follow(self, claim: Object, sandbox: Object) -> None:
        ready = objects.condition(sandbox, READY)
        status = sandbox.get("status") or {}
        bound: dict[str, Any] = {"name": objects.key(sandbox)[1], "podIPs": status.get("podIPs", [])}
        await self._report(claim, ready or Condition(READY, False, "SandboxNotReady", "it is starting"), sandbox=bound)

    async def _report(self, claim: Object, ready: Condition, **fields: object) -> None:
        await self._writer.report(CLAIM, claim, [ready], **fields)


def _age(sandbox: Object) -> str:
    return str(objects.meta(sandbox).get("creationTimestamp", ""))
