"""A containerd of a test's own, with its state in a folder of the test's, and a small image made here."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import queue
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from pyvmm_kata.host import cgroups
from pyvmm_kata.shim.bootstrap import ROOT, Arguments, Place
from pyvmm_kata.state import is_alive

IMAGE = "docker.io/library/busybox:test"
APPLETS = ("sh", "echo", "cat", "ls", "sleep", "ps", "id", "tty", "stty", "ip", "wget", "httpd", "dd", "hostname")
PATIENCE = 180.0
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def need(*programs: str) -> None:
    """Skip the test where a program is missing, or the right to mount."""
    missing = [name for name in programs if shutil.which(name, path=SEARCH) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no right to make a mount namespace")


def write_image(path: Path, name: str = IMAGE, applets: Sequence[str] = ()) -> None:
    """An OCI archive with a static busybox and more *applets*; it runs `sleep`, so that it is the pause image, too."""
    busybox = Path(shutil.which("busybox", path=SEARCH) or "/bin/busybox").read_bytes()
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        _add(tar, "bin/busybox", busybox, 0o755)
        for applet in (*APPLETS, *applets):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    blobs: list[bytes] = []

    def blob(kind: str, content: bytes) -> dict[str, object]:
        blobs.append(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": _digest(content), "size": len(content)}

    platform = {"architecture": "amd64", "os": "linux"}
    layers = [blob("layer.v1.tar", layer.getvalue())]
    program = {"Entrypoint": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"]}
    rootfs = {"type": "layers", "diff_ids": [_digest(layer.getvalue())]}
    config = blob("config.v1+json", json.dumps({**platform, "config": program, "rootfs": rootfs}).encode())
    manifest = {"schemaVersion": 2, "config": config, "layers": layers}
    listed = blob("manifest.v1+json", json.dumps(manifest).encode())
    listed |= {"annotations": {"io.containerd.image.name": name}, "platform": platform}
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode())
        for content in blobs:
            _add(tar, f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Containerd:
    """The daemon, and `ctr` for it.

    :param folder: for all that it keeps; short, since it has unix sockets
    :param shim: name of the runtime: "io.containerd.pyvmm.v2"
    :param path: folders with its shim, before those of PATH
    :param cri: what the CRI plugin's section says; None: without the plugin
    :param own_network: with a network namespace of its own, so that a bridge of it is nobody else's
    """

    def __init__(
        self, folder: Path, shim: str, path: str, cri: str | None = None, *, own_network: bool = False
    ) -> None:
        self.folder = folder
        self.runtime = shim
        self.address = str(folder / "c.sock")
        self._environment = {**os.environ, "PATH": f"{path}:{SEARCH}"}
        self._unshare = ["unshare", "-m", *(["-n"] if own_network else []), "--propagation", "slave"]
        # As on hosts with systemd: what it mounts is seen by those that it has started before.  And it listens at
        # 127.0.0.1, which a namespace lets everybody do as long as no interface of it has an address, and then no more.
        prepare = "mount --make-rshared / && " + ("ip link set lo up && " if own_network else "")
        self._unshare += ["sh", "-c", prepare + 'exec "$@"', "sh"]
        self._log = open(folder / "log", "ab")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self._namespaces = {"mount": "mnt", **({"net": "net"} if own_network else {})}
        self._kept: dict[str, int] = {}
        lines = [
            "version = 2",
            f'root = "{folder}/root"',
            f'state = "{folder}/state"',
            *(["disabled_plugins = ['io.containerd.grpc.v1.cri']"] if cri is None else []),
            f'[grpc]\naddress = "{self.address}"',
            f'[ttrpc]\naddress = "{self.address}.ttrpc"',
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{folder}/opt"',
            # Its usual 5 s for each are for machines that are not emulated.
            "[timeouts]",
            *(f'"io.containerd.timeout.{name}" = "60s"' for name in ("shim.cleanup", "shim.load", "shim.shutdown")),
            cri or "",
        ]
        (folder / "config.toml").write_text("\n".join(lines))

    def start(self) -> None:
        """Start it, and wait until it answers.  Once more it is in the namespaces that it had: its mounts are there."""
        again = ["nsenter", *(f"--{option}=/proc/self/fd/{fd}" for option, fd in self._kept.items())]
        enter = again if self._kept else self._unshare
        command = [*enter, "containerd", "-c", str(self.folder / "config.toml")]
        process = self._process = subprocess.Popen(
            command, env=self._environment, stdout=self._log, stderr=self._log, pass_fds=tuple(self._kept.values())
        )

        def answers() -> bool:
            assert process.poll() is None, f"containerd ended with {process.returncode}\n{self.log()}"
            return self.ctr("version", check=False).returncode == 0

        self.until(answers, "containerd answers")
        if not self._kept:
            for option, name in self._namespaces.items():
                self._kept[option] = os.open(f"/proc/{self.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process is not None
        return self._process.pid

    def import_image(self, namespace: str = "default") -> None:
        """Have the image, in a namespace."""
        path = self.folder / "image.tar"
        if not path.exists():
            write_image(path)
        self.ctr("-n", namespace, "image", "import", str(path))

    @contextmanager
    def running(self, namespace: str = "default") -> Iterator[Self]:
        """Start it with the image in a namespace, and end it."""
        try:
            self.start()
            self.import_image(namespace)
            yield self
        finally:
            self.stop()

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()
        self._log.close()

    def ctr(self, *arguments: str, check: bool = True, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """Run ctr; its output is text. With `check` it has to succeed."""
        done = subprocess.run(
            ["ctr", "-a", self.address, *arguments],
            env=self._environment,
            input=stdin.decode(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if check:
            assert done.returncode == 0, f"ctr {' '.join(arguments)}: {done.stderr}\n{self.log()}"
        return done

    def run(self, name: str, *program: str, check: bool = True, flags: Sequence[str] = ()) -> str:
        """`ctr run` of the image; what it printed."""
        done = self.ctr("run", *flags, "--runtime", self.runtime, IMAGE, name, *program, check=check)
        return done.stdout if check else f"{done.returncode}"

    @contextmanager
    def events(self) -> Iterator[Path]:
        """The file that gets containerd's events, each a line, as they happen."""
        path = self.folder / "events"
        command = ["ctr", "-a", self.address, "events"]
        with path.open("wb") as file, subprocess.Popen(command, env=self._environment, stdout=file) as process:
            try:
                yield path
            finally:
                process.terminate()

    def status(self, name: str) -> str:
        """RUNNING and so on; empty when there is no such task."""
        for line in self.ctr("task", "ls").stdout.splitlines()[1:]:
            words = line.split()
            if words[0] == name:
                return words[2]
        return ""

    def remove(self, name: str) -> None:
        """Remove a container, whatever state it is in."""
        self.ctr("task", "rm", "-f", name, check=False)
        self.ctr("container", "rm", name, check=False)

    def place(self, name: str, namespace: str = "default") -> Place:
        """Where the shim of a container keeps what it has."""
        return Place.of(Arguments(name, namespace, self.address, "", "", 2))

    def place_of_pod(self, pod_id: str) -> Place:
        """Where the shim of a pod of the CRI plugin keeps what it has: what it has of a bundle with this annotation."""
        bundle = self.folder / f"pod-{pod_id}"
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps({"annotations": {"io.kubernetes.cri.sandbox-id": pod_id}}))
        return Place.of(Arguments(pod_id, "k8s.io", self.address, str(bundle), "", 2))

    def shim_pid(self, place: Place) -> int:
        """The process of a shim, 0 when it does not live."""
        try:
            pid, began = (int(word) for word in (Path(place.folder) / "pid").read_text().split())
        except (OSError, ValueError):
            return 0
        return pid if is_alive(pid, began) else 0

    def leftovers(self, places: Sequence[Place] = ()) -> list[str]:
        """What is there of containers: of tasks, of shims, mounts, processes, and the control groups of `places`. Empty
        when all were deleted."""
        found = [str(path) for path in (self.folder / "state").glob("io.containerd.runtime.v2.task/*/*")]
        found += [place.folder for place in places if os.path.exists(place.folder)]
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if (point := line.split()[4]).startswith((str(self.folder), ROOT)):
                found.append(point)
        for place in places:
            # containerd's paths: /NAMESPACE/ID, and in kubelet's group of the pod
            for depth in ("*", "*/*"):
                found += [str(path) for path in Path(cgroups.ROOT).glob(f"{depth}/{place.group}")]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes().split(b"\0")
            except OSError:
                continue
            if self.address.encode() in words and b"ctr" not in words[0]:
                found.append(b" ".join(words).decode(errors="replace"))
        return found

    def wait_until_clean(self, places: Sequence[Place] = ()) -> None:
        """Wait until nothing is left of any container."""
        self.until(lambda: not self.leftovers(places), lambda: f"nothing is left, but {self.leftovers(places)}")

    def until(self, condition: object, what: object) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + PATIENCE
        while not condition():  # type: ignore[operator]
            words = what() if callable(what) else what
            assert time.monotonic() < deadline, f"not in {PATIENCE:g} s: {words}\n{self.log()}"
            time.sleep(0.05)

    def log(self) -> str:
        """The end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]


class Collector:
    """Of traces: OTLP over HTTP, at `url`."""

    def __init__(self) -> None:
        got = self._got = queue.SimpleQueue[bytes]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.put(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> list[Any]:
        """Those of the next trace that comes, in their order, a span before what is below it."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        (resource,) = ExportTraceServiceRequest.FromString(self._got.get(timeout=PATIENCE)).resource_spans
        (scope,) = resource.scope_spans
        return sorted(scope.spans, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))

    def close(self) -> None:
        """It is not there any more."""
        self._server.shutdown()
        self._server.server_close()
