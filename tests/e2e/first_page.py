"""From nothing to a page: the demo, what it prints, and what goes through it."""

import hashlib
import re

from harness import links, test
from harness.phantom import Demo, Node, READY, curl, free_port
from harness.children import wait_for

GIBIBYTE = 1 << 30
PROBE = 16 << 20
# Client, three relays, three relays, service.
LINKS = 7


@test(bound=150)
def the_printed_line_fetches_the_page(t):
    demo = Demo(t)
    line = re.search(r"^\W*(curl -q .*--socks5-hostname .*)$", demo.printed(), re.M)
    assert line, f"no curl line was printed:\n{demo.printed()}"
    page = t.children.run("sh", "-c", line.group(1)).stdout
    assert "<html" in page.lower(), page
    assert demo.hops == 3 and len(demo.nodes) == 12


@test(bound=240)
def a_gibibyte_crosses_seven_links(t):
    demo = Demo(t)
    expected = demo.get(f"/sha256/{GIBIBYTE}", bound=60).strip()
    addresses = {node_address(node) for node in demo.nodes}
    group = group_over_distinct_links(t, demo, addresses)
    before = links.between_addresses(addresses)
    file = t.folder / "download"
    demo.get(f"/bytes/{GIBIBYTE}", "--output", file, "--proxy-user", group, bound=150)
    assert digest(file) == expected, "the download is not what was sent"
    carried = links.growth(before, links.between_addresses(addresses))
    full = {pair: count for pair, count in carried.items() if count >= GIBIBYTE}
    for (a, b), count in sorted(full.items()):
        t.note(f"{a} - {b}: {count / GIBIBYTE:.2f} GiB")
    assert len(full) >= LINKS, f"only {len(full)} links carried the download: {carried}"


def group_over_distinct_links(t, demo, addresses):
    """An isolation group whose way crosses no link twice. Among twelve nodes both sides may well choose the same ones."""
    for attempt in range(12):
        group, before = f"group{attempt}:x", links.between_addresses(addresses)
        demo.get(f"/bytes/{PROBE}", "--output", t.folder / "probe", "--proxy-user", group)
        carried = links.growth(before, links.between_addresses(addresses))
        if sum(count >= PROBE for count in carried.values()) >= LINKS:
            return group
    raise AssertionError("in twelve groups no way crossed seven different links")


@test(bound=240)
def two_more_processes_exchange_a_page(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    visitor = Node(t, "visitor", "127.41.0.1", join=demo.invitation)
    folder = t.folder / "public"
    folder.mkdir()
    content = hashlib.shake_128(b"a page").digest(3_000_000)
    (folder / "page.bin").write_bytes(content)
    port = free_port()
    t.children.start("web", "python3", "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", folder)
    name = host.host(port)
    url, got = f"http://{name}:{port}/page.bin", t.folder / "got"

    def fetched():
        return curl_succeeds(t, visitor.socks, url, got)

    wait_for("the page to be reachable", fetched, READY, visitor.process)
    assert got.read_bytes() == content
    index = visitor.get(f"http://{name}:{port}/")
    assert "page.bin" in index, index


def curl_succeeds(t, socks, url, output):
    try:
        curl(t, socks, url, "--output", output, bound=20)
    except AssertionError:
        return False
    return True


def node_address(node):
    """Of `127.16.0.1:443`, or of an object that holds it."""
    text = node if isinstance(node, str) else node["address"]
    return text.rsplit(":", 1)[0]


def digest(file):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
