"""config.md, POSIX-platform Hooks; runtime.md, Lifecycle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conformance.oci.box import Box, scene
from tests.conformance.suite import Observation, case, equal, failed, matches, succeeded

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
HOST_KINDS = ("prestart", "createRuntime", "poststart", "poststop")


def hook(box: Box, kind: str, script: str) -> dict[str, Any]:
    """A hook that runs a script on the host."""
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", f"KIND={kind}"]}


def notes(path: Path) -> str:
    """What hooks have written to a file."""
    return path.read_text() if path.exists() else ""


@scene(
    case(
        "hooks/order",
        "prestart, createRuntime, poststart and poststop run in the order of the life cycle",
        equal("kinds", "prestart prestart createRuntime poststart poststop"),
    ),
    case(
        "hooks/before-start",
        "prestart and createRuntime run in create",
        equal("created", "prestart prestart createRuntime"),
    ),
    case("hooks/several", "hooks of a kind run in the order given", matches("all", "prestart one\nprestart two")),
    case("hooks/state-id", "the state at standard input has the id", equal("ids", "True")),
    case("hooks/state-pid", "the state at standard input has the pid until the container stops", equal("pids", "True")),
    case("hooks/state-bundle", "the state at standard input has the bundle", equal("bundles", "True")),
    case("hooks/state-version", "the state at standard input has ociVersion", equal("versions", "True")),
    case(
        "hooks/state-status-create",
        "createRuntime sees the status creating or created",
        matches("createRuntime", "^(creating|created)$"),
    ),
    case("hooks/state-status-poststart", "poststart sees the status running", equal("poststart", "running")),
    case("hooks/state-status-poststop", "poststop sees the status stopped", equal("poststop", "stopped")),
    case("hooks/env", "a hook has its env alone", equal("env", "KIND=poststop")),
    case("hooks/args", "a hook has its args", matches("all", "^poststop one$")),
    third=True,
)
def hooks_on_the_host(box: Box) -> Observation:
    log = box.folder / "log"
    states = box.folder

    def one(kind: str, word: str) -> dict[str, Any]:
        own = "env | grep -v -e ^PWD -e ^PATH -e ^SHLVL -e ^_="
        script = f"cat >{states}/state.$KIND; echo $KIND $0 >>{log}; {own} >{states}/env"
        return {"path": "/bin/sh", "args": ["sh", "-c", script, word], "env": ["PATH=/bin:/usr/bin", f"KIND={kind}"]}

    wanted = {kind: [one(kind, "one")] for kind in HOST_KINDS}
    wanted["prestart"].append(one("prestart", "two"))
    bundle = box.bundle("sleep 600", {"hooks": wanted})
    seen = {"create": box.create_in(bundle).status}
    seen["created"] = " ".join(line.split()[0] for line in notes(log).splitlines())
    box.call("start", box.id())
    box.until(lambda: "poststart" in notes(log))
    box.call("kill", box.id(), "KILL")
    box.stopped()
    box.call("delete", box.id())
    seen["all"] = notes(log)
    seen["kinds"] = " ".join(line.split()[0] for line in notes(log).splitlines())
    found = {kind: json.loads(notes(states / f"state.{kind}") or "{}") for kind in HOST_KINDS}
    seen["ids"] = str(all(state.get("id") == box.id() for state in found.values()))
    seen["pids"] = str(all(found[kind].get("pid", 0) > 1 for kind in HOST_KINDS[:3]))
    seen["bundles"] = str(all(state.get("bundle") == str(bundle) for state in found.values()))
    seen["versions"] = str(all(state.get("ociVersion", "").startswith("1.") for state in found.values()))
    seen |= {kind: str(state.get("status")) for kind, state in found.items()}
    seen["env"] = notes(states / "env").strip()
    return seen


@scene(
    case(
        "hooks/create-container",
        "createContainer runs in create, with the container's namespaces, and sees the host's files",
        equal("ran", "yes"),
    ),
)
def hooks_create_container(box: Box) -> Observation:
    log = box.folder / "log"
    box.start("sleep 600", {"hooks": {"createContainer": [hook(box, "createContainer", f"echo yes >{log}")]}})
    return {"ran": notes(log).strip()}


@scene(
    case("hooks/start-container", "startContainer runs in the container, before the program", equal("out", "yes\n")),
)
def hooks_start_container(box: Box) -> Observation:
    done = box.run(
        "cat /tmp/hooked; rm /tmp/hooked",
        {"hooks": {"startContainer": [hook(box, "startContainer", "echo yes >/tmp/hooked")]}},
    )
    return {"status": done.status, "out": done.out}


@scene(
    *(
        case(
            f"hooks/{kind}-fails",
            f"a {kind} hook that fails is an error, and the container is not left",
            failed(kind),
            equal(f"{kind}-left", ""),
        )
        for kind in ("prestart", "createRuntime")
    ),
    case(
        "hooks/poststop-fails",
        "a poststop hook that fails does not keep delete from removing the container",
        equal("poststop-left", ""),
    ),
    case("hooks/timeout", "a hook that takes longer than its timeout is ended, and an error", failed("timeout")),
    case("hooks/path-absolute", "path MUST be absolute", failed("relative")),
    case("hooks/path-missing", "a hook that is not there is an error", failed("missing")),
)
def hooks_that_fail(box: Box) -> Observation:
    seen = {}
    for kind in ("prestart", "createRuntime"):
        done = box.create("true", {"hooks": {kind: [hook(box, kind, "exit 3")]}}, kind)
        seen[kind] = done.status
        seen[f"{kind}-left"] = box.call("list", "--quiet").out.strip()
    seen["timeout"] = box.create(
        "true", {"hooks": {"prestart": [{**hook(box, "x", "exec sleep 30"), "timeout": 1}]}}, "t"
    ).status
    seen["relative"] = box.create("true", {"hooks": {"prestart": [{"path": "sh"}]}}, "r").status
    seen["missing"] = box.create("true", {"hooks": {"prestart": [{"path": "/not/there"}]}}, "m").status
    box.start("true", {"hooks": {"poststop": [hook(box, "poststop", "exit 3")]}}, "p")
    box.stopped("p")
    box.call("delete", box.id("p"))
    seen["poststop-left"] = "" if box.call("state", box.id("p")).status != "0" else box.status("p")
    return seen


@scene(
    case(
        "hooks/run",
        "run calls the hooks of the whole life",
        succeeded(),
        equal("kinds", "prestart createRuntime poststart poststop"),
    ),
)
def hooks_of_run(box: Box) -> Observation:
    log = box.folder / "log"
    done = box.run("sleep 0.3", {"hooks": {kind: [hook(box, kind, f"echo $KIND >>{log}")] for kind in HOST_KINDS}})
    return {"status": done.status, "kinds": " ".join(notes(log).split())}
