"""What an administrator measures: Prometheus' text, on request, on this machine alone, about nobody."""

import socket

from harness import build, test
from harness.children import wait_for
from harness.phantom import Demo, Node, READY, curl, free_port, world
from harness.prometheus import Metrics

MEGABYTE = 1_000_000
# Words that stand for kinds of things. A label that is none of them might stand for somebody.
KNOWN_LABELS = {"dialled_by", "reason", "direction", "purpose", "quantile", "begun_by", "version"}


@test(bound=200)
def measurements_tell_what_a_node_has_done_and_of_nobody(t):
    demo = Demo(t)
    port = f"127.0.0.1:{free_port()}"
    node = Node(t, "node", "127.41.0.1", join=demo.invitation, options=["--metrics", port])
    name = node.host(80, "--to", free_port())
    wait_for("the page", lambda: fetched(t, node, demo.url), READY, node.process)
    before = measured(t, port)
    curl(t, node.socks, f"{demo.url}/bytes/{5 * MEGABYTE}", "--output", t.folder / "got")
    for _ in range(3):
        assert t.children.run("curl", "-q", "--noproxy", "", "-s", "--proxy", f"socks5h://{node.socks}", "http://example.com/", check=False).returncode == 97
    after = measured(t, port)
    grown = {key: value - before.counters().get(key, 0) for key, value in after.counters().items()}
    assert all(value >= 0 for value in grown.values()), f"a counter has fallen: {grown}"
    assert grown["phantom_bytes_total", 'direction="in"'] >= 5 * MEGABYTE, grown
    assert grown["phantom_cells_total", 'direction="in"'] * 1392 == grown["phantom_bytes_total", 'direction="in"'], grown
    assert grown["phantom_wishes_refused_total", 'reason="not_allowed"'] == 3, grown
    assert grown["phantom_wishes_granted_total", ""] == 1, grown
    assert after['phantom_sessions{begun_by="us"}'] >= 1 and after["phantom_services"] == 1
    assert after["phantom_service_entries"] >= 1 and after['phantom_own_paths{purpose="service"}'] >= 1
    assert after['phantom_links{dialled_by="us"}'] >= 3 and after["phantom_known_nodes"] >= 12
    assert after["phantom_paths_built_total"] == after["phantom_path_build_seconds_count"] > 0
    assert 0 < after['phantom_path_build_seconds{quantile="0.50"}'] <= after["phantom_path_build_seconds_sum"]
    assert {label for label, _ in after.labels} <= KNOWN_LABELS, after.labels
    text = scraped(t, port)
    for secret in (name, name.split(".")[0], demo.site, node.listen.split(":")[0], *[n["address"] if isinstance(n, dict) else n for n in demo.nodes]):
        assert secret not in text, secret
    # Links that end take nothing of what they have carried with them.
    demo.process.kill()
    wait_for("the links to end", lambda: measured(t, port)['phantom_links{dialled_by="us"}'] == 0, 40, node.process)
    last = measured(t, port)
    assert all(value >= after.counters().get(key, 0) for key, value in last.counters().items()), (after.values, last.values)
    assert sum(value for (family, _), value in last.values.items() if family == "phantom_links_ended_total") >= 3, last.values


@test(bound=60)
def only_programs_of_this_machine_are_answered(t):
    port = free_port()
    node = Node(t, "node", "127.41.0.1", options=["--metrics", f"127.0.0.1:{port}"])
    assert "phantom_uptime_seconds" in scraped(t, f"127.0.0.1:{port}")
    for request, status in (
        (b"GET /metrics HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", b"421"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"404"),
        (b"x" * 20_000, b"400"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as asking:
            asking.sendall(request)
            assert asking.recv(100).split()[1] == status, request[:40]
    public = t.children.run(
        *[build.phantom(), "up", "--metrics", f"0.0.0.0:{free_port()}", "--socks", f"127.0.0.1:{free_port()}"],
        *["--state", t.folder / "second"],
        environment=world(t.folder, "second"),
        check=False,
    )
    assert public.returncode == 2 and "--metrics 127.0.0.1:9079" in public.stderr, public
    assert node.process.poll() is None


def scraped(t, port):
    return t.children.run("curl", "-q", "--noproxy", "*", "-sSf", f"http://{port}/metrics").stdout


def measured(t, port):
    return Metrics(scraped(t, port))


def fetched(t, node, url):
    try:
        return curl(t, node.socks, url, bound=20).stdout
    except AssertionError:
        return None
