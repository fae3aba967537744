"""The command line as a tool among others: what shells and the manual make of it."""

import json
import os
import pty
import re
import select
import subprocess
import time

from harness import Skip, build, test
from harness.children import wait_for
from harness.phantom import AP_NAME, Demo, Node, free_port, world


@test(bound=60)
def a_shell_finishes_words(t):
    script = (
        'set -e; source <("$0" completions bash); COMP_WORDS=(phantom "$@"); COMP_CWORD=$#; '
        '_phantom phantom "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; echo "${COMPREPLY[@]}"'
    )
    finish = lambda *words: t.children.run("bash", "-c", script, build.phantom(), *words).stdout.split()
    assert finish("stat") == ["status"]
    assert set(finish("completions", "")) >= {"bash", "zsh", "fish"}
    assert "--state" in finish("status", "--")


@test(bound=60)
def the_manual_has_a_page_for_each_command(t):
    pages = t.folder / "man1"
    t.children.run(build.phantom(), "man", pages, environment=world(t.folder, "user"))
    names = {page.name for page in pages.iterdir()}
    assert {"phantom.1", "phantom-up.1", "phantom-host.1"} <= names, names
    if t.children.run("sh", "-c", "command -v groff", check=False).returncode != 0:
        raise Skip("groff is not installed")
    for page in pages.iterdir():
        done = t.children.run("groff", "-man", "-Tutf8", "-ww", page)
        assert done.stdout and not done.stderr, f"{page.name}: {done.stderr}"


@test(bound=90)
def an_identity_moves_to_another_node(t):
    old, new = Node(t, "old", "127.64.0.1"), Node(t, "new", "127.64.0.2")
    name = AP_NAME.search(old.ask("identity", "new", "shop").stdout).group()
    exported, words = t.folder / "shop.identity", "correct horse battery"
    said = typed(old, [words, words], "identity", "export", "shop", exported)
    assert words not in said, said
    assert exported.stat().st_mode & 0o077 == 0 and name not in exported.read_text(), exported.read_text()
    passphrase = t.folder / "passphrase"
    passphrase.write_text("not these words\n")
    refused = new.ask("identity", "import", exported, "--passphrase-file", passphrase, check=False)
    assert refused.returncode == 1 and f"chmod 600 '{passphrase}'" in refused.stderr, refused
    passphrase.chmod(0o600)
    refused = new.ask("identity", "import", exported, "--passphrase-file", passphrase, check=False)
    assert refused.returncode == 1 and "not its passphrase" in refused.stderr, refused
    passphrase.write_text(words + "\n")
    new.ask("identity", "import", exported, "--as", "market", "--passphrase-file", passphrase)
    kept = json.loads(new.ask("identity", "list", "--json").stdout)
    assert [(one["label"], one["name"]) for one in kept] == [("market", name)], kept
    # It answers to the name now, and cannot be forgotten meanwhile.
    t.children.start("host", build.phantom(), "host", free_port(), "--as", "market", environment=new.environment())
    online = lambda: [service for service in new.status()["services"] if service["label"] == "market"]
    assert wait_for("the service to be online", online, 20, new.process)[0]["name"] == name
    refused = new.ask("identity", "remove", "market", "--yes", check=False)
    assert refused.returncode == 1 and "phantom unhost market" in refused.stderr, refused
    new.ask("unhost", "market")
    assert new.ask("identity", "remove", "market", check=False).returncode == 2, "nobody was asked"
    new.ask("identity", "remove", "market", "--yes")
    assert new.ask("identity", "list").stdout == ""


def typed(node, lines, *command):
    """Runs a command on a terminal, types a line after each prompt for a passphrase, and returns what the terminal shows."""
    terminal, inside = pty.openpty()
    run = ["setsid", "--ctty", "--wait", build.phantom(), *command]
    process = subprocess.Popen(
        [str(part) for part in run], stdin=inside, stdout=inside, stderr=inside, cwd=node.t.folder, env={**os.environ, **node.environment()}
    )
    os.close(inside)
    shown, waiting, deadline = b"", list(lines), time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        shown += part
        if waiting and re.search(rb"(passphrase|again): $", shown):
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    assert process.wait(10) == 0, shown
    os.close(terminal)
    return shown.decode()


@test(bound=200)
def a_party_is_looked_up_and_pinged_and_programs_start_afresh(t):
    demo = Demo(t)
    site = demo.site.split(":")[0]
    found = json.loads(demo.ask("lookup", site, "--json").stdout)
    assert found["name"] == site and found["found"] and found["entries"] > 0 and 0 < found["expires_in"] < 4 * 3600, found
    report = json.loads(demo.ask("ping", "-c", "3", "-i", "0.2", "--json", site).stdout)
    assert (report["sent"], report["answered"]) == (3, 3), report
    assert 0 < report["min_ms"] <= report["avg_ms"] <= report["max_ms"] < 10_000, report
    guards = lambda: {host(guard) for guard in demo.status()["guards"]}
    assert host(report["first_link"]["address"]) in guards() <= {host(node) for node in demo.nodes}, (report, guards())
    assert re.search(r"^answer 1: [\d.]+ ms$", demo.ask("ping", "-c", "1", site).stdout, re.M)
    # Nobody answers to a name that was never published.
    nobody = AP_NAME.search(demo.ask("identity", "new", "nobody", "--state", t.folder / "nobody").stdout).group()
    for command in (["lookup"], ["ping", "-c", "1"]):
        refused = demo.ask(*command, nobody, check=False)
        assert refused.returncode == 3 and re.search("no entry|nobody in the network", refused.stderr), refused
    peers = json.loads(demo.ask("peers", "--json").stdout)
    assert {host(peer["address"]) for peer in peers if peer["guard"]} == guards(), (peers, guards())
    assert all(peer["round_trip_micros"] > 0 for peer in peers) and report["first_link"]["round_trip_micros"] > 0, peers
    assert all(peer["network"] == ".".join(peer["address"].split(".")[:2]) + ".0.0/16" for peer in peers), peers
    # Whoever starts afresh shares no session and no path with what was before.
    demo.get("/echo", "--data", "x")
    used = lambda: {tuple(path["relays"]) for path in demo.status()["paths"]["ready"] if path["purpose"] == "client"}
    before = used()
    assert before and demo.status()["sessions"] == 2, demo.status()
    assert "2 sessions" in demo.ask("new-identity").stdout
    after = demo.status()
    assert after["sessions"] == 0 and not used(), after
    assert demo.get("/echo", "--data", "x", "--retry", "5", "--retry-all-errors") == "x"
    assert used() and demo.status()["sessions"] == 1, demo.status()


def host(end):
    """Of an address with a port; who dials comes from another port than it listens on."""
    return end.rsplit(":", 1)[0]


@test(bound=60)
def a_status_that_is_watched_goes_on_until_nobody_reads(t):
    node = Node(t, "node", "127.65.0.1")
    script = '"$0" status --watch --json | head -4'
    lines = t.children.run("bash", "-o", "pipefail", "-c", script, build.phantom(), environment=node.environment()).stdout.splitlines()
    first, *_, last = said = [json.loads(line) for line in lines]
    assert len(said) == 4 and first["node"] == last["node"] == node.status()["node"], lines
    assert 2 <= last["uptime_seconds"] - first["uptime_seconds"] <= 30, lines
