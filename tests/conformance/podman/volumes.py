"""Volumes, above all those below folders that only the image has: on an overlay the first creation copies such a folder up."""

from tests.conformance.podman.script import do, group, line

NONE = "--network none"
RUN = f"run --rm {NONE}"

group(
    "volumes",
    [
        line(
            "volume/read",
            "-v shows a folder of the host's",
            f"{RUN} -v {{dir}}/data:/data box cat /data/file",
            out="^content$",
        ),
        line(
            "volume/write",
            "what is written is on the host",
            f"!{{podman}} {RUN} -v {{dir}}/data:/data box sh -c 'echo new >/data/new'; cat {{dir}}/data/new",
            out="^new$",
        ),
        line(
            "volume/read-only",
            ":ro cannot be written",
            f"{RUN} -v {{dir}}/data:/data:ro box touch /data/x",
            status="1",
            err="Read-only",
        ),
        line("volume/relabel", ":z is taken", f"{RUN} -v {{dir}}/data:/data:z box cat /data/file", out="^content$"),
        line(
            "volume/file",
            "a file can be one",
            f"{RUN} -v {{dir}}/file:/etc/of-host box cat /etc/of-host",
            out="^a file$",
        ),
        line(
            "volume/file-over",
            "over a file of the image's",
            f"{RUN} -v {{dir}}/file:/etc/group box cat /etc/group",
            out="^a file$",
        ),
        line(
            "volume/beside",
            "a volume stays when a file is made beside it",
            f"{RUN} -v {{dir}}/data:/var/lib/d box sh -c 'touch /var/lib/other; echo precious >/var/lib/d/saved; cat /var/lib/d/file'",
            out="^content$",
        ),
        line("volume/beside-host", "what is written then is on the host", "!cat {dir}/data/saved", out="^precious$"),
        line(
            "volume/missing-point",
            "a place that the image lacks is made",
            f"{RUN} -v {{dir}}/data:/srv/a/b box sh -c 'touch /srv/other; cat /srv/a/b/file'",
            out="^content$",
        ),
        line(
            "volume/in-run",
            "a file in /run can be one",
            f"{RUN} -v {{dir}}/file:/run/f box sh -c 'touch /run/other; cat /run/f'",
            out="^a file$",
        ),
        line(
            "volume/nested",
            "one can lie in another",
            f"{RUN} -v {{dir}}/data:/data -v {{dir}}/file:/data/deep/f box sh -c 'touch /data/beside; cat /data/deep/f'",
            out="^a file$",
        ),
        line(
            "volume/renamed-beside",
            "a volume stays when a folder beside it is renamed",
            f"{RUN} -v {{dir}}/data:/var/lib/d box sh -c 'mkdir /var/lib/x; mv /var/lib/x /var/lib/y; cat /var/lib/d/file'",
            out="^content$",
        ),
        line(
            "volume/etc-hosts",
            "/etc/hosts and /etc/resolv.conf stay when files are made in /etc",
            f"{RUN} --hostname h box sh -c 'touch /etc/other; grep -c h /etc/hosts; grep -c \" /etc/\" /proc/mounts'",
            volatile=True,
            out="^[1-9]",
        ),
        line(
            "volume/noexec",
            "noexec keeps programs from running",
            f"!printf '#!/bin/sh\\necho ran\\n' >{{dir}}/data/p; chmod 755 {{dir}}/data/p; "
            f"{{podman}} {RUN} -v {{dir}}/data:/data:noexec box /data/p",
            status="126",
        ),
        line(
            "volume/missing-source",
            "a folder that is not there is an error",
            f"{RUN} -v {{dir}}/nowhere:/data box true",
            status="125",
        ),
    ],
)

group(
    "named_volumes",
    [
        line(
            "volume/named",
            "a named volume is kept",
            f"!{{podman}} {RUN} -v vol:/v box sh -c 'echo kept >/v/f'; {{podman}} {RUN} -v vol:/v box cat /v/f",
            out="^kept$",
        ),
        line(
            "volume/copy-up",
            "an empty named volume gets what the image has there",
            f"{RUN} -v fresh:/var/lib/d box cat /var/lib/d/of-image",
            out="^of the image$",
        ),
        line(
            "volume/inspect",
            "volume inspect names its folder",
            "!cat $({podman} volume inspect --format '{{.Mountpoint}}' vol)/f",
            out="^kept$",
        ),
        line(
            "volume/in-use",
            "volume rm of one in use is an error",
            f"!{{podman}} run -d --name c {NONE} -v vol:/v box sleep 600 >/dev/null; {{podman}} volume rm vol",
            status="2",
        ),
        line(
            "volume/volumes-from",
            "--volumes-from has those of another",
            f"{RUN} --volumes-from c box cat /v/f",
            out="^kept$",
        ),
        line(
            "volume/anonymous",
            "-v /x is an anonymous volume",
            f"{RUN} -v /anon box sh -c 'touch /anon/x && grep -c \" /anon \" /proc/mounts'",
            out="^1$",
        ),
        line(
            "volume/chown",
            ":U gives it to the container's user",
            f"!{{podman}} {RUN} -u 7:8 -v owned:/v:U box touch /v/x && {{podman}} {RUN} -v owned:/v box stat -c %u:%g /v",
            out="^7:8$",
        ),
        line(
            "volume/overlay",
            ":O lies a layer above the folder",
            f"{RUN} -v {{dir}}/data:/data:O box sh -c 'touch /data/x; cat /data/file'",
            out="^content$",
        ),
        line("volume/overlay-host", "the folder is as it was", "!ls {dir}/data/x", status="2"),
        line(
            "mount/bind",
            "--mount type=bind",
            f"{RUN} --mount type=bind,src={{dir}}/data,dst=/data,ro=true box sh -c 'cat /data/file; touch /data/x'",
            status="1",
            out="^content$",
        ),
        line(
            "mount/tmpfs",
            "--mount type=tmpfs",
            f"{RUN} --mount type=tmpfs,dst=/t,tmpfs-size=1m box sh -c 'df -k /t | tail -1 | awk \"{{print \\$1, \\$2}}\"'",
            out="^tmpfs 1024$",
        ),
        line(
            "mount/image",
            "--mount type=image",
            f"{RUN} --mount type=image,src=box,dst=/image box cat /image/var/lib/d/of-image",
            out="^of the image$",
        ),
        line(
            "mount/volume",
            "--mount type=volume",
            f"{RUN} --mount type=volume,src=vol,dst=/v box cat /v/f",
            out="^kept$",
        ),
        line(
            "mount/subpath",
            "--mount with subpath",
            f"!{{podman}} {RUN} -v vol:/v box sh -c 'mkdir /v/s; echo sub >/v/s/f'; {{podman}} {RUN} --mount type=volume,src=vol,dst=/v,subpath=/s box cat /v/f",
            out="^sub$",
        ),
        line(
            "mount/socket",
            "a unix socket as a volume can be connected to",
            "!/usr/bin/python3 -IS -c 'import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); s.settimeout(30); c,_=s.accept(); c.sendall(b\"answer\\n\")' {dir}/s.sock & "
            f"until [ -S {{dir}}/s.sock ]; do sleep 0.1; done; {{podman}} {RUN} -v {{dir}}/s.sock:/s.sock box connect /s.sock; wait",
            out="^answer$",
        ),
        line(
            "mount/socket-peer",
            "its server sees the user of the container",
            '!/usr/bin/python3 -IS -c \'import os,socket,struct,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1],0o777); s.listen(); s.settimeout(30); c,_=s.accept(); c.sendall(b"%d\\n" % struct.unpack("3i",c.getsockopt(socket.SOL_SOCKET,socket.SO_PEERCRED,12))[1])\' {dir}/p.sock & '
            f"until [ -S {{dir}}/p.sock ]; do sleep 0.1; done; {{podman}} {RUN} -u 1234 -v {{dir}}/p.sock:/s.sock box connect /s.sock; wait",
            out="^1234$",
        ),
        line(
            "mount/locked",
            "what the host has locked is locked",
            f"!flock {{dir}}/data/file {{podman}} {RUN} -v {{dir}}/data:/data box lock /data/file",
            status="1",
        ),
        line(
            "mount/devpts",
            "--mount type=devpts",
            f"{RUN} --mount type=devpts,dst=/dev/pts box sh -c 'grep -c \" /dev/pts devpts\" /proc/mounts'",
            out="^[1-9]$",
        ),
    ],
)

group(
    "a_database",
    [
        do(
            f"run -d --name db {NONE} -v pg:/var/lib/postgresql/data -v {{dir}}/file:/etc/my.conf:ro --tmpfs /run/pg box sh -c "
            "'mkdir -p /var/lib/postgresql/log; echo 1 >/var/lib/postgresql/data/v; touch /var/lib/postgresql/x; sync; echo ready; sleep 600'"
        ),
        do("logs db", until=True, out="ready"),
        do("kill db"),
        do("rm db"),
        line(
            "database/kept",
            "what a container wrote to its volume is there for the next",
            f"{RUN} -v pg:/var/lib/postgresql/data box cat /var/lib/postgresql/data/v",
            out="^1$",
        ),
        line(
            "database/not-in-the-layer",
            "and is in the volume's folder",
            "!cat $({podman} volume inspect --format '{{.Mountpoint}}' pg)/v",
            out="^1$",
        ),
    ],
)
