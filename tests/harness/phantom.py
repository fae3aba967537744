"""Starts and asks Phantom as a user does: by its command line."""

import errno
import json
import random
import re
import socket
import threading
import urllib.parse

from . import build
from .children import wait_for, whole_lines

INVITATION = re.compile(r"phantom-invitation-1:[a-z2-7]+")
AP_NAME = re.compile(r"\b[a-z2-7]{56}\.ap\b")

# Until paths of three relays a side stand: seconds, on two cores that have other things to do as well.
READY = 100


def world(folder, name):
    """What a phantom may see of its user: folders of its own, for whatever the machine's user runs is not ours."""
    runtime = folder / f"{name}-runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {"XDG_RUNTIME_DIR": str(runtime), "HOME": str(runtime), "XDG_STATE_HOME": "", "XDG_CONFIG_HOME": ""}


# The kernel gives none of these to who asks for any port, and none is given twice here: so whoever gets one has it still when it
# comes to use it.
PORTS = random.sample(range(15_000, 32_000), 17_000)
CHOOSING = threading.Lock()


def free_port(address="127.0.0.1"):
    while True:
        with CHOOSING:
            port = PORTS.pop()
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
                return port
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise


def curl(t, socks, url, *options, bound=60):
    """Fetches through a SOCKS proxy, names resolved there; never by a proxy of the environment."""
    command = ["curl", "-q", "--noproxy", "", "--silent", "--show-error", "--fail", "--max-time", bound]
    return t.children.run(*command, "--socks5-hostname", socks, *options, url, bound=bound + 10)


class Demo:
    """`phantom demo`, ready to be used."""

    def __init__(self, t, *options, name="demo", ready=READY, program=None):
        self.t, self.name, self.program = t, name, program or build.phantom()
        ready_file = t.folder / f"{name}.json"
        self.socks = f"127.0.0.1:{free_port()}"
        command = [self.program, "demo", "--socks", self.socks, "--ready-file", ready_file, *options]
        self.process = t.children.start(name, *command, environment=world(t.folder, name))
        wait_for("the demo's ready file", lambda: complete_json(ready_file), ready, self.process)
        facts = complete_json(ready_file)
        assert facts["socks"] == self.socks, facts
        self.pid, self.hops = facts["pid"], facts["hops"]
        self.invitation, self.nodes = facts["invitation"], facts["nodes"]
        self.url = facts["site"] if "://" in facts["site"] else f"http://{facts['site']}"
        self.url = self.url.rstrip("/")
        self.site = urllib.parse.urlsplit(self.url).netloc

    def ask(self, *command, check=True, bound=60):
        """Any other subcommand, against this demo."""
        return self.t.children.run(self.program, *command, environment=self.environment(), check=check, bound=bound)

    def start(self, name, *command):
        """A subcommand that goes on."""
        return self.t.children.start(name, self.program, *command, environment=self.environment())

    def environment(self):
        return world(self.t.folder, self.name)

    def status(self):
        return json.loads(self.ask("status", "--json").stdout)

    def get(self, path, *options, bound=60):
        return curl(self.t, self.socks, self.url + path, *options, bound=bound).stdout

    def printed(self):
        return whole_lines(self.process)


class Node:
    """`phantom up`: one node in a process of its own, with state and socket in the test's folder."""

    def __init__(self, t, name, address, join=None, options=(), environment=None, program=None):
        self.t, self.name, self.address, self.more = t, name, address, environment or {}
        self.program = program or build.phantom()
        self.listen, self.socks = f"{address}:{free_port(address)}", f"127.0.0.1:{free_port()}"
        self.state = t.folder / f"{name}-state"
        self.options = [*options, *(["--join", join] if join else [])]
        self.process = None
        self.start()

    def start(self):
        command = [self.program, "up", "--listen", self.listen, "--socks", self.socks, "--state", self.state]
        line = f"socks     {self.socks}"
        before = self.printed().count(line) if self.process else 0
        environment = {**self.environment(), **self.more}
        self.process = self.t.children.start(self.name, *command, *self.options, environment=environment)
        # The local socket is there first.
        wait_for(f"{self.name} to be up", lambda: self.printed().count(line) > before, 30, self.process)

    def environment(self):
        return world(self.t.folder, self.name)

    def ask(self, *command, check=True, bound=60):
        """Any other subcommand, against this daemon."""
        return self.t.children.run(self.program, *command, environment=self.environment(), check=check, bound=bound)

    def invitation(self):
        found = wait_for("an invitation", lambda: INVITATION.search(self.printed()), 20, self.process)
        return found.group()

    def status(self):
        return json.loads(self.ask("status", "--json").stdout)

    def host(self, port, *options):
        """Publishes a local port and returns its name."""
        said = self.ask("host", port, *options, bound=2 * READY).stdout
        found = AP_NAME.search(said)
        assert found, f"no name was printed:\n{said}"
        return found.group()

    def get(self, url, *options, bound=60):
        return curl(self.t, self.socks, url, *options, bound=bound).stdout

    def printed(self):
        return whole_lines(self.process)


def complete_json(file):
    """The parsed file, or None while it is not there or not whole."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
