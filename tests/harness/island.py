"""An island: a network namespace whose only way out is watched, and leads nowhere.

    the programs of a test ── lo
                           └─ out (default route, and every name server) ── trap     each packet is written down

Every packet that a program there sends to anything but the machine itself is in the file, whole. Run as a module,
this is the keeper: it makes the namespace, in which it must have been started, and writes what leaves.
"""

import itertools
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from .children import wait_for
from .suite import Skip

ADDRESS, GATEWAY, NAMES, NOBODY = "198.51.100.2", "198.51.100.1", "198.51.100.53", "198.51.100.9"
UDP, TCP, IGMP, ICMP6 = 17, 6, 2, 58
# Of the kernel itself, which looks for neighbours as soon as a device is there.
OF_THE_KERNEL = {IGMP, ICMP6}
SETUP = f"""
ip link set lo up
ip link add out type veth peer name trap
ip link set out addrgenmode none up
ip link set trap addrgenmode none up
ip addr add {ADDRESS}/30 dev out
ip addr add 2001:db8::2/126 dev out nodad
ip addr add fe80::2/64 dev out nodad
ip route add default via {GATEWAY}
ip -6 route add default via 2001:db8::1
ip neigh add {GATEWAY} lladdr 02:00:00:00:00:01 dev out nud permanent
ip -6 neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev out nud permanent
"""
ETH_P_ALL, PACKET_OUTGOING, IPV4, IPV6, ARP = 3, 4, 0x0800, 0x86DD, 0x0806


class Island:
    """All that the test starts from now on lives there."""

    def __init__(self, t):
        self.t, self.file, self.marks = t, t.folder / "left", itertools.count()
        user = [] if os.getuid() == 0 else ["--map-root-user"]
        command = ["unshare", *user, "--net", "--mount", sys.executable, "-m", "harness.island", self.file, t.folder]
        if subprocess.run(["unshare", *user, "--net", "--mount", "true"], capture_output=True, check=False).returncode:
            raise Skip("this machine lets nobody make a network namespace")
        self.keeper = t.children.start("island", *command, directory=Path(__file__).parents[1])
        wait_for("the island", self.file.exists, 20, self.keeper)
        user = [] if os.getuid() == 0 else ["--user", "--preserve-credentials"]
        t.children.within = ["nsenter", "--target", self.keeper.pid, *user, "--net", "--mount", "--wd=."]

    def left(self):
        """Every packet that has left until now. A mark that is sent last tells that all before it are written."""
        mark = f"mark {next(self.marks)} of the test"
        self.t.children.run("bash", "-c", f"printf '%s' '{mark}' > /dev/udp/{NOBODY}/9")
        wait_for("the mark", lambda: any(packet.holds(mark) for packet in self.packets()), 20, self.keeper)
        return [packet for packet in self.packets() if packet.to != NOBODY and packet.protocol not in OF_THE_KERNEL]

    def packets(self):
        with open(self.file) as file:
            return [Packet(**json.loads(line)) for line in file if line.endswith("\n")]


class Packet:
    """One that left."""

    def __init__(self, protocol, to, port, data):
        self.protocol, self.to, self.port, self.data = protocol, to, port, bytes.fromhex(data)

    def holds(self, text):
        return text.encode() in self.data

    def asks_for(self, name):
        """Whether it is a DNS query for this name, or one below it."""
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        return self.port == 53 and labels.lower() in self.data.lower()

    def __repr__(self):
        return f"{self.protocol} to {self.to} port {self.port}: {self.data[:80]}"


def keep(file, folder):
    """Makes the island of the namespace that this process is in, and writes what leaves it, for ever."""
    for line in SETUP.strip().splitlines():
        subprocess.run(line.split(), check=True)
    names = Path(folder) / "resolv.conf"
    names.write_text(f"nameserver {NAMES}\n")
    subprocess.run(["mount", "--bind", names, "/etc/resolv.conf"], check=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as watched:
        watched.bind(("out", ETH_P_ALL))
        with open(file, "w", buffering=1) as written:
            while True:
                data, (_, kind, direction, *_) = watched.recvfrom(65536)
                if direction == PACKET_OUTGOING and kind != ARP:
                    written.write(json.dumps(described(kind, data)) + "\n")


def described(kind, data):
    """Where a packet goes, and all of it. What is no packet of IPv4 or IPv6 is written, too."""
    if kind == IPV4 and len(data) >= 20:
        start, protocol, to = 4 * (data[0] & 15), data[9], socket.inet_ntop(socket.AF_INET, data[16:20])
    elif kind == IPV6 and len(data) >= 40:
        start, protocol, to = 40, data[6], socket.inet_ntop(socket.AF_INET6, data[24:40])
        if protocol == 0:  # a hop-by-hop header
            start, protocol = 48 + 8 * data[41], data[40]
    else:
        start, protocol, to = 0, kind, ""
    port = struct.unpack_from(">H", data, start + 2)[0] if protocol in (UDP, TCP) and len(data) >= start + 4 else 0
    return {"protocol": protocol, "to": to, "port": port, "data": data.hex()}


if __name__ == "__main__":
    keep(*sys.argv[1:])
