"""What a hosted server learns of its visitors: who is the same and who is not, and nothing else."""

import ipaddress

from harness import test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, curl, free_port

ALIASES = ipaddress.ip_network("127.192.0.0/10")


@test(bound=240)
def a_server_tells_its_visitors_apart_by_their_addresses(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    (t.folder / "page").write_text("a page")
    port = free_port()
    web = t.children.start("web", "python3", "-u", "-m", "http.server", port, "--bind", "127.0.0.1")
    name = host.host(80, "--to", port)
    for group, path in [("anna", "1"), ("boris", "2"), ("anna", "3"), ("boris", "4")]:
        wait_for("the page", lambda: visited(t, demo, f"http://{name}/page?{path}", group), READY, demo.process)
    seen = logged(web)
    assert seen["1"] == seen["3"] != seen["2"] == seen["4"], seen
    assert all(ipaddress.ip_address(address) in ALIASES for address in seen.values()), seen


def visited(t, demo, url, group):
    try:
        return curl(t, demo.socks, url, "--proxy-user", f"{group}:x", bound=20).stdout == "a page"
    except AssertionError:
        return False


def logged(web):
    """The address of each path's first visitor, as the server has written it down."""
    lines = [line for line in web.log.read_text().splitlines() if '"GET /page?' in line]
    return {line.split("page?")[1].split()[0]: line.split()[0] for line in reversed(lines)}
