"""What rules allow and deny, and what the first bytes of a connection show."""

from __future__ import annotations

import ipaddress
import ssl

import pytest

from pyvmm_sandbox import Network, Secret, UsageError
from pyvmm_sandbox.egress import sniff
from pyvmm_sandbox.egress.credentials import Credential, Replacer, issue
from pyvmm_sandbox.egress.rules import Rule

OPEN, PRIVATE = "93.184.0.1", "10.1.2.3"


@pytest.mark.parametrize(
    ("rules", "reached", "refused"),
    [
        (Network(), [OPEN, "2606:4700::1"], [PRIVATE, "127.0.0.1", "169.254.169.254", "::1", "fd00::1", "224.0.1.1"]),
        (
            Network(),
            [],
            ["64:ff9b::5db8:1", "2002:5db8:1::1", "::93.184.0.1", "100.64.0.1", "0.0.0.0", "255.255.255.255"],
        ),
        (Network(allow=[OPEN]), [OPEN, f"::ffff:{OPEN}"], ["93.184.0.2", PRIVATE]),
        (Network(allow=["10.0.0.0/8"]), [PRIVATE, f"::ffff:{PRIVATE}"], ["192.168.0.1", OPEN]),
        (Network(allow=["0.0.0.0/0"]), [OPEN], [PRIVATE, "127.0.0.1", "2606:4700::1"]),
        (Network(allow=["*"]), [OPEN, "2606:4700::1"], [PRIVATE, "127.0.0.1"]),
        (Network(deny=["93.184.0.0/16"]), ["93.185.0.1"], [OPEN, f"::ffff:{OPEN}", PRIVATE]),
        (Network(allow=[OPEN], deny=["93.184.0.0/16"]), [OPEN], ["93.184.0.2", "93.185.0.1"]),
        (Network(allow=[OPEN], deny=["93.184.0.0/16"], default="allow"), [OPEN, "93.185.0.1"], ["93.184.0.2"]),
        (Network(allow=[OPEN], deny=["0.0.0.0/0"], default="allow"), [OPEN], ["93.184.0.2", "2606:4700::1"]),
        (Network(default="deny"), [], [OPEN, PRIVATE]),
    ],
)
def test_addresses(rules: Network, reached: list[str], refused: list[str]) -> None:
    found = {text: rules.permits_address(ipaddress.ip_address(text), 443) for text in (*reached, *refused)}
    assert found == {**dict.fromkeys(reached, True), **dict.fromkeys(refused, False)}


@pytest.mark.parametrize(
    ("rules", "reached", "refused"),
    [
        (Network(), ["a.test"], []),
        (Network(allow=["a.test"]), ["a.test"], ["b.test", "x.a.test", "xa.test", "a.test.b.test"]),
        (Network(allow=["*.a.test"]), ["x.a.test", "y.x.a.test"], ["a.test", "xa.test"]),
        (Network(allow=["A.Test."]), ["a.test"], []),
        (Network(allow=["a.test:80"]), [], ["a.test"]),
        (Network(allow=["a.test:80-500"]), ["a.test"], []),
        (Network(deny=["*.a.test"]), ["a.test"], ["x.a.test"]),
        (Network(deny=["a.test:80"]), ["a.test"], []),
        (Network(allow=["x.a.test"], deny=["*.a.test"], default="allow"), ["x.a.test", "b.test"], ["y.a.test"]),
        (Network(allow=["a.test"], deny=["0.0.0.0/0"], default="allow"), ["a.test"], ["b.test"]),
        (Network(allow=["10.0.0.0/8"]), [], ["a.test"]),
    ],
)
def test_names(rules: Network, reached: list[str], refused: list[str]) -> None:
    found = {name: rules.permits_name(name, 443) for name in (*reached, *refused)}
    assert found == {**dict.fromkeys(reached, True), **dict.fromkeys(refused, False)}


def test_an_address_that_a_name_has_is_checked_too() -> None:
    rules = Network(allow=["a.test", "10.0.0.1:5432"], deny=["93.184.0.0/16"])

    def permits(text: str, port: int = 443, *, is_host: bool = False) -> bool:
        return rules.permits_address(ipaddress.ip_address(text), port, named=True, is_host=is_host)

    assert permits("93.185.0.1") and permits(PRIVATE.replace("1.2.3", "0.0.1"), 5432)
    assert (
        not permits(OPEN) and not permits("10.0.0.1") and not permits("127.0.0.1") and not permits("::ffff:127.0.0.1")
    )
    assert not permits("93.185.0.1", is_host=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "a.test:",
        "a.test:0",
        "a.test:65536",
        "a.test:9-8",
        "1.2.3",
        "1.2.3.4/33",
        "[::1",
        "[::1]x",
        "*.*",
        "a..b",
    ],
)
def test_a_rule_that_cannot_be_read_has_a_hint(text: str) -> None:
    with pytest.raises(UsageError, match="network rule") as caught:
        Network(allow=[text])
    assert "for example" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "ports"),
    [("[2001:db8::/32]:443", (443, 443)), ("[2001:db8::]/32:443", (443, 443)), ("2001:db8::/32", (1, 65535))],
)
def test_rules_for_blocks_of_ipv6(text: str, ports: tuple[int, int]) -> None:
    rule = Rule.parse(text)
    assert (str(rule.block), rule.ports) == ("2001:db8::/32", ports)


def _hello(name: str) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_the_name_in_a_client_hello_whatever_the_pieces_are() -> None:
    hello = _hello("a.test")
    assert sniff.names(hello) == sniff.Found("tls", frozenset({"a.test"}))
    assert {sniff.names(hello[:size]) for size in range(1, len(hello))} == {None}
    body = hello[5:]
    records = b"".join(b"\x16\x03\x01\x00\x07" + body[at : at + 7] for at in range(0, len(body) // 7 * 7, 7))
    records += (
        b"\x16\x03\x01" + (len(body) % 7).to_bytes(2, "big") + body[len(body) // 7 * 7 :] if len(body) % 7 else b""
    )
    assert sniff.names(records) == sniff.names(hello)
    for at in range(len(hello)):
        damaged = hello[:at] + bytes([hello[at] ^ 0xFF]) + hello[at + 1 :]
        try:
            sniff.names(damaged)
        except ValueError:
            pass  # and no other exception


@pytest.mark.parametrize(
    ("data", "kind", "names"),
    [
        (b"GET / HTTP/1.1\r\nA: b\r\nhOsT:  A.test:80 \r\n\r\n", "http", {"a.test"}),
        (b"GET / HTTP/1.1\nHost: a.test\n\n", "http", {"a.test"}),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", "http", {"a.test", "b.test"}),
        (b"GET http://x@b.test:80/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "http", {"a.test", "b.test"}),
        (b"\r\n\r\n GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "http", {"a.test"}),
        (b"GET\t/ HTTP/1.2 \r\nHost: a.test\r\n\r\n", "http", {"a.test"}),
        (b"M-SEARCH / HTTP/1.1\r\nHost: a.test\r\n\r\n", "http", {"a.test"}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http", set()),
        (b"EHLO a.test\r\n", "other", set()),
        (b"\r\n\r\n" + b"hello\r\n", "other", set()),
        (b"GET /project\0host=a.test", "other", set()),
        (b"003egit-upload-pack /a HTTP/1.1\n", "other", set()),
        (b"SSH-2.0-x\r\n", "other", set()),
        (b"\x00\x01", "other", set()),
    ],
)
def test_the_beginning_of_other_protocols(data: bytes, kind: str, names: set[str]) -> None:
    assert sniff.names(data) == sniff.Found(kind, frozenset(names))


@pytest.mark.parametrize(
    "data", [b"", b"\r\n", b"G", b"GET", b"GET ", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r", b"GET / x\r"]
)
def test_more_is_awaited_where_it_can_be_a_request(data: bytes) -> None:
    assert sniff.names(data) is None


def test_an_endless_beginning_is_refused() -> None:
    assert sniff.names(b"GET / HTTP/1.1\r\nA: " + b"x" * 1000) is None
    with pytest.raises(ValueError, match="too long"):
        sniff.names(b"GET / HTTP/1.1\r\nA: " + b"x" * sniff.FIRST_MOST)
    with pytest.raises(ValueError, match="too long"):
        sniff.names(b"\r\n" * sniff.FIRST_MOST)


def test_placeholders_are_replaced_where_that_was_asked_for() -> None:
    network = Network(allow=["a.test"])
    variables, credentials = issue(
        {"A": Secret("one two&", ["a.test"], in_query=True), "B": Secret("b", ["a.test"])}, network
    )
    replacer = Replacer(credentials)
    first, second = variables["A"].encode(), variables["B"].encode()
    assert first != second and b"one" not in first
    assert (
        replacer.target(b"/" + first + b"?k=" + first + b"&l=" + second)
        == b"/" + first + b"?k=one%20two%26&l=" + second
    )
    assert replacer.headers([(b"X", b"a " + first + second)]) == [(b"X", b"a one two&b")]
    assert replacer.answer([(b"Location", b"/b?k=one%20two%26")]) == [(b"Location", b"/b?k=" + first)]
    assert "one two" not in repr(credentials)


def test_a_placeholder_of_the_callers_own() -> None:
    secret = Secret("value", ["a.test"], placeholder="sk-0123456789abcdef")
    assert issue({"A": secret}, Network())[0] == {"A": "sk-0123456789abcdef"}
    with pytest.raises(UsageError, match="a part of another"):
        issue({"A": secret, "B": secret}, Network())
    with pytest.raises(UsageError, match="16 to 256"):
        Secret("value", ["a.test"], placeholder="short")


def test_a_header_is_set_whatever_the_sandbox_sends() -> None:
    secret = Secret("Bearer s3cret-value", ["a.test"], header="Authorization")
    variables, credentials = issue({"A": secret}, Network(allow=["a.test"]))
    assert variables == {} and "s3cret" not in repr(credentials)
    replacer = Replacer(Credential.from_json(each.as_json()) for each in credentials)
    sent = [(b"AUTHORIZATION", b"mine"), (b"X", b"y"), (b"authorization", b"twice")]
    assert replacer.headers(sent) == [(b"X", b"y"), (b"Authorization", b"Bearer s3cret-value")]
    assert b"s3cret" not in replacer.answer([(b"X-Echo", b"Bearer s3cret-value")])[0][1]
    for name in ("Host", "content-length", "a b", "a\r\nb", "x:y"):
        with pytest.raises(UsageError, match="no header that can be set"):
            Secret("value", ["a.test"], header=name)
