"""What each TCP connection carried, by the kernel's own count: nobody has to take the program's word for it."""

import re
import subprocess

FIELD = re.compile(r"\bbytes_(sent|received):(\d+)")


def connections():
    """Every established connection between loopback addresses: (local, peer, bytes sent, bytes received)."""
    command = ["ss", "--tcp", "--info", "--numeric", "--no-header", "--oneline", "state", "established"]
    for line in subprocess.check_output(command, text=True).splitlines():
        fields = line.split()
        ends = [field for field in fields[:5] if re.fullmatch(r"\d+\.\d+\.\d+\.\d+:\d+", field)]
        if len(ends) == 2:
            count = {kind: int(value) for kind, value in FIELD.findall(line)}
            yield (*ends, count.get("sent", 0), count.get("received", 0))


def between_addresses(addresses):
    """Bytes carried, both directions, between each two of these IP addresses."""
    total = {}
    for local, peer, sent, received in connections():
        a, b = local.rsplit(":", 1)[0], peer.rsplit(":", 1)[0]
        # Each connection shows twice, once from each end: the smaller address speaks for both.
        if a < b and a in addresses and b in addresses:
            total[a, b] = total.get((a, b), 0) + sent + received
    return total


def growth(before, after):
    return {pair: count - before.get(pair, 0) for pair, count in after.items() if count > before.get(pair, 0)}
