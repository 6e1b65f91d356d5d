"""What a container of crun or runc has of the host's kernel, and one with a kernel of its own does not."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conformance.oci.box import Box, scene
from tests.conformance.suite import Observation, case, equal


@scene(case("config-linux/devices/of-the-host", "a device of the host is there", equal("number", "a:ed")), third=True)
def device_of_the_host(box: Box) -> Observation:
    device = {"path": "/dev/of-host", "type": "c", "major": 10, "minor": 0xED}
    return box.probe({"number": "stat -c %t:%T /dev/of-host"}, {"linux.devices": [device]})


@scene(case("config/mounts/pipe", "what is written to a pipe of the host's is read there", equal("read", "through\n")))
def pipe_of_the_host(box: Box) -> Observation:
    pipe = box.folder / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mount = {"destination": "/pipe", "type": "bind", "source": str(pipe), "options": ["bind"]}
        done = box.run("echo through >/pipe", {"mounts+": [mount]})
        return {"status": done.status, "read": os.read(end, 100).decode()}
    finally:
        os.close(end)


@scene(case("config/mounts/procfs", "a folder of a mounted procfs shows the host's process", equal("seen", "same")))
def procfs_of_the_host(box: Box) -> Observation:
    place = box.folder / "procfs"
    box.mount("-t", "proc", "proc", str(place))
    mount = {"destination": "/one", "type": "bind", "source": str(place / "1"), "options": ["bind"]}
    seen = box.probe({"comm": "cat /one/comm"}, {"mounts+": [mount]})
    seen["seen"] = "same" if seen.get("comm") == Path("/proc/1/comm").read_text().strip() else "other"
    return seen


@scene(case("runtime/state/pid-program", "the pid of the state is the program's", equal("comm", "sleep")))
def pid_of_the_program(box: Box) -> Observation:
    box.start(["sleep", "600"])
    return {"comm": Path(f"/proc/{box.state()['pid']}/comm").read_text().strip()}


@scene(
    case(
        "command/update/memory-above",
        "when the limit is raised there is as much memory",
        equal("updated", "0"),
        equal("enough", "yes"),
    )
)
def memory_above_the_first_limit(box: Box) -> Observation:
    box.start("sleep 600", {"linux.resources": {"memory": {"limit": 64 << 20}}})
    seen = {"updated": box.call("update", "--memory", str(2 << 30), box.id()).status}
    script = "while read name size unit; do [ $name = MemTotal: ] && [ $size -ge 2097152 ] && echo yes; done"
    return {**seen, **box.exec({"enough": f"{script} </proc/meminfo"})}
