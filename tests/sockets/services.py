"""The other side of the cases: services on free ports of this machine, as `case.h` describes them. Prints their ports.

    python3 services.py FIFO      each byte of the pipe lets a late service go on
"""

import os
import socket
import struct
import sys
import threading

LATE = 8


def listener(backlog=64):
    return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)


def echo(one):
    while data := one.recv(1 << 16):
        one.sendall(data)


def closing(_):
    pass


def reset(one):
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half(one):
    one.sendall(b"hello!")
    one.shutdown(socket.SHUT_WR)
    while one.recv(1 << 16):
        pass


def count(one):
    length = total = 0
    while data := one.recv(1 << 16):
        length, total = length + len(data), total + sum(data)
    one.sendall(f"{length} {total}".encode())


def slow(one):
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"0123456789":
        one.sendall(bytes([byte]))
        threading.Event().wait(0.02)
    one.recv(1)


HELD = []


def mute(one):
    HELD.append(one.dup())


def serve(at, manner):
    def visit(one):
        with one:
            try:
                manner(one)
            except OSError:
                pass  # the visitor's affair

    while True:
        threading.Thread(target=visit, args=(at.accept()[0],), daemon=True).start()


def full():
    """One that waits to be taken fills it."""
    at = listener(backlog=0)
    HELD.append(socket.create_connection(("127.0.0.1", at.getsockname()[1])))
    return at


def answer(at):
    while True:
        data, who = at.recvfrom(1 << 16)
        at.sendto(data, who)


def port(at):
    return at.getsockname()[1]


def unused():
    with listener() as at:
        return port(at)


def main(fifo):
    ports = []
    for manner in (echo, closing, reset, half, count, slow, mute):
        at = listener()
        threading.Thread(target=serve, args=(at, manner), daemon=True).start()
        ports.append(port(at))
    stuck, late = full(), [full() for _ in range(LATE)]
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", 0))
    threading.Thread(target=answer, args=(datagrams,), daemon=True).start()
    ports += [port(stuck), unused(), unused(), port(datagrams), *map(port, late)]
    print(*ports, flush=True)
    told = os.open(fifo, os.O_RDWR)  # its writers come and go
    while True:
        for which in os.read(told, LATE):
            late[which].listen(64)
            threading.Thread(target=serve, args=(late[which], echo), daemon=True).start()


if __name__ == "__main__":
    assert os.path.exists(sys.argv[1])
    main(sys.argv[1])
