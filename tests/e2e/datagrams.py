"""UDP through the network: programs as they are at both ends."""

import socket
import struct

from harness import Skip, test
from harness.phantom import READY, Demo, Node, free_port

from .doors import AAAA, NO_ERROR, answers_of, ask_to_connect, question

# Sends the datagram of each line, `PORT BYTES`, by PySocks and prints the answer; bytes are in hex. `again` is a new socket.
TALK = """
import socket, sys
import socks
def new():
    s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
    s.set_proxy(socks.SOCKS5, sys.argv[1], int(sys.argv[2]), rdns=True, username=sys.argv[4], password="x")
    s.settimeout(3)
    return s
s = new()
for line in sys.argv[5:]:
    if line == "again":
        s = new()
        continue
    port, data = line.split()
    to, data = (sys.argv[3], int(port)), bytes.fromhex(data)
    for attempt in range(20):
        s.sendto(data, to)
        try:
            answer, end = s.recvfrom(70000)
            break
        except TimeoutError:
            continue
    else:
        sys.exit(f"no answer to 20 datagrams for port {port}")
    assert end in (to, (to[0].encode(), to[1])), (end, to)
    print(answer.hex(), flush=True)
"""


@test(bound=300)
def datagrams_reach_unchanged_programs_and_find_back(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    echo = udp_port()
    t.children.start("echo", "socat", "-b", 65536, f"UDP4-LISTEN:{echo},bind=127.0.0.1,fork", "PIPE")
    whence = udp_port()
    t.children.start("whence", "socat", f"UDP4-RECVFROM:{whence},bind=127.0.0.1,fork", "SYSTEM:echo $SOCAT_PEERPORT")
    name = host.host(7, "--udp", "--to", echo)
    assert host.host(9, "--udp", "--to", whence) == name
    assert [(s["port"], s["protocol"]) for s in host.status()["services"]] == [(7, "udp"), (9, "udp")]

    small, large = b"hello".hex(), bytes(range(256)).hex() * 31  # the large one takes seven cells
    said = talk(t, demo, name, "one", f"7 {small}", f"7 {large}", f"9 {small}", f"9 {small}", "again", f"9 {small}")
    assert said[:2] == [small, large], said
    ports = [int(bytes.fromhex(line)) for line in said[2:]]
    assert ports[0] == ports[1] != ports[2], f"a socket for each conversation: {ports}"


# Talks to a port of UDP by each way that a socket has, and says what came back, and from where.
BY_ITSELF = """
import json, socket, sys
host, port, closed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SHORT, LONG = b"short", bytes(range(256)) * 40
for family in socket.AF_INET, socket.AF_INET6:
    to = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)[0][4]
    anywhere = "0.0.0.0" if family == socket.AF_INET else "::"
    for way in "connected", "sendto", "sendmsg", "bound to the same port":
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(3)
        if way == "bound to the same port":
            s.bind((anywhere, port))
        for data in SHORT, LONG:
            for _ in range(20):
                if way == "connected":
                    s.connect(to)
                    s.send(data)
                elif way == "sendmsg":
                    s.sendmsg([data], [], 0, to)
                else:
                    s.sendto(data, to)
                try:
                    said, end = s.recvfrom(70000)
                    break
                except TimeoutError:
                    continue
            assert (said, end[:2]) == (data, to[:2]), (way, said[:20], end, to)
        print(family.name, way, flush=True)
refused = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
refused.settimeout(60)
refused.connect(socket.getaddrinfo(host, closed, socket.AF_INET, socket.SOCK_DGRAM)[0][4])
refused.send(SHORT)
try:
    refused.recv(100)
except ConnectionRefusedError:
    print("refused")
"""


@test(bound=150)
def a_program_under_the_seal_speaks_udp_by_any_call(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    echo = udp_port()
    t.children.start("echo", "socat", "-b", 65536, f"UDP4-LISTEN:{echo},bind=127.0.0.1,fork", "PIPE")
    name = host.host(7, "--udp", "--to", echo)
    said = demo.ask("run", "--", "python3", "-c", BY_ITSELF, name, 7, 9, bound=READY).stdout.splitlines()
    assert len(said) == 9 and said[-1] == "refused", said


@test(bound=300)
def a_name_server_is_asked_through_the_network(t):
    demo = Demo(t)
    dns = f"127.0.0.1:{udp_port()}"
    host = Node(t, "host", "127.40.0.1", join=demo.invitation, options=["--dns", dns])
    name = host.host(53, "--udp", "--to", dns)
    asked = demo.site.split(":")[0]
    for place in (name, alias_of(demo, name, "one")):
        answer = bytes.fromhex(talk(t, demo, place, "one", f"53 {question(asked, AAAA).hex()}")[0])
        code, answers = answers_of(answer, asked)
        assert code == NO_ERROR and len(answers) == 1 and answers[0][0] == 0xFC, answers


def alias_of(demo, name, group):
    """By Tor's RESOLVE, for the isolation group that `talk` names so."""
    credentials = b"\x01" + bytes([len(group)]) + group.encode() + b"\x01x"
    asked = b"\x05\xf0\x00\x03" + bytes([len(name)]) + name.encode() + b"\x00\x00"
    answer = ask_to_connect(demo.socks, b"\x05\x01\x02" + credentials + asked, 14)
    assert answer[4:8] == b"\x05\x00\x00\x01", answer
    return socket.inet_ntoa(answer[8:12])


@test(bound=200)
def datagrams_that_lead_nowhere_leave_nothing_and_hold_nobody_up(t):
    demo = Demo(t)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.bind(("127.0.0.1", 0))
        outside.settimeout(2)
        host, port = demo.socks.split(":")
        with socket.create_connection((host, int(port))) as control:
            control.sendall(b"\x05\x01\x00" + b"\x05\x03\x00\x01" + bytes(6))
            reply = read_exactly(control, 12)
            assert reply[2:6] == b"\x05\x00\x00\x01", reply
            relay = (socket.inet_ntoa(reply[6:10]), *struct.unpack(">H", reply[10:]))
            place = b"\x01" + socket.inet_aton("127.0.0.1") + struct.pack(">H", outside.getsockname()[1])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
                for _ in range(100):
                    program.sendto(bytes(3) + place + b"leak", relay)
            assert "<html" in demo.get("/")
        try:
            raise AssertionError(f"left the network: {outside.recv(100)}")
        except TimeoutError:
            pass


def talk(t, node, name, group, *lines):
    """What PySocks hears, line by line."""
    python = next((it for it in ("python3", "/usr/bin/python3") if has_pysocks(t, it)), None)
    if not python:
        raise Skip("PySocks is not installed")
    host, port = node.socks.split(":")
    return t.children.run(python, "-c", TALK, host, port, name, group, *lines, bound=READY).stdout.split()


def has_pysocks(t, python):
    return t.children.run(python, "-c", "import socks", check=False).returncode == 0


def udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        assert more, data
        data += more
    return data
