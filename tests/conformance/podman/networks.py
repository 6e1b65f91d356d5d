"""Networks that podman makes."""

from tests.conformance.podman.script import do, group, line

SERVE = "box sh -c 'echo a page >/tmp/index.html; exec httpd -f -p 80 -h /tmp'"

group(
    "bridge",
    [
        line(
            "network/none", "--network none has lo alone", "run --rm --network none box ls /sys/class/net", out="^lo$"
        ),
        do(
            f"run -d --name web -p 127.0.0.1:8089:80 --add-host other:192.0.2.9 --dns 192.0.2.53 --dns-search a.test {SERVE}"
        ),
        line(
            "network/address",
            "the container has an address of the bridge's",
            "inspect --format '{{.NetworkSettings.IPAddress}}' web",
            out="^<address>$",
        ),
        line(
            "network/interface",
            "and eth0 has it",
            "!{podman} exec web ip -o -4 addr show eth0 | grep -c $({podman} inspect --format '{{.NetworkSettings.IPAddress}}' web)/",
            out="^1$",
        ),
        line(
            "network/mac",
            "eth0's MAC is the one that inspect shows",
            "!{podman} exec web cat /sys/class/net/eth0/address | grep -c $({podman} inspect --format '{{.NetworkSettings.MacAddress}}' web)",
            out="^1$",
        ),
        line(
            "network/served",
            "a server is reached at its address",
            "!i=0; until busybox wget -q -T 5 -O - http://$({podman} inspect --format '{{.NetworkSettings.IPAddress}}' web)/; "
            "do i=$((i+1)); [ $i -gt 20 ] && exit 1; sleep 0.3; done",
            out="^a page$",
        ),
        line(
            "network/publish",
            "-p leads a port of the host into it",
            "!busybox wget -q -T 10 -O - http://127.0.0.1:8089/",
            out="^a page$",
        ),
        line("network/port", "port lists it", "port web", out="^80/tcp -> 127.0.0.1:8089$"),
        line(
            "network/route",
            "the default route is the bridge's",
            "exec web ip route",
            out="^default via <address> dev eth0",
        ),
        line(
            "network/add-host",
            "--add-host is in /etc/hosts",
            "exec web grep other /etc/hosts",
            out="^192.0.2.9\\s+other",
        ),
        line(
            "network/dns",
            "--dns is in /etc/resolv.conf",
            "exec web cat /etc/resolv.conf",
            out="^nameserver 192.0.2.53$",
        ),
        line(
            "network/other-container",
            "another container reaches it",
            "!{podman} run --rm box wget -q -T 10 -O - http://$({podman} inspect --format '{{.NetworkSettings.IPAddress}}' web)/",
            out="^a page$",
        ),
        line(
            "network/after-restart",
            "after a restart the port leads into it again",
            "!{podman} restart -t 1 web >/dev/null; i=0; until busybox wget -q -T 5 -O - http://127.0.0.1:8089/; "
            "do i=$((i+1)); [ $i -gt 20 ] && exit 1; sleep 0.3; done",
            out="^a page$",
        ),
        line(
            "network/stop",
            "after stop nothing is left of it",
            "!{podman} stop -t 1 web >/dev/null; ls /sys/class/net | grep -c veth",
            status="1",
            out="^0$",
        ),
    ],
)

group(
    "own_networks",
    [
        line(
            "network/create", "network create", "network create --subnet 10.91.0.0/24 --disable-dns mine", out="^mine$"
        ),
        do("run -d --name c --network mine:ip=10.91.0.7,mac=02:00:00:00:00:07 box sleep 600"),
        line("network/ip", "its address can be chosen", "exec c ip -o -4 addr show eth0", out="<address>/24"),
        line("network/mac-chosen", "and its MAC", "exec c cat /sys/class/net/eth0/address", out="^02:00:00:00:00:07$"),
        line(
            "network/two",
            "a container can be in two networks",
            "!{podman} network create --subnet 10.92.0.0/24 --disable-dns second >/dev/null; "
            "{podman} run --rm --network mine --network second box ls /sys/class/net",
            out="^eth0\neth1\nlo$",
        ),
        line(
            "network/connect",
            "network connect adds one to a running container",
            "!{podman} network connect second c; {podman} exec c ls /sys/class/net",
            out="^eth1$",
        ),
        line(
            "network/disconnect",
            "network disconnect takes it away",
            "!{podman} network disconnect second c; {podman} exec c ls /sys/class/net",
            not_out="eth1",
        ),
        line("network/in-use", "network rm of one in use is an error", "network rm mine", status="2"),
        line(
            "network/no-hosts",
            "--no-hosts leaves /etc/hosts the image's",
            "run --rm --network none --no-hosts box sh -c 'test -e /etc/hosts || echo none'",
        ),
    ],
)
