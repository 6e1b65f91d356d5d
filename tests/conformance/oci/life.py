"""runtime.md: state, and the operations create, start, kill and delete."""

from __future__ import annotations

import json
import os

from tests.conformance.oci.box import DROP, Box, scene
from tests.conformance.suite import Observation, case, equal, failed, lacks, matches, succeeded
from tests.scripts import WAIT

WAITS = f"trap 'echo got TERM; exit 9' TERM; echo ready; {WAIT}"


def is_process(pid: object) -> str:
    """Whether there is such a process of the host's."""
    return str(isinstance(pid, int) and pid > 1 and os.path.exists(f"/proc/{pid}"))


@scene(
    case("runtime/create/program-not-run", "create does not run the program", equal("before-start", "")),
    case("runtime/state/version", "ociVersion is a version of the specification", matches("version", r"^1\.\d+\.\d+")),
    case("runtime/state/id", "id is the container's", equal("id", "True")),
    case("runtime/state/status-created", "after create the status is created", equal("created", "created")),
    case("runtime/state/pid-created", "a created container has the pid of a process", equal("pid-created", "True")),
    case("runtime/state/bundle", "bundle is the absolute path of the bundle", equal("bundle", "True")),
    case("runtime/state/annotations", "annotations are those of config.json", equal("annotations", '{"org.x": "1"}')),
    case("runtime/start/runs", "start runs the program", matches("after-start", "^ready")),
    case("runtime/state/status-running", "after start the status is running", equal("running", "running")),
    case("runtime/state/pid-running", "a running container has the pid of a process", equal("pid-running", "True")),
    case(
        "runtime/start/twice",
        "start of a container that runs is an error, without effect",
        failed("start-again"),
        equal("after-start-again", "running"),
    ),
    case("runtime/create/id-unique", "create with an id in use is an error", failed("create-again")),
    case(
        "runtime/delete/running",
        "delete of a container that runs is an error, without effect",
        failed("delete-running"),
        equal("after-delete-running", "running"),
    ),
    case("runtime/kill/signal", "kill sends the signal named", matches("after-kill", "got TERM")),
    case("runtime/state/status-stopped", "after its program ended the status is stopped", equal("stopped", "stopped")),
    case("runtime/kill/stopped", "kill of a stopped container is an error", failed("kill-stopped")),
    case("runtime/start/stopped", "start of a stopped container is an error", failed("start-stopped")),
    case("runtime/delete/stopped", "delete of a stopped container succeeds", succeeded("delete")),
    case("runtime/delete/unknown-afterwards", "after delete there is no such container", failed("state-deleted")),
    case("runtime/delete/keeps-the-bundle", "delete leaves what create did not make", equal("kept", "True")),
    case("runtime/delete/id-again", "after delete the id can be used again", succeeded("create-deleted")),
)
def life(box: Box) -> Observation:
    seen: Observation = {}
    bundle = box.bundle(WAITS, {"annotations": {"org.x": "1"}})
    seen["create"] = box.create_in(bundle).status
    state = box.state()
    seen["before-start"] = box.output()
    seen["version"] = str(state.get("ociVersion"))
    seen["id"] = str(state.get("id") == box.id())
    seen["created"] = str(state.get("status"))
    seen["pid-created"] = is_process(state.get("pid"))
    seen["bundle"] = str(state.get("bundle") == str(bundle))
    seen["annotations"] = json.dumps(state.get("annotations"))
    seen["start"] = box.call("start", box.id()).status
    seen["after-start"] = box.output_with("ready")
    state = box.state()
    seen["running"] = str(state.get("status"))
    seen["pid-running"] = is_process(state.get("pid"))
    seen["start-again"] = box.call("start", box.id()).status
    seen["after-start-again"] = box.status()
    seen["create-again"] = box.create_in(bundle).status
    seen["delete-running"] = box.call("delete", box.id()).status
    seen["after-delete-running"] = box.status()
    seen["kill"] = box.call("kill", box.id(), "TERM").status
    seen["after-kill"] = box.output_with("got TERM")
    seen["stopped"] = box.stopped()
    seen["kill-stopped"] = box.call("kill", box.id(), "TERM").status
    seen["start-stopped"] = box.call("start", box.id()).status
    seen["delete"] = box.call("delete", box.id()).status
    seen["state-deleted"] = box.call("state", box.id()).status
    seen["kept"] = str((bundle / "config.json").exists() and (box.rootfs / "bin" / "busybox").exists())
    seen["create-deleted"] = box.create_in(bundle).status
    return seen


@scene(
    case(
        "runtime/create/config-changed-later",
        "changes of config.json after create have no effect",
        matches("out", "^first$"),
        lacks("out", "second"),
    ),
    case("runtime/kill/created", "kill of a created container succeeds", succeeded("kill-created")),
    case(
        "runtime/delete/created-by-force",
        "delete --force removes a created container",
        succeeded("delete"),
        equal("gone", "True"),
    ),
)
def life_config_changed(box: Box) -> Observation:
    bundle = box.bundle("echo first")
    other = box.bundle("echo second")
    box.create_in(bundle)
    (bundle / "config.json").write_text((other / "config.json").read_text())
    seen = {"start": box.call("start", box.id()).status, "out": box.output_with("first|second")}
    box.create_in(other, "d")
    seen["kill-created"] = box.call("kill", box.id("d"), "KILL").status
    seen["delete"] = box.call("delete", "--force", box.id("d")).status
    seen["gone"] = str(not box.state("d"))
    return seen


@scene(
    *(
        case(f"runtime/{verb}/no-id", f"{verb} without an id is an error", failed(verb))
        for verb in ("state", "start", "kill", "delete")
    ),
    *(
        case(
            f"runtime/{verb}/unknown", f"{verb} of a container that is not there is an error", failed(f"{verb}-unknown")
        )
        for verb in ("state", "start", "kill", "delete")
    ),
    case("runtime/create/no-id", "create without an id is an error", failed("create-no-id")),
    case("runtime/create/no-bundle", "create of a bundle that is not there is an error", failed("create-no-bundle")),
    case("runtime/create/no-config", "create of a bundle without config.json is an error", failed("create-no-config")),
    case(
        "runtime/create/broken-config", "create with a config.json that is no JSON is an error", failed("create-broken")
    ),
    case("runtime/create/id-of-a-path", "an id that would be a path is an error", failed("create-path")),
    case(
        "runtime/create/nothing-left-after-an-error",
        "after a create that failed there is no container",
        equal("list", ""),
    ),
    case(
        "runtime/delete/force-of-unknown",
        "delete --force of a container that is not there succeeds",
        succeeded("delete-force"),
    ),
    third=True,
)
def life_errors(box: Box) -> Observation:
    seen = {verb: box.call(verb).status for verb in ("state", "start", "kill", "delete")}
    seen |= {f"{verb}-unknown": box.call(verb, "not-there").status for verb in ("state", "start", "kill", "delete")}
    seen["create-no-id"] = box.call("create", "--bundle", str(box.bundle("true"))).status
    seen["create-no-bundle"] = box.call("create", "--bundle", str(box.folder / "nowhere"), box.id("e")).status
    (box.folder / "empty").mkdir()
    seen["create-no-config"] = box.call("create", "--bundle", str(box.folder / "empty"), box.id("e")).status
    (box.folder / "empty" / "config.json").write_text("{")
    seen["create-broken"] = box.call("create", "--bundle", str(box.folder / "empty"), box.id("e")).status
    seen["create-path"] = box.call("create", "--bundle", str(box.bundle("true")), "../e").status
    seen["list"] = box.call("list", "--quiet").out
    seen["delete-force"] = box.call("delete", "--force", "not-there").status
    return seen


@scene(case("config/oci-version-required", "ociVersion is required", failed()))
def config_no_version(box: Box) -> Observation:
    return {"status": box.run("true", {"ociVersion": DROP}).status}


@scene(case("config/oci-version-supported", "a version that is not supported is an error", failed()))
def config_version(box: Box) -> Observation:
    return {"status": box.run("true", {"ociVersion": "7.0.0"}).status}


@scene(
    case(
        "config/extensibility", "properties that are not known MUST NOT be an error", succeeded(), equal("out", "ran\n")
    ),
)
def config_unknown(box: Box) -> Observation:
    done = box.run(
        "echo ran", {"unknown": {"a": 1}, "process.unknown": 1, "linux.unknown": [], "annotations": {"a": "b"}}
    )
    return {"status": done.status, "out": done.out}


@scene(
    case("config/annotations-values", "values of annotations are strings: another is an error", failed("number")),
    case("config/types-hostname", "a value of another type is an error", failed("hostname")),
    case("config/types-args", "an entry of args of another type is an error", failed("args")),
    case("config/types-mounts", "mounts that is no list is an error", failed("mounts")),
    case("config/types-one-line", "such errors are no traceback", lacks("text", "Traceback|goroutine")),
    case("config/types-null", "null is as if it were not there", succeeded("null")),
)
def config_types(box: Box) -> Observation:
    dones = {
        "number": box.run("true", {"annotations": {"a": 1}}),
        "hostname": box.run("true", {"hostname": 7}),
        "args": box.run("true", {"process.args": ["true", 7]}),
        "mounts": box.run("true", {"mounts": {"destination": "/x"}}),
        "null": box.run(
            "true", {"hooks": None, "annotations": None, "linux.resources": None, "linux.sysctl": None}, name="d"
        ),
    }
    return {**{name: done.status for name, done in dones.items()}, "text": "".join(done.err for done in dones.values())}


@scene(
    case("runtime/start/no-process", "start of a container without process is an error", failed()),
)
def config_no_process(box: Box) -> Observation:
    return {"status": box.start("true", {"process": DROP}).status}


@scene(
    case("runtime/kill/number", "kill takes a signal's number", matches("number", "got 10")),
    case("runtime/kill/sig-name", "kill takes a name with SIG", matches("name", "got 12")),
    case(
        "runtime/kill/invalid",
        "kill with a signal that is none is an error, without effect",
        failed("invalid"),
        equal("after", "running"),
    ),
    case("runtime/kill/default", "without a signal kill sends SIGTERM", matches("term", "got 15")),
)
def life_signals(box: Box) -> Observation:
    traps = "; ".join(f"trap 'echo got {number}' {number}" for number in (10, 12, 15))
    box.start(f"{traps}; echo ready; {WAIT}")
    box.output_with("ready")
    seen = {}
    box.call("kill", box.id(), "10")
    seen["number"] = box.output_with("got 10")
    box.call("kill", box.id(), "SIGUSR2")
    seen["name"] = box.output_with("got 12")
    seen["invalid"] = box.call("kill", box.id(), "NONE").status
    seen["after"] = box.status()
    box.call("kill", box.id())
    seen["term"] = box.output_with("got 15")
    return seen


@scene(
    case(
        "runtime/delete/force-running",
        "delete --force ends and removes a container that runs",
        succeeded("delete"),
        equal("gone", "True"),
    ),
    case("runtime/delete/pid-gone", "after delete its process is gone", equal("process", "False")),
    case("runtime/delete/mounts-gone", "after delete none of its mounts is there", equal("mounts", "")),
)
def life_delete_force(box: Box) -> Observation:
    box.start("sleep 600")
    pid = box.state().get("pid")
    seen = {"delete": box.call("delete", "--force", box.id()).status, "gone": str(not box.state())}
    box.until(lambda: not os.path.exists(f"/proc/{pid}"))
    seen["process"] = is_process(pid)
    with open("/proc/self/mountinfo") as file:
        seen["mounts"] = "".join(line for line in file if box.id() in line)
    return seen
