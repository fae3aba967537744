"""From nothing to a page: the demo, what it prints, and what goes through it."""

import hashlib
import re

from harness import links, test
from harness.phantom import Demo, Node, READY, curl, free_port
from harness.children import wait_for

GIBIBYTE = 1 << 30
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
    # A path may close a circle (its exit is also the other side's entry): then ask from another isolation group.
    for attempt in range(3):
        before = links.between_addresses(addresses)
        socks = ["--proxy-user", f"attempt{attempt}:x"] if attempt else []
        file = t.folder / "download"
        demo.get(f"/bytes/{GIBIBYTE}", "--output", file, *socks, bound=120)
        assert digest(file) == expected, "the download is not what was sent"
        carried = links.growth(before, links.between_addresses(addresses))
        full = sum(count // GIBIBYTE for count in carried.values())
        if full >= LINKS:
            break
    for (a, b), count in sorted(carried.items(), key=lambda item: -item[1])[: LINKS + 1]:
        t.note(f"{a} - {b}: {count / GIBIBYTE:.2f} GiB")
    assert full >= LINKS, f"only {full} links carried the download"


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
