"""Files: names, attributes, locks, mappings, a database with two writers, and what /proc shows of a process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path


def names() -> None:
    Path("a").write_text("text")
    os.link("a", "b")
    os.symlink("a", "c")
    shutil.copy2("a", "d")
    os.rename("d", "e")
    os.utime("e", (1, 2))
    os.chmod("e", 0o400)
    status = os.stat("e")
    print(status.st_mtime, oct(status.st_mode), os.stat("a").st_nlink, Path("c").read_text())
    with os.scandir(".") as entries:
        print(sorted((entry.name, entry.is_file(), entry.is_symlink()) for entry in entries))
    Path("big").write_bytes(random.Random(1).randbytes(1 << 20))
    print(hashlib.sha256(Path("big").read_bytes()).hexdigest())
    with open("a") as one, open("a") as two:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            print(error.errno == errno.EAGAIN)
    shutil.copytree(".", "../copy", symlinks=True)
    print(sorted(path.name for path in Path("../copy").iterdir()))
    shutil.rmtree("../copy")


def memory() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(100_000)
        with mmap.mmap(file.fileno(), 0) as shared:
            shared[5:10] = b"hello"
            shared.flush()
            file.seek(5)
            print(file.read(5))
            shared.resize(200_000)
            print(len(shared), os.fstat(file.fileno()).st_size)
    anonymous = mmap.mmap(-1, 8192)
    if not os.fork():
        anonymous[0] = 9
        os._exit(0)
    os.wait()
    print(anonymous[0])
    fd = os.memfd_create("memory")
    os.write(fd, b"text of a memfd")
    print(os.pread(fd, 4, 0))


def database() -> None:
    ours = sqlite3.connect("database", timeout=60)
    print(ours.execute("pragma journal_mode = wal").fetchone())
    ours.execute("create table t(number, who)")
    ours.commit()
    pid = os.fork()
    writer = ours if pid else sqlite3.connect("database", timeout=60)
    for number in range(50):
        writer.execute("insert into t values(?, ?)", (number, "parent" if pid else "child"))
        writer.commit()
    if not pid:
        writer.close()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(ours.execute("select who, count(*), sum(number) from t group by who order by who").fetchall())
    print(ours.execute("pragma integrity_check").fetchone())


def process() -> None:
    print(Path("/proc/self/cmdline").read_bytes().split(b"\0")[0], os.path.basename(os.readlink("/proc/self/exe")))
    print(Path("/proc/self/comm").read_text() in Path("/proc/self/status").read_text())
    print(sorted(os.listdir("/proc/self/fd"))[:3], len(os.listdir("/proc/self/task")))
    print("[stack]" in Path("/proc/self/maps").read_text(), os.readlink("/proc/self/cwd") == os.getcwd())
    print(os.sysconf("SC_PAGE_SIZE"), os.uname().sysname, os.uname().machine, sys.platform)
    print("nr_free_pages " in Path("/proc/vmstat").read_text())
    print("MemAvailable:" in Path("/proc/meminfo").read_text(), Path("/proc/stat").read_text()[:4])


names()
memory()
database()
process()
