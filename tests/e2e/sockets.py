"""`phantom run`: to a program, the network's services are as services of this machine are, call by call.

The cases are C, in `tests/sockets/cases`. They run plainly, with the services at hand, and under the seal, with the same
services published: what they say must be the same.
"""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import build, test
from harness.children import wait_for, whole_lines
from harness.island import Island
from harness.phantom import Demo, Node

HERE = Path(__file__).parents[1] / "sockets"
# Their places among the services' ports; nobody published the absent one.
ECHO, CLOSING, STUCK, REFUSED, ABSENT, DATAGRAMS = 0, 1, 7, 8, 9, 10

# Where a sealed program may see something else, and why.
DIFFERENT = {
    "connect_other_family": "of a socket of IPv6, an address of IPv4 that is as long as one of IPv6 is taken for too short",
    # What can be seen of the way that connections take.
    "two_sockets_from_one_port": "both lead to one place",
    # The program's own servers.
    "own_datagrams_of_shared_ports": "all ports of datagrams are shared",
}
DIFFERENT_BY_LIBRARY = {
    "device_and_filter_of_a_connection": "the party is written into the socket's filter, where the library reads it",
    "no_descriptor_is_left": "the library needs a descriptor of its own for each call",
}


@test(bound=200, bound_of_all=400)
def calls_end_as_they_do_without_the_seal(t):
    Island(t)
    # What programs do on a machine that has it is to connect first.
    t.children.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/tcp_fastopen")
    program = built(t, "semantics", *sorted((HERE / "cases").glob("*.c")))
    plain = outcomes(t, [], Services(t, "plain"), program, "127.0.0.1", "::1")
    assert len(plain) > 180 and not any("HANGS" in said for said in plain.values()), plain
    demo = Demo(t, "--hops", 1, "--nodes", 4)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation, options=["--hops", 1])
    ways = {"sealed": ([], DIFFERENT)}
    if t.long:
        ways["by the library"] = (["--preload-only"], DIFFERENT | DIFFERENT_BY_LIBRARY)
    for way, (options, different) in ways.items():
        services = Services(t, way.replace(" ", "-"))
        name = services.publish(host)
        seal = [build.phantom(), "run", *options, "--"]
        found = outcomes(t, seal, services, program, name, name, environment=demo.environment())
        assert list(plain) == list(found), found
        differ = [case for case in plain if plain[case] != found[case]]
        wrong = "\n".join(f"{case}:\n  plain  {plain[case]}\n  {way} {found[case]}" for case in differ if case not in different)
        t.note(f"{way}: {len(plain)} cases, {len(differ)} of them differ: {', '.join(differ)}")
        assert not wrong, wrong


@test(bound=150, bound_of_all=600)
def many_threads_connect_and_nothing_is_left(t):
    demo = Demo(t, "--hops", 1, "--nodes", 4)
    services = Services(t, "published")
    name = services.publish(Node(t, "host", "127.40.0.1", join=demo.invitation, options=["--hops", 1]))
    plain = built(t, "churn", HERE / "churn.c")
    checked = built(t, "churn-checked", HERE / "churn.c", options=("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    runs = [("plainly", [plain], 1000), ("checked", [checked], 300)]
    if t.long:
        runs = [("plainly", [plain], 10_000), ("checked", [checked], 10_000), ("under valgrind", [*VALGRIND, plain], 1000)]
    for how, program, count in runs:
        churn = Churn(t, demo, how, program, services, name, count)
        t.note(f"{how}: {churn.said}")


# Sockets that a supervisor may keep for those who will ask for some.
STOCK = 64
# Threads are sent signals all the time.
SIGNALS = 1
VALGRIND = ("valgrind", "--quiet", "--error-exitcode=9", "--fair-sched=yes")


class Churn:
    """One run of `churn.c`. It goes on only when it is told, so that its supervisor can be looked at before and after."""

    def __init__(self, t, demo, name, program, services, host, count):
        fifo = t.folder / f"{name}-fifo"
        os.mkfifo(fifo)
        orders = os.open(fifo, os.O_RDWR)
        # A connect that nobody takes ends with the patience of the node, and no earlier.
        stuck, patience = (STUCK, 120) if t.long else (ECHO, 20)
        ports = [services.ports[place] for place in (ECHO, CLOSING, REFUSED, stuck)]
        command = [build.phantom(), "run", "--", *program, host, host, *ports, count, 64, SIGNALS]
        shell = ["sh", "-c", 'exec "$@" < "$0"', fifo]
        self.process = t.children.start(name, *shell, *command, environment=demo.environment())
        self.reach("warm", 120)
        before = self.sockets()
        os.write(orders, b"\n")
        self.reach("done", 300)
        wait_for("the supervisor's sockets to be closed", lambda: self.sockets() <= before + STOCK, patience, self.process)
        os.write(orders, b"\n")
        ended = self.process.wait(30)
        said = whole_lines(self.process).splitlines()
        os.close(orders)
        assert ended == 0 and said[0] == "warm" and said[-1] == "done" and len(said) == 3, (name, ended, said)
        self.said = said[1]

    def reach(self, word, bound):
        wait_for(word, lambda: word in whole_lines(self.process).splitlines(), bound, self.process)

    def sockets(self):
        """How many of them the supervisor has."""
        count = 0
        for descriptor in os.scandir(f"/proc/{self.process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(descriptor.path).startswith("socket:")
        return count


class Services:
    """The other side."""

    def __init__(self, t, name):
        self.fifo = t.folder / f"{name}-fifo"
        os.mkfifo(self.fifo)
        process = t.children.start(f"{name}-services", "python3", HERE / "services.py", self.fifo)
        said = wait_for("the services", lambda: whole_lines(process), 20, process)
        self.ports = said.split()

    def publish(self, node):
        """Under their own ports. Returns the name."""
        published = [(port, ["--udp"] * (place == DATAGRAMS)) for place, port in enumerate(self.ports) if place != ABSENT]
        with ThreadPoolExecutor(len(published)) as together:
            names = set(together.map(lambda one: node.host(one[0], "--to", one[0], *one[1]), published))
        assert len(names) == 1, names
        return names.pop()


def built(t, name, *sources, options=()):
    program = t.folder / name
    t.children.run("gcc", "-O1", "-Wall", "-Werror", "-Wno-nonnull", "-pthread", *options, "-o", program, *sources)
    return program


def outcomes(t, seal, services, program, host4, host6, environment=None):
    command = [*seal, program, host4, host6, services.fifo, *services.ports]
    done = t.children.run(*command, environment=environment, bound=100)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())
