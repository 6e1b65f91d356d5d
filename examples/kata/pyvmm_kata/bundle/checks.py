"""config.json: checked before anything is made from it.

The reference is the OCI runtime specification 1.2 (config.md, config-linux.md). The types of all its fields are checked
here, and those of their values that we rely on; crun checks the rest in the guest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pyvmm_kata.bundle import schema
from pyvmm_kata.errors import ConfigError, bad

if TYPE_CHECKING:
    from pyvmm_kata.state import Json

_ID = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,254}\Z")


def check_id(text: str, what: str = "container") -> str:
    """The id of a container or an exec: what runc and the agent accept (``id_is_valid()``).

    :raises ConfigError: as a file name it could mean something else
    """
    if not _ID.match(text) or text in (".", ".."):
        raise ConfigError(
            f"{text!r:.80} is not the id of a {what}",
            code="container-id",
            hint="1 to 255 letters, digits, and any of _ + . -, which is not the first",
        )
    return text


def check_fields(value: Any, node: Any, where: str, source: str = "config.json") -> None:
    """Hold *value* against a node of :mod:`pyvmm_kata.bundle.schema`, and take out of it what is null or unknown.

    :param source: the source of *value*, for the error
    :raises ConfigError: it is something else
    """
    try:
        schema.check(value, node, where)
    except schema.Wrong as error:
        raise bad(error.where, str(error), source=source) from None


def check_process(process: Any, where: str = "process", source: str = "config.json") -> None:
    """
    :raises ConfigError: it does not describe a process that can run
    """
    check_fields(process, schema.PROCESS, where, source)
    if not process["args"] or not process["args"][0]:
        raise bad(f"{where}.args", "names no program", 'for example "args": ["sh"]', source)
    if not process["cwd"].startswith("/"):
        raise bad(f"{where}.cwd", "not an absolute path", 'for example "cwd": "/"', source)


def check_resources(resources: Any, source: str) -> None:
    """
    :raises ConfigError: it is not the ``linux.resources`` of a config.json
    """
    check_fields(resources, schema.RESOURCES, "linux.resources", source)


def check_spec(spec: Any) -> None:
    """
    :raises ConfigError: something is missing or of the wrong type
    """
    check_fields(spec, schema.CONFIG, "")
    version = spec["ociVersion"]
    if not re.match(r"1\.\d+(\.\d+)?", version):
        raise bad("ociVersion", f"{version!r:.60} is not 1.x.y", "OCI runtime specification 1.0 to 1.2")
    check_process(spec["process"])
    if not spec["root"]["path"]:
        raise bad("root.path", "is empty", "a folder with the container's files; umoci or `docker export` make one")
    for name in ("hostname", "domainname"):
        if spec.get(name) and namespace(spec, "uts") is None:
            raise bad(name, "needs a uts namespace", "add one to linux.namespaces, or leave the name out")
    for index, mount in enumerate(spec.get("mounts", ())):
        if not mount["destination"]:
            raise bad(f"mounts[{index}].destination", "is empty")
    for kind, entries in spec.get("hooks", {}).items():
        for index, hook in enumerate(entries):
            if not hook["path"].startswith("/"):
                raise bad(f"hooks.{kind}[{index}].path", "not an absolute path")


def namespace(spec: Json, kind: str) -> Json | None:
    """The namespace of that kind for the container; None: it would be in the caller's."""
    for entry in (spec.get("linux") or {}).get("namespaces") or ():
        if entry.get("type") == kind:
            found: Json = entry
            return found
    return None
