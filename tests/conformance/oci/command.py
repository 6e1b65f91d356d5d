"""The command line that runc and crun share."""

from __future__ import annotations

import array
import json
import os
import socket

from tests.conformance.oci.box import PATH, Box, scene
from tests.conformance.suite import Observation, case, equal, failed, matches, succeeded
from tests.scripts import WAIT

SLEEP = f"trap 'exit 0' TERM; {WAIT}"


@scene(
    case("command/exec/status", "exec ends with the program's status", equal("status", "5")),
    case("command/exec/streams", "exec keeps the streams apart", equal("out", "out\n"), equal("err", "err\n")),
    case("command/exec/stdin", "standard input reaches the program", equal("stdin", "typed\n")),
    case("command/exec/namespaces", "it is in the container's namespaces", matches("first", "while")),
    case("command/exec/env", "--env sets a variable", matches("env", "^A=1$")),
    case("command/exec/cwd", "--cwd is its working directory", equal("cwd", "/tmp")),
    case("command/exec/cwd-default", "without --cwd it is the container's", equal("default-cwd", "/var")),
    case("command/exec/user", "--user is its user and group", equal("user", "7 8")),
    case("command/exec/process", "--process takes the process of the specification", equal("process", "of a file 3")),
    case("command/exec/missing", "a program that is not there is an error", failed("missing")),
    case("command/exec/tty", "--tty gives a terminal", matches("tty", "^/dev/pts/\\d")),
    case(
        "command/exec/detach", "--detach returns while the program runs", succeeded("detach"), equal("detached", "ran")
    ),
    case(
        "command/exec/pid-file", "--pid-file has the pid of the program, as the host sees it", equal("pid-file", "True")
    ),
    case("command/exec/no-id", "exec without an id is an error", failed("no-id")),
    case("command/exec/unknown", "exec in a container that is not there is an error", failed("unknown")),
    case("command/exec/capabilities", "a program of exec has the container's capabilities", equal("caps", "True")),
    case("command/ps/json", "ps --format json lists pids", equal("ps", "True")),
    case("command/ps/table", "ps prints a table with the program", matches("ps-table", "PID")),
    case("command/list/quiet", "list --quiet has the id", matches("list-quiet", "-c$")),
    case("command/list/json", "list --format json has id, pid, status and bundle", equal("list-json", "running")),
    case("command/list/table", "list has a line for it", matches("list-table", "running")),
    case("command/pause/pause", "pause stops it; the status is paused", equal("paused", "paused")),
    case("command/pause/resume", "resume goes on", equal("resumed", "running")),
    case("command/pause/stands-still", "a paused program does nothing", equal("stands-still", "True")),
    case("command/kill/all", "kill --all is taken", succeeded("kill-all")),
    case("command/exec/stopped", "exec in a stopped container is an error", failed("stopped")),
)
def command_exec(box: Box) -> Observation:
    count = "i=0; while :; do i=$((i+1)); echo $i >>/tmp/count; sleep 0.05; done &"
    changes = {"process.env": [PATH, "B=of the container"], "process.cwd": "/var"}
    box.start(f"{count} {SLEEP}", changes)
    name = box.id()
    done = box.call("exec", name, "sh", "-c", "echo out; echo err >&2; exit 5")
    seen = {"status": done.status, "out": done.out, "err": done.err}
    seen["stdin"] = box.call("exec", name, "cat", text="typed\n").out
    seen |= box.exec({"first": "tr '\\0' ' ' </proc/1/cmdline", "default-cwd": "pwd"})
    seen |= box.exec({"env": "env | grep ^[AB]= | sort", "cwd": "pwd"}, "--env", PATH, "--env", "A=1", "--cwd", "/tmp")
    seen["user"] = box.call("exec", "--user", "7:8", name, "sh", "-c", "echo $(id -u) $(id -g)").out.strip()
    wanted = box.exec({"caps": "grep CapEff /proc/self/status"}).get("caps")
    seen["caps"] = str(wanted == box.exec({"caps": "grep CapEff /proc/1/status"}).get("caps"))
    process = {"args": ["sh", "-c", "echo of a file $(id -u)"], "cwd": "/", "env": [PATH], "user": {"uid": 3, "gid": 3}}
    (box.folder / "process.json").write_text(json.dumps(process))
    seen["process"] = box.call("exec", "--process", str(box.folder / "process.json"), name).out.strip()
    seen["missing"] = box.call("exec", name, "nosuch").status
    seen["no-id"] = box.call("exec").status
    seen["unknown"] = box.call("exec", "not-there", "true").status
    command = " ".join(box.stage.command("exec", "--tty", name, "tty"))
    seen["tty"] = (
        box.host("script", "-qec", command, "/dev/null")
        .out.replace("\r", "")
        .replace("^@", "")
        .replace("\b", "")
        .strip()
    )
    pid_file = box.folder / "pid"
    words = ["exec", "--detach", "--pid-file", str(pid_file), name, "sh", "-c", "echo ran >/tmp/detached; sleep 30"]
    with open(os.devnull, "r+b") as null:
        process_ = box.background(*words, stdin=null, stdout=null, stderr=null)
        seen["detach"] = str(process_.wait(30))
    pid = pid_file.read_text() if pid_file.exists() else ""
    seen["pid-file"] = str(pid.isdigit() and os.path.exists(f"/proc/{pid}"))
    box.until(lambda: box.call("exec", name, "cat", "/tmp/detached").out != "")
    seen["detached"] = box.call("exec", name, "cat", "/tmp/detached").out.strip()
    try:
        pids = json.loads(box.call("ps", "--format", "json", name).out)
    except ValueError:
        pids = []
    seen["ps"] = str(isinstance(pids, list) and len(pids) > 0 and all(isinstance(pid, int) for pid in pids))
    seen["ps-table"] = box.call("ps", name).out
    seen["list-quiet"] = box.call("list", "--quiet").out.strip()
    seen["list-table"] = box.call("list").out
    listed = json.loads(box.call("list", "--format", "json").out or "[]") or []
    seen["list-json"] = " ".join(
        one["status"] for one in listed if one["id"] == name and one["pid"] > 1 and one["bundle"].startswith("/")
    )
    box.call("pause", name)
    seen["paused"] = box.status()
    box.call("resume", name)
    seen["resumed"] = box.status()
    first = box.call("exec", name, "cat", "/tmp/count").out
    box.until(lambda: box.call("exec", name, "cat", "/tmp/count").out != first)
    count_file = box.rootfs / "tmp" / "count"
    box.call("pause", name)
    box.until(lambda: False, 0.3)
    before = count_file.read_text() if count_file.exists() else ""
    box.until(lambda: False, 0.5)
    seen["stands-still"] = str(before != "" and before == count_file.read_text())
    box.call("resume", name)
    seen["kill-all"] = box.call("kill", "--all", name, "KILL").status
    box.stopped()
    seen["stopped"] = box.call("exec", name, "true").status
    return seen


@scene(
    case(
        "command/run/detach",
        "run --detach returns while the container runs",
        succeeded("detach"),
        equal("running", "running"),
    ),
    case("command/run/pid-file", "run --pid-file has the pid that state tells", equal("pid", "True")),
    case("command/run/keeps-nothing", "after run the container is gone", equal("left", "")),
)
def command_run(box: Box) -> Observation:
    pid_file = box.folder / "pid"
    seen = {"detach": box.create_in(box.bundle(SLEEP), "c", "--detach", "--pid-file", str(pid_file), verb="run").status}
    state = box.state()
    seen["running"] = str(state.get("status"))
    seen["pid"] = str(pid_file.exists() and pid_file.read_text().strip() == str(state.get("pid")))
    box.call("delete", "--force", box.id())
    box.run("true", name="d")
    seen["left"] = box.status("d")
    return seen


@scene(
    case("command/create/console-socket", "create sends the terminal to --console-socket", equal("terminal", "True")),
    case(
        "command/create/console-output",
        "the program's output is on that terminal",
        matches("output", "/dev/(pts/\\d|console)"),
    ),
)
def command_console_socket(box: Box) -> Observation:
    path = str(box.folder / "console.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(30)
        bundle = box.bundle("tty; sleep 1", {"process.terminal": True})
        seen = {"status": box.create_in(bundle, "c", "--console-socket", path).status}
        if seen["status"] != "0":
            return seen
        client, _ = server.accept()
        with client:
            fds = array.array("i")
            _, ancillary, _, _ = client.recvmsg(256, socket.CMSG_SPACE(fds.itemsize))
            for _, _, data in ancillary:
                fds.frombytes(data[: fds.itemsize])
    seen["terminal"] = str(bool(fds) and os.isatty(fds[0]))
    box.call("start", box.id())
    output = b""
    os.set_blocking(fds[0], False)

    def read() -> bool:
        nonlocal output
        try:
            output += os.read(fds[0], 4096)
        except OSError:
            pass
        return b"\n" in output

    box.until(read)
    os.close(fds[0])
    seen["output"] = output.decode()
    return seen


@scene(
    case("command/create/pid-file", "create --pid-file has the pid that state tells", equal("pid", "True")),
    case(
        "command/create/console-socket-missing", "a terminal without --console-socket is an error", failed("no-socket")
    ),
    case(
        "command/create/console-socket-unneeded", "--console-socket without a terminal is an error", failed("unneeded")
    ),
)
def command_create(box: Box) -> Observation:
    pid_file = box.folder / "pid"
    box.create_in(box.bundle("true"), "c", "--pid-file", str(pid_file))
    seen = {"pid": str(pid_file.exists() and pid_file.read_text().strip() == str(box.state().get("pid")))}
    seen["no-socket"] = box.create("true", {"process.terminal": True}, "d").status
    seen["unneeded"] = box.create_in(box.bundle("true"), "e", "--console-socket", str(box.folder / "s")).status
    return seen


@scene(
    case("command/spec/writes", "spec writes config.json", succeeded("spec"), equal("args", "['sh']")),
    case("command/spec/exists", "spec does not write over one", failed("spec-again")),
    case("command/spec/runs", "what it writes runs", equal("out", "ran\n")),
    case("command/features/json", "features prints JSON with the versions", matches("features", r"^1\.")),
    case("command/version", "--version prints the version of the specification", matches("version", r"spec: 1\.")),
    case("command/unknown", "a command that is none is an error", failed("unknown")),
    case("command/unknown-option", "an option that is none is an error", failed("option")),
    case("command/log/json", "--log-format json writes errors as JSON with level and msg", equal("log", "error True")),
    case("command/log/stderr", "errors are on standard error, too, as one line", matches("stderr", "not-there")),
    third=True,
)
def command_small(box: Box) -> Observation:
    folder = box.folder / "spec"
    folder.mkdir()
    seen = {"spec": box.call("spec", cwd=folder).status}
    seen["spec-again"] = box.call("spec", cwd=folder).status
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {"process": {}, "root": {}}
    seen["args"] = str(config["process"].get("args"))
    config["process"] |= {"terminal": False, "args": ["echo", "ran"]}
    config["root"] |= {"path": str(box.rootfs)}
    path.write_text(json.dumps(config))
    seen["out"] = box.call("run", "--bundle", str(folder), box.id()).out
    try:
        features = json.loads(box.call("features").out)
    except ValueError:
        features = {}
    seen["features"] = str(features.get("ociVersionMin"))
    seen["version"] = box.call("--version").out
    seen["unknown"] = box.call("nosuch").status
    seen["option"] = box.call("state", "--nosuch", "x").status
    log = box.folder / "log"
    done = box.call("--log", str(log), "--log-format", "json", "state", "not-there")
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    bad = [line for line in lines if line.get("level") == "error"]
    seen["log"] = f"{bad[0]['level']} {'not-there' in bad[0]['msg'] or 'not exist' in bad[0]['msg']}" if bad else ""
    seen["stderr"] = done.err + " not-there" if "not exist" in done.err else done.err
    return seen


@scene(
    case("command/global/root", "containers of another --root are not seen", failed("other-root")),
    case("command/run/fds", "descriptors beyond those asked for do not reach the program", equal("fds", "0 1 2")),
)
def command_roots(box: Box) -> Observation:
    box.create("true")
    command = [*box.stage._command, "--root", str(box.folder / "other"), "state", box.id()]
    seen = {"other-root": box.host(*command).status}
    with open(os.devnull) as null:
        bundle = box.bundle("ls /proc/1/fd | tr '\\n' ' '")
        os.set_inheritable(null.fileno(), True)
        seen["fds"] = box.call("run", "--bundle", str(bundle), box.id("d"), close_fds=False).out.strip()
    return seen
