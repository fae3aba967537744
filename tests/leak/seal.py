"""`phantom run`: whatever a program tries, by libc or past it, nothing of it leaves the machine."""

from pathlib import Path

from harness import test
from harness.children import wait_for
from harness.island import Island
from harness.phantom import Demo

WAYS = Path(__file__).with_name("ways.c")
FIRST_PORT = 4000
OUTSIDE = ("93.184.216.34", "2606:2800:220:1::9")
WORD = "marked.example"

EPERM, ENOENT, ENOSYS, EOPNOTSUPP, EPROTONOSUPPORT, EAFNOSUPPORT, ENETUNREACH, ETIME = 1, 2, 38, 95, 93, 97, 101, 62
# What a program is told, where nothing leads out: as on a machine without a network, or whose kernel lacks it.
TOLD = {
    "tcp_connect": ENETUNREACH,
    "tcp_nonblocking": ENETUNREACH,
    "tcp_fast_open_sendto": EOPNOTSUPP,
    "tcp_fast_open_sendmsg": EOPNOTSUPP,
    "tcp_fast_open_connect": ENETUNREACH,
    "udp_sendto": ENETUNREACH,
    "udp_connected": ENETUNREACH,
    "udp_other_device": EPERM,
    "udp_no_device": EPERM,
    "udp_other_interface": EPERM,
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
# The kernel takes these, and they end where every address is the machine's own.
SWALLOWED = {"udp_sendmsg", "udp_sendmmsg", "udp_packet_info"}


@test(bound=200)
def no_way_leads_out_of_the_machine(t):
    island = Island(t)
    demo = Demo(t)
    programs = [built(t, *how) for how in (("gcc",), ("gcc", "-static"), ("musl-gcc", "-static"))]
    for program in programs:
        for outside in OUTSIDE[:1] if "musl" in program.name else OUTSIDE:
            told = outcomes(demo.ask("run", "--", program, outside, WORD).stdout)
            assert set(told) == set(TOLD) | SWALLOWED, told
            wrong = {way: error for way, error in told.items() if error != TOLD.get(way, error)}
            if "musl" in program.name:
                # Its resolver asks again and again when it is refused.
                wrong = {way: error for way, error in wrong.items() if error != ETIME}
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
    assert all(told[way] == ENOSYS for way in ("tcp_connect", "udp_sendto", "udp_connected", "assembly_udp", "thread")), told
    assert not island.left(), island.left()


def built(t, *compiler):
    program = t.folder / "-".join(compiler)
    t.children.run(*compiler, "-O1", "-w", "-pthread", "-o", program, WAYS)
    return program


def outcomes(said):
    return {way: int(error) for way, error in (line.split() for line in said.splitlines())}
