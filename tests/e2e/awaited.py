"""BIND: a program awaits one visitor, as FTP in its active mode and some games do."""

import contextlib
import socket

from harness import test
from harness.children import wait_for
from harness.phantom import AP_NAME, READY, Demo, Node

CONNECT, BIND = 1, 2
DONE, NOT_ALLOWED, REFUSED = 0, 2, 5


@test(bound=240)
def a_program_awaits_one_visitor_and_nobody_else_comes(t):
    demo = Demo(t)
    node = Node(t, "node", "127.41.0.1", join=demo.invitation)
    wait_for("paths", lambda: node.status()["paths"]["ready"], READY, node.process)
    with contextlib.ExitStack() as programs:
        awaiting = programs.enter_context(ask(node.socks, BIND, "0.0.0.0", 0))
        code, name, port = reply(awaiting)
        assert code == DONE and AP_NAME.fullmatch(name) and port >= 49152, (code, name, port)
        visiting = programs.enter_context(ask(demo.socks, CONNECT, name, port))
        assert reply(visiting)[0] == DONE
        code, visitor, no_port = reply(awaiting)
        assert code == DONE and AP_NAME.fullmatch(visitor) and visitor != name and no_port == 0, (code, visitor, no_port)
        for here, there in ((awaiting, visiting), (visiting, awaiting)):
            here.sendall(b"hello")
            assert take(there, 5) == b"hello"
        again = programs.enter_context(ask(demo.socks, CONNECT, name, port))
        assert reply(again)[0] == REFUSED, "the visitor itself has had its connection"
        other = programs.enter_context(ask(demo.socks, CONNECT, name, port, user=b"other"))
        assert reply(other)[0] == NOT_ALLOWED
        visiting.shutdown(socket.SHUT_WR)
        assert awaiting.recv(1) == b""

        # Somebody is named: nobody else is let in. Who asks with an IPv6 address gets addresses.
        code, address, port = reply(programs.enter_context(ask(node.socks, BIND, "::", 7)))
        assert code == DONE and address.startswith("fc") and port == 7, (code, address, port)
        named = programs.enter_context(ask(node.socks, BIND, demo.site.split(":")[0], 0, user=b"named"))
        code, name, port = reply(named)
        assert code == DONE, code
        assert reply(programs.enter_context(ask(demo.socks, CONNECT, name, port)))[0] == NOT_ALLOWED
        third = programs.enter_context(ask(node.socks, BIND, "example.com", 0))
        assert reply(third)[0] == NOT_ALLOWED


def ask(end, command, host, port, user=None):
    """A program that has sent its request."""
    at, number = end.rsplit(":", 1)
    program = socket.create_connection((at, int(number)), READY)
    if user is None:
        program.sendall(b"\x05\x01\x00")
    else:
        program.sendall(b"\x05\x01\x02" + b"\x01" + bytes([len(user)]) + user + b"\x01x")
    assert take(program, 2)[1] == (0 if user is None else 2)
    assert user is None or take(program, 2) == b"\x01\x00"
    program.sendall(bytes([5, command, 0]) + place(host) + port.to_bytes(2, "big"))
    return program


def place(host):
    for kind, family in ((1, socket.AF_INET), (4, socket.AF_INET6)):
        with contextlib.suppress(OSError):
            return bytes([kind]) + socket.inet_pton(family, host)
    return bytes([3, len(host)]) + host.encode()


def reply(program):
    """Code, host and port."""
    _, code, _, kind = take(program, 4)
    if kind == 3:
        host = take(program, take(program, 1)[0]).decode()
    else:
        family = {1: socket.AF_INET, 4: socket.AF_INET6}[kind]
        host = socket.inet_ntop(family, take(program, 4 if kind == 1 else 16))
    return code, host, int.from_bytes(take(program, 2), "big")


def take(program, length):
    got = b""
    while len(got) < length:
        part = program.recv(length - len(got))
        assert part, f"closed after {got}"
        got += part
    return got
