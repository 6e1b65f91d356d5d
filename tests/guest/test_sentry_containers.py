"""Containers whose guest is the Sentry, in a machine: checkpoints and copies."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_tools import PATIENCE, Oci, eventually, leftovers

pytestmark = pytest.mark.guest

SERVER = """
import http.server, sys
held, asked = bytearray(b"x" * (8 << 20)), 0

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        held[-1] = asked
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d %d\\n" % (asked, held.count(b"x") >> 20))

    def log_message(self, *words):
        print("asked", asked, flush=True)

server = http.server.HTTPServer(("127.0.0.1", 8080), Answer)
print("up", flush=True)
server.serve_forever()
"""
COUNTER = """
n=0; exec 3>>/log; echo kept >/dev/shm/kept
trap 'echo asked $n; exit 7' TERM
while :; do n=$((n + 1)); echo $n; echo $n >&3; sleep 0.1; done"""


class SentryOci(Oci):
    """pyvmm-oci with the Sentry as the guest."""

    isolation: tuple[str, ...] = ("--isolation", "sentry")

    def command(self, *arguments: str) -> list[str]:
        head = super().command()
        return [*head, *(self.isolation if arguments[0] == "create" else ()), *arguments]


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentryOci]:
    made = SentryOci(tmp_path_factory.mktemp("sentry"))
    yield made
    made.close()


def restore(oci: Oci, container_id: str, image: Path, bundle: str) -> Path:
    out = oci.folder / f"{container_id}.restored"
    with open(out, "wb") as file:
        command = oci.command("restore", "--detach", "--image-path", str(image), "--bundle", bundle, container_id)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=PATIENCE)
    assert done.returncode == 0, out.read_text() + oci.console()
    return out


def numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines() if line.isdigit()]


def test_a_container_goes_on_where_it_was_checkpointed(oci: SentryOci, tmp_path: Path) -> None:
    """Its processes, its files and its names are as they were; the restore finds the kind of guest by itself."""
    oci.start("c1", COUNTER, hostname="kept")
    bundle, image, before = oci.state("c1")["bundle"], tmp_path / "image", oci.folder / "c1.out"
    eventually(lambda: len(numbers(before)) > 3, "it does not count")
    oci.check("checkpoint", "--leave-running", "--image-path", str(image), "c1")
    seen = len(numbers(before))
    eventually(lambda: len(numbers(before)) > seen + 2, "it has not gone on")
    oci.check("checkpoint", "--image-path", str(image), "c1")
    assert oci.run("state", "c1").returncode == 1, "it has ended and is removed"
    told = numbers(before)
    after = restore(oci, "c2", image, bundle)
    eventually(lambda: len(numbers(after)) > 3, "it does not go on")
    assert numbers(after)[0] == told[-1] + 1, "each number once"
    show = "cat /proc/1/comm /dev/shm/kept; hostname; echo /proc/[0-9]*"
    assert oci.check("exec", "c2", "sh", "-c", show).splitlines()[:3] == ["sh", "kept", "kept"]
    oci.check("kill", "c2", "TERM")
    eventually(lambda: oci.state("c2")["status"] == "stopped", "it does not end")
    assert after.read_text().splitlines()[-1] == f"asked {numbers(after)[-1]}"
    log = numbers(oci.rootfs / "log")
    assert log == list(range(1, len(log) + 1)), "the open file is the same"
    oci.check("delete", "c2")
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_a_server_goes_on_with_its_memory(oci: SentryOci, tmp_path: Path) -> None:
    """A Python program, which has answered before, answers after the restore, in two copies that know nothing of each
    other."""
    for name in ("lib", "lib64"):
        (oci.rootfs / name).symlink_to(f"usr/{name}")
    (oci.rootfs / "usr").mkdir()
    (oci.rootfs / "server.py").write_text(SERVER)
    usr = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
    oci.start("s1", "exec python3 /server.py", mounts=[usr])
    eventually(lambda: "up" in oci.output("s1"), "it does not start")

    def ask(container_id: str) -> str:
        return oci.check("exec", container_id, "wget", "-qO-", "http://127.0.0.1:8080/")

    assert ask("s1") == "1 7\n"
    bundle, image = oci.state("s1")["bundle"], tmp_path / "image"
    oci.check("checkpoint", "--image-path", str(image), "s1")
    for name in ("s2", "s3"):
        restore(oci, name, image, bundle)
        assert (ask(name), ask(name)) == ("2 7\n", "3 7\n")
        oci.check("delete", "--force", name)
    eventually(lambda: leftovers(oci.folder) == [], "something is left")
