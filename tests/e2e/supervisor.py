"""`phantom run`: what the supervisor has to hold for a run: its processes that have ended, and descriptors."""

import json
import os
import resource
import socket
import struct
import threading

from harness import build, test
from harness.children import wait_for, whole_lines
from harness.phantom import Demo, world
from harness.suite import Skip

# Processes whose parents have gone: each says its number, and ends as it likes.
LEAVES = """
import os, signal, sys, time
def left_behind(code):
    told, tells = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(tells, str(os.getpid()).encode())
            while os.getppid() != supervisor:
                time.sleep(0.001)
            if code:
                os._exit(code)
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    os.wait()
    return int(os.read(told, 20))
def stat(process):
    try:
        return open(f"/proc/{process}/stat").read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
def until(what):
    end = time.monotonic() + 20
    while not what():
        if time.monotonic() > end:
            sys.exit("in vain")
        time.sleep(0.01)
supervisor = os.getppid()
"""
MANY = LEAVES + """
left = [left_behind(at % 3) for at in range(50)]
until(lambda: not any(stat(process) for process in left))
# One that only stops is neither taken for one that has ended, nor does it keep others from being looked at.
told, tells = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.write(tells, str(os.getpid()).encode())
        os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
os.wait()
stopped = int(os.read(told, 20))
until(lambda: stat(stopped)[0] == "T")
left = left_behind(1)
until(lambda: not stat(left))
assert stat(stopped)[0] == "T", stat(stopped)
os.kill(stopped, signal.SIGKILL)
until(lambda: not stat(stopped))
sys.exit(7)
"""
WITHOUT_HELPER = LEAVES + """
threads = os.listdir(f"/proc/{supervisor}/task")
children = {int(child) for thread in threads for child in open(f"/proc/{supervisor}/task/{thread}/children").read().split()}
helper, = children - {os.getpid()}
os.kill(helper, signal.SIGKILL)
until(lambda: stat(helper) is None or stat(helper)[0] == "Z")
before = sum(map(int, stat(supervisor)[11:13]))
time.sleep(1)
# It has ended, its number is nobody else's, and nobody is busy with it.
assert stat(helper)[0] == "Z", stat(helper)
assert sum(map(int, stat(supervisor)[11:13])) - before < os.sysconf("SC_CLK_TCK") / 4
sys.exit(7)
"""


@test(bound=60)
def what_a_program_leaves_behind_is_gone_when_it_has_ended_and_the_code_is_the_programs(t):
    node = SilentNode(t)
    run = lambda program: node.run("python3", "-c", program)
    done = run(MANY)
    assert done.returncode == 7, done
    done = run(WITHOUT_HELPER)
    assert done.returncode == 7, done


PROCESSES, EACH = 10, 30
EINPROGRESS = 115
CONNECTS = f"""
import os, resource, socket, sys
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
children, told = [], []
for at in range({PROCESSES}):
    reads, writes = os.pipe()
    if os.fork() == 0:
        # Whoever has its sockets goes on until all have been told of.
        sockets = [socket.socket() for _ in range({EACH})]
        for one in sockets:
            one.setblocking(False)
        outcomes = {{one.connect_ex(("127.192.0.9", 1000 + at)) for one in sockets}}
        os.write(writes, repr(outcomes).encode())
        sys.stdin.read()
        os._exit(0)
    os.close(writes)
    children.append(reads)
print(limits[0], limits[1], *[os.read(reads, 1000).decode() for reads in children], flush=True)
sys.stdin.read()
"""


@test(bound=60)
def connections_under_way_are_bounded_by_no_limit_of_one_process(t):
    node = SilentNode(t)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for options in ([], ["--preload-only"]):
        node.opened = 0
        # A soft limit, as `ulimit -n` sets it for shells of users.
        script = 'ulimit -Sn 64; exec "$@" < "$0"'
        fifo = t.folder / f"goes-on{len(options)}"
        goes_on = node.hold(fifo)
        command = ["sh", "-c", script, fifo, build.phantom(), "run", "--state", t.folder, *options, "--", "python3", "-c", CONNECTS]
        run = t.children.start(f"run{len(options)}", *command, environment=node.surroundings)
        said = wait_for("the connects", lambda: line(run, f"64 {hard} "), 40, run)
        assert said == f"64 {hard} " + " ".join([f"{{{EINPROGRESS}}}"] * PROCESSES), said
        wait_for("all to be under way at once", lambda: node.opened == PROCESSES * EACH, 20, run)
        goes_on.close()
        assert run.wait(20) == 0


# What browsers and others look at before they try to connect, and where it leads.
LOOKS = """
import json, socket, subprocess, sys
def send_by(device):
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if device:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
    try:
        own.sendto(b"x", ("198.51.100.1", 9))
    except OSError as error:
        return error.errno
    return 0
ask = lambda *command: json.loads(subprocess.run(["ip", "-j", *command], capture_output=True, text=True).stdout or "[]")
addresses = {one["ifname"]: [one["operstate"], *[address["local"] for address in one["addr_info"]]] for one in ask("addr")}
routes = [route for family in ("-4", "-6") for route in ask(family, "route", "show", "table", "all") if route.get("type") != "local"]
found = socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
print(json.dumps([addresses, routes, sorted({int(one[0]) for one in found}), send_by(None), send_by(b"phantom0")]))
"""
ENETUNREACH, EINVAL = 101, 22


@test(bound=100)
def a_program_takes_itself_for_online_by_an_interface_that_leads_nowhere(t):
    demo = Demo(t)
    if t.children.run("unshare", "-Urn", "ip", "link", "add", "type", "veth", check=False).returncode:
        raise Skip("the kernel makes no pairs of interfaces (veth)")
    file = t.folder / "told.json"
    done = demo.ask("run", "--explain-file", file, "--json", "--", "python3", "-c", LOOKS, demo.site.split(":")[0])
    addresses, routes, families, *sent = json.loads(done.stdout)
    assert set(addresses) == {"lo", "phantom0", "phantom1"}, addresses
    assert addresses["phantom0"] == ["UP", "127.224.0.1"] and addresses["phantom1"] == ["UP"], addresses
    assert families == [socket.AF_INET, socket.AF_INET6], families
    # Not even who insists on it sends by it: the address is one that no packet on a wire may have.
    assert sent == [ENETUNREACH, EINVAL], sent
    assert all(route["dev"] == "lo" for route in routes), routes
    checked = json.loads(file.read_text())["checked"]
    assert set(checked["interfaces"]) == set(addresses) and checked["packets_outside"] == 0, checked


def line(process, beginning):
    return next((said for said in whole_lines(process).splitlines() if said.startswith(beginning)), None)


class SilentNode:
    """Somebody who begins runs, as a node does, takes what is opened, and never says what became of it."""

    def __init__(self, t):
        self.t, self.opened, self.surroundings = t, 0, world(t.folder, "silent")
        self.at = socket.socket(socket.AF_UNIX)
        self.at.bind(str(t.folder / "sock"))
        self.at.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def run(self, *program):
        return self.t.children.run(build.phantom(), "run", "--state", self.t.folder, "--", *program, environment=self.surroundings, check=False)

    def hold(self, fifo):
        """A pipe to read from, until this is closed."""
        os.mkfifo(fifo)
        return open(os.open(fifo, os.O_RDWR), "w")

    def serve(self):
        while True:
            threading.Thread(target=self.converse, args=(self.at.accept()[0],), daemon=True).start()

    def converse(self, run):
        with run:
            for reply in ({"reply": "hello", "version": 1, "software": "x"}, {"reply": "run", "address": "fc00::9", "name": None}):
                self.read(run)
                told = json.dumps(reply).encode()
                run.sendall(struct.pack(">I", len(told)) + told)
            while frame := self.read(run):
                self.opened += frame[0] == 1

    def read(self, run):
        def exactly(length):
            data = b""
            while len(data) < length:
                more, received, _, _ = socket.recv_fds(run, length - len(data), 16)
                for one in received:
                    os.close(one)
                if not more:
                    return None
                data += more
            return data

        length = exactly(4)
        return length and exactly(struct.unpack(">I", length)[0])
