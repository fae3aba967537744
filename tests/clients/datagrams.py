"""Sends datagrams of several lengths to each address of a name, again until they are answered, and says how many were."""

import socket
import sys

host, port = sys.argv[1:]
families = {found[0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)}
LENGTHS = (1, 100, 1400, 8000)


def talk(family, sent):
    to = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)[0][4]
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        own.settimeout(2)
        for _ in range(10):
            own.sendto(sent, to)
            try:
                answer, whence = own.recvfrom(65536)
            except TimeoutError:
                continue
            assert (answer, whence[:2]) == (sent, to[:2]), (whence, to, len(answer), len(sent))
            return
    sys.exit(f"no answer to {len(sent)} bytes by {family.name}")


for length in LENGTHS:
    for family in families:
        talk(family, bytes(at % 251 for at in range(length)))
    print(f"{length} bytes were answered")
