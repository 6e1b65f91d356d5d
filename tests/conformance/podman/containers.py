"""What is done to containers that are there."""

from tests.conformance.podman.script import do, group, line
from tests.scripts import WAIT

NONE = "--network none"
LOOP = f'sh -c \'trap "echo got TERM; exit 9" TERM; trap "echo got USR1" USR1; echo ready; {WAIT}\''
STATE = "inspect --format '{{.State.Status}}'"

group(
    "life",
    [
        line(
            "create/status", "create makes a container", f"create --name c --label a=b {NONE} box {LOOP}", out="^<id>$"
        ),
        line("create/created", "its status is created", f"{STATE} c", out="^created$"),
        line("start/start", "start runs it", "start c", out="^c$"),
        line("logs/follow", "logs has what it printed", "logs c", until=True, out="^ready$"),
        line("inspect/running", "its status is running", f"{STATE} c", out="^running$"),
        line(
            "inspect/pid",
            "its pid is a process of the host's",
            "!test -d /proc/$({podman} inspect --format '{{.State.Pid}}' c)",
        ),
        line(
            "ps/table",
            "ps lists it",
            "ps --format '{{.Names}} {{.Image}} {{.Command}} {{.Status}}'",
            out="^c localhost/box:latest sh",
            volatile=True,
        ),
        line(
            "exec/status",
            "exec ends with the program's status",
            "exec c sh -c 'echo out; echo err >&2; exit 5'",
            status="5",
            out="^out$",
            err="^err$",
        ),
        line(
            "exec/options",
            "exec has its environment, directory and user",
            "exec -e X=1 -w /tmp -u 7:8 c sh -c 'echo $X; pwd; id -u; id -g'",
            out="^1\n/tmp\n7\n8$",
        ),
        line("exec/stdin", "exec -i gives it standard input", "exec -i c cat", stdin="typed\n", out="^typed$"),
        line("exec/missing", "127 when there is no such program", "exec c nosuch", status="127"),
        line("exec/not-executable", "126 when it cannot be run", "exec c /etc/passwd", status="126"),
        line(
            "exec/detach", "exec -d returns", "exec -d c sh -c 'sleep 0.2; touch /tmp/detached; sleep 60'", out="^<id>$"
        ),
        line("exec/detached", "and runs", "exec c ls /tmp/detached", until=True, out="detached"),
        line("exec/terminal", "exec -t gives a terminal", "exec -t c tty", out="^/dev/pts/\\d+"),
        line(
            "exec/privileged",
            "exec --privileged has all capabilities",
            "exec --privileged c grep CapEff /proc/self/status",
            volatile=True,
            out="1ffffffffff$",
        ),
        line(
            "top/processes",
            "top shows the container's processes",
            "top c pid args",
            out="^1 +sh -c trap",
            volatile=True,
        ),
        line(
            "top/nothing-of-the-host",
            "and none of the host's",
            "top c args",
            not_out="podman|conmon|python|systemd|kthread",
            volatile=True,
        ),
        line("kill/signal", "kill sends a signal", "kill --signal USR1 c", out="^c$"),
        line("kill/arrived", "it arrives", "logs c", until=True, out="^got USR1$"),
        line("pause/pause", "pause stops it", "pause c", out="^c$"),
        line("pause/paused", "its status is paused", f"{STATE} c", out="^paused$"),
        line("pause/exec", "exec in a paused container is refused", "exec c true", status="255"),
        line("pause/unpause", "unpause goes on", "unpause c", out="^c$"),
        line("rename/rename", "rename gives another name", "rename c d"),
        line("rename/renamed", "by which it is found", f"{STATE} d", out="^running$"),
        line("rename/back", "and the old one is free", "container exists c", status="1"),
        line("rm/running", "rm of a running container is refused", "rm d", status="2"),
        line("stop/stop", "stop ends it in its own time", "stop --time 30 d", out="^d$"),
        line(
            "stop/status",
            "with its own status",
            "inspect --format '{{.State.Status}} {{.State.ExitCode}}' d",
            out="^exited 9$",
        ),
        line("stop/logs", "it got SIGTERM", "logs d", out="^got TERM$"),
        line("exec/stopped", "exec in a stopped container is refused", "exec d true", status="255"),
        line("start/again", "start runs it again", "start d", out="^d$"),
        line("start/again-running", "it runs", f"{STATE} d", out="^running$"),
        line("restart/restart", "restart ends it and runs it again", "restart --time 30 d", out="^d$"),
        line("restart/running", "it runs", f"{STATE} d", out="^running$"),
        line("kill/kill", "kill ends it", "kill d", out="^d$"),
        line("wait/wait", "wait prints the status", "wait d", out="^137$"),
        line("rm/rm", "rm removes it", "rm d", out="^d$"),
        line("rm/gone", "inspect of it is an error", "inspect d", status="125"),
    ],
)

group(
    "logs",
    [
        do(f"run -d --name c {NONE} box sh -c 'echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three; exit 3'"),
        line("wait/status", "wait has the program's status", "wait c", out="^3$"),
        line("logs/streams", "logs keeps the streams apart", "logs c", out="^one\nthree$", err="^two$"),
        line("logs/tail", "--tail has the last lines", "logs --tail 1 c", out="^three$", not_out="one"),
        line("logs/timestamps", "-t has the time", "logs -t c", out="^<time> one$"),
        line(
            "start/attach",
            "start -a shows the output again, and ends with its status",
            "start -a c",
            status="3",
            out="^one\nthree$",
            err="^two$",
        ),
        line(
            "events/died",
            "events has its life",
            "events --stream=false --filter container=c --filter type=container --format '{{.Status}}'",
            out="^died$",
            volatile=True,
        ),
        line(
            "inspect/exit",
            "inspect has status and exit code",
            "inspect --format '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' c",
            out="^exited 3 false$",
        ),
        do(f"create -i --name i {NONE} box cat"),
        line("start/interactive", "start -ai gives it standard input", "start -ai i", stdin="typed\n", out="^typed$"),
        line(
            "log-driver/none",
            "--log-driver none keeps no logs",
            f"run --name n --log-driver none {NONE} box echo shown",
            out="^shown$",
        ),
        line("log-driver/no-logs", "logs is an error then", "logs n", status="125"),
        line(
            "cidfile",
            "--cidfile has the id",
            f"!{{podman}} run -d --cidfile {{dir}}/id {NONE} box true >/dev/null; wc -c <{{dir}}/id",
            out="^64$",
        ),
        line("timeout", "--timeout ends it", f"run --timeout 8 --name t {NONE} box sleep 100", status="255"),
        line(
            "ps/exited",
            "ps --filter finds those that ended with a status",
            "ps -a --filter exited=3 --format '{{.Names}}'",
            out="^c$",
        ),
        line(
            "prune",
            "container prune removes what has ended",
            "!{podman} container prune --force | wc -l",
            out="^[45]$",
            volatile=True,
        ),
    ],
)

group(
    "cp",
    [
        do("!mkdir -p {dir}/tree/sub {dir}/in; echo in a tree >{dir}/tree/sub/file; echo mine >{dir}/mine"),
        do(f"run -d --name c {NONE} -v {{dir}}/data:/var/lib/d box sleep 600"),
        # A folder that both have: what goes astray stays in the scene's
        do("exec c mkdir -p {dir}/in"),
        line("cp/in-running", "cp into a running container", "cp {dir}/mine c:{dir}/in/mine"),
        line("cp/in-running-seen", "the container sees it", "exec c cat {dir}/in/mine", out="^mine$"),
        line("cp/in-running-host", "the host's folder of that name is as it was", "!ls {dir}/in/mine", status="2"),
        line(
            "cp/out-running",
            "cp out of a running container",
            "!{podman} exec c sh -c 'echo inside >{dir}/in/made'; "
            "{podman} cp c:{dir}/in/made {dir}/out && cat {dir}/out",
            out="^inside$",
        ),
        line("cp/out-stream", "cp to - is an archive", "!{podman} cp c:/etc/passwd - | tar -xO", out="^user:x:7:8"),
        line(
            "cp/out-not-the-host",
            "what the container does not have is an error",
            "!touch {dir}/in/of-the-host-only; {podman} cp c:{dir}/in/of-the-host-only {dir}/x",
            status="125",
        ),
        line(
            "cp/tree",
            "cp of a tree",
            "!{podman} cp {dir}/tree c:{dir}/in/ && {podman} exec c cat {dir}/in/tree/sub/file",
            out="^in a tree$",
        ),
        line(
            "cp/in-volume",
            "cp into a volume",
            "!{podman} cp {dir}/mine c:/var/lib/d/mine && cat {dir}/data/mine",
            out="^mine$",
        ),
        line("cp/out-volume", "cp out of a volume", "!{podman} cp c:/var/lib/d/file - | tar -xO", out="^content$"),
        line("cp/missing", "cp of what is not there is an error", "cp c:/not/there {dir}/x", status="125"),
        line("export", "export is the root file system", "!{podman} export c | tar -t | grep -c 'in/mine$'", out="^1$"),
        line(
            "mount/running", "mount shows the root on the host", "!cat $({podman} mount c){dir}/in/mine", out="^mine$"
        ),
        line(
            "commit/running",
            "commit makes an image of it",
            f"!{{podman}} commit -q c committed && {{podman}} run --rm {NONE} committed cat {{dir}}/in/mine",
            out="^mine$",
        ),
        do("stop --time 0 c"),
        line(
            "cp/in-stopped",
            "cp into a stopped container",
            "!{podman} cp {dir}/mine c:{dir}/in/later && {podman} cp c:{dir}/in/later - | tar -xO",
            out="^mine$",
        ),
        line(
            "cp/out-stopped", "cp out of a stopped container", "!{podman} cp c:{dir}/in/mine - | tar -xO", out="^mine$"
        ),
        line(
            "start/kept",
            "what was written is there after a start",
            "!{podman} start c >/dev/null && {podman} exec c cat {dir}/in/mine {dir}/in/later",
            out="^mine\nmine$",
        ),
        line(
            "cp/of-two",
            "cp from a container to another",
            f"!{{podman}} create --name two {NONE} box >/dev/null; {{podman}} cp c:{{dir}}/in/mine two:/etc/copied && "
            "{podman} cp two:/etc/copied - | tar -xO",
            out="^mine$",
        ),
    ],
)

group(
    "more",
    [
        do(
            f"run -d --name c {NONE} --health-cmd 'test -e /tmp/healthy' --health-interval disable --health-retries 1 box sleep 600"
        ),
        line("healthcheck/unhealthy", "a health check that fails", "healthcheck run c", status="1"),
        line(
            "healthcheck/state",
            "is the container's state",
            "inspect --format '{{.State.Health.Status}}' c",
            out="^unhealthy$",
        ),
        do("exec c touch /tmp/healthy"),
        line("healthcheck/healthy", "a health check that succeeds", "healthcheck run c"),
        line(
            "healthcheck/state-healthy",
            "is the container's state",
            "inspect --format '{{.State.Health.Status}}' c",
            out="^healthy$",
        ),
        do("exec c touch /usr/made"),
        line("diff/running", "diff shows what was made", "diff c", out="^A /usr/made$", order=False, volatile=True),
        line(
            "checkpoint/refused",
            "checkpoint without the means for it is an error",
            "container checkpoint c",
            status="125",
        ),
        line("checkpoint/still-running", "and the container runs on", f"{STATE} c", out="^running$"),
        line(
            "attach/output",
            "attach shows what is printed from now on",
            f"!{{podman}} run -d --name a {NONE} box sh -c 'sleep 1; while :; do echo tick; sleep 0.2; done' >/dev/null; "
            "timeout 8 {podman} attach --no-stdin --sig-proxy=false a | head -1",
            out="^tick$",
        ),
        line(
            "restart-policy/on-failure",
            "--restart on-failure runs it again",
            f"!{{podman}} run -d --restart on-failure:2 --name r {NONE} box false >/dev/null",
        ),
        line(
            "restart-policy/count",
            "as often as it says",
            "inspect --format '{{.RestartCount}}' r",
            until=True,
            out="^2$",
        ),
        line("restart-policy/ended", "and no more", f"{STATE} r", until=True, out="^exited$"),
        line(
            "stop/kill", "stop kills what does not end", "!timeout 40 {podman} stop --time 1 c", out="c", err="SIGKILL"
        ),
        line("diff/stopped", "diff of a stopped container", "diff c", out="^A /usr/made$", order=False, volatile=True),
        line(
            "terminal/run",
            "run -it has a terminal with a size",
            f'!stty_out=$(script -qec "stty rows 33 cols 77; {{podman}} run --rm -it {NONE} box sh -c '
            '\'tty; i=0; while [ \\$i -lt 50 ]; do s=\\$(stty size); [ \\"\\$s\\" = \\"33 77\\" ] && break; sleep 0.1; i=\\$((i+1)); done; echo \\$s\'" /dev/null); '
            "echo \"$stty_out\" | tr -d '\\r'",
            out="^33 77$",
            volatile=True,
        ),
        line(
            "init/only",
            "container init makes its namespaces",
            f"!{{podman}} create --name n {NONE} box true >/dev/null; {{podman}} init n",
            out="^n$",
        ),
        line("init/state", "its status is initialized", f"{STATE} n", out="^initialized$"),
        line(
            "clone",
            "container clone makes another",
            "!{podman} container clone r s >/dev/null; {podman} container exists s",
        ),
        line(
            "secret/file",
            "--secret is a file",
            f"!printf hidden | {{podman}} secret create s1 - >/dev/null; {{podman}} run --rm {NONE} --secret s1 box cat /run/secrets/s1",
            out="^hidden$",
        ),
        line(
            "secret/env",
            "--secret type=env is a variable",
            f"run --rm {NONE} --secret s1,type=env,target=S box sh -c 'echo $S'",
            out="^hidden$",
        ),
        line(
            "secret/mode",
            "a secret has its mode and owner",
            f"run --rm {NONE} --secret s1,mode=0400,uid=7 box stat -c '%a %u' /run/secrets/s1",
            out="^400 7$",
        ),
        line(
            "build/run",
            "build runs commands",
            "!printf 'FROM box\\nRUN echo built >/made\\nCMD cat /made\\n' >{dir}/Containerfile; "
            f"{{podman}} build -q --network none -t built {{dir}} >/dev/null && {{podman}} run --rm {NONE} built",
            out="^built$",
        ),
        line(
            "info/runtime",
            "info names the runtime",
            "info --format '{{.Host.OCIRuntime.Name}}'",
            out="oci-",
            volatile=True,
        ),
        line(
            "inspect/runtime",
            "inspect names the runtime",
            "inspect --format '{{.OCIRuntime}}' c",
            out="oci-",
            volatile=True,
        ),
        line(
            "stats/all",
            "stats --all shows stopped ones, too",
            "!{podman} stats --all --no-stream --no-reset --format '{{.Name}}' | sort | head -2",
        ),
    ],
)
