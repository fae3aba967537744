"""`phantom run` of a user without rights: node, run and program are of one who may nothing that others may not."""

import json
import os
import shutil
import signal

from harness import Skip, build, test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node

from .explain import whole
from .serving import name_of

# Nobody else of this machine has it.
USER = 61_234
SIZE = 2_000_000
NO_RIGHTS = "CapInh CapPrm CapEff CapAmb".split()

HIDES = """
import ctypes, signal, socket, sys
PR_SET_DUMPABLE = 4
made, there = socket.socket(), socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET)[0][4]
if "hides" in sys.argv:
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
def told(what):
    try:
        what()
        return 0
    except OSError as error:
        return error.errno
connected = told(lambda: made.connect(there))
listening = socket.socket()
print(connected, told(listening.listen), told(lambda: socket.create_connection(("127.0.0.1", 9))), flush=True)
if "waits" in sys.argv:
    signal.pause()
"""
EPERM, ECONNREFUSED = 1, 111


@test(bound=150)
def a_user_without_rights_runs_clients_and_servers_and_learns_what_they_did(t):
    user = User(t)
    demo = Demo(t, "--hops", 1, "--nodes", 4, program=user.phantom)
    url, expected = f"{demo.url}/bytes/{SIZE}", demo.get(f"/sha256/{SIZE}").strip()
    status = dict(line.split(":\t", 1) for line in demo.ask("run", "--", "cat", "/proc/self/status").stdout.splitlines())
    assert status["Uid"].split() == [str(user.number)] * 4 and status["NoNewPrivs"] == "1", status
    assert all(int(status[rights], 16) == 0 for rights in NO_RIGHTS), status
    fetch = ["curl", "-q", "-sSf", url]
    for fetch in (fetch, ["busybox", "wget", "-q", "-O", "-", url], ["unshare", "--user", "--map-root-user", *fetch]):
        done = demo.ask("run", "--", "sh", "-c", '"$@" | sha256sum', "sh", *fetch)
        assert done.stdout.split()[0] == expected and not done.stderr, (fetch, done)
    done = demo.ask("run", "--", "curl", "-q", "-sS", "http://93.184.216.34/", check=False)
    assert done.returncode == 7 and "93.184.216.34" in done.stderr, done

    (t.folder / "served").write_bytes(os.urandom(SIZE))
    server = demo.start("server", "run", "--publish", 80, "--", "python3", "-m", "http.server", 80)
    page = f"http://{name_of(server)}/served"
    file = t.folder / "told.json"
    fetch = ["--explain-file", file, "--json", "--", "curl", "-q", "-sSf", "-o", t.folder / "got", page]
    wait_for("the server", lambda: demo.ask("run", *fetch, check=False).returncode == 0, READY, server)
    assert (t.folder / "got").read_bytes() == (t.folder / "served").read_bytes()
    told = json.loads(file.read_text())
    # It listens for IPv4 alone.
    assert any(deed["deed"] == "connects" and deed["outcomes"][0]["errno"] == 0 for deed in told["deeds"]), told
    assert told["checked"]["foreign"] == told["checked"]["hidden"] == told["checked"]["hidden_processes"] == 0, told

    agent = t.folder / "agent"
    t.children.start("agent", "ssh-agent", "-D", "-a", agent)
    wait_for("the agent", agent.exists, 20)
    asked = demo.ask("run", "--", "env", f"SSH_AUTH_SOCK={agent}", "ssh-add", "-l", check=False)
    assert asked.returncode == 1 and asked.stdout == "The agent has no identities.\n", asked


@test(bound=100)
def a_browser_with_its_own_walls_reaches_pages_and_nothing_else(t):
    user = User(t)
    if shutil.which("chromium") is None:
        raise Skip("chromium is not installed (tests/run --install)")
    demo = Demo(t, "--hops", 1, "--nodes", 4, program=user.phantom)
    file = t.folder / "told.json"
    quiet = ["--headless", "--disable-gpu", "--no-first-run", "--disable-component-update", "--disable-background-networking"]
    browser = ["chromium", *quiet, f"--user-data-dir={t.folder / 'browser'}", "--dump-dom", demo.url]
    done = demo.ask("run", "--explain-file", file, "--json", "--", *browser)
    assert "<title>Phantom: it works</title>" in done.stdout, done
    checked = json.loads(file.read_text())["checked"]
    assert checked["processes"] > 3 and checked["sockets"] > 3 and checked["foreign"] == 0, checked


@test(bound=100)
def what_hides_from_its_user_is_refused_and_its_user_is_told_once(t):
    user = User(t)
    demo = Demo(t, "--hops", 1, "--nodes", 4, program=user.phantom)
    host = demo.site.split(":")[0]
    (t.folder / "hides.py").write_text(HIDES)
    program = ["python3", t.folder / "hides.py", host]
    assert demo.ask("run", "--", *program).stdout == f"0 0 {ECONNREFUSED}\n"
    # Its socket was made while it was to be seen; it begins to hide before it uses that.
    file = t.folder / "told.json"
    twice = ["sh", "-c", '"$@"; "$@"', "sh", *program, "hides"]
    done = demo.ask("run", "--explain-file", file, "--json", "--", *twice)
    assert done.stdout == f"{EPERM} {EPERM} {EPERM}\n" * 2, done
    assert done.stderr.startswith("phantom: python3 lets no other program of its user look into it"), done
    assert done.stderr.count("\n") == 1 and "phantom run --preload-only" in done.stderr, done
    told = json.loads(file.read_text())
    [[outcome]] = [deed["outcomes"] for deed in told["deeds"] if deed["deed"] == "refused"]
    file.unlink()
    assert outcome["errno"] == EPERM and outcome["times"] >= 6, told
    waits = demo.start("waits", "run", "--explain-file", file, "--json", "--", *program, "hides", "waits")
    wait_for("the program to hide", lambda: f"{EPERM} {EPERM} {EPERM}\n" in waits.log.read_text(), 20, waits)
    waits.send_signal(signal.SIGUSR1)
    told = wait_for("what is known by now", lambda: whole(file), 20, waits)
    assert told["checked"]["hidden_processes"] == 1 and told["checked"]["foreign"] == 0, told
    done = demo.ask("run", "--preload-only", "--", *program, "hides")
    assert done.stdout == f"0 0 {ECONNREFUSED}\n" and "look into it" not in done.stderr, done

    # Who may execute a file and not read it, may not look into what it becomes either.
    secret = t.folder / "secret"
    shutil.copy(shutil.which("curl"), secret)
    secret.chmod(0o711)
    if os.getuid() == 0:
        done = demo.ask("run", "--", secret, "-q", "-sS", demo.url, check=False)
        assert done.returncode == 6 and not done.stdout and done.stderr.count("secret lets no other program") == 1, done
    # It hides as soon as it runs, and Debian has it run in a group of its own.
    set_group = demo.ask("run", "--", "ssh-agent", "-D", check=False)
    assert set_group.returncode == 126 and "(set-gid)" in set_group.stderr and set_group.stderr.count("\n") == 1, set_group
    done = demo.ask("run", "--", "sh", "-c", "ssh-agent -D; exit $?", check=False)
    assert done.returncode == 1 and "Operation not permitted" in done.stderr, done
    assert done.stderr.count("phantom: ssh-agent lets no other program") == 1, done


@test(bound=60)
def the_node_of_another_user_takes_no_runs_and_the_sentence_says_what_to_do(t):
    if os.getuid() != 0:
        raise Skip("only root can be another user")
    node = Node(t, "node", "127.40.0.1")
    (t.folder / "node-runtime").chmod(0o755)
    node.program = User(t).phantom
    done = node.ask("run", "--", "true", check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert "belongs to another user" in done.stderr and "Start one of your own with `phantom up`" in done.stderr, done


class User:
    """Whoever is not root; if the test is root's, one whom nobody knows. All that the test starts from now on is this one's."""

    def __init__(self, t):
        self.t, self.number = t, os.getuid() or USER
        if t.children.run("unshare", "--user", "--net", "true", check=False).returncode:
            raise Skip("this machine lets nobody make a network namespace")
        # Where the program was built, others may have no way.
        self.phantom = t.folder / "phantom"
        for built in (build.phantom(), build.library()):
            shutil.copy(built, t.folder / built.name)
        (t.folder / "demo-runtime").mkdir(mode=0o700)
        if os.getuid() == 0:
            for owned in (t.folder, t.folder / "demo-runtime"):
                os.chown(owned, self.number, self.number)
            identity = ["--reuid", self.number, "--regid", self.number, "--clear-groups"]
            t.children.within = ["setpriv", *identity, "--pdeathsig", "KILL"]
