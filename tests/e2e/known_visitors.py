"""Ports for known visitors alone: who shows no identity, or another, is told so and sees nothing."""


from harness import test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, free_port

from .doors import ask_to_connect

NOT_ALLOWED, NO_IDENTITY, OTHER_IDENTITY = 0x02, 0xF4, 0xF5


@test(bound=240)
def only_a_known_visitor_comes_in_also_after_restarts(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    visitor = Node(t, "visitor", "127.41.0.1", join=demo.invitation, options=["--extended-errors"])
    name = host.host(1, "--to", 1)
    port = web_server(t)
    said = visitor.ask("visit", name, "--as", "anna").stdout.split()
    anna = said[-1]
    assert anna.startswith("fc") and [visit["label"] for visit in visitor.status()["visits"]] == ["anna"], said
    # Nobody but boris, whom the host knows by his name.
    boris = visitor.ask("identity", "new", "boris", "--state", visitor.state).stdout
    boris = next(word for word in boris.split() if word.endswith(".ap"))
    assert host.host(80, "--to", port, "--allow", boris) == name
    url = f"http://{name}/page"

    def answers(code):
        return lambda: connect(visitor.socks, name, 80) == code

    wait_for("the visitor to be told that it is somebody else", answers(OTHER_IDENTITY), READY, visitor.process)
    host.host(80, "--to", port, "--allow", boris, "--allow", anna)
    assert visitor.get(url, "--retry", 5, "--retry-all-errors") == "a page"
    assert connect(demo.socks, name, 80) == NOT_ALLOWED, "the demo's programs show no identity, and know no codes of Tor"
    assert connect(demo.socks, name, 81) == NOT_ALLOWED, "nor do they learn which ports there are"
    service = next(service for service in host.status()["services"] if service["port"] == 80)
    assert len(service["allow"]) == 2 and "for 2 known visitors" in host.ask("status").stdout

    for node in (host, visitor):
        node.process.terminate()
        node.process.wait(20)
        node.start()
    wait_for("the known visitor to come in again", lambda: fetched(visitor, url), READY, visitor.process)
    visitor.ask("visit", "--forget", name)
    assert connect(visitor.socks, name, 80) == NO_IDENTITY
    assert visitor.ask("visit").stdout.startswith("Nobody")


def web_server(t):
    (t.folder / "page").write_text("a page")
    port = free_port()
    t.children.start("web", "python3", "-u", "-m", "http.server", port, "--bind", "127.0.0.1")
    return port


def fetched(node, url):
    try:
        return node.get(url, bound=20) == "a page"
    except AssertionError:
        return False


def connect(socks, name, port):
    """The reply code of SOCKS5."""
    asked = b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(name)]) + name.encode() + port.to_bytes(2, "big")
    return ask_to_connect(socks, asked, 4)[3]
