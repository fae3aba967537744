"""Strangers at a node's port: garbage, halves of handshakes, connections that say nothing. Honest users go on."""

import os
import socket
import ssl
import struct

from harness import test
from harness.children import wait_for
from harness.phantom import Demo

IDLE = 2_000
# What a node may grow by while all that goes on: far below a buffer of 64 KiB for each connection.
GROWTH = 100 << 20


@test(bound=180, bound_of_all=600)
def strangers_at_the_port_disturb_nobody(t):
    demo = Demo(t)
    before = resident(demo.pid)
    idle, refused = open_many(demo.nodes, IDLE)
    try:
        for node in demo.nodes[:4]:
            for attack in (garbage, client_hello_alone, plain_http, tls_then_garbage, oversize_record):
                attack(end_of(node))
        page = demo.get("/")
        assert "<html" in page.lower()
        expected = demo.get(f"/sha256/{20 << 20}").strip()
        file = t.folder / "download"
        demo.get(f"/bytes/{20 << 20}", "--output", file)
        assert t.children.run("sha256sum", file).stdout.split()[0] == expected
        grown = resident(demo.pid) - before
    finally:
        for connection in idle:
            connection.close()
    t.note(f"{len(idle)} idle connections ({refused} refused), grown by {grown >> 20} MiB")
    assert grown < GROWTH
    wait_for("the demo to answer afterwards", lambda: demo.get("/"), 20, demo.process)


def end_of(node):
    text = node if isinstance(node, str) else node["address"]
    host, port = text.rsplit(":", 1)
    return host, int(port)


def open_many(nodes, count):
    """Connections that never say a word, spread over the nodes. A node may refuse: that is a bound, not a fault."""
    idle, refused = [], 0
    for number in range(count):
        try:
            idle.append(socket.create_connection(end_of(nodes[number % len(nodes)]), timeout=2))
        except OSError:
            refused += 1
    return idle, refused


def exchange(connection, data):
    """Sends, and reads what comes until the node closes or says nothing for a moment."""
    connection.settimeout(1)
    try:
        connection.sendall(data)
        while connection.recv(65536):
            pass
    except OSError:
        pass


def garbage(end):
    with socket.create_connection(end, timeout=5) as connection:
        exchange(connection, os.urandom(100_000))


def client_hello():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = context.wrap_bio(incoming, outgoing, server_hostname="example.org")
    try:
        handshake.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def client_hello_alone(end):
    with socket.create_connection(end, timeout=5) as connection:
        exchange(connection, client_hello()[:-20])


def plain_http(end):
    with socket.create_connection(end, timeout=5) as connection:
        exchange(connection, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")


def oversize_record(end):
    with socket.create_connection(end, timeout=5) as connection:
        exchange(connection, struct.pack(">BHH", 22, 0x0301, 0xFFFF) + bytes(0xFFFF))


def tls_then_garbage(end):
    """A real handshake, then bytes that are no cell, and a cell's worth with every length at its largest."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for data in (os.urandom(5_000), b"\xff" * 1392 * 3, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        try:
            with socket.create_connection(end, timeout=5) as raw, context.wrap_socket(raw, server_hostname="x.org") as tls:
                exchange(tls, data)
        except OSError:
            pass


def resident(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
