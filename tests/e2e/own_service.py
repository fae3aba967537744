"""A node reaches a service of its own as everybody does: through both paths, never by a short cut."""

from harness import links, test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, curl, free_port

from .first_page import digest, node_address
from .metrics import measured

SIZE = 8 << 20
# Of each side: the relays of its path, or one link to each of them.
RELAYS = 3


@test(bound=200)
def a_node_reaches_its_own_service_through_both_paths(t):
    demo = Demo(t)
    metrics = f"127.0.0.1:{free_port()}"
    node = Node(t, "node", "127.40.0.1", join=demo.invitation, options=["--metrics", metrics])
    sent, got = t.folder / "sent", t.folder / "got"
    with open("/dev/urandom", "rb") as random:
        sent.write_bytes(random.read(SIZE))
    web = free_port()
    t.children.start("web", "python3", "-m", "http.server", web, "--bind", "127.0.0.1", "--directory", t.folder)
    url = f"http://{node.host(80, '--to', web)}"
    wait_for("its own service", lambda: reached(t, node, url), READY, node.process)
    addresses = {node.address, *map(node_address, demo.nodes)}
    before, counted = links.between_addresses(addresses), measured(t, metrics).counters()
    curl(t, node.socks, f"{url}/sent", "--output", got)
    assert digest(got) == digest(sent)
    carried = links.growth(before, links.between_addresses(addresses))
    own = sum(count for pair, count in carried.items() if node.address in pair)
    t.note(f"{SIZE >> 20} MiB: {own / SIZE:.1f} times over links of the node, {sum(carried.values()) / SIZE:.1f} times over all links")
    # Out by one path and in by the other; each has links from the node and between its relays.
    assert own >= 2 * SIZE, carried
    assert sum(carried.values()) >= 2 * RELAYS * SIZE, carried
    for direction in ("in", "out"):
        key = ("phantom_bytes_total", f'direction="{direction}"')
        assert measured(t, metrics).counters()[key] - counted[key] >= SIZE, direction


def reached(t, node, url):
    try:
        return curl(t, node.socks, url, bound=20)
    except AssertionError:
        return None
