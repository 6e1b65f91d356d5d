"""Options of `podman run`, as they are seen in the container."""

from tests.conformance.podman.script import do, group, line
from tests.scripts import WAIT

NONE = "--network none"

group(
    "run",
    [
        line("run/output", "what the program prints is printed", f"run --rm {NONE} box echo hello", out="^hello$"),
        line(
            "run/status",
            "its status is podman's",
            f"run --rm {NONE} box sh -c 'echo to stderr >&2; exit 7'",
            status="7",
            err="^to stderr$",
        ),
        line(
            "run/missing",
            "127 when there is no such program",
            f"run --rm {NONE} box nosuch",
            status="127",
            err="nosuch",
        ),
        line("run/not-executable", "126 when it cannot be run", f"run --rm {NONE} box /etc/passwd", status="126"),
        line("run/stdin", "-i gives it standard input", f"run --rm -i {NONE} box cat", stdin="typed\n", out="^typed$"),
        line("run/no-stdin", "without -i it has none", f"run --rm {NONE} box cat", stdin="typed\n", not_out="typed"),
        line(
            "run/much-output",
            "4 MB of output arrive",
            f"!{{podman}} run --rm {NONE} box sh -c 'yes | head -c 4000000' | wc -c",
            out="^4000000$",
        ),
        line(
            "run/unknown-image",
            "125 when there is no such image",
            f"run --rm --pull never {NONE} nosuch true",
            status="125",
        ),
        line("run/unknown-option", "125 for an option that is none", "run --nosuch box true", status="125"),
        line(
            "run/signal",
            "128 and the signal's number for a program that a signal ended",
            f"run --rm {NONE} --init box sh -c 'kill -9 $$'",
            status="137",
        ),
        line("run/nothing-left", "--rm leaves no container", "ps --all --quiet", not_out="."),
    ],
)

group(
    "of_the_image",
    [
        line("image/cmd", "the image's CMD is what runs", f"run --rm {NONE} full", out="^of the image$"),
        line(
            "image/env", "its ENV is in the environment", f"run --rm {NONE} full env", out="^FROM_IMAGE=1$", order=False
        ),
        line(
            "image/workdir-user",
            "its WORKDIR and USER are the program's",
            f"run --rm {NONE} full sh -c 'pwd; id -u; id -g'",
            out="^/var\n1234\n56$",
        ),
        line(
            "image/entrypoint",
            "--entrypoint replaces the program",
            f"run --rm {NONE} --entrypoint echo full a b",
            out="^a b$",
        ),
        line(
            "image/volume",
            "its VOLUME is a volume",
            f"run --rm {NONE} full sh -c 'grep -c \" /volume \" /proc/mounts'",
            out="^1$",
        ),
        do(f"run -d --name stops {NONE} full sh -c 'trap \"echo usr1; exit 4\" USR1; echo ready; {WAIT}'"),
        do("logs stops", until=True, out="ready"),
        line("image/stopsignal", "stop sends its STOPSIGNAL", "stop --time 30 stops", out="stops"),
        line(
            "image/stopsignal-status",
            "the program's status is kept",
            "inspect --format '{{.State.ExitCode}}' stops",
            out="^4$",
        ),
    ],
)

group(
    "process_options",
    [
        do(
            "run -d --name c --network none -e A=1 --env-file {dir}/env -w /tmp --hostname a-name -u user --umask 027 "
            "--group-add 77 --ulimit nofile=300:400 --cap-drop all --cap-add chown --security-opt no-new-privileges "
            "--oom-score-adj 123 --label l=1 --annotation an=1 --init --unsetenv TERM --tz UTC --stop-signal SIGINT "
            "--sysctl net.ipv4.ip_default_ttl=77 --sysctl kernel.msgmax=4321 box sleep 600"
        ),
        line("options/env", "-e sets a variable", "exec c sh -c 'echo $A'", out="^1$"),
        line(
            "options/env-file",
            "--env-file sets those of a file",
            "exec c sh -c 'echo $FROM_FILE $OTHER'",
            out="^1 a b$",
        ),
        line("options/unsetenv", "--unsetenv takes one away", "exec c sh -c 'echo .$TERM.'"),
        line("options/workdir", "-w is the working directory", "exec c pwd", out="^/tmp$"),
        line("options/hostname", "--hostname is the name", "exec c hostname", out="^a-name$"),
        line("options/user-name", "-u takes a name of the image's", "exec c sh -c 'id -u; id -g'", out="^7\n8$"),
        line("options/group-add", "--group-add adds a group", "exec c id -G", out=r"\b77\b"),
        line("options/umask", "--umask is the program's", "exec c sh -c 'grep Umask /proc/1/status'", out="0027"),
        line(
            "options/ulimit", "--ulimit is the program's", "exec c grep 'open files' /proc/1/limits", out=" 300 +400 "
        ),
        line(
            "options/cap-add",
            "--cap-drop all --cap-add leave one capability",
            "exec c grep Cap /proc/1/status",
            out="^CapBnd:\t0000000000000001$",
        ),
        line(
            "options/no-new-privileges",
            "--security-opt no-new-privileges is set",
            "exec c grep NoNewPrivs /proc/1/status",
            out="1$",
        ),
        line("options/oom-score-adj", "--oom-score-adj is set", "exec c cat /proc/1/oom_score_adj", out="^123$"),
        line(
            "options/init",
            "--init is process 1",
            'exec c sh -c \'tr "\\0" " " </proc/1/cmdline\'',
            out="^/run/podman-init -- sleep 600",
        ),
        line(
            "options/init-child",
            "the program is its child",
            "exec c sh -c 'for p in /proc/[0-9]*; do grep -q ^Name:.sleep $p/status && grep PPid $p/status; done'",
            out="^PPid:\t1$",
        ),
        line(
            "options/sysctl",
            "--sysctl is set",
            "exec c cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax",
            out="^77\n4321$",
        ),
        line(
            "options/label",
            "--label is shown by inspect",
            "inspect --format '{{index .Config.Labels \"l\"}}' c",
            out="^1$",
        ),
        line(
            "options/annotation",
            "--annotation is shown by inspect",
            "inspect --format '{{index .Config.Annotations \"an\"}}' c",
            out="^1$",
        ),
        line(
            "options/filter",
            "ps finds it by its label",
            "ps --filter label=l=1 --format '{{.Names}} {{.State}}'",
            out="^c running$",
        ),
        line(
            "options/stop-signal",
            "--stop-signal is shown by inspect",
            "inspect --format '{{.Config.StopSignal}}' c",
            out="SIGINT|2",
        ),
        line("options/etc-hosts", "/etc/hosts has the name", "exec c cat /etc/hosts", out="a-name", volatile=True),
        line("options/etc-passwd", "/etc/passwd is the image's", "exec c grep -c user /etc/passwd", out="^1$"),
        line(
            "options/containerenv",
            "/run/.containerenv is there",
            "exec -u root c ls /run/.containerenv",
            out="containerenv",
        ),
    ],
)

group(
    "limits",
    [
        do(
            "run -d --name c --network none -m 96m --memory-swap 128m --pids-limit 77 --cpus 0.5 --cpu-shares 512 --shm-size 2m "
            "--cpuset-cpus 0 --memory-reservation 64m box sleep 600"
        ),
        line("limits/memory", "-m is the group's limit", "exec c cat /sys/fs/cgroup/memory.max", out="^100663296$"),
        line(
            "limits/memory-swap",
            "--memory-swap is the group's limit",
            "exec c cat /sys/fs/cgroup/memory.swap.max",
            out="^33554432$",
        ),
        line(
            "limits/memory-reservation",
            "--memory-reservation is the group's",
            "exec c cat /sys/fs/cgroup/memory.low",
            out="^67108864$",
        ),
        line("limits/pids", "--pids-limit is the group's", "exec c cat /sys/fs/cgroup/pids.max", out="^77$"),
        line("limits/cpus", "--cpus is the group's quota", "exec c cat /sys/fs/cgroup/cpu.max", out="^50000 100000$"),
        line(
            "limits/cpuset",
            "--cpuset-cpus limits the CPUs",
            "exec c grep Cpus_allowed_list /proc/self/status",
            out="\t0$",
        ),
        line(
            "limits/shm-size",
            "--shm-size is that of /dev/shm",
            "exec c sh -c 'df -k /dev/shm | tail -1 | awk \"{print \\$2}\"'",
            out="^2048$",
        ),
        line("limits/update", "update changes them", "update --memory 80m --pids-limit 55 c", out="."),
        line(
            "limits/updated",
            "the group has the new ones",
            "exec c cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max",
            out="^83886080\n55$",
        ),
        line(
            "limits/stats",
            "stats shows the memory's limit",
            "stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' c",
            out=r"^c \d+ .* / 83\.\d+MB$",
            volatile=True,
        ),
        line(
            "limits/inspect",
            "inspect shows them",
            "inspect --format '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}' c",
        ),
        do("run -d --name oom --network none -m 24m --memory-swap 24m box tail /dev/zero"),
        line("limits/oom-status", "a program that takes more ends with 137", "wait oom", out="^137$"),
        line(
            "limits/oom-killed", "inspect says OOMKilled", "inspect --format '{{.State.OOMKilled}}' oom", out="^true$"
        ),
    ],
)

group(
    "roots",
    [
        line(
            "root/read-only",
            "--read-only keeps the root from being written",
            f"run --rm {NONE} --read-only box touch /new",
            status="1",
            err="Read-only file system",
        ),
        line(
            "root/read-only-tmp",
            "with it /tmp and /run can be written",
            f"run --rm {NONE} --read-only box touch /tmp/a /run/a",
        ),
        line(
            "root/tmpfs",
            "--tmpfs has its options",
            f"run --rm {NONE} --tmpfs /scratch:size=1m,mode=1750 box sh -c "
            "'stat -c %a /scratch; df -k /scratch | tail -1 | awk \"{print \\$2}\"'",
            out="^1750\n1024$",
        ),
        line(
            "root/masked",
            "/proc/kcore is masked",
            f"run --rm {NONE} box sh -c 'head -c 1 /proc/kcore | wc -c'",
            out="^0$",
        ),
        line(
            "root/unmask",
            "--security-opt unmask=ALL unmasks",
            f"run --rm {NONE} --security-opt unmask=ALL box sh -c 'grep -c \" /proc/\" /proc/mounts'",
            status="1",
            out="^0$",
        ),
        line(
            "root/seccomp",
            "podman's seccomp filter is in force",
            f"run --rm {NONE} box grep ^Seccomp: /proc/self/status",
            out="2$",
        ),
        line(
            "root/seccomp-unconfined",
            "--security-opt seccomp=unconfined is without",
            f"run --rm {NONE} --security-opt seccomp=unconfined box grep ^Seccomp: /proc/self/status",
            out="0$",
        ),
        line(
            "root/default-capabilities",
            "the default capabilities are podman's",
            f"run --rm {NONE} box grep CapBnd /proc/1/status",
        ),
        line("root/devices", "/dev has the default devices", f"run --rm {NONE} box ls /dev", out="^null$", order=False),
        line(
            "root/mounts",
            "the mounts are podman's",
            f"run --rm {NONE} box sh -c 'cut -d\" \" -f2,3 /proc/mounts'",
            out="^/proc proc$",
            order=False,
            volatile=True,
        ),
        line(
            "root/environment",
            "the environment is podman's",
            f"run --rm {NONE} --hostname h box env",
            out="^container=podman$",
            order=False,
        ),
    ],
)

group(
    "namespaces",
    [
        do(f"run -d --name first {NONE} --ipc shareable box sleep 600"),
        line(
            "namespaces/pid-container",
            "--pid container: shows its processes",
            f"run --rm {NONE} --pid container:first box sh -c 'ps | grep -c \"[s]leep 600\"'",
            out="^1$",
        ),
        line(
            "namespaces/ipc-container",
            "--ipc container: shares its /dev/shm",
            "exec first sh -c 'echo shared >/dev/shm/x'",
        ),
        line(
            "namespaces/ipc-container-seen",
            "what one writes there the other reads",
            f"run --rm {NONE} --ipc container:first box cat /dev/shm/x",
            out="^shared$",
        ),
        line(
            "namespaces/uts-container",
            "--uts container: has its name",
            f"run --rm {NONE} --uts container:first box hostname",
            volatile=True,
            out=".",
        ),
        line(
            "namespaces/network-container",
            "--network container: has its interfaces",
            "run --rm --network container:first box ls /sys/class/net",
            out="lo",
        ),
        line(
            "namespaces/uts-host",
            "--uts host has the host's name",
            f'!test "$({{podman}} run --rm {NONE} --uts host box hostname)" = "$(hostname)"',
        ),
        line(
            "namespaces/pid-host",
            "--pid host shows the host's processes",
            f"run --rm {NONE} --pid host box sh -c 'ps | grep -c [o]ci-'",
            out="^[1-9]",
            volatile=True,
        ),
        line(
            "namespaces/ipc-host",
            "--ipc host has the host's segments",
            f"run --rm {NONE} --ipc host box sh -c 'ls /dev/shm >/dev/null && echo ran'",
            out="^ran$",
        ),
        line(
            "namespaces/network-host",
            "--network host has the host's interfaces",
            '!test "$({podman} run --rm --network host box sh -c \'tail -n +3 /proc/net/dev | cut -d: -f1 | sort\')" = "$(tail -n +3 /proc/net/dev | cut -d: -f1 | sort)"',
        ),
        line(
            "namespaces/cgroupns-private",
            "the own control group is the root",
            f"run --rm {NONE} box cat /proc/self/cgroup",
            out="^0::/$",
        ),
    ],
)

group(
    "users",
    [
        line(
            "userns/uidmap",
            "--uidmap maps users",
            f"run --rm {NONE} --uidmap 0:100000:65536 --gidmap 0:100000:65536 box sh -c "
            "'cat /proc/self/uid_map; id -u'",
            out=r"^\s+0\s+100000\s+65536\n0$",
        ),
        line(
            "userns/auto",
            "--userns auto chooses a range",
            f"run --rm {NONE} --userns auto:size=4096 box sh -c 'id -u'",
            out="^0$",
        ),
        line(
            "userns/root-files",
            "in it the image's files are root's",
            f"run --rm {NONE} --uidmap 0:100000:65536 --gidmap 0:100000:65536 box stat -c %u:%g /bin/busybox",
            out="^0:0$",
        ),
        line(
            "userns/volume",
            "what it writes to a volume is owned by the user mapped",
            f"!chmod 777 {{dir}}/data; {{podman}} run --rm {NONE} --uidmap 0:100000:65536 --gidmap 0:100000:65536 -v {{dir}}/data:/data "
            "box touch /data/new; stat -c %u:%g {dir}/data/new",
            out="^100000:100000$",
        ),
    ],
)

group(
    "privileged",
    [
        line("privileged/runs", "--privileged runs", f"run --rm --privileged {NONE} box echo ran", out="^ran$"),
        line(
            "privileged/capabilities",
            "it has all capabilities",
            f"run --rm --privileged {NONE} box grep CapBnd /proc/1/status",
            out="1ffffffffff$",
        ),
        line("privileged/mounts", "it may mount", f"run --rm --privileged {NONE} box mount -t tmpfs tmpfs /tmp"),
        line(
            "privileged/proc-sys",
            "/proc/sys can be written",
            f"run --rm --privileged {NONE} box sh -c 'echo 5 >/proc/sys/kernel/panic_on_oops; echo $?'",
            volatile=True,
            out="^0$",
        ),
        line(
            "privileged/seccomp",
            "it has no seccomp filter",
            f"run --rm --privileged {NONE} box grep ^Seccomp: /proc/self/status",
            out="0$",
        ),
        line(
            "privileged/devices",
            "it has the host's devices",
            f"run --rm --privileged {NONE} box test -c /dev/kvm",
        ),
        line(
            "device/null",
            "--device of a default device",
            f"run --rm --device /dev/null:/dev/other {NONE} box sh -c 'stat -c %t:%T /dev/other'",
            out="^1:3$",
        ),
        line(
            "device/fuse",
            "--device /dev/fuse can be opened",
            f"run --rm --device /dev/fuse {NONE} box dd if=/dev/fuse bs=1 count=0",
        ),
    ],
)
