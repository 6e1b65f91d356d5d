"""Containers: their life, exec, logs, and what their status says."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.conformance.cri.stage import LOOP, Box, scene
from tests.conformance.suite import Observation, case, equal, lacks, matches, refused
from tests.scripts import WAIT


@scene(
    case("cri/container/created", "CreateContainer makes one that is created", equal("created", "created")),
    case("cri/container/not-run", "it does not run yet", equal("before", "")),
    case("cri/container/running", "StartContainer runs it", equal("running", "running")),
    case(
        "cri/container/metadata",
        "its status has metadata, labels and annotations",
        equal("metadata", "c 0 {'l': '1'} {'a': 'x'}"),
    ),
    case("cri/container/times", "its status has the times of creation and start", equal("times", "True")),
    case("cri/container/image", "its status has the image", matches("image", "busybox:test")),
    case("cri/container/list", "ListContainers finds it by id, pod, state and label", equal("list", "1 1 1 1")),
    case("cri/container/start-again", "StartContainer again is refused", refused("start-again")),
    case("cri/container/stop", "StopContainer lets it end in its own way", equal("code", "9")),
    case("cri/container/stop-signal", "it got SIGTERM", matches("log", "got TERM")),
    case("cri/container/exited", "it has exited, with a reason and a time", equal("exited", "exited Error True")),
    case("cri/container/stop-again", "StopContainer can be called again", equal("stop-again", "OK")),
    case(
        "cri/container/exec-exited",
        "ExecSync in it is refused",
        refused("exec-exited"),
    ),
    case("cri/container/remove", "RemoveContainer removes it", equal("removed", "gone")),
    case("cri/container/remove-again", "RemoveContainer can be called again", equal("remove-again", "OK")),
    case("cri/container/attempt", "another attempt of the name runs in the pod", equal("attempt", "running")),
    case(
        "cri/container/remove-running",
        "RemoveContainer removes a container that runs",
        equal("remove-running", "OK gone"),
    ),
)
def container_life(box: Box) -> Observation:
    pod = box.pod()
    made = box.create(pod, LOOP, labels={"l": "1"}, annotations={"a": "x"})
    none: dict[str, Any] = {"container_id": made}
    seen = {"created": box.state(made), "before": box.log()}
    box.call("StartContainer", **none)
    seen["running"] = box.state(made)
    status = box.status(made)
    seen["metadata"] = (
        f"{status.metadata.name} {status.metadata.attempt} {dict(status.labels)} {dict(status.annotations)}"
    )
    seen["times"] = str(0 < status.created_at <= status.started_at)
    seen["image"] = status.image.image
    filters = (
        {"id": made},
        {"pod_sandbox_id": pod},
        {"id": made, "state": {"state": 1}},
        {"label_selector": {"l": "1"}},
    )
    seen["list"] = " ".join(str(len(box.call("ListContainers", filter=one).containers)) for one in filters)
    seen["start-again"] = box.refused("StartContainer", **none)
    box.log_with("ready")
    box.call("StopContainer", container_id=made, timeout=50)
    status = box.status(made)
    seen["code"] = str(status.exit_code)
    seen["exited"] = f"{box.state(made)} {status.reason} {status.finished_at > status.started_at}"
    seen["log"] = box.log()
    seen["stop-again"] = box.refused("StopContainer", **none)
    seen["exec-exited"] = box.refused("ExecSync", cmd=["true"], **none)
    box.call("RemoveContainer", **none)
    seen["removed"] = box.state(made)
    seen["remove-again"] = box.refused("RemoveContainer", **none)
    second = box.run(pod, metadata={"name": "c", "attempt": 1})
    seen["attempt"] = box.state(second)
    seen["remove-running"] = f"{box.refused('RemoveContainer', container_id=second)} {box.state(second)}"
    return seen


@scene(
    case("cri/container/completed", "a program that ends with 0 is Completed", equal("zero", "0 Completed")),
    case("cri/container/error", "another status is Error", equal("seven", "7 Error")),
    case("cri/container/killed", "StopContainer kills what does not end in time", equal("killed", "137")),
    case(
        "cri/container/no-program",
        "StartContainer of a program that is not there is refused",
        refused("no-program"),
    ),
    case(
        "cri/container/no-program-status",
        "its status has 128 and StartError",
        equal("no-program-status", "128 StartError"),
    ),
    case("cri/container/no-program-message", "its message names the program", matches("no-program-message", "nosuch")),
    case("cri/container/args", "args follow the command", equal("args", "a b c")),
    case("cri/container/entrypoint", "without a command the image's runs", equal("entrypoint", "running")),
    case("cri/container/env", "envs are set", equal("env", "1 a b")),
    case("cri/container/working-dir", "working_dir is the working directory", equal("cwd", "/tmp")),
    case("cri/container/log-path", "its status has the log's path", equal("log-path", "True")),
)
def container_ends(box: Box) -> Observation:
    pod = box.pod()
    zero = box.exited(box.run(pod, "exit 0", "zero"))
    seven = box.exited(box.run(pod, "exit 7", "seven"))
    seen = {"zero": f"{zero.exit_code} {zero.reason}", "seven": f"{seven.exit_code} {seven.reason}"}
    stubborn = box.run(pod, f"trap '' TERM; echo ready; {WAIT}", "stubborn")
    box.log_with("ready", "stubborn")
    box.call("StopContainer", container_id=stubborn, timeout=1)
    seen["killed"] = str(box.status(stubborn).exit_code)
    missing = box.create(pod, ["nosuch"], "missing")
    seen["no-program"] = box.refused("StartContainer", container_id=missing)
    status = box.status(missing)
    seen["no-program-status"] = f"{status.exit_code} {status.reason}"
    seen["no-program-message"] = status.message
    box.exited(box.run(pod, ["echo"], "args", args=["a", "b c"]))
    seen["args"] = logged(box.log_with("a b c", "args"))
    entry = box.run(
        pod, [], "entry", envs=[{"key": "A", "value": "1"}, {"key": "B", "value": "a b"}], working_dir="/tmp"
    )
    seen["entrypoint"] = box.state(entry)
    seen |= box.probe(entry, {"env": "echo $A $B", "cwd": "pwd"})
    seen["log-path"] = str(box.status(entry).log_path == str(box.folder / "logs-p" / "entry.log"))
    return seen


def logged(text: str) -> str:
    """What was printed, of a log in the interface's format."""
    return "\n".join(line.split(" ", 3)[3] for line in text.splitlines() if line.count(" ") >= 3)


@scene(
    case(
        "cri/exec-sync/streams",
        "ExecSync keeps the streams apart, and has the status",
        equal("streams", "out\n|err\n|5"),
    ),
    case("cri/exec-sync/much", "a megabyte of output arrives", equal("much", "1000000")),
    case(
        "cri/exec-sync/timeout",
        "a program that takes longer than timeout is ended, and that is DEADLINE_EXCEEDED",
        equal("timeout", "DEADLINE_EXCEEDED"),
    ),
    case("cri/exec-sync/timeout-ends", "it runs no more", equal("left", "0")),
    case(
        "cri/exec-sync/missing",
        "a program that is not there is an error",
        refused("missing"),
    ),
    case("cri/exec-sync/at-once", "several at a time have their own output", equal("at-once", "0 1 2 3")),
    case("cri/exec-sync/container-lives", "the container runs on", equal("state", "running")),
)
def exec_sync(box: Box) -> Observation:
    made = box.run(box.pod())
    done = box.exec(made, "echo out; echo err >&2; exit 5")
    seen = {"streams": f"{done.stdout.decode()}|{done.stderr.decode()}|{done.exit_code}"}
    seen["much"] = str(len(box.exec(made, "yes | head -c 1000000").stdout))
    seen["timeout"] = box.refused("ExecSync", container_id=made, cmd=["sleep", "77"], timeout=2)
    box.until(lambda: box.exec(made, "ps | grep -c '[s]leep 77'").stdout.strip() == b"0")
    seen["left"] = box.exec(made, "ps | grep -c '[s]leep 77'").stdout.decode().strip()
    seen["missing"] = box.refused("ExecSync", container_id=made, cmd=["nosuch"], timeout=30)
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda number: box.exec(made, f"sleep 0.3; echo {number}").stdout.decode().strip(), range(4))
    seen["at-once"] = " ".join(answers)
    seen["state"] = box.state(made)
    return seen


@scene(
    case(
        "cri/log/format",
        "a line of the log has time, stream, tag and text",
        matches("log", r"^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d) stdout F one$"),
    ),
    case("cri/log/stderr", "standard error is told apart", matches("log", " stderr F two$")),
    case(
        "cri/log/partial",
        "a line without its end is F at the program's end, or P",
        matches("log", " stdout [FP] no end$"),
    ),
    case("cri/log/long-lines", "a long line is in parts, which are P", equal("long", "True")),
    case(
        "cri/log/reopen",
        "after ReopenContainerLog lines are in a new file",
        matches("rotated", " tick$"),
        equal("old-stands", "True"),
    ),
    case(
        "cri/log/reopen-exited",
        "ReopenContainerLog of a container that has exited is refused",
        refused("reopen-exited"),
    ),
    case("cri/log/kept", "the log is there after the container", equal("kept", "True")),
    case("cri/log/none-lost", "10,000 lines are in the log, in their order", equal("lines", "True")),
)
def logs(box: Box) -> Observation:
    pod = box.pod()
    made = box.run(pod, "echo one; sleep 0.2; echo two >&2; sleep 0.2; printf 'no end'", "plain")
    box.exited(made)
    seen = {"log": box.log_with("no end", "plain")}
    seen["reopen-exited"] = box.refused("ReopenContainerLog", container_id=made)
    box.exited(box.run(pod, "head -c 40000 /dev/zero | tr '\\0' x; echo", "long"))
    box.until(lambda: sum(len(line.split(" ", 3)[3]) for line in box.log("long").splitlines()) == 40000)
    parts = [line.split(" ", 3) for line in box.log("long").splitlines()]
    tags = [part[2] for part in parts]
    seen["long"] = str(sum(len(part[3]) for part in parts) == 40000 and tags[-1] == "F" and set(tags[:-1]) == {"P"})
    ticks = box.run(pod, "while :; do echo tick; sleep 0.1; done", "ticks")
    box.log_with("tick", "ticks")
    path = box.folder / "logs-p" / "ticks.log"
    old = path.rename(path.with_suffix(".old"))
    box.call("ReopenContainerLog", container_id=ticks)
    seen["rotated"] = box.log_with("tick", "ticks")
    size = old.stat().st_size
    box.until(lambda: False, 0.5)
    seen["old-stands"] = str(old.stat().st_size == size)
    numbers = box.run(pod, "i=0; while [ $i -lt 10000 ]; do echo $i; i=$((i+1)); done", "numbers")
    box.exited(numbers)
    box.log_with("F 9999$", "numbers")
    seen["lines"] = str(logged(box.log("numbers")).split() == [str(number) for number in range(10000)])
    box.call("RemoveContainer", container_id=numbers)
    seen["kept"] = str(Path(box.folder / "logs-p" / "numbers.log").exists())
    return seen


@scene(
    case("cri/log/terminal", "with tty the log has what is on the terminal", matches("log", r" stdout F /dev/pts/0")),
    case("cri/container/tty", "tty gives a terminal", equal("tty", "/dev/pts/0")),
    case("cri/container/no-log", "without log_path it runs, too", equal("no-log", "running")),
    case("cri/container/log-of-nobody", "and no log is made", lacks("files", "silent")),
)
def terminals(box: Box) -> Observation:
    pod = box.pod()
    made = box.run(pod, "tty >/tmp/tty; tty; sleep 600", tty=True)
    seen = {"log": box.log_with("/dev/pts"), **box.probe(made, {"tty": "cat /tmp/tty"})}
    silent = box.run(pod, "echo x; sleep 600", "silent", log_path="")
    seen["no-log"] = box.state(silent)
    seen["files"] = " ".join(path.name for path in (box.folder / "logs-p").iterdir())
    seen["log"] = re.sub(r"\r", "", seen["log"])
    return seen
