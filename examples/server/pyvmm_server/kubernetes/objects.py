"""What objects of the Kubernetes API have in common.  They are the dictionaries of their JSON."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

Object = dict[str, Any]
Key = tuple[str, str]
"""The namespace and the name of an object."""
NODE = "pyvmm.io/node"
"""An annotation of a Sandbox: the node that has its machine."""
TEMPLATE = "pyvmm.io/template"
"""An annotation of a pod template: the server's template, instead of the image of the container."""
FINALIZER = "pyvmm.io/machine"
POOL_LABEL = "agents.x-k8s.io/warm-pool-sandbox"
HASH_LABEL = "agents.x-k8s.io/sandbox-pod-template-hash"
LAUNCH_LABEL = "agents.x-k8s.io/launch-type"
CLAIM_LABEL = "agents.x-k8s.io/claim-uid"
READY, SUSPENDED, FINISHED = "Ready", "Suspended", "Finished"


class Condition(NamedTuple):
    """An entry of ``status.conditions``.

    :ivar reason: a word in CamelCase, on which clients decide
    """

    type: str
    is_true: bool
    reason: str
    message: str


def meta(found: Object) -> Object:
    metadata: Object = found["metadata"]
    return metadata


def key(found: Object) -> Key:
    return meta(found).get("namespace", ""), meta(found)["name"]


def spec(found: Object) -> Object:
    return found.get("spec") or {}


def label(found: Object, name: str) -> str:
    return str((meta(found).get("labels") or {}).get(name, ""))


def annotation(found: Object, name: str) -> str:
    return str((meta(found).get("annotations") or {}).get(name, ""))


def is_ending(found: Object) -> bool:
    return bool(meta(found).get("deletionTimestamp"))


def is_held(found: Object) -> bool:
    """Whether it has our finalizer."""
    return FINALIZER in (meta(found).get("finalizers") or [])


def finalizers(found: Object, *, held: bool) -> list[str]:
    """All of them, with or without ours."""
    others = [each for each in meta(found).get("finalizers") or [] if each != FINALIZER]
    return [*others, FINALIZER] if held else others


def owner(found: Object) -> Object:
    """A reference to an object, for those that end with it."""
    return {
        "apiVersion": found["apiVersion"],
        "kind": found["kind"],
        "name": meta(found)["name"],
        "uid": meta(found)["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owner_uid(found: Object) -> str:
    owners = meta(found).get("ownerReferences") or []
    return next((each["uid"] for each in owners if each.get("controller")), "")


def condition(found: Object, name: str) -> Condition | None:
    for each in (found.get("status") or {}).get("conditions") or []:
        if each.get("type") == name:
            return Condition(name, each.get("status") == "True", each.get("reason", ""), each.get("message", ""))
    return None


def is_ready(found: Object) -> bool:
    ready = condition(found, READY)
    return ready is not None and ready.is_true


def conditions(found: Object, wanted: list[Condition], now: datetime) -> list[Object]:
    """``status.conditions``; the time of those that have not changed stays.

    :param now: in UTC
    """
    before = {each.get("type"): each for each in (found.get("status") or {}).get("conditions") or []}
    made = []
    for each in wanted:
        status = "True" if each.is_true else "False"
        old = before.get(each.type, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        made.append(
            {
                "type": each.type,
                "status": status,
                "reason": each.reason,
                "message": each.message,
                "lastTransitionTime": since or text_of(now),
                "observedGeneration": meta(found).get("generation", 0),
            }
        )
    return made


def text_of(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def now() -> datetime:
    return datetime.now(UTC)


def time_of(text: str) -> datetime:
    """
    :raises ValueError: it is not a time
    """
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def end_of(lifecycle: Object) -> datetime | None:
    """When its time is over; None: never, as for a time that is none, which the schema excludes."""
    try:
        return time_of(lifecycle.get("shutdownTime") or "")
    except (TypeError, ValueError):
        return None


def digest(blueprint: Object) -> str:
    """Of a template, for the label of sandboxes made from it."""
    text = json.dumps(blueprint, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
