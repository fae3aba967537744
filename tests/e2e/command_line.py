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
from harness.phantom import AP_NAME, Node, free_port, world


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
