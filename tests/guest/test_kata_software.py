"""Servers and tools as users have them in containers, under pyvmm-oci and under crun: what they print is the same."""

from __future__ import annotations

import functools
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.filesystems import mounted
from tests.guest.kata_podman import Podman, Stage
from tests.guest.kata_tools import eventually

IMAGE = os.environ.get("PYVMM_GUEST_SERVERS", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not IMAGE, reason="nobody has made an image with servers"),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
]
NO_NETWORK = ("--network", "none")


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image, mounted: containers have layers upon it."""
    target = tmp_path_factory.mktemp("servers")
    with mounted(IMAGE, "erofs", target):
        yield target


def nginx(stage: Stage) -> Iterator[str]:
    """Files of a read-only volume, by sendfile and in pieces; a log of its own; a reload."""
    site = stage.folder("site")
    (site / "index.html").write_text("a page\n")
    (site / "large").write_text("0123456789abcdef" * 100_000)
    publish = ("-p", f"127.0.0.1:{stage.port}:80", "-v", f"{site}:/var/www/html:ro", "--stop-signal", "QUIT")
    stage.start(*publish, command=("nginx", "-g", "daemon off;"))
    yield stage.fetch("/")
    large = stage.fetch("/large")
    yield f"{len(large)} {large == '0123456789abcdef' * 100_000}"
    yield stage.fetch("/nothing")
    (site / "new.html").write_text("a new page\n")
    yield stage.fetch("/new.html")
    change = "s/index index.html/index new.html/"
    yield stage.exec(f"sed -i '{change}' /etc/nginx/sites-enabled/default && nginx -tq && nginx -s reload 2>/dev/null")
    eventually(lambda: stage.fetch("/") == "a new page\n", "no process with the new configuration")
    yield stage.exec("cut -d' ' -f6-10 /var/log/nginx/access.log | sort -u; stat -c '%A %U %G' /var/log/nginx/*")
    yield stage.stop()


def redis(stage: Stage) -> Iterator[str]:
    """It forks to save, and has what it saved when it is started again."""
    data = stage.folder("data")
    command = ("sh", "-c", "chown redis /var/lib/redis && exec setpriv --reuid redis --regid redis --clear-groups "
               "redis-server --dir /var/lib/redis --appendonly yes --daemonize no")  # fmt: skip
    stage.start(*NO_NETWORK, "-v", f"{data}:/var/lib/redis", command=command)
    stage.until("redis-cli ping")
    yield stage.exec("redis-cli set key value; redis-cli get key; redis-cli incrby number 41; redis-cli incr number")
    yield stage.exec(
        "seq 1 2000 | sed 's/.*/SET k& v&/' | redis-cli | sort | uniq -c; redis-cli dbsize; redis-cli save"
    )
    yield stage.exec("redis-cli bgsave")
    stage.until("redis-cli info persistence | grep -q rdb_bgsave_in_progress:0")
    yield stage.exec("redis-cli info persistence | grep _status; redis-cli set late word; redis-cli bgrewriteaof")
    yield stage.stop()
    yield " ".join(sorted(str(path.relative_to(data)) for path in data.rglob("*")))
    stage.podman("start")
    stage.until("redis-cli ping")
    yield stage.exec("redis-cli get late; redis-cli get k1999; redis-cli dbsize; redis-cli get number")
    yield stage.exec("stat -c '%A %u %g %n' /var/lib/redis/*")
    yield stage.stop()


POSTGRES = """
mkdir -p /run/postgresql && chown postgres /run/postgresql
chown postgres /var/lib/postgresql/data && chmod 700 /var/lib/postgresql/data
as="setpriv --reuid postgres --regid postgres --init-groups"
[ -s "$PGDATA/PG_VERSION" ] || $as initdb --data-checksums -D $PGDATA -A trust >/var/lib/postgresql/initdb.log || exit 1
exec $as postgres -c listen_addresses=''
"""
INITDB = 1200.0
"""Seconds: it starts a server a dozen times, which writes a thousand files."""


def postgres(stage: Stage) -> Iterator[str]:
    """A cluster in a volume, which a second container has, too."""
    data = stage.folder("data")
    place = "/var/lib/postgresql/data"
    (version,) = (stage.rootfs / "usr/lib/postgresql").iterdir()
    path = f"PATH=/usr/lib/postgresql/{version.name}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    options = (*NO_NETWORK, "-v", f"{data}:{place}", "-e", path, "-e", f"PGDATA={place}", "--stop-signal", "INT")
    sql = "psql -U postgres -qAt -v ON_ERROR_STOP=1"
    for turn in range(2):
        stage.start(*options, command=("sh", "-c", POSTGRES))
        stage.until("pg_isready -q", INITDB)
        if not turn:
            yield stage.exec("grep -c ok /var/lib/postgresql/initdb.log")
            yield stage.exec(sql, text="create table t(n int primary key, s text);\n"
                             "insert into t select n, repeat(n::text, 10) from generate_series(1, 10000) n;\n"
                             "create index on t(s); checkpoint; delete from t where n % 10 = 0;\n"
                             "select count(*), sum(length(s)) from t;\n")  # fmt: skip
            yield stage.exec("pgbench -U postgres -i -q -s 1 postgres 2>/dev/null && pgbench -U postgres -c 4 -t 25 "
                             "postgres 2>/dev/null | grep 'actually\\|failed'")  # fmt: skip
        yield stage.exec(sql, text="select count(*), md5(string_agg(s, ',' order by n)) from t;\n"
                         "select count(*), sum(abalance) = (select sum(bbalance) from pgbench_branches) "
                         "from pgbench_accounts;\nshow data_checksums;\n")  # fmt: skip
        yield stage.exec("find $PGDATA -printf '%M %u %g %y\\n' | sort | uniq -c | awk '$1 > 100 {$1 = 100} 1'")
        yield stage.stop()
        if not turn:
            stage.podman("rm")
    stage.remove()
    check = "pg_checksums --check | grep -v scanned"  # how many there are is a matter of when autovacuum came
    yield stage.run(*options, "--user", "postgres", command=("sh", "-c", check))


def node(stage: Stage) -> Iterator[str]:
    """Its compiler, threads, children, files, and a server."""
    site = stage.folder("site")
    (site / "script.js").write_text(NODE)
    yield stage.run(*NO_NETWORK, "-v", f"{site}:/site", "-w", "/site", command=("node", "script.js", "once"))
    yield " ".join(sorted(path.name for path in site.iterdir()))
    publish = ("-p", f"127.0.0.1:{stage.port}:3000", "-v", f"{site}:/site:ro")
    stage.start(*publish, command=("node", "/site/script.js", "serve"))
    yield stage.fetch("/path")
    yield f"{len(stage.fetch('/' + 'x' * 4000))}"
    yield stage.stop()


NODE = """
const fs = require('fs'), {execFileSync} = require('child_process'), {Worker, isMainThread} = require('worker_threads')
const crypto = require('crypto'), http = require('http')
if (!isMainThread) {
    let n = 0
    for (let i = 0; i < 1e6; i++) n = (n + i * i) % 1000003
    require('worker_threads').parentPort.postMessage(n)
} else if (process.argv[2] == 'serve') {
    const server = http.createServer((request, answer) => answer.end('you asked for ' + request.url + '\\n'))
    server.listen(3000)
    process.on('SIGTERM', () => { server.close(); server.closeAllConnections(); process.exitCode = 5 })
} else {
    fs.writeFileSync('made', crypto.createHash('sha256').update('text').digest('hex'))
    fs.renameSync('made', 'moved')
    console.log(fs.readFileSync('moved', 'utf8'), execFileSync('sh', ['-c', 'echo a child; id -u'], {encoding: 'utf8'}))
    fs.watch('.', (kind, name) => { if (name == 'watched') { console.log('saw', name); process.exit(4) } })
    new Worker(__filename).on('message', n => { console.log('thread', n); fs.writeFileSync('watched', '') })
}
"""


def pip(stage: Stage) -> Iterator[str]:
    """A wheel, installed, run and removed."""
    wheels = stage.folder("wheels")
    write_wheel(wheels / "sample-1.0-py3-none-any.whl")
    script = (
        "export PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels; "
        "pip install sample && sample && pip uninstall -y sample; sample"
    )
    yield stage.run(*NO_NETWORK, "-v", f"{wheels}:/wheels:ro", command=("sh", "-c", script))


def write_wheel(path: Path) -> None:
    """A wheel with a module that is a program."""
    about = "sample-1.0.dist-info"
    files = {
        "sample/__init__.py": "def main():\n    print('a sample from', __file__)\n",
        "sample/__main__.py": "from sample import main\nmain()\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\nsample = sample:main\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, f"{about}/RECORD": record}.items():
            wheel.writestr(name, text)


def apt(stage: Stage) -> Iterator[str]:
    """A package of a file: unpacked by dpkg as its user, configured, removed."""
    packages = stage.folder("packages")
    shutil.copy(Path(IMAGE).with_name("hello.deb"), packages / "hello.deb")
    script = (
        "export DEBIAN_FRONTEND=noninteractive; apt-get install -qq /packages/hello.deb 2>&1 && hello && "
        "dpkg-query -W hello; dpkg --verify hello | grep -v /usr/share/; apt-get purge -qq -y hello 2>&1; hello; "
        "dpkg --audit"
    )
    yield stage.run(*NO_NETWORK, "-v", f"{packages}:/packages:ro", command=("sh", "-c", script))


UNIT = """
[Service]
Type=oneshot
RemainAfterExit=yes
User=nobody
StateDirectory=sample
MemoryMax=64M
ExecStart=sh -c 'touch /var/lib/sample/made && id -un'
"""


def systemd(stage: Stage) -> Iterator[str]:
    """As the container's first process: a target, services with limits of their own, a clean end."""
    units = stage.folder("units")
    (units / "sample.service").write_text(UNIT)
    volume = f"{units}/sample.service:/etc/systemd/system/sample.service:ro"
    stage.start(*NO_NETWORK, "--systemd=always", "-v", volume, command=("/sbin/init",))
    stage.until("systemctl is-system-running --wait | grep -q 'running\\|degraded'")
    yield stage.exec("systemctl is-system-running; systemctl --failed --no-legend --plain")
    yield stage.exec("systemctl is-active multi-user.target dbus nginx redis-server")
    yield stage.exec("systemctl start sample && journalctl -qo cat -u sample && stat -c %U /var/lib/sample/made; "
                     "systemctl show -p MemoryMax sample")  # fmt: skip
    yield stage.exec("systemd-run -q --unit a --wait -p MemoryMax=32M -p TasksMax=9 sh -c 'exit 5'")
    yield stage.exec("systemd-run -q --unit b --pipe -p CPUQuota=50% cat /proc/self/cgroup")
    yield stage.exec("systemctl restart nginx && systemctl stop redis-server; systemctl is-active nginx redis-server")
    yield stage.exec("cat /proc/1/comm; systemd-detect-virt -c; find /sys/fs/cgroup -maxdepth 1 -type d | sort")
    yield stage.stop()


Play = Callable[[Stage], Iterator[str]]
PLAYS: list[Play] = [nginx, redis, postgres, node, pip, apt, systemd]


@pytest.fixture(scope="module")
def said(podman: Podman, rootfs: Path) -> Callable[[Play, str], list[str]]:
    """What a play says under a runtime, which plays it once."""

    @functools.cache
    def said(play: Play, runtime: str) -> list[str]:
        port = 18100 + 2 * PLAYS.index(play) + bool(runtime)
        stage = Stage(podman, rootfs, runtime, play.__name__, port)
        try:
            return list(play(stage))
        finally:
            stage.remove()

    return said


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_under_crun(said: Callable[[Play, str], list[str]], play: Play) -> None:
    """On its own, since each takes minutes in the lab."""
    assert said(play, "crun")


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_as_under_crun(said: Callable[[Play, str], list[str]], play: Play) -> None:
    assert said(play, "") == said(play, "crun")
