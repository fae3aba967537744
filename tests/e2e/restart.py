"""A host that is restarted, orderly or not, is found again under the same names without anybody typing anything."""

import signal

from harness import test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, curl, free_port

HOSTS = 3
# Label and port: three services, two of them under one name.
SERVICES = [("blog", 80), ("blog", 8080), ("shop", 80)]


@test(bound=400)
def hosts_that_are_restarted_one_by_one_lose_no_name(t):
    demo = Demo(t)
    hosts = [Node(t, f"host-{i}", f"127.{40 + i}.0.1", join=demo.invitation) for i in range(HOSTS)]
    pages = [page for host in hosts for page in publish(t, host)]
    for host, end in zip(hosts, (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)):
        host.process.send_signal(end)
        assert host.process.wait(20) == (0 if end == signal.SIGTERM else -end)
        host.start()
        assert hosted(host) == sorted(SERVICES), host.status()
        for url, content in pages:
            # A group that has not asked before has no session that could have survived.
            found = lambda: fetched(t, demo, url, f"after-{host.name}:x") == content
            wait_for(f"{url} after the restart of {host.name}", found, READY, demo.process)


@test(bound=200)
def what_is_unhosted_stays_offline_after_a_restart(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    names = [host.host(port, "--as", label) for label, port in SERVICES]
    assert names[0] == names[1] != names[2], names
    host.ask("unhost", "blog")
    host.process.terminate()
    assert host.process.wait(20) == 0
    host.start()
    assert hosted(host) == [("shop", 80)], host.status()
    assert host.status()["services"][0]["name"] == names[2]


def publish(t, host):
    """Three services on a local server of their own; what to fetch from each, and what must come."""
    urls = []
    for label, port in SERVICES:
        folder = t.folder / f"{host.name}-{label}-{port}"
        folder.mkdir()
        content = f"{host.name} {label} {port}"
        (folder / "who").write_text(content)
        local = free_port()
        t.children.start(folder.name, "python3", "-m", "http.server", local, "--bind", "127.0.0.1", "--directory", folder)
        urls.append((f"http://{host.host(port, '--to', local, '--as', label)}:{port}/who", content))
    return urls


def hosted(host):
    return sorted((service["label"], service["port"]) for service in host.status()["services"])


def fetched(t, demo, url, group):
    try:
        return curl(t, demo.socks, url, "--proxy-user", group, bound=20).stdout
    except AssertionError:
        return None
