"""The manifests for Kubernetes: against its schemas, and against what the server asks the API for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
validator = pytest.importorskip("kubernetes_validate")

from tests.server.kubernetes_cluster import EXTENSIONS, GROUPS, KINDS, VERSION  # noqa: E402

FOLDER = Path(__file__).parents[2] / "examples" / "server" / "kubernetes"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.mark.parametrize("name", ["crds.yaml", "daemonset.yaml", "rbac.yaml"])
def test_fields_are_those_of_kubernetes(name: str) -> None:
    for each in documents(name):
        validator.validate(each, "1.37", strict=True)


def test_each_kind_is_defined() -> None:
    found = {each["spec"]["names"]["plural"]: each["spec"] for each in documents("crds.yaml")}
    assert {plural: spec["names"]["kind"] for plural, spec in found.items()} == KINDS
    for plural, spec in found.items():
        (version,) = spec["versions"]
        assert (spec["group"], version["name"]) == (GROUPS.get(plural, EXTENSIONS), VERSION)


def test_the_example_is_of_these_kinds() -> None:
    for each in documents("example.yaml"):
        assert each["kind"] in KINDS.values()
        assert each["apiVersion"] == f"{EXTENSIONS}/{VERSION}"


def test_the_command_line_of_the_daemon_set_is_valid() -> None:
    from pyvmm_server import command

    (container,) = documents("daemonset.yaml")[0]["spec"]["template"]["spec"]["containers"]
    subcommand, *options = container["args"]
    assert subcommand == "serve"
    assert command.parser().parse_args(options).engine == "kubernetes"
