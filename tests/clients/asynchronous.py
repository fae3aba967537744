"""Fetches a page several times at once by asyncio, whose sockets never wait, and prints what all of them got."""

import asyncio
import hashlib
import sys


async def fetch(host, port, path):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    await writer.drain()
    page = await reader.read()
    writer.close()
    await writer.wait_closed()
    return hashlib.sha256(page.split(b"\r\n\r\n", 1)[1]).hexdigest()


async def main(host, port, path):
    print(*await asyncio.gather(*(fetch(host, int(port), path) for _ in range(20))), sep="\n")


asyncio.run(main(*sys.argv[1:]))
