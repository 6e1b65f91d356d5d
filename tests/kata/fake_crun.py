"""Stands for crun where there is no right to make containers: the same commands, plain processes.

usage: fake_crun.py --OPTION=VALUE... (create|start|exec|delete|update) --OPTION=VALUE... ID
"""

import json
import os
import shutil
import sys
from typing import Any, NoReturn

options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
command, name = (word for word in sys.argv[1:] if not word.startswith("--"))
file_name = name[:200]


def launch(process: dict[str, Any], wait_for: str = "") -> None:
    """Start a process and say its pid; it is an orphan when this one ends."""
    pid = os.fork()
    if pid:
        with open(options["pid-file"], "w") as file:
            file.write(str(pid))
        return
    if wait_for:
        with open(wait_for) as file:
            file.read()
    os.execvpe(process["args"][0], process["args"], dict(item.split("=", 1) for item in process["env"]))


def refuse(words: str) -> NoReturn:
    with open(options["log"], "w") as file:
        file.write(words + "\n")
    sys.exit(1)


if command == "create":
    shutil.copy(os.path.join(options["bundle"], "config.json"), file_name + ".json")
    with open(file_name + ".json") as file:
        config = json.load(file)
    if not os.path.isdir(config["root"]["path"]):
        refuse("no root " + config["root"]["path"])
    os.makedirs("cgroup/" + name)
    with open("cgroup/" + name + "/memory.events", "w") as file:
        file.write("oom 0\noom_kill 0\n")
    os.mkfifo(file_name + ".fifo")
    launch(config["process"], file_name + ".fifo")
elif command == "start":
    with open(file_name + ".fifo", "w"):
        pass
elif command == "exec":
    with open(options["process"]) as file:
        launch(json.load(file))
elif command == "update":
    shutil.copy(options["resources"], file_name + ".resources.json")
elif command == "delete":
    shutil.rmtree("cgroup/" + name)
    os.unlink(file_name + ".fifo")
