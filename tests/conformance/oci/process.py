"""config.md, Process: the program, its user, its rights and its limits."""

from __future__ import annotations

import os

from tests.conformance.oci.box import DROP, PATH, Box, scene, sections
from tests.conformance.suite import Observation, case, differs, equal, failed, lacks, matches, succeeded

SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
LIMIT_NAMES = {
    "AS": "Max address space",
    "CORE": "Max core file size",
    "CPU": "Max cpu time",
    "DATA": "Max data size",
    "FSIZE": "Max file size",
    "LOCKS": "Max file locks",
    "MEMLOCK": "Max locked memory",
    "MSGQUEUE": "Max msgqueue size",
    "NICE": "Max nice priority",
    "NOFILE": "Max open files",
    "NPROC": "Max processes",
    "RSS": "Max resident set",
    "RTPRIO": "Max realtime priority",
    "RTTIME": "Max realtime timeout",
    "SIGPENDING": "Max pending signals",
    "STACK": "Max stack size",
}
"""Of the rlimits, without RLIMIT_: their names in /proc/PID/limits."""


@scene(
    case("config/process/args", "args are given to the program as they are", equal("args", "<a b>\n<>\n<$c>")),
    case("config/process/env", "env is the environment", equal("env", "EMPTY=\nNAME=a value=b\n" + PATH)),
    case("config/process/cwd", "cwd is the working directory", equal("cwd", "/tmp")),
    case("config/process/streams", "standard error is another stream than standard output", equal("err", "to stderr")),
    case("config/process/exit-status", "run ends with the program's status", equal("status", "7")),
    third=True,
)
def process_basics(box: Box) -> Observation:
    script = (
        'echo @args; for a; do echo "<$a>"; done; echo @env; env | grep -v -e ^SHLVL -e ^PWD -e ^HOME | sort; '
        "echo @cwd; pwd; echo to stderr >&2; exit 7"
    )
    done = box.run(
        ["sh", "-c", script, "sh", "a b", "", "$c"],
        {"process.env": [PATH, "NAME=a value=b", "EMPTY="], "process.cwd": "/tmp"},
    )
    return {"status": done.status, "err": done.err.strip(), **sections(done.out)}


@scene(
    case(
        "config/process/stdin", "standard input reaches the program, and its end", equal("out", "typed\nto the end\n")
    ),
)
def process_stdin(box: Box) -> Observation:
    done = box.run(["cat"], text="typed\nto the end\n")
    return {"status": done.status, "out": done.out}


@scene(
    case(
        "config/process/signal-status", "a program that a signal ends gives 128 and its number", equal("status", "137")
    )
)
def process_signal_status(box: Box) -> Observation:
    bundle = box.bundle("sleep 600")
    with open(os.devnull, "r+b") as null:
        running = box.background("run", "--bundle", str(bundle), box.id(), stdin=null, stdout=null, stderr=null)
    box.until(lambda: box.status() == "running")
    box.call("kill", box.id(), "KILL")
    return {"status": str(running.wait(30))}


@scene(case("config/process/cwd-absolute", "cwd MUST be an absolute path", failed()))
def process_cwd_relative(box: Box) -> Observation:
    return {"status": box.run("true", {"process.cwd": "tmp"}).status}


@scene(
    case("config/process/cwd-made", "a cwd that the root lacks is made", succeeded(), equal("out", "/not/there/yet\n"))
)
def process_cwd_made(box: Box) -> Observation:
    done = box.run("pwd", {"process.cwd": "/not/there/yet"})
    return {"status": done.status, "out": done.out}


@scene(case("config/process/args-required", "args has at least one entry", failed()))
def process_args_empty(box: Box) -> Observation:
    return {"status": box.run([]).status}


@scene(
    case(
        "config/process/args-search",
        "a program without a slash is found in the container's PATH",
        equal("out", "mine\n"),
    )
)
def process_args_search(box: Box) -> Observation:
    root = box.own_root()
    (root / "odd").mkdir()
    (root / "odd" / "tool").write_text("#!/bin/sh\necho mine\n")
    (root / "odd" / "tool").chmod(0o755)
    done = box.run(["tool"], {"root.path": str(root), "process.env": ["PATH=/odd:/bin"]})
    return {"status": done.status, "out": done.out}


@scene(
    case(
        "config/process/args-missing",
        "a program that is not there is an error that names it",
        failed(),
        matches("err", "nosuch-program"),
    ),
)
def process_args_missing(box: Box) -> Observation:
    done = box.run(["nosuch-program"])
    return {"status": done.status, "err": done.err}


@scene(
    case("config/process/args-not-executable", "a program without the right to run is an error", failed()),
)
def process_args_not_executable(box: Box) -> Observation:
    root = box.own_root()
    (root / "etc" / "plain").write_text("#!/bin/sh\n")
    return {"status": box.run(["/etc/plain"], {"root.path": str(root)}).status}


@scene(
    case("config/user/uid", "uid is the user", matches("id", "^1234 ")),
    case("config/user/gid", "gid is the group", matches("id", "^1234 56 ")),
    case("config/user/additional-gids", "additionalGids are further groups", equal("groups", "56 7 8")),
    case("config/user/umask", "umask is set", equal("umask", "0027")),
    case(
        "config/process/capabilities-of-a-user",
        "a user other than root has no effective capabilities beyond those given",
        equal("caps", "CapEff:\t0000000000000000"),
    ),
)
def process_user(box: Box) -> Observation:
    return box.probe(
        {
            "id": "echo $(id -u) $(id -g) .",
            "groups": "id -G",
            "umask": "umask",
            "caps": "grep CapEff /proc/self/status",
        },
        {
            "process.user": {"uid": 1234, "gid": 56, "additionalGids": [7, 8], "umask": 0o27},
            "process.capabilities": {kind: [] for kind in SETS},
        },
    )


@scene(
    *(
        case(
            f"config/process/capabilities-{kind}",
            f"{kind} is the set of capabilities given",
            matches("caps", rf"^Cap{word}:\s+{bits:016x}$"),
        )
        for kind, word, bits in (
            ("bounding", "Bnd", 0x2421),
            ("effective", "Eff", 0x21),
            ("permitted", "Prm", 0x21),
            ("inheritable", "Inh", 0x21),
            ("ambient", "Amb", 0x21),
        )
    ),
    third=True,
)
def process_capabilities(box: Box) -> Observation:
    # As a user: root's permitted and effective sets are its bounding set after execve
    sets = {kind: ["CAP_CHOWN", "CAP_KILL"] for kind in SETS}
    sets["bounding"] += ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"]
    return box.probe(
        {"caps": "grep Cap /proc/1/status"}, {"process.capabilities": sets, "process.user": {"uid": 7, "gid": 7}}
    )


@scene(
    case(
        "config/process/capabilities-dropped",
        "what is not in the bounding set cannot be had",
        equal("caps", "CapBnd:\t0000000000000001"),
        differs("chroot?", "0"),
        equal("chown?", "0"),
    ),
)
def process_capabilities_dropped(box: Box) -> Observation:
    return box.probe(
        {"caps": "grep CapBnd /proc/1/status", "chroot": "chroot / true", "chown": "touch /tmp/x && chown 5 /tmp/x"},
        {"process.capabilities": {kind: ["CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")}},
    )


@scene(
    case(
        "config/process/capabilities-omitted",
        "without capabilities the program has none",
        equal("caps", "0000000000000000"),
    )
)
def process_capabilities_omitted(box: Box) -> Observation:
    return box.probe({"caps": "grep CapEff /proc/1/status | cut -f2"}, {"process.capabilities": DROP})


@scene(
    case("config/process/no-new-privileges-true", "noNewPrivileges is set", equal("one", "NoNewPrivs:\t1")),
    case("config/process/oom-score-adj", "oomScoreAdj is set", equal("oom", "321")),
    case("config/hostname", "hostname is set in the UTS namespace", equal("host", "a-name")),
    case("config/domainname", "domainname is set in the UTS namespace", equal("domain", "a.domain")),
    case(
        "config/linux/personality-none",
        "without personality, uname says the machine's name",
        equal("machine", "x86_64"),
    ),
)
def process_small_things(box: Box) -> Observation:
    return box.probe(
        {
            "one": "grep NoNewPrivs /proc/self/status",
            "oom": "cat /proc/1/oom_score_adj",
            "host": "hostname",
            "domain": "cat /proc/sys/kernel/domainname",
            "machine": "uname -m",
        },
        {"process.oomScoreAdj": 321, "hostname": "a-name", "domainname": "a.domain"},
    )


@scene(
    case("config/process/no-new-privileges-false", "noNewPrivileges false is not set", equal("one", "NoNewPrivs:\t0"))
)
def process_new_privileges(box: Box) -> Observation:
    return box.probe({"one": "grep NoNewPrivs /proc/self/status"}, {"process.noNewPrivileges": False})


@scene(
    *(
        case(
            f"config/process/rlimits-{name.lower()}",
            f"RLIMIT_{name} has the limits given",
            matches("limits", rf"^{words}\s+{number}\s+{number + 5}\b"),
        )
        for number, (name, words) in enumerate(LIMIT_NAMES.items(), 1_000_000)
        if name not in ("AS", "DATA", "STACK", "NOFILE", "NPROC", "RTTIME", "NICE", "RTPRIO")
    ),
    case(
        "config/process/rlimits-nofile",
        "RLIMIT_NOFILE has the limits given",
        matches("limits", r"^Max open files +300 +400 "),
    ),
    case(
        "config/process/rlimits-nproc",
        "RLIMIT_NPROC has the limits given",
        matches("limits", r"^Max processes +700 +800 "),
    ),
    case(
        "config/process/rlimits-stack",
        "RLIMIT_STACK has the limits given",
        matches("limits", r"^Max stack size +4194304 +8388608 "),
    ),
    case(
        "config/process/rlimits-as",
        "RLIMIT_AS has the limits given",
        matches("limits", r"^Max address space +1073741824 +2147483648 "),
    ),
    third=True,
)
def process_rlimits(box: Box) -> Observation:
    special = {"NOFILE": (300, 400), "NPROC": (700, 800), "STACK": (4 << 20, 8 << 20), "AS": (1 << 30, 2 << 30)}
    limits = []
    for number, name in enumerate(LIMIT_NAMES, 1_000_000):
        if name in ("DATA", "RTTIME", "NICE", "RTPRIO"):
            continue
        soft, hard = special.get(name, (number, number + 5))
        limits.append({"type": f"RLIMIT_{name}", "soft": soft, "hard": hard})
    return box.probe({"limits": "cat /proc/1/limits"}, {"process.rlimits": limits})


@scene(case("config/process/rlimits-duplicate", "two rlimits of a type are an error", failed()))
def process_rlimits_duplicate(box: Box) -> Observation:
    one = {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}
    return {"status": box.run("true", {"process.rlimits": [one, one]}).status}


@scene(case("config/process/rlimits-unknown", "a type of rlimit that is none is an error", failed()))
def process_rlimits_unknown(box: Box) -> Observation:
    return {"status": box.run("true", {"process.rlimits": [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]}).status}


@scene(case("config/process/rlimits-soft-above-hard", "a soft limit above the hard one is an error", failed()))
def process_rlimits_order(box: Box) -> Observation:
    return {
        "status": box.run("true", {"process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 100}]}).status
    }


@scene(
    case("config/process/terminal", "terminal true gives a terminal", matches("out", "^/dev/(pts/0|console)\\s*$")),
    case("config/process/console-size", "consoleSize is the terminal's size", matches("out", "^33 77\\s*$")),
)
def process_terminal(box: Box) -> Observation:
    bundle = box.bundle(
        "tty; stty size", {"process.terminal": True, "process.consoleSize": {"height": 33, "width": 77}}
    )
    command = box.stage.command("run", "--bundle", str(bundle), box.id())
    done = box.host("script", "-qec", " ".join(command), "/dev/null")
    return {"status": done.status, "out": done.out.replace("\r", "").replace("^@", "").replace("\b", "")}


@scene(
    case(
        "config/process/scheduler",
        "the policy and the nice value of scheduler are set",
        equal("policy", "3"),
        equal("nice", "5"),
    )
)
def process_scheduler(box: Box) -> Observation:
    return box.probe(
        {
            "policy": "cut -d' ' -f41 /proc/1/stat",
            "nice": "cut -d' ' -f19 /proc/1/stat",
        },
        {"process.scheduler": {"policy": "SCHED_BATCH", "nice": 5}},
    )


@scene(case("config/process/scheduler-invalid", "a scheduling policy that is none is an error", failed()))
def process_scheduler_invalid(box: Box) -> Observation:
    return {"status": box.run("true", {"process.scheduler": {"policy": "SCHED_NONE"}}).status}


@scene(
    case(
        "config/process/io-priority",
        "the class and the priority of ioPriority are set",
        equal("io", "best-effort: prio 6"),
    )
)
def process_io_priority(box: Box) -> Observation:
    return box.probe({"io": "ionice -p 1"}, {"process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}})


@scene(
    case(
        "config/process/additional-gids-not-of-the-host",
        "supplementary groups of the caller are not inherited",
        equal("groups", "0"),
    ),
)
def process_no_groups(box: Box) -> Observation:
    before = os.getgroups()
    try:
        os.setgroups([0, 4242])
        return box.probe({"groups": "id -G"})
    finally:
        os.setgroups(before)


@scene(case("config/linux/personality", "personality LINUX32 is set", equal("machine", "i686")))
def process_personality(box: Box) -> Observation:
    return box.probe({"machine": "uname -m"}, {"linux.personality": {"domain": "LINUX32"}})


@scene(case("config/linux/personality-invalid", "a personality that is none is an error", failed()))
def process_personality_invalid(box: Box) -> Observation:
    return {"status": box.run("true", {"linux.personality": {"domain": "LINUX77"}}).status}


@scene(
    case(
        "config/linux/seccomp-errno",
        "a syscall with SCMP_ACT_ERRNO gives errnoRet",
        matches("mkdir", "File exists|Invalid argument"),
    ),
    case(
        "config/linux/seccomp-default-errno",
        "without errnoRet the error is EPERM",
        matches("link", "Operation not permitted"),
    ),
    case(
        "config/linux/seccomp-args",
        "args limits a rule to calls with that argument",
        differs("chmod", ""),
        equal("chmod2", ""),
    ),
    case("config/linux/seccomp-allowed", "other syscalls are allowed", equal("touch?", "0")),
    case("config/linux/seccomp-mode", "the filter is in force", equal("mode", "Seccomp:\t2")),
    third=True,
)
def process_seccomp(box: Box) -> Observation:
    calls = [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22},
        {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 0o711, "op": "SCMP_CMP_EQ"}]},
    ]
    return box.probe(
        {
            "mkdir": "mkdir /tmp/new",
            "link": "ln -s a /tmp/link",
            "touch": "touch /tmp/file",
            "chmod": "chmod 711 /tmp/file",
            "chmod2": "chmod 755 /tmp/file",
            "mode": "grep ^Seccomp: /proc/self/status",
        },
        {
            "linux.seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                "syscalls": calls,
            }
        },
    )


@scene(
    case(
        "config/linux/seccomp-kill",
        "SCMP_ACT_KILL_PROCESS ends the program with SIGSYS",
        equal("kill", "Bad system call"),
        equal("kill?", "159"),
    )
)
def process_seccomp_kill(box: Box) -> Observation:
    calls = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]
    return box.probe(
        {"kill": "sh -c 'mkdir /tmp/new; exit $?'"},
        {
            "linux.seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": calls,
            }
        },
    )


@scene(case("config/linux/seccomp-invalid", "an action that is none is an error", failed()))
def process_seccomp_invalid(box: Box) -> Observation:
    return {"status": box.run("true", {"linux.seccomp": {"defaultAction": "SCMP_ACT_NONE"}}).status}


@scene(
    case(
        "config/process/environment-not-of-the-host",
        "the caller's environment is not the program's",
        lacks("env", "CALLER"),
    )
)
def process_environment(box: Box) -> Observation:
    bundle = box.bundle(["env"])
    done = box.call("run", "--bundle", str(bundle), box.id(), env={**os.environ, "CALLER": "1"})
    return {"status": done.status, "env": done.out}
