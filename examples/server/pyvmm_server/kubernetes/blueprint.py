"""What a Sandbox shall be, from the pod template in its spec: this server's template, size and variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyvmm_server.kubernetes.objects import TEMPLATE, Object

_NOT_THERE = ("volumes", "initContainers", "hostNetwork", "hostPID", "hostIPC")
"""Fields of a pod that sandboxes do not have. Others, such as ports and probes, do not change what runs here."""

_MOST = 1 << 60


class Invalid(Exception):
    """A pod template that this server cannot follow."""


@dataclass(frozen=True)
class Blueprint:
    """
    :ivar template: a name of this server's, or an image's
    :ivar cpus: 0: the server's default
    :ivar memory: in MiB; 0: likewise
    :ivar envs: variables of commands
    :ivar workdir: where commands start; empty: in the home directory
    """

    template: str
    cpus: float = 0
    memory: int = 0
    envs: dict[str, str] = field(default_factory=dict)
    workdir: str = ""


def read(spec: Object) -> Blueprint:
    """
    :param spec: of a Sandbox or a SandboxTemplate
    :raises Invalid: sandboxes cannot be so
    """
    try:
        return _read(spec)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # the schema says nothing about pods
        raise Invalid(f"the pod template is malformed: {error}") from error


def is_possible(spec: Object) -> bool:
    """Whether sandboxes can be so."""
    try:
        read(spec)
    except Invalid:
        return False
    return True


def _read(spec: Object) -> Blueprint:
    pod = spec.get("podTemplate") or {}
    inner = pod.get("spec") or {}
    refused = [name for name in _NOT_THERE if inner.get(name)]
    if spec.get("volumeClaimTemplates"):
        refused.append("volumeClaimTemplates")
    if refused:
        raise Invalid(f"{', '.join(refused)}: not available on this server")
    containers = inner.get("containers") or []
    if len(containers) != 1:
        raise Invalid(f"the pod has {len(containers)} containers: a sandbox has one")
    container = containers[0]
    template = ((pod.get("metadata") or {}).get("annotations") or {}).get(TEMPLATE) or container.get("image", "")
    if not isinstance(template, str) or not template:
        raise Invalid(f"the container has no image, and the pod no annotation {TEMPLATE}")
    limits = (container.get("resources") or {}).get("limits") or {}
    return Blueprint(
        template,
        cpus=_quantity(limits, "cpu"),
        memory=-(-int(_quantity(limits, "memory")) // (1 << 20)),
        envs=_variables(container),
        workdir=str(container.get("workingDir") or ""),
    )


def merge(spec: Object, variables: list[Object], policy: str) -> Object:
    """The spec with the variables of a claim.

    :param policy: of the template: ``Allowed``, ``Overrides``, or none
    :raises Invalid: the template does not allow them
    """
    if policy not in ("Allowed", "Overrides"):
        raise Invalid("the template does not allow variables of claims (envVarsInjectionPolicy)")
    pod = spec["podTemplate"]
    containers = (pod.get("spec") or {}).get("containers") or [{}]
    known = {each.get("name"): each for each in containers[0].get("env") or []}
    for each in variables:
        name, container = each.get("name"), each.get("containerName")
        if container and container != containers[0].get("name"):
            raise Invalid(f"the template has no container {str(container)[:80]!r}")
        if name in known and policy != "Overrides":
            raise Invalid(f"the template has the variable {str(name)[:80]!r} already")
        known[name] = {"name": name, "value": each.get("value", "")}
    container = {**containers[0], "env": list(known.values())}
    return {**spec, "podTemplate": {**pod, "spec": {**pod["spec"], "containers": [container, *containers[1:]]}}}


def _quantity(limits: Object, name: str) -> float:
    from lightkube.utils.quantity import parse_quantity

    text = limits.get(name)
    try:
        found = float(parse_quantity(str(text)) or 0) if text is not None else 0
    except ValueError as error:
        raise Invalid(f"the limit {name}: {str(text)[:80]!r} is no quantity") from error
    if not 0 <= found < _MOST:  # a negative one would make room for others
        raise Invalid(f"the limit {name}: {str(text)[:80]!r} is not possible")
    return found


def _variables(container: Object) -> dict[str, str]:
    found: dict[str, str] = {}
    each: dict[str, Any]
    for each in container.get("env") or []:
        if each.get("valueFrom"):
            raise Invalid(f"the variable {each['name']}: valueFrom is not available on this server")
        found[str(each["name"])] = str(each.get("value") or "")
    return found
