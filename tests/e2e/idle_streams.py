"""Thousands of programs that are connected and say nothing cost a node little, and each is still connected."""

import resource
import socket

from harness import test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, curl, free_port

from .hostile import end_of, resident

# Bytes for one idle stream: of the proxy, the session and the link below.
EACH = 24 << 10
# Isolation groups that come to each service.
GROUPS = 4
SERVER = """
import asyncio, resource, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
async def echo(reader, writer):
    while data := await reader.read(64):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()
asyncio.run(main())
"""


@test(bound=200, bound_of_all=600)
def idle_streams_cost_little_and_still_carry(t):
    count = 5_000 if t.long else 500
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    demo = Demo(t)
    # A service has 4,096 streams at most, so there are two.
    hosts = [Node(t, f"host-{i}", f"127.4{i}.0.1", join=demo.invitation) for i in range(2)]
    visitor = Node(t, "visitor", "127.45.0.1", join=demo.invitation)
    names = []
    for host in hosts:
        port = free_port()
        t.children.start(f"{host.name}-server", "python3", "-c", SERVER, port)
        names.append(host.host(7, "--to", port))
    held = []
    try:
        for name in names:
            held.append(wait_for(f"{name}", lambda: connected(visitor, name, 0), READY, visitor.process))
            assert answers(held[-1], b"hello")
        before = resident(visitor.process.pid)
        while len(held) < count:
            stream = connected(visitor, names[len(held) % 2], len(held) // 2 % GROUPS)
            assert stream, f"stream {len(held)} was refused"
            held.append(stream)
        grown = resident(visitor.process.pid) - before
        t.note(f"{count} idle streams: grown by {grown >> 20} MiB, {grown // count >> 10} KiB each")
        assert grown < 16 << 20 or grown < count * EACH
        for number, stream in enumerate(held):
            assert answers(stream, b"%d" % number), f"stream {number} carries nothing"
    finally:
        for stream in held:
            stream.close()


def connected(visitor, name, number):
    """A connection to port 7, or None."""
    stream = socket.create_connection(end_of(visitor.socks), timeout=20)
    # A group may not take all places of the proxy port, nor a session more than 1,024 streams: so there are several.
    group = b"\x01\x08" + name[:8].encode() + b"\x01%d" % number
    stream.sendall(b"\x05\x01\x02" + group + b"\x05\x01\x00\x03" + bytes([len(name)]) + name.encode() + b"\x00\x07")
    reply = b""
    while len(reply) < 14:
        part = stream.recv(14 - len(reply))
        if not part:
            break
        reply += part
    if reply[:6] == b"\x05\x02\x01\x00\x05\x00":
        return stream
    stream.close()
    return None


def answers(stream, data):
    stream.sendall(data)
    got = b""
    while len(got) < len(data):
        part = stream.recv(len(data) - len(got))
        if not part:
            return False
        got += part
    return got == data
