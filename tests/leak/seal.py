"""`phantom run`: whatever a program tries, by libc or past it, nothing of it leaves the machine."""

import json
import os
import re
import signal
import time
from pathlib import Path

from harness import build, test
from harness.children import wait_for, whole_lines
from harness.island import Island
from harness.phantom import Demo, Node, free_port, world

WAYS = Path(__file__).with_name("ways.c")
FIRST_PORT = 4000
OUTSIDE = ("93.184.216.34", "2606:2800:220:1::9")
WORD = "marked.example"

EPERM, ENOENT, EBADF, EACCES, ENODEV, ENOSYS, EOPNOTSUPP, EPROTONOSUPPORT, ESOCKTNOSUPPORT = 1, 2, 9, 13, 19, 38, 95, 93, 94
EAFNOSUPPORT, EADDRNOTAVAIL, ENETUNREACH, ECONNREFUSED, EHOSTUNREACH = 97, 99, 101, 111, 113
# Depends on the number that the interface has outside.
NOT_THERE = {ENETUNREACH, ENODEV}
# What a program is told, where nothing leads out: as on a machine without a network, or whose kernel lacks it.
TOLD = {
    "tcp_connect": ENETUNREACH,
    "tcp_nonblocking": ENETUNREACH,
    "tcp_fast_open_sendto": EOPNOTSUPP,
    "tcp_fast_open_sendmsg": EOPNOTSUPP,
    "tcp_fast_open_connect": ENETUNREACH,
    "udp_sendto": ENETUNREACH,
    "udp_connected": ENETUNREACH,
    "udp_sendmsg": ENETUNREACH,
    "udp_sendmmsg": ENETUNREACH,
    "udp_packet_info": NOT_THERE,
    "udp_other_device": ENODEV,
    "udp_no_device": ENETUNREACH,
    "udp_other_interface": NOT_THERE,
    "udp_broadcast": ENETUNREACH,
    "udp_multicast": ENETUNREACH,
    "mptcp": EPROTONOSUPPORT,
    "icmp": EPROTONOSUPPORT,
    "raw_ip": EPERM,
    "packet": EAFNOSUPPORT,
    "assembly_tcp": ENETUNREACH,
    "assembly_udp": ENETUNREACH,
    "old_interrupt": ENOSYS,
    "io_uring": ENOSYS,
    "thread": ENETUNREACH,
    "fork_only": ENETUNREACH,
    "vfork_only": ENETUNREACH,
    "clone_only": ENETUNREACH,
    "namespace_of_parent": EACCES,
    "udp_from_outer_address": EADDRNOTAVAIL,
    "sctp": EPROTONOSUPPORT,
    "udp_lite": EPROTONOSUPPORT,
    "dccp": ESOCKTNOSUPPORT,
    "smc": EAFNOSUPPORT,
    "vsock": EAFNOSUPPORT,
    "spawn_without_environment": ENETUNREACH,
    "get_addr_info": ENOENT,
    "get_addr_info_without_hints": ENOENT,
    "get_host_by_name": ENOENT,
    "get_name_info": ENOENT,
}
OF_GO = {"go_tcp": ENETUNREACH, "go_udp": ENETUNREACH, "go_bare_tcp": ENETUNREACH, "go_bare_udp": ENETUNREACH, "go_name": ENOENT, "go_goroutine": ENETUNREACH}
OF_RUST = {"rust_tcp": ENETUNREACH, "rust_udp": ENETUNREACH, "rust_udp_connected": ENETUNREACH, "rust_thread": ENETUNREACH, "rust_name": ENOENT}
LOADER = "/lib64/ld-linux-x86-64.so.2"


@test(bound=200)
def no_way_leads_out_of_the_machine(t):
    others = of_other_languages(t)
    island = Island(t)
    demo = Demo(t)
    programs = [built(t, *how) for how in (("gcc",), ("gcc", "-static"), ("musl-gcc", "-static"))]
    for program in programs:
        for outside in OUTSIDE[:1] if "musl" in program.name else OUTSIDE:
            told = outcomes(demo.ask("run", "--", program, outside, WORD).stdout)
            assert set(told) == set(TOLD) and not wrong(told), (program, outside, wrong(told))
    # By the loader alone; its own program is the loader then.
    told = outcomes(demo.ask("run", "--", LOADER, programs[0], OUTSIDE[0], WORD).stdout)
    del told["spawn_without_environment"]
    assert not wrong(told), wrong(told)
    for program, expected in others.items():
        for outside in OUTSIDE:
            told = outcomes(demo.ask("run", "--", program, outside, WORD).stdout)
            assert told == expected, (program, outside, told)
    assert not island.left(), island.left()
    # Who is not sealed, does all that. (A shell is its parent, so that it stays on the island whatever it does.)
    free = outcomes(t.children.run("sh", "-c", '"$@"; true', "sh", programs[0], OUTSIDE[0], WORD).stdout)
    ways = list(free)
    ports = {packet.port - FIRST_PORT for packet in island.left() if packet.to == OUTSIDE[0]}
    reached = {ways[place] for place in ports if 0 <= place < len(ways)}
    by_port = {way for way in ways if way.startswith(("tcp", "udp", "assembly", "thread", "fork", "vfork", "clone", "namespace", "mptcp"))}
    by_port -= {"udp_broadcast", "udp_multicast", "udp_lite"}
    assert reached >= by_port, by_port - reached
    assert any(packet.asks_for(WORD) for packet in island.left())
    # They wait long for names.
    for program in others:
        t.children.start(program.name, program, OUTSIDE[0], WORD)
    ports = {4100, 4101, 4102, 4103, 4104, 4110, 4111, 4112, 4113}
    wait_for("the others' packets", lambda: ports <= {packet.port for packet in island.left() if packet.to == OUTSIDE[0]}, 30)


@test(bound=120)
def a_seal_outlives_whoever_put_it_on(t):
    island = Island(t)
    demo = Demo(t)
    said, go_on = t.folder / "said", t.folder / "go-on"
    t.children.run("mkfifo", go_on)
    waiting = f"read line < {go_on}; exec {built(t, 'gcc')} {OUTSIDE[0]} {WORD} > {said}.part; "
    script = f"({waiting}); mv {said}.part {said}"
    run = demo.start("run", "run", "--", "bash", "-c", script)
    # When it can be written, the program stands before it reads.
    t.children.run("bash", "-c", f"exec 3> {go_on}; kill -KILL {run.pid}; echo now >&3", bound=30)
    wait_for("the program to end", said.exists, 60)
    told = outcomes(said.read_text())
    # Sockets are not made any more.
    assert all(told[way] == ENOSYS for way in ("tcp_connect", "udp_connected", "assembly_tcp", "assembly_udp")), told
    assert all(told[way] == EBADF for way in ("udp_sendto", "udp_sendmsg", "thread")), told
    assert not island.left(), island.left()


# Goes to a party each time it is told to, and says what it met; or becomes the ways out.
VISITOR = """
import os, socket, sys
host, port, *ways = sys.argv[1:]
def find():
    try:
        return socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    except socket.gaierror:
        return place
place = None
place = find()
def visit():
    with socket.socket() as visitor:
        return visitor.connect_ex(place) or len(visitor.recv(1)) - 1
print("ready", visit(), flush=True)
for number, line in enumerate(sys.stdin):
    if line == "ways\\n":
        os.execv(ways[0], ways)
    if line == "find\\n":
        place = find()
    print("visit", number, visit(), flush=True)
"""


@test(bound=150)
def whatever_becomes_of_the_node_nothing_leaves(t):
    island = Island(t)
    program = built(t, "gcc")
    early = t.folder / "early"
    nobody = {**world(t.folder, "nobody")}
    done = t.children.run(build.phantom(), "run", "--", "touch", early, environment=nobody, check=False)
    assert done.returncode == 1 and "phantom up" in done.stderr and not early.exists(), done
    demo = Demo(t)
    node = Node(t, "node", "127.41.0.1", join=demo.invitation)
    greeter = free_port()
    t.children.start("greeter", "socat", f"TCP4-LISTEN:{greeter},bind=127.0.0.1,fork", "SYSTEM:echo hello")
    name = Node(t, "host", "127.40.0.1", join=demo.invitation).host(80, "--to", greeter)

    first = Visitor(t, node, "first", name, 80, program, OUTSIDE[0], WORD)
    node.process.send_signal(signal.SIGSTOP)
    first.say("visit")
    time.sleep(3)  # it is to be slow, and that is how long
    assert "visit" not in first.said(), first.said()
    node.process.send_signal(signal.SIGCONT)
    assert first.next() == 0
    # The kernel tells everybody at once that it has ended.
    node.process.kill()
    node.process.wait()
    first.say("visit")
    assert first.next() == ENETUNREACH
    # When it is back, so is the run, which finds names anew; what it found before leads nowhere.
    node.start()
    second = Visitor(t, node, "second", name, 80, program, OUTSIDE[1], WORD)
    first.say("visit")
    assert first.next() == EHOSTUNREACH
    wait_for("the way back", lambda: first.say("find") or first.next() == 0, 30, node.process)
    node.process.send_signal(signal.SIGTERM)
    node.process.wait()
    second.say("visit")
    assert second.next() == ENETUNREACH
    for visitor in (first, second):
        visitor.say("ways")
        assert visitor.process.wait(60) == 0
        told = outcomes("\n".join(line for line in visitor.said().splitlines() if not line.startswith(("ready", "visit", "phantom"))))
        assert set(told) == set(TOLD) and not wrong(told), (visitor.process.name, wrong(told))
    assert not island.left(), island.left()


class Visitor:
    """A run of `VISITOR`, which has visited once."""

    def __init__(self, t, node, name, *arguments):
        fifo = t.folder / f"{name}-fifo"
        os.mkfifo(fifo)
        self.orders = os.open(fifo, os.O_RDWR)
        shell = ["sh", "-c", 'exec "$@" < "$0"', fifo]
        run = [build.phantom(), "run", "--", "python3", "-c", VISITOR, *arguments]
        self.process = t.children.start(name, *shell, *run, environment=node.environment())
        self.met = -1
        wait_for("the first visit", lambda: "ready 0\n" in self.said(), 60, self.process)

    def say(self, order):
        os.write(self.orders, f"{order}\n".encode())

    def said(self):
        return whole_lines(self.process)

    def next(self):
        """What the next visit meets."""
        self.met += 1
        found = wait_for("a visit", lambda: re.search(rf"^visit {self.met} (\d+)\n", self.said(), re.M), 30, self.process)
        return int(found.group(1))



# What a program could do to be taken for somebody else, or to have somebody else do it.
TRICKS = """
import json, os, socket, sys
port, commands = int(sys.argv[1]), sys.argv[2]
def told(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0
def commands_of_the_node():
    socket.socket(socket.AF_UNIX).connect(commands)
def commands_by_another_name():
    os.symlink(commands, "other-name")
    socket.socket(socket.AF_UNIX).connect("other-name")
def same_port_of_another_address():
    own = socket.create_server(("127.0.0.2", port))
    socket.create_connection(("127.0.0.1", port))
def a_server_on_another_interface():
    out = socket.socket(socket.AF_INET6)
    out.bind(("fe80::2", 0, 0, socket.if_nametoindex("out")))
    out.listen()
def a_pair_of_another_family():
    socket.socketpair(30, socket.SOCK_SEQPACKET)
def its_own_server():
    own = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(own.getsockname())
tricks = [commands_of_the_node, commands_by_another_name, same_port_of_another_address, a_server_on_another_interface,
    a_pair_of_another_family, its_own_server]
print(json.dumps({trick.__name__: told(trick) for trick in tricks}))
"""


@test(bound=120)
def a_sealed_program_is_nobody_else_and_gives_no_orders(t):
    Island(t)
    demo = Demo(t)
    commands = next((t.folder / "demo-runtime").rglob("sock"))
    port = demo.socks.split(":")[1]
    tricks = json.loads(demo.ask("run", "--", "python3", "-c", TRICKS, port, commands).stdout)
    assert tricks == {
        "commands_of_the_node": ECONNREFUSED,
        "commands_by_another_name": ECONNREFUSED,
        "same_port_of_another_address": ECONNREFUSED,
        "a_server_on_another_interface": ENODEV,
        "a_pair_of_another_family": EAFNOSUPPORT,
        "its_own_server": 0,
    }, tricks
    # Whoever is not sealed may do all that, as far as the kernel has it.
    free = json.loads(t.children.run("python3", "-c", TRICKS.replace('"other-name"', '"free-name"'), port, commands).stdout)
    del free["a_pair_of_another_family"]
    assert set(free.values()) == {0}, free


def built(t, *compiler):
    program = t.folder / "-".join(compiler)
    t.children.run(*compiler, "-O1", "-w", "-pthread", "-o", program, WAYS)
    return program


def of_other_languages(t):
    """Programs that ask for less of the system's libraries, or nothing of them, with what they are told."""
    rust, go = t.folder / "ways-rust", t.folder / "ways-go"
    t.children.run("rustc", "--edition", "2021", "-C", "target-feature=+crt-static", "-o", rust, WAYS.with_suffix(".rs"))
    surroundings = {"GOCACHE": str(t.folder / "go"), "HOME": str(t.folder)}
    static = ["-ldflags", "-linkmode external -extldflags -static"]
    t.children.run("go", "build", *static, "-o", go, WAYS.with_suffix(".go"), environment=surroundings)
    return {rust: OF_RUST, go: OF_GO}


def wrong(told):
    """What differs from `TOLD`."""
    return {way: error for way, error in told.items() if TOLD[way] != error and not (TOLD[way] == NOT_THERE and error in NOT_THERE)}


def outcomes(said):
    return {way: int(error) for way, error in (line.split() for line in said.splitlines())}
