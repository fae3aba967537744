"""The doors that programs come in by: every protocol of the proxy port, and DNS."""

import ipaddress
import socket
import struct
import urllib.parse

from harness import test
from harness.phantom import Demo, Node, free_port

A, AAAA, PTR = 1, 28, 12
NO_ERROR, NO_SUCH_NAME, REFUSED = 0, 3, 5
ALIASES = ipaddress.ip_network("127.192.0.0/11")


@test(bound=200)
def every_protocol_of_the_one_port_fetches_the_page(t):
    demo = Demo(t)
    expected = demo.get("/sha256/1000000").strip()
    for way in ("socks5h", "socks4a", "http"):
        # The last of curl's options counts; -p makes it CONNECT for plain pages, too.
        got = t.children.run(
            "curl", "-q", "--noproxy", "", "-sSf", "--max-time", 60, "-p", "--proxy", f"{way}://{demo.socks}", demo.url + "/sha256/1000000"
        )
        assert got.stdout.strip() == expected, way
    script = t.children.run("curl", "-q", "--noproxy", "*", "-sSf", f"http://{demo.socks}/proxy.pac").stdout
    assert f'"SOCKS5 {demo.socks}"' in script and "DIRECT" not in script, script


@test(bound=200)
def what_is_outside_is_refused_in_every_protocol(t):
    demo = Demo(t)
    for way in ("socks5h", "socks4a", "http"):
        got = t.children.run(
            "curl", "-q", "--noproxy", "", "-sS", "--max-time", 20, "-p", "--proxy", f"{way}://{demo.socks}", "http://example.com/", check=False
        )
        assert got.returncode == (56 if way == "http" else 97), f"{way}: {got.returncode} {got.stderr}"
    refused = ask_to_connect(demo.socks, b"\x05\x01\x00\x05\x01\x00\x03\x0bexample.com\x00\x50", 12)
    assert refused[3] == 2, refused


def ask_to_connect(end, sent, length):
    host, port = end.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 20) as program:
        program.sendall(sent)
        got = b""
        while len(got) < length:
            part = program.recv(length - len(got))
            assert part, f"closed after {got}"
            got += part
    return got


@test(bound=200)
def a_name_resolved_by_dns_leads_where_its_address_does(t):
    demo = Demo(t)
    dns = f"127.0.0.1:{free_port()}"
    visitor = Node(t, "visitor", "127.41.0.1", join=demo.invitation, options=["--dns", dns])
    assert visitor.status()["dns"] == dns
    name = demo.site.split(":")[0]
    code, answers = lookup(dns, name, AAAA)
    assert code == NO_ERROR and len(answers) == 1 and answers[0][0] == 0xFC, (code, answers)
    address = socket.inet_ntop(socket.AF_INET6, answers[0])
    code, answers = lookup(dns, ".".join(reversed(answers[0].hex())) + ".ip6.arpa", PTR)
    assert code == NO_ERROR and answers[0].split(b"\x02ap")[0].endswith(name.split(".")[0].encode()), answers
    assert lookup(dns, "example.com", AAAA) == (REFUSED, [])
    port = urllib.parse.urlsplit(demo.url).port or 80
    code, answers = lookup(dns, name, A)
    assert code == NO_ERROR and len(answers) == 1, (code, answers)
    alias = ipaddress.ip_address(answers[0])
    assert alias in ALIASES and lookup(dns, name, A) == (code, answers), alias
    code, answers = lookup(dns, alias.reverse_pointer, PTR)
    assert code == NO_ERROR and answers[0].split(b"\x02ap")[0].endswith(name.split(".")[0].encode()), answers
    # A program that lets this DNS resolve knows an address alone. Paths of a new node take a while.
    expected = demo.get("/sha256/1000000").strip()
    options = ("--retry", 30, "--retry-all-errors", "--retry-delay", 1, "--retry-max-time", 90)
    for host in (f"[{address}]", alias, f"[::ffff:{alias}]"):
        assert visitor.get(f"http://{host}:{port}/sha256/1000000", *options, bound=120).strip() == expected, host
    fetched = curl_by(t, "http", visitor.socks, f"http://{alias}:{port}/sha256/1000000")
    assert fetched.stdout.strip() == expected, fetched
    # What another group has asked for leads nowhere, and what was asked for before a new identity.
    assert curl_by(t, "socks5h", f"other:@{visitor.socks}", f"http://{alias}:{port}/").returncode == 97
    visitor.ask("new-identity")
    assert curl_by(t, "socks5h", visitor.socks, f"http://{alias}:{port}/").returncode == 97
    assert lookup(dns, alias.reverse_pointer, PTR) == (NO_SUCH_NAME, [])
    assert lookup(dns, name, A)[1] not in ([], [alias.packed])


def curl_by(t, way, proxy, url):
    command = ["curl", "-q", "--noproxy", "", "-sSf", "-p", "--max-time", 60]
    return t.children.run(*command, "--proxy", f"{way}://{proxy}", url, check=False, bound=70)


@test(bound=200)
def tors_commands_answer_with_alias_and_name(t):
    demo = Demo(t)
    name = demo.site.split(":")[0].encode()
    answer = ask_to_connect(demo.socks, b"\x05\x01\x00\x05\xf0\x00\x03" + bytes([len(name)]) + name + b"\x00\x00", 12)
    assert answer[2:6] == b"\x05\x00\x00\x01" and ipaddress.ip_address(answer[6:10]) in ALIASES, answer
    for kind, place in ((1, answer[6:10]), (4, bytes(10) + b"\xff\xff" + answer[6:10])):
        asked = b"\x05\x01\x00\x05\xf1\x00" + bytes([kind]) + place + b"\x00\x00"
        got = ask_to_connect(demo.socks, asked, 2 + 5 + len(name) + 2)
        assert got[2:] == b"\x05\x00\x00\x03" + bytes([len(name)]) + name + b"\x00\x00", got


def lookup(end, name, kind):
    """Asks one question by UDP; the response code, and the data of each answer."""
    host, port = end.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(20)
        asking.connect((host, int(port)))
        asking.send(question(name, kind))
        return answers_of(asking.recv(4096), name, kind)


def question(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\x00" + struct.pack(">HH", kind, 1)


def answers_of(response, name, kind=AAAA):
    """The response code, and the data of each answer of this kind."""
    number, flags, _, answers, _, _ = struct.unpack(">HHHHHH", response[:12])
    assert number == 7 and flags & 0x8000, response
    at, found = len(question(name, kind)), []
    for _ in range(answers):
        while response[at] and response[at] < 0xC0:
            at += 1 + response[at]
        at += 2 if response[at] else 1
        got, _, _, length = struct.unpack(">HHIH", response[at : at + 10])
        at += 10 + length
        if got == kind:
            found.append(response[at - length : at])
    return flags & 15, found
