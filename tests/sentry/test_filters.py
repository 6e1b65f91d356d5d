"""The seccomp profile of a container: what its system calls return, and how programs end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.errors import AgentError
from tests.sentry.conftest import Compile
from tests.sentry.containers import Sandbox


@pytest.fixture
def program(sandbox: Sandbox, compile_static: Compile) -> str:
    """Of src/filtered.c, in the root of the container c1."""
    shutil.copy(compile_static("filtered"), sandbox.root("c1") / "bin" / "filtered")
    return "/bin/filtered"


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": names, "action": f"SCMP_ACT_{action}", **more}


def compare(index: int, operator: str, value: int, other: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": other}


def profile(*rules: dict[str, Any], default: str = "ALLOW", **more: Any) -> dict[str, Any]:
    """A specification with such a filter."""
    return {"linux": {"seccomp": {"defaultAction": f"SCMP_ACT_{default}", "syscalls": rules, **more}}}


def test_errors_by_call_and_by_argument(sandbox: Sandbox, program: str) -> None:
    """Rules without conditions come first; conditions on one argument are alternatives."""
    spec = profile(
        rule("ERRNO", "sync", "call_of_another_kernel"),
        rule("ERRNO", "getppid", errnoRet=38),
        rule("ERRNO", "personality", args=[compare(0, "NE", 0xFFFFFFFF)], errnoRet=5),
        rule("ERRNO", "umask", args=[compare(0, "MASKED_EQ", 0x10, 0x10)]),
        rule("ERRNO", "dup", args=[compare(0, "LT", 1), compare(0, "GE", 900)], errnoRet=22),
        rule("ERRNO", "prctl", args=[compare(0, "EQ", 1)]),
        rule("ALLOW", "prctl"),
    )
    assert sandbox.run("c1", program, "results", spec=spec) == (
        0,
        "sync EPERM\ngetppid ENOSYS\npersonality works\nother personality EIO\numask 1 works\numask 0x1f EPERM\n"
        "dup 900 EINVAL\ndup 0 EINVAL\nno call ENOSYS\nmode 2\n",
    )


def test_a_call_that_no_rule_names_has_the_default(sandbox: Sandbox, program: str) -> None:
    """The profile of podman, which allows what programs need."""
    found = Path("/usr/share/containers/seccomp.json")
    if not found.exists():
        pytest.skip("needs podman's profile (containers-common)")
    whole = json.loads(found.read_text())
    rules = [
        one for one in whole["syscalls"] if not one.get("includes") or "amd64" in one["includes"].get("arches", ())
    ]
    for one in rules:
        one["names"] = [name for name in one["names"] if name != "sync"]
        one.pop("errno", None)
    default = whole["defaultAction"].removeprefix("SCMP_ACT_")
    spec = profile(*rules, default=default, defaultErrnoRet=whole["defaultErrnoRet"])
    assert sandbox.run("c1", program, "results", spec=spec) == (
        0,
        "sync ENOSYS\ngetppid works\npersonality works\nother personality EINVAL\numask 1 works\numask 0x1f works\n"
        "dup 900 EBADF\ndup 0 works\nno call ENOSYS\nmode 2\n",
    )


def test_a_trapped_call_raises_a_signal(sandbox: Sandbox, program: str) -> None:
    """The handler reads which call it was. Without a handler, or if it is ignored, the program ends."""
    assert sandbox.run("c1", program, "trap", spec=profile(rule("TRAP", "getpgrp"))) == (
        0,
        "SIGSYS code 1 number 111 arch c000003e rax 111 here 1\nafter the handler\n"
        "SIGSYS code 1 number 111 arch c000003e rax 111 here 1\nthe process goes on\nchild status 0\nchild signal 31\n",
    )


@pytest.mark.parametrize(
    ("action", "thread"),
    [("KILL_PROCESS", "child signal 31\n"), ("KILL", "the other thread goes on\nchild status 0\n")],
)
def test_a_killed_call_ends_the_process_or_the_thread(sandbox: Sandbox, program: str, action: str, thread: str) -> None:
    spec = profile(rule(action, "getpgrp"))
    assert sandbox.run("c1", program, "kill", spec=spec) == (0, f"child signal 31\n{thread}")


def test_added_processes_have_the_filter_and_a_bad_one_is_refused(sandbox: Sandbox, program: str) -> None:
    sandbox.create("c1", "cat", spec=profile(rule("ERRNO", "getpgrp"), rule("LOG", "sync")))
    sandbox.agent.start_container("c1")
    sandbox.exec("c1", "e1", program, "results")
    assert sandbox.output("c1", "e1").startswith("sync works\n")
    sandbox.root("c2")
    for bad in (
        profile(rule("NOTIFY", "sync")),
        profile(default="NONE"),
        profile(rule("ERRNO", "sync", errnoRet=4096)),
        profile(rule("ERRNO", "sync", args=[compare(6, "EQ", 0)])),
        profile(rule("ERRNO", "sync", args=[compare(0, "SAME", 0)])),
    ):
        with pytest.raises(AgentError, match=r"linux\.seccomp: Invalid argument"):
            sandbox.create("c2", "true", spec=bad)
