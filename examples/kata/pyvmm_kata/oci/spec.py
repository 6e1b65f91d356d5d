"""``pyvmm-oci spec``: writes a config.json to start from, beside a folder ``rootfs``."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.options import FLAG, VALUE, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.oci.context import Context


def main(_context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, _ = parse(arguments, {"bundle": VALUE, "rootless": FLAG}, {"b": "bundle"}, "spec")
    path = os.path.join(options["bundle"] or ".", "config.json")
    try:
        with open(path, "x") as file:
            json.dump(default_spec(["sh"], terminal=True), file, indent=4)
            file.write("\n")
    except FileExistsError:
        raise ConfigError(f"{path} exists already", code="oci-spec", hint="remove it first") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="oci-spec") from error
    return 0
