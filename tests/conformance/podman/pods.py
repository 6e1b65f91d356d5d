"""Pods, and kube play."""

from tests.conformance.podman.script import do, group, line

KUBE = """apiVersion: v1
kind: Pod
metadata:
  name: kube
spec:
  hostNetwork: false
  restartPolicy: Never
  containers:
  - name: one
    image: localhost/box:latest
    imagePullPolicy: Never
    command: [sh, -c, "echo from kube; sleep 600"]
    env: [{name: A, value: "1"}]
    volumeMounts: [{name: data, mountPath: /data}]
  - name: two
    image: localhost/box:latest
    imagePullPolicy: Never
    command: [sleep, "600"]
  volumes:
  - name: data
    hostPath: {path: DIR, type: Directory}
"""

group(
    "pods",
    [
        line(
            "pod/create",
            "pod create",
            "pod create --name p --network none --infra-image box --infra-command 'sleep 100000'",
            out="^<id>$",
        ),
        line(
            "pod/run",
            "a container runs in it",
            "run -d --pod p --name one box sh -c 'echo of one >/dev/shm/x; echo a page >/tmp/index.html; exec httpd -f -p 8000 -h /tmp'",
            out="^<id>$",
        ),
        line("pod/run-second", "and another", "run -d --pod p --name two box sleep 600", out="^<id>$"),
        line(
            "pod/network",
            "they share the network",
            "exec two wget -q -O - http://127.0.0.1:8000/",
            until=True,
            out="^a page$",
        ),
        line("pod/ipc", "and the IPC namespace", "exec two cat /dev/shm/x", out="^of one$"),
        line("pod/hostname", "and the name", '!test "$({podman} exec one hostname)" = "$({podman} exec two hostname)"'),
        line("pod/processes", "but not processes", "!{podman} exec two ps | grep -c httpd", status="1", out="^0$"),
        line(
            "pod/ps",
            "pod ps lists it",
            "pod ps --format '{{.Name}} {{.Status}} {{.NumberOfContainers}}'",
            out="^p Running 3$",
        ),
        line("pod/exec", "exec in one of them", "exec one sh -c 'exit 4'", status="4"),
        line("pod/logs", "pod logs", "pod logs p"),
        line(
            "pod/pause",
            "pod pause and unpause",
            "!{podman} pod pause p >/dev/null && {podman} pod unpause p",
            out="^<id>$",
        ),
        line(
            "pod/stop",
            "pod stop",
            "!timeout 50 {podman} pod stop -t 1 p && {podman} pod ps --format '{{.Status}}'",
            out="^Exited$",
            volatile=True,
        ),
        line(
            "pod/start",
            "pod start",
            "!{podman} pod start p && {podman} pod ps --format '{{.Status}}'",
            out="^Running$",
            volatile=True,
        ),
        line("pod/rm", "pod rm", "pod rm --force --time 0 p", out="^<id>$", volatile=True),
        line("pod/gone", "nothing is left of it", "ps --all --quiet", not_out="."),
        line(
            "pod/no-infra",
            "a pod without an infra container runs one",
            "!{podman} pod create --name q --infra=false >/dev/null; {podman} run --rm --pod q --network none box echo ran",
            out="^ran$",
        ),
    ],
)

group(
    "kube",
    [
        do("!cat >{dir}/kube.yaml <<'END'\n" + KUBE.replace("DIR", "{dir}/data") + "END"),
        line(
            "kube/play", "kube play runs a pod", "kube play --network none {dir}/kube.yaml", out="^Pod:$", volatile=True
        ),
        line("kube/logs", "its containers run", "logs kube-one", until=True, out="^from kube$"),
        line("kube/env", "with their environment", "exec kube-one sh -c 'echo $A'", out="^1$"),
        line("kube/volume", "and their volumes", "exec kube-one cat /data/file", out="^content$"),
        line(
            "kube/generate", "kube generate describes it", "kube generate kube", out="mountPath: /data", volatile=True
        ),
        line(
            "kube/down",
            "kube down removes it",
            "!{podman} kube down {dir}/kube.yaml >/dev/null; {podman} ps -a -q | wc -l",
            out="^0$",
        ),
    ],
)
