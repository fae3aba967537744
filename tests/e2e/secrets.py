"""Nothing that a node writes tells who uses it, for what, or with whom it speaks: marked secrets go in, and none comes out.

Two nodes log as much as they can while everything is done with them that programs, strangers and accidents do. Then all
that they have written is searched for each secret, as it is, in hex and in base64.
"""

import base64
import json
import signal
import socket
import urllib.parse

from harness import test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, complete_json, curl, free_port

from .datagrams import talk, udp_port
from .doors import AAAA, lookup
from .hostile import end_of, garbage, oversize_record, plain_http, tls_then_garbage

USER, PASSWORD, OUTSIDE, PLACE, PAYLOAD, AGENT = (
    f"marked-{what}-4b2e91d7" for what in ("user", "password", "outside", "place", "payload", "agent")
)


@test(bound=300)
def nothing_that_a_node_writes_tells_who_uses_it(t):
    demo = Demo(t)
    third = Node(t, "third", "127.42.0.1", join=demo.invitation)
    # Whoever joins through a node has a link to it.
    join = third.invitation()
    visitor, host = (verbose(t, join, name, address) for name, address in (("visitor", "127.41.0.1"), ("host", "127.40.0.1")))
    name = do_everything(t, visitor, host)
    for node in (visitor, host):
        wait_for("a link to the third node", lambda: speaks_with(node, third), READY, node.process)
    peers = {node.name: [link["node"] for link in node.status()["links"]] for node in (visitor, host)}
    third.process.kill()
    for node in (visitor, host):
        wait_for("its end to be noticed", lambda: "link down" in node.printed() and not speaks_with(node, third), 40, node.process)
    written = {node.name: everything_written(t, node) for node in (visitor, host)}
    for node in (visitor, host):
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(20) == 0
        written[node.name] |= files_of(node)
        log = written[node.name]["log"]
        assert b"DEBUG" in log and b"link up" in log, "the log says too little for a test of it"
    addresses = [end_of(place)[0] for place in demo.nodes]
    spoken = [USER, PASSWORD, OUTSIDE, PLACE, PAYLOAD, AGENT]
    search(written["visitor"], [*spoken, name, name.removesuffix(".ap"), *addresses, host.address, third.address, *peers["visitor"]])
    # The host's own folder holds what it has been told to keep; who visits, and for what, is nowhere.
    search(written["host"], [*spoken, name.removesuffix(".ap"), *addresses, visitor.address, third.address, *peers["host"]])
    for node in (visitor, host):
        files = [file for file in node.state.rglob("*") if file.is_file()]
        keys = [file.read_bytes() for file in files if file.suffix == ".key" or file.parent.name == "identities"]
        assert len(keys) == (3 if node is host else 2), files
        others = {what: text for what, text in written[node.name].items() if not what.startswith("state/")}
        for key in keys:
            search(others, [key[start : start + 32] for start in range(0, len(key) - 31, 8)])


@test(bound=200)
def unsafe_logs_tell_it_because_they_were_asked_to(t):
    demo = Demo(t)
    node = verbose(t, demo.invitation, "node", "127.41.0.1", "--unsafe-logs")
    wait_for("the page", lambda: fetched(t, node, demo.url), READY, node.process)
    t.children.run("curl", "-q", "--noproxy", "", "-s", "--proxy", f"socks5h://{node.socks}", f"http://{OUTSIDE}/", check=False)
    log = node.printed()
    assert any(end_of(place)[0] in log for place in demo.nodes), "no peer's address in it"
    assert OUTSIDE in log and "quinn" in log, "no name, or no word of the libraries in it"


def verbose(t, join, name, address, *options):
    """A node with every door open that logs all it can."""
    ready, metrics, dns = t.folder / f"{name}.ready", f"127.0.0.1:{free_port()}", f"127.0.0.1:{udp_port()}"
    options = ["--ready-file", ready, "--metrics", metrics, "--dns", dns, *options]
    node = Node(t, name, address, join=join, options=options, environment={"PHANTOM_LOG": "trace"})
    node.ready, node.metrics, node.dns = ready, metrics, dns
    return node


def do_everything(t, visitor, host):
    """All that comes to a node, right and wrong. Returns the name of the host's service."""
    folder = t.folder / "public"
    folder.mkdir()
    (folder / PLACE).write_text(PAYLOAD)
    web = free_port()
    t.children.start("web", "python3", "-m", "http.server", web, "--bind", "127.0.0.1", "--directory", folder)
    echo = udp_port()
    t.children.start("echo", "socat", f"UDP4-LISTEN:{echo},bind=127.0.0.1,fork", "PIPE")
    name = host.host(80, "--to", web, "--as", "blog")
    assert host.host(7, "--udp", "--to", echo, "--as", "blog") == name
    url = f"http://{name}/{PLACE}"
    wait_for("the page", lambda: fetched(t, visitor, url), READY, visitor.process)
    group = ["--proxy-user", f"{USER}:{PASSWORD}", "--user-agent", AGENT]
    for way in ("socks5h", "socks4a", "http"):
        for place in (url, f"http://{OUTSIDE}.example/", f"http://{OUTSIDE}.ap/", f"http://{name}:81/", "http://198.51.100.7/"):
            options = ["-sS", "-p", "--max-time", 30, "--proxy", f"{way}://{visitor.socks}", *group]
            done = t.children.run("curl", "-q", "--noproxy", "", *options, place, check=False)
            assert (done.returncode == 0) == (place == url), (way, place, done)
    assert talk(t, visitor, name, USER, f"7 {PAYLOAD.encode().hex()}") == [PAYLOAD.encode().hex()]
    for asked in (name, f"{OUTSIDE}.example", f"{OUTSIDE}.ap"):
        lookup(visitor.dns, asked, AAAA)
    for nonsense in (PAYLOAD.encode(), b"\x05\x01\x02\x01" + bytes([len(USER)]) + USER.encode(), b"\x04\x01" + OUTSIDE.encode(), f"GET /{PLACE} HTTP/1.1\r\n\r\n".encode()):
        say(visitor.socks, nonsense)
        say(visitor.metrics, nonsense)
    for attack in (garbage, plain_http, tls_then_garbage, oversize_record):
        for node in (visitor, host):
            attack(end_of(node.listen))
    for command in (["lookup", name], ["ping", "-c", "1", name], ["peers"], ["new-identity"], ["doctor"]):
        visitor.ask(*command, check=False)
    return name


def say(end, data):
    """Sends it, ends, and hears whatever comes."""
    with socket.create_connection(end_of(end), timeout=20) as program:
        try:
            program.sendall(data)
            program.shutdown(socket.SHUT_WR)
            while program.recv(65536):
                pass
        except ConnectionResetError:
            pass


def speaks_with(node, other):
    return any((link["address"] or "").startswith(other.address + ":") for link in node.status()["links"])


def fetched(t, node, url):
    try:
        return curl(t, node.socks, url, bound=20).stdout
    except AssertionError:
        return None


def everything_written(t, node):
    """What it has printed, logged and told, by where it stands."""
    assert complete_json(node.ready)["metrics"] == node.metrics
    metrics = t.children.run("curl", "-q", "--noproxy", "*", "-sSf", f"http://{node.metrics}/metrics").stdout
    services = json.dumps([{key: value for key, value in service.items() if key != "name"} for service in node.status()["services"]])
    told = {"ready file": node.ready.read_bytes(), "metrics": metrics.encode(), "services": services.encode()}
    return {**told, **files_of(node)}


def files_of(node):
    files = {f"state/{file.name}": file.read_bytes() for file in node.state.rglob("*") if file.is_file()}
    return {"log": node.process.log.read_bytes(), **files}


def search(written, secrets):
    for secret in secrets:
        for form in forms(secret):
            for place, content in written.items():
                at = content.find(form)
                assert at < 0, f"{place} holds {secret!r}: {content[max(0, at - 200) : at + 200]!r}"


def forms(secret):
    """As it is, in hex, in base64 at each of the three places where it may begin, in a URL."""
    raw = secret if isinstance(secret, bytes) else secret.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield ", ".join(map(str, raw)).encode()
    if len(raw) >= 12:
        for shift in range(3):
            # Without the first and last characters, which its neighbours share.
            whole = base64.b64encode(bytes(shift) + raw)
            yield whole[4 : len(whole) - 4]
            yield whole[4 : len(whole) - 4].translate(bytes.maketrans(b"+/", b"-_"))
    if isinstance(secret, str):
        yield urllib.parse.quote(secret).encode()
