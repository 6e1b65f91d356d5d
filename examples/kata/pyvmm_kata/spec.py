"""config.json: checked, and turned into the message that goes to the guest.

The reference is the OCI runtime specification 1.2 (config.md, config-linux.md).  What is checked here is what we rely
on, and what users get wrong; crun checks the rest in the guest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pyvmm_kata import proto
from pyvmm_kata.encoding import MESSAGE
from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]
_NAMES = {"ociversion": "version"}
_ID = re.compile(r"[A-Za-z0-9_+.-]{1,255}\Z")


def bad(where: str, problem: str, hint: str = "") -> ConfigError:
    """The error for a field of config.json, named as its path: ``process.args``."""
    return ConfigError(f"config.json: {where}: {problem}", code="oci-config", hint=hint)


def check_id(text: str, what: str = "container") -> str:
    """The id of a container or an exec.

    :raises ConfigError: it could be something else as a file's name
    """
    if not _ID.match(text) or text in (".", ".."):
        raise ConfigError(
            f"{text!r} is not the id of a {what}",
            code="container-id",
            hint="1 to 255 letters, digits, and any of _ + . -",
        )
    return text


def get(value: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str, default: Any = None) -> Any:
    """A field of the kind that it has to be; *default* when it is not there or null.

    :raises ConfigError: it is of another kind
    """
    found = value.get(key)
    if found is None:
        return default
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is int):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(_WORDS[one] for one in kinds)
        raise bad(f"{where}.{key}".lstrip("."), f"{_WORDS.get(type(found), 'a value')} where {wanted} is wanted")
    return found


_WORDS = {str: "a string", int: "a number", bool: "true or false", list: "a list", dict: "an object", float: "a number"}


def strings(value: Mapping[str, Any], key: str, where: str) -> list[str]:
    """A list of strings, empty when it is not there.

    :raises ConfigError: it is something else
    """
    found: list[Any] = get(value, key, list, where, [])
    for index, text in enumerate(found):
        if not isinstance(text, str) or "\0" in text:
            raise bad(f"{where}.{key}[{index}]".lstrip("."), "not a string without a zero byte")
    return found


def objects(value: Mapping[str, Any], key: str, where: str) -> list[Json]:
    """A list of objects, empty when it is not there.

    :raises ConfigError: it is something else
    """
    found: list[Any] = get(value, key, list, where, [])
    for index, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise bad(f"{where}.{key}[{index}]".lstrip("."), "not an object")
    return found


def check_process(process: Any, where: str = "process") -> None:
    """
    :raises ConfigError: it is no process that could be run
    """
    if not isinstance(process, dict):
        raise bad(where, "not an object")
    if not strings(process, "args", where) or not process["args"][0]:
        raise bad(f"{where}.args", "names no program", 'for example "args": ["sh"]')
    if not get(process, "cwd", str, where, "").startswith("/"):
        raise bad(f"{where}.cwd", "not an absolute path", 'for example "cwd": "/"')
    strings(process, "env", where)
    user = get(process, "user", dict, where, {})
    for key in ("uid", "gid"):
        if not 0 <= get(user, key, int, f"{where}.user", 0) < 1 << 32:
            raise bad(f"{where}.user.{key}", "not 0 to 4294967295")


def check_spec(spec: Any) -> None:
    """
    :raises ConfigError: something is missing or of the wrong kind
    """
    if not isinstance(spec, dict):
        raise ConfigError("config.json is no JSON object", code="oci-config")
    version = get(spec, "ociVersion", str, "", "")
    if not re.match(r"1\.\d+(\.\d+)?", version):
        raise bad("ociVersion", f"{version!r} is not 1.x.y", "OCI runtime specification 1.0 to 1.2")
    check_process(spec.get("process"))
    root = get(spec, "root", dict, "", None)
    if root is None or not get(root, "path", str, "root", ""):
        raise bad("root.path", "is missing", "a folder with the container's files; umoci or `docker export` make one")
    for index, mount in enumerate(objects(spec, "mounts", "")):
        where = f"mounts[{index}]"
        if not get(mount, "destination", str, where, ""):
            raise bad(f"{where}.destination", "is missing")
        get(mount, "type", str, where)
        get(mount, "source", str, where)
        strings(mount, "options", where)
    annotations = get(spec, "annotations", dict, "", {})
    for key, value in annotations.items():
        if not isinstance(value, str):
            raise bad(f"annotations[{key!r}]", "not a string")
    linux = get(spec, "linux", dict, "", {})
    for index, namespace in enumerate(objects(linux, "namespaces", "linux")):
        get(namespace, "type", str, f"linux.namespaces[{index}]")
        get(namespace, "path", str, f"linux.namespaces[{index}]")
    for kind, entries in get(spec, "hooks", dict, "", {}).items():
        for index, hook in enumerate(objects({kind: entries}, kind, "hooks")):
            where = f"hooks.{kind}[{index}]"
            if not get(hook, "path", str, where, "").startswith("/"):
                raise bad(f"{where}.path", "not an absolute path")
            strings(hook, "args", where)
            strings(hook, "env", where)
            get(hook, "timeout", int, where)
    resources = get(linux, "resources", dict, "linux", {})
    for key in ("memory", "cpu", "pids"):
        get(resources, key, dict, "linux.resources")


def namespace(spec: Json, kind: str) -> Json | None:
    """The namespace of that kind that the container is to have, None: it would be in the caller's."""
    for entry in (spec.get("linux") or {}).get("namespaces") or ():
        if entry.get("type") == kind:
            found: Json = entry
            return found
    return None


# -- JSON to protobuf ------------------------------------------------------------------------------------------------


def to_message(kind: str, value: Json) -> Any:
    """The message of oci.proto for a part of config.json; what the message has no field for is left out.

    Names are compared without case, since the two differ only in that.

    :param kind: its name in the package ``grpc``: ``Spec``, ``Process``, ``LinuxResources``
    :raises ConfigError: a value does not fit
    """
    message = proto.message(f"grpc.{kind}")()
    _fill(message, value, "")
    return message


def _fill(message: Any, value: Json, where: str) -> None:
    fields = {field.name.lower(): field for field in message.DESCRIPTOR.fields}
    for key, item in value.items():
        field = fields.get(_NAMES.get(key.lower(), key.lower()))
        if field is None or item is None:
            continue
        path = f"{where}.{key}".lstrip(".")
        try:
            _set(message, field, item, path)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise bad(path, f"{item!r} does not fit: {error}") from error


def _set(message: Any, field: Any, item: Any, path: str) -> None:
    current = getattr(message, field.name)
    wanted: Any = next((kind for kind in (list, dict) if isinstance(current, kind)), None)
    wanted = wanted or (dict if field.kind == MESSAGE else (str, int, float))
    if not isinstance(item, wanted):
        raise TypeError("another kind of value is wanted")
    if hasattr(current, "add"):
        for index, entry in enumerate(item):
            _fill(current.add(), entry, f"{path}[{index}]")
    elif isinstance(current, list):
        current.extend(item)
    elif isinstance(current, dict):
        current.update(item)
    elif field.kind == MESSAGE:
        current.SetInParent()
        _fill(current, item, path)
    else:
        setattr(message, field.name, item)
