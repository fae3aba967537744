"""`phantom run`: whatever a program tries, by libc or past it, nothing of it leaves the machine."""

import json
from pathlib import Path

from harness import test
from harness.children import wait_for
from harness.island import Island
from harness.phantom import Demo

WAYS = Path(__file__).with_name("ways.c")
FIRST_PORT = 4000
OUTSIDE = ("93.184.216.34", "2606:2800:220:1::9")
WORD = "marked.example"

EPERM, ENOENT, EBADF, ENODEV, ENOSYS, EOPNOTSUPP, EPROTONOSUPPORT, EAFNOSUPPORT, ENETUNREACH = 1, 2, 9, 19, 38, 95, 93, 97, 101
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
    "udp_packet_info": ENETUNREACH,
    "udp_other_device": ENODEV,
    "udp_no_device": ENETUNREACH,
    "udp_other_interface": ENETUNREACH,
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
    "spawn_without_environment": ENETUNREACH,
    "get_addr_info": ENOENT,
    "get_addr_info_without_hints": ENOENT,
    "get_host_by_name": ENOENT,
    "get_name_info": ENOENT,
}


@test(bound=200)
def no_way_leads_out_of_the_machine(t):
    island = Island(t)
    demo = Demo(t)
    programs = [built(t, *how) for how in (("gcc",), ("gcc", "-static"), ("musl-gcc", "-static"))]
    for program in programs:
        for outside in OUTSIDE[:1] if "musl" in program.name else OUTSIDE:
            told = outcomes(demo.ask("run", "--", program, outside, WORD).stdout)
            assert set(told) == set(TOLD), told
            wrong = {way: error for way, error in told.items() if error != TOLD[way]}
            assert not wrong, (program, outside, wrong)
    assert not island.left(), island.left()
    # Who is not sealed, does all that.
    free = outcomes(t.children.run(programs[0], OUTSIDE[0], WORD).stdout)
    ways = list(free)
    ports = {packet.port - FIRST_PORT for packet in island.left() if packet.to == OUTSIDE[0]}
    reached = {ways[place] for place in ports if 0 <= place < len(ways)}
    by_port = {way for way in ways if way.startswith(("tcp", "udp", "assembly", "thread", "fork", "mptcp"))} - {"udp_broadcast", "udp_multicast"}
    assert reached >= by_port, by_port - reached
    assert any(packet.asks_for(WORD) for packet in island.left())


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
ECONNREFUSED = 111


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


def outcomes(said):
    return {way: int(error) for way, error in (line.split() for line in said.splitlines())}
