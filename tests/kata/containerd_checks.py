"""What containerd has to see of our shim, whatever the guest is: a virtual machine, or a fake that needs none."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyvmm_kata.shim.bootstrap import Place
from tests.kata.containerd import IMAGE, PATIENCE, Containerd
from tests.kata.cri import CriPod

EXITED = 2
"""Of runtime.v1.ContainerState."""

Victim = Callable[[Containerd, Place], None]
"""Ends something of a container's, if it is there."""


class Programs(NamedTuple):
    """Command lines that do as they are called in the guest."""

    hello: tuple[str, ...]
    """prints "hello" and a newline"""
    exit_7: tuple[str, ...]
    sleep: tuple[str, ...]
    cat: tuple[str, ...]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def check_run(daemon: Containerd, programs: Programs) -> None:
    """Output and exit status of `ctr run`; nothing is left of it."""
    place = daemon.place("r1")
    assert daemon.run("r1", *programs.hello, flags=["--rm"]) == "hello\n"
    daemon.wait_until_clean([place])
    assert daemon.run("r2", *programs.exit_7, check=False, flags=["--rm"]) == "7"
    daemon.wait_until_clean([daemon.place("r2")])


def check_stdin(daemon: Containerd, programs: Programs) -> None:
    """What goes in comes out, to its end."""
    text = "".join(f"line {number}\n" for number in range(2000))
    command = ["run", "--rm", "--runtime", daemon.runtime, IMAGE, "i1", *programs.cat]
    assert daemon.ctr(*command, stdin=text.encode()).stdout == text


def check_detached(daemon: Containerd, programs: Programs) -> None:
    """A task in the background, with all that ctr can do to it."""
    daemon.run("d1", *programs.sleep, flags=["-d"])
    assert daemon.status("d1") == "RUNNING"
    assert daemon.ctr("task", "exec", "--exec-id", "e1", "d1", *programs.hello).stdout == "hello\n"
    assert daemon.ctr("task", "exec", "--exec-id", "e1", "d1", *programs.exit_7, check=False).returncode == 7
    (pid,) = (line.split()[0] for line in daemon.ctr("task", "ps", "d1").stdout.splitlines()[1:])
    assert Path("/proc", pid, "comm").read_text() == "pyvmm-face\n"
    assert parent_of(int(pid)) == daemon.shim_pid(daemon.place("d1"))
    daemon.ctr("task", "pause", "d1")
    assert daemon.status("d1") == "PAUSED"
    daemon.ctr("task", "resume", "d1")
    metrics = dict(line.split()[:2] for line in daemon.ctr("task", "metrics", "d1").stdout.splitlines() if line)
    assert int(metrics["memory.usage"]) > 0
    assert int(metrics["pids.current"]) > 0
    daemon.ctr("task", "kill", "-s", "KILL", "d1")
    daemon.until(lambda: daemon.status("d1") == "STOPPED", "the task stops")
    assert daemon.ctr("task", "rm", "d1", check=False).returncode == 0
    daemon.remove("d1")
    daemon.wait_until_clean([daemon.place("d1")])


def check_restart_of_containerd(daemon: Containerd, programs: Programs) -> None:
    """A task outlives containerd, which finds it again."""
    daemon.run("k1", *programs.sleep, flags=["-d"])
    daemon.kill()
    daemon.start()
    assert daemon.status("k1") == "RUNNING"
    assert daemon.ctr("task", "exec", "--exec-id", "e1", "k1", *programs.hello).stdout == "hello\n"
    daemon.ctr("task", "kill", "-s", "KILL", "k1")
    daemon.until(lambda: daemon.status("k1") == "STOPPED", "the task stops")
    daemon.remove("k1")
    daemon.wait_until_clean([daemon.place("k1")])


def check_death_of_the_shim(daemon: Containerd, programs: Programs) -> None:
    """containerd cleans up after a shim that was killed."""
    daemon.run("s1", *programs.sleep, flags=["-d"])
    place = daemon.place("s1")
    daemon.until(lambda: daemon.shim_pid(place), "the shim lives")
    place.kill()
    daemon.until(lambda: daemon.status("s1") == "", "containerd knows that the task is gone")
    daemon.remove("s1")
    daemon.wait_until_clean([place])


def kill_shim(daemon: Containerd, place: Place) -> None:
    """kill -9 of a container's shim, and of the virtual machine in it."""
    place.kill()


def kill_containerd(daemon: Containerd, place: Place) -> None:
    """kill -9 of containerd, which is started again."""
    daemon.kill()
    daemon.start()


def check_deaths_at_random(
    daemon: Containerd,
    programs: Programs,
    *,
    rounds: range,
    longest: float,
    victims: Sequence[Victim] = (kill_shim, kill_containerd),
) -> None:
    """kill -9 of somebody at some time of run, exec, kill and delete: nothing is left that removing does not remove.

    :param rounds: their numbers, which say what happens in them
    :param longest: seconds that a run takes
    """
    chance = random.Random(rounds.start)
    places = [daemon.place(f"x{number}") for number in rounds]
    for number, place in zip(rounds, places, strict=True):
        name = f"x{number}"
        run = ["run", "-d", "--runtime", daemon.runtime, IMAGE, name, *programs.sleep]
        operation = ("run", "exec", "kill", "delete")[number % 4]
        if operation != "run":
            daemon.ctr(*run)
        arguments = {
            "run": run,
            "exec": ["task", "exec", "--exec-id", "e1", name, *programs.hello],
            "kill": ["task", "kill", "-s", "KILL", name],
            "delete": ["task", "rm", "-f", name],
        }[operation]
        running = subprocess.Popen(
            ["ctr", "-a", daemon.address, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        victim, delay = chance.choice(victims), chance.uniform(0, longest if operation == "run" else longest / 4)
        time.sleep(delay)  # the time is the test's subject
        print(f"{name}: {operation}: {victim.__name__} after {delay:.2f} s")
        victim(daemon, place)
        running.wait(PATIENCE)
        daemon.remove(name)
        daemon.wait_until_clean()
    assert daemon.ctr("container", "ls", "-q").stdout == ""
    # What a shim leaves that dies before containerd has spoken to it, the next one removes.
    daemon.run("last", *programs.hello, flags=["--rm"])
    daemon.wait_until_clean([*places, daemon.place("last")])


def check_cycle(daemon: Containerd, programs: Programs, name: str) -> None:
    """A container that is made, run and deleted leaves nothing: no shim lives on."""
    assert daemon.run(name, *programs.hello, flags=["--rm"]) == "hello\n"
    daemon.wait_until_clean([daemon.place(name)])
    assert daemon.ctr("container", "ls", "-q").stdout == ""


def check_death_of_a_pod(daemon: Containerd, pod: CriPod, folder: Path) -> None:
    """After kill -9 of a pod's shim, kubelet's calls clear what is left of the pod, its network included."""
    place = daemon.place_of_pod(pod.id)
    daemon.until(lambda: daemon.shim_pid(place), "the shim lives")
    place.kill()
    for name in pod.containers:
        daemon.until(lambda name=name: pod.status(name).state == EXITED, f"containerd knows that {name} has ended")
    pod.remove()
    daemon.wait_until_clean([place])
    command = ["nsenter", "-t", str(daemon.pid), "-n", "ip", "-o", "link"]
    links = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "veth" not in links and "tap" not in links
    assert not list((folder / "ipam").glob("*/10.*")), "its address is free again"
