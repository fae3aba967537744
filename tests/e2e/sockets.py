"""`phantom run`: to a program, the network's services are as services of this machine are, call by call.

The cases are C, in `tests/sockets/cases`. They run plainly, with the services at hand, and under the seal, with the same
services published: what they say must be the same.
"""

import os
from pathlib import Path

from harness import test
from harness.children import wait_for
from harness.island import Island
from harness.phantom import Demo, Node

HERE = Path(__file__).parents[1] / "sockets"
ABSENT = 9  # its place among the services' ports: nobody published it

# Where a sealed program may see something else, and why.
DIFFERENT = {
    # Signals and threads that meet a connect under way.
    "a_signal_interrupts_connect": "the attempt ends with the call",
    "a_signal_that_restarts_calls_does_not_interrupt_connect": "the second call finds what the first one did",
    "a_signal_tells_of_it": "the same, for a connect that does not wait",
    "two_threads_connect_one_socket": "one of them is told that it is connected",
    "connect_has_the_patience_of_its_socket": "SO_SNDTIMEO does not bound a connect",
    # What is asked of a socket that was refused, or is under way.
    "connect_again_when_it_stands": "EISCONN at once, not 0 first",
    "refusal_is_read_from": "ECONNRESET, unless SO_ERROR was asked for",
    "refusal_is_written_to": "the same",
    "refusal_is_told_by_connect": "the same",
    "connect_after_a_refusal": "the same",
    "shutdown_under_way": "it takes the socket to be connected",
    "disconnect_under_way": "another error stays behind",
    "the_other_side_closes": "what is written to it is lost without a word",
    # Arguments.
    "connect_other_family": "they are looked at in another order",
    "connect_lengths": "shorter addresses are taken",
    "connect_mapped_on_v6_only": "it is not looked at",
    "other_kinds_of_sockets_connect_nowhere": "another error",
    "own_datagrams_say_what_is_wrong": "shorter addresses are taken",
    "sockets_that_there_are_not": "flags that there are not are taken",
    "listen_in_many_ways": "another error for datagram sockets",
    "write_before_connect": "sendto says that it takes no address",
    "an_address_beside_a_connection_does_not_count": "the same",
    "unix_sockets_are_as_ever": "the same",
    # What can be seen of the way that connections take.
    "connect_mapped": "the own address is of the other kind",
    "nonblocking_mapped": "the same",
    "device_and_filter_of_a_connection": "both are in use",
    "the_error_needs_room": "the length is that of a whole one",
    "settings_before_connect": "SO_RCVLOWAT holds up the node's answer",
    "settings_of_what_did_not_wait": "TCP_NOTSENT_LOWAT is put back to its default",
    "two_sockets_from_one_port": "both lead to one place",
    # The program's own servers.
    "own_datagrams_v4": "addresses come in their longest form",
    "own_datagrams_v6": "the same",
    "own_server_v4": "the same",
    "own_server_v6": "the same",
    "own_server_at_another_address": "the same",
    "own_server_everywhere": "the same",
    "own_server_of_both_families": "the same",
    "own_server_passed_on_by_exec_and_fork": "the same",
    "own_servers_and_others_side_by_side": "the same",
    "server_ends_before_it_takes_its_visitor": "the same",
    "own_server_is_not_there": "the refusal comes at once",
    "a_socket_visits_itself": "nobody listens",
}


@test(bound=200)
def calls_end_as_they_do_without_the_seal(t):
    Island(t)
    # What programs do on a machine that has it is to connect first.
    t.children.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/tcp_fastopen")
    program = built(t, "semantics", *sorted((HERE / "cases").glob("*.c")))
    plain = outcomes(t, [], Services(t, "plain"), program, "127.0.0.1", "::1")
    demo = Demo(t, "--hops", 1, "--nodes", 4)
    services = Services(t, "published")
    name = services.publish(Node(t, "host", "127.40.0.1", join=demo.invitation, options=["--hops", 1]))
    sealed = outcomes(t, demo, services, program, name, name)
    assert list(plain) == list(sealed) and len(plain) > 150, (list(plain), list(sealed))
    wrong = [
        f"{case}:\n  plain  {plain[case]}\n  sealed {sealed[case]}"
        for case in plain
        if plain[case] != sealed[case] and case not in DIFFERENT
    ]
    t.note(f"{len(plain)} cases, {sum(plain[case] != sealed[case] for case in plain)} of them differ")
    assert not wrong, f"{len(wrong)} of {len(plain)} cases\n" + "\n".join(wrong)


class Services:
    """The other side."""

    def __init__(self, t, name):
        self.fifo = t.folder / f"{name}-fifo"
        os.mkfifo(self.fifo)
        process = t.children.start(f"{name}-services", "python3", HERE / "services.py", self.fifo)
        said = wait_for("the services", process.log.read_text, 20, process)
        self.ports = said.split()

    def publish(self, node):
        """Under their own ports. Returns the name."""
        for place, port in enumerate(self.ports):
            if place != ABSENT:
                name = node.host(port, "--to", port)
        return name


def built(t, name, *sources, options=()):
    program = t.folder / name
    t.children.run("gcc", "-O1", "-Wall", "-Werror", "-Wno-nonnull", "-pthread", *options, "-o", program, *sources)
    return program


def outcomes(t, sealed, services, program, host4, host6):
    command = [program, host4, host6, services.fifo, *services.ports]
    if sealed:
        done = sealed.ask("run", "--", *command, bound=100)
    else:
        done = t.children.run(*command, bound=100)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())
