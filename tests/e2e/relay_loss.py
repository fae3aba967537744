"""One relay of the path is killed in the middle of a download, and the download does not mind.

Every node is a process of its own. Which of them are on the path is seen from outside: they are those whose
connections move the download.
"""

import hashlib
import random
import time

from harness import build, links, test
from harness.children import wait_for, whole_lines
from harness.phantom import READY, Node

NODES = 12
SIZE = 200 << 20
# A connection that moved this much in a sample belongs to the path.
MOVED = 1 << 20


@test(bound=300, bound_of_all=2400)
def a_killed_relay_does_not_break_a_download(t):
    tries, guards_allowed, guards_killed = (20, 2, 0) if t.long else (3, 1, 0)
    seed = random.SystemRandom().getrandbits(32)
    draw = random.Random(seed)
    t.note(f"seed {seed}")
    nodes = bring_up(t)
    client, service, relays = nodes[0], nodes[1], nodes[2:]
    port, expected = serve(t)
    url = f"http://{service.host(port)}:{port}"
    wait_for("the site to be reachable", lambda: answers(client, f"{url}/sha256/1"), READY, client.process)
    done = attempt = 0
    while done < tries:
        attempt += 1
        assert attempt <= 3 * tries, "too often nobody but guards carried the download"
        with_guards = guards_killed < guards_allowed
        victim = lose_a_relay(t, draw, attempt, (client, service, relays), url, expected, with_guards)
        if victim is not None:
            done += 1
            guards_killed += victim


def lose_a_relay(t, draw, attempt, cast, url, expected, with_guards):
    """One try. Returns whether the relay was a guard, or None if there was none to choose."""
    client, service, relays = cast
    file = t.folder / f"download-{attempt}"
    command = ["curl", "-q", "--noproxy", "", "--silent", "--show-error", "--fail", "--max-time", "120"]
    # A group of its own for each try, hence paths of its own.
    command += ["--socks5-hostname", client.socks, "--proxy-user", f"try{attempt}:x", "--limit-rate", "40M"]
    download = t.children.start(f"curl-{attempt}", *command, "--output", file, f"{url}/bytes/{SIZE}")
    wait_for("the download to begin", lambda: size(file) > SIZE // 20, 60, download)
    victim, is_guard = choose(draw, client, service, relays, with_guards)
    if victim is None:
        download.terminate()
        download.wait(10)
        return None
    middle = draw.uniform(0.3, 0.6) * SIZE
    wait_for("the middle of the download", lambda: size(file) > middle, 60, download)
    at, killed = size(file), time.monotonic()
    victim.process.kill()
    status = download.wait(120)
    took = time.monotonic() - killed
    t.note(f"{victim.name}{' (guard)' if is_guard else ''} killed at {at >> 20} MiB, done {took:.1f} s later")
    assert status == 0, f"curl ended with {status} at {size(file)} bytes, after {victim.name} was killed"
    with open(file, "rb") as content:
        assert hashlib.file_digest(content, "sha256").hexdigest() == expected, "the bytes are wrong"
    file.unlink()
    victim.process.wait()
    victim.start()
    return is_guard


def bring_up(t):
    first = Node(t, "node-0", "127.50.0.1")
    invitation = first.invitation()
    return [first, *(Node(t, f"node-{i}", f"127.{50 + i}.0.1", join=invitation) for i in range(1, NODES))]


def serve(t):
    server = t.children.start("site", build.loadgen(), "serve", "--listen", "127.0.0.1:0")
    address = wait_for("the site's address", lambda: whole_lines(server).strip(), 10, server)
    expected = t.children.run("curl", "-q", "--noproxy", "*", "--silent", f"http://{address}/sha256/{SIZE}").stdout
    return int(address.rsplit(":", 1)[1]), expected.strip()


def answers(client, url):
    try:
        return client.get(url, bound=20)
    except AssertionError:
        return None


def size(file):
    return file.stat().st_size if file.exists() else 0


def choose(draw, client, service, relays, with_guards):
    """A random relay among those that carry the download, if there is one, and whether it is next to an owner."""
    by_address = {node.address: node for node in [client, service, *relays]}

    def carriers():
        before = links.between_addresses(by_address.keys())
        time.sleep(0.5)
        grown = links.growth(before, links.between_addresses(by_address.keys()))
        pairs = [(by_address[a], by_address[b]) for (a, b), count in grown.items() if count > MOVED]
        return pairs if {client, service} <= {node for pair in pairs for node in pair} else None

    pairs = wait_for("the relays of the path to show", carriers, 20, client.process)
    on_path = {node for pair in pairs for node in pair} & set(relays)
    guards = {node for pair in pairs for node in pair if {client, service} & set(pair)} & set(relays)
    eligible = sorted(on_path if with_guards else on_path - guards, key=lambda node: node.name)
    victim = draw.choice(eligible) if eligible else None
    return victim, victim in guards
