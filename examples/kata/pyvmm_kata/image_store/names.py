"""Names of images, as docker and podman write them."""

from __future__ import annotations

import re

from pyvmm_kata.errors import ConfigError

DEFAULT_REGISTRY, DEFAULT_TAG = "docker.io", "latest"
_LONGEST = 512
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def full_name(name: str) -> str:
    """The whole name of an image: ``debian`` is ``docker.io/library/debian:latest``.

    The grammar is that of the distribution specification: a host, a path in lower case, a tag or a digest.

    :raises ConfigError: it is no name of an image
    """
    rest, at, digest = name.removeprefix("docker://").partition("@")
    host, slash, path = rest.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, path = DEFAULT_REGISTRY, rest
    path, colon, tag = path.partition(":")
    if host == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    tag = tag if colon else DEFAULT_TAG
    fits = _HOST.fullmatch(host) and _PATH.fullmatch(path) and _TAG.fullmatch(tag)
    if not fits or (at and not _DIGEST.fullmatch(digest)) or len(name) > _LONGEST:
        raise ConfigError(
            f"{name[:100]!r} is not the name of an image", code="image-name", hint="for example debian:13-slim"
        )
    return f"{host}/{path}@{digest}" if at else f"{host}/{path}:{tag}"


def short_name(name: str) -> str:
    """What a list shows of a whole name: without the default registry."""
    return name.removeprefix(f"{DEFAULT_REGISTRY}/library/").removeprefix(f"{DEFAULT_REGISTRY}/")
