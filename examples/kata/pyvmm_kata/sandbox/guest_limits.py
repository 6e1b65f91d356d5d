"""Limits of config.json that a guest cannot keep."""

from __future__ import annotations

from pyvmm_kata.config.checks import Json, bad


def check_limits(linux: Json) -> None:
    if linux.get("intelRdt"):
        raise bad("linux.intelRdt", "caches and memory bandwidth of the host cannot be given to a guest")
    check_disk_limits(linux.get("resources", {}), "linux.resources.")


def check_disk_limits(resources: Json, prefix: str = "", source: str = "config.json") -> None:
    """Whether there are none: they are by numbers of the host's devices, which a guest does not have.

    :param prefix: of the fields' names
    :raises ConfigError: there are
    """
    for field, value in resources.get("blockIO", {}).items():
        if value:
            raise bad(
                f"{prefix}blockIO.{field}",
                "a container's use of the host's disks cannot be limited from inside of a guest",
                "limit the control group above the container's",
                source,
            )
