"""Kernel parameters that programs and containers change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm_kata.errors import AgentError, ConfigError
from pyvmm_kata.pod import sentry_checks
from tests.kata.oci_runtime import needs_namespaces
from tests.sentry.conftest import Compile
from tests.sentry.containers import Sandbox
from tests.sentry.test_namespaces import spaces
from tests.sentry.test_programs import run
from tools.where import ROOT

CORE = ROOT / "examples" / "sentry" / "core"


@needs_namespaces
def test_parameters_have_the_effect_that_they_have_on_linux(
    platform: Path, compile_static: Compile, folder: str
) -> None:
    """Limits of IPC objects, and defaults of sockets; the program sets them itself."""
    compiled = compile_static("parameters")
    own = ("unshare", "--ipc", "--net", "--uts", "--mount", "--propagation", "private")
    native = run(*own, compiled, folder)
    ours = run(platform, "--", compiled, folder)
    assert native.returncode == ours.returncode == 42, ours.stderr
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) > 100
    assert rows[1] == rows[0]


def test_parameters_of_a_container_are_those_of_its_namespaces(sandbox: Sandbox) -> None:
    """Those of IPC objects belong to the container, those of the network to the sandbox."""
    look = "cd /proc/sys; echo $(cat kernel/msgmax net/ipv4/ip_default_ttl kernel/domainname)"
    parameters = {"kernel.msgmax": "4321", "net.ipv4.ip_default_ttl": "77", "kernel.domainname": "a.domain"}
    own = spaces(kinds=("ipc", "uts"))
    for name in ("c1", "c2"):
        sandbox.root(name)
    assert sandbox.run("c1", "sh", "-c", look, spec={"linux": {**own["linux"], "sysctl": parameters}}) == (
        0,
        "4321 77 a.domain\n",
    )
    assert sandbox.run("c2", "sh", "-c", look, spec=own) == (0, "8192 77 (none)\n")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("kernel.panic", "7", "a Sentry has no kernel.panic"),
        ("net.ipv4.ip_default_ttl", "256", "invalid value of net.ipv4.ip_default_ttl"),
        ("kernel.msgmax", "", "invalid value of kernel.msgmax"),
    ],
)
def test_the_core_refuses_what_it_cannot_set(sandbox: Sandbox, name: str, value: str, why: str) -> None:
    sandbox.root("c1")
    with pytest.raises(AgentError, match=re.escape(why)):
        sandbox.create("c1", "true", spec={"linux": {"sysctl": {name: value}}})
    assert sandbox.run("c1", "true") == (0, "")


def test_unknown_parameters_are_refused_before_anything_is_made() -> None:
    sentry_checks.check({"linux": {"sysctl": {"net/ipv4/ip_forward": "1", "kernel.sem": "1 2 3 4"}}})
    with pytest.raises(ConfigError, match=re.escape("has no 'net.ipv4.not_there'")):
        sentry_checks.check({"linux": {"sysctl": {"net.ipv4.not_there": "1"}}})


def test_the_runtime_knows_the_parameters_of_the_core() -> None:
    rows = re.findall(r'^\t\[SYSCTL_\w+\] = \{ "([\w/]+)"', (CORE / "sysctl.c").read_text(), re.MULTILINE)
    shown = re.findall(r'^\tPARAMETER\("([\w/]+)"\)', (CORE / "vfs" / "proc.c").read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows)) > 20
    assert sorted(shown) == sorted(rows)
    assert {name.replace("/", ".") for name in rows} | {"kernel.domainname"} == sentry_checks.SYSCTLS
