"""A newcomer types what README.md says, as it stands there: from nothing to a page, and to a page of one's own.

The commands are taken from its blocks. They run on an island of their own, so that the usual ports are free and nothing
of this machine's user is touched; `cargo` is one that has built already. A line that this test does not know fails it.
"""

import re
import shlex
import signal
import time

from harness import build, test
from harness.children import wait_for
from harness.island import Island
from harness.phantom import AP_NAME, INVITATION, READY

# As long as the README may take a newcomer, without the build.
PATIENCE = 300
SECOND = "--socks 127.0.0.1:9071 --state ./second"
CARGO = """#!/bin/sh
case "$*" in
    "run --release -- "*) shift 3; exec {phantom} "$@" ;;
    "install --path node/daemon") mkdir -p "$HOME/.cargo/bin" && ln -s {phantom} "$HOME/.cargo/bin/phantom" ;;
    *) echo "cargo $* is not what the README says"; exit 1 ;;
esac
"""


@test(bound=PATIENCE)
def what_the_readme_says_leads_to_a_page_in_five_minutes(t):
    readme = (build.ROOT / "README.md").read_text()
    demo, curl, tests, install, up, join, host, status, *more = commands(readme)
    assert tests == "tests/run --install", tests
    Island(t)
    shell, start = Shell(t), time.monotonic()
    # "Try it"
    network = shell.start("demo", demo)
    line = wait_for("the line to paste", lambda: re.search(r"^ +(curl .*\.ap/)$", network.log.read_text(), re.M), READY, network)
    printed, name = line.group(1), AP_NAME.search(line.group(1)).group()
    assert printed == curl.replace("<56 characters>.ap", name), f"{printed} is not what the README shows"
    assert "<html" in shell.run(printed)
    t.note(f"the page after {time.monotonic() - start:.1f} s")
    # "Use it", and "A second node on one machine"
    assert all(part in readme for part in (f"`{SECOND}`", "`phantom host 8000 --state ./second`", "`phantom status --state ./second`"))
    shell.run(install)
    invitation = INVITATION.search(shell.run(status)).group()
    second = shell.start("second", f"{join.replace('phantom-invitation-1:...', invitation)} {SECOND}")
    wait_for("the second node", lambda: "socks " in second.log.read_text(), 30, second)
    (shell.home / "index.html").write_text("<p>a page of one's own")
    shell.start("web", "python3 -m http.server 8000 --bind 127.0.0.1")
    own = AP_NAME.search(shell.run(f"{host} --state ./second", bound=2 * READY)).group()
    assert shell.run(f"{printed.replace(name, own + ':8000')}") == "<p>a page of one's own"
    assert own in shell.run(f"{status} --state ./second")
    t.note(f"a page of one's own after {time.monotonic() - start:.1f} s")
    for command in more:
        shell.run_other(command.replace("NAME.ap", name))
    for node in (second, network):
        node.send_signal(signal.SIGINT)
        assert node.wait(20) == 0, node.name
    # A network of one's own.
    alone = shell.start("alone", up)
    wait_for("an invitation for others", lambda: INVITATION.search(alone.log.read_text()), 30, alone)
    assert INVITATION.search(shell.run(status))
    alone.send_signal(signal.SIGINT)
    assert alone.wait(20) == 0


def commands(readme):
    """The lines of all blocks for a shell, without what they say behind."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", readme, re.M | re.S)
    return [line.split("  #")[0].split("   #")[0].strip() for block in blocks for line in block.splitlines()]


class Shell:
    """Shells of a user who has just come: one home, nothing in it."""

    def __init__(self, t):
        self.t, self.home = t, t.folder / "home"
        self.home.mkdir(mode=0o700)
        tools = t.folder / "tools"
        tools.mkdir()
        (tools / "cargo").write_text(CARGO.format(phantom=shlex.quote(str(build.phantom()))))
        (tools / "cargo").chmod(0o755)
        self.environment = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home),
            "XDG_STATE_HOME": "",
            "XDG_CONFIG_HOME": "",
            # What it says is read as it is said.
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{self.home}/.cargo/bin:{tools}:/usr/local/bin:/usr/bin:/bin",
        }

    def start(self, name, line):
        return self.t.children.start(name, "sh", "-c", f"exec {line}", environment=self.environment, directory=self.home)

    def run(self, line, bound=60, codes=(0,)):
        done = self.t.children.run("sh", "-c", f"cd {self.home}; {line}", environment=self.environment, bound=bound, check=False)
        assert done.returncode in codes, f"{line}: {done}"
        return done.stdout

    def run_other(self, line):
        """One of the other commands, for the second node. Some need what a newcomer has, or do not mean a node."""
        if line.startswith("phantom completions"):
            assert "complete" in self.run(line)
        elif line.startswith("phantom run --publish "):
            server = self.start("published", line.replace(" -- ", " --state ./second -- "))
            # It says its name before it starts the program.
            wait_for("the server", lambda: "Serving HTTP" in server.log.read_text(), 2 * READY, server)
            assert AP_NAME.search(server.log.read_text())
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 128 + signal.SIGTERM
        elif line.startswith("phantom run "):
            assert "<html" in self.run(line.replace(" -- ", " --state ./second -- "), bound=2 * READY)
        elif line.startswith("phantom identity export"):
            (self.home / "passphrase").write_text("a passphrase of several words\n")
            (self.home / "passphrase").chmod(0o600)
            self.run(f"{line} --passphrase-file ./passphrase --state ./second")
            assert any("phantom-identity-1:" in file.read_text() for file in self.home.glob("*.identity")), list(self.home.iterdir())
        else:
            # The doctor knows what could be better on this machine.
            self.run(f"{line} --state ./second", bound=2 * READY, codes=(0, 3) if line == "phantom doctor" else (0,))
