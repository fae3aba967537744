"""Phantom's demo and Tor's onion service under the same load: one table."""

import json

from harness import build, test
from harness.children import wait_for, whole_lines
from harness.load import MEGABYTE, Load, table, workload
from harness.phantom import Demo

from .tor_network import TorNetwork

# How many times Tor's single stream Phantom must carry. The long version judges the program as users build it, the
# short one that of the tests, which checks every addition and optimises less.
AT_LEAST = 10
# Where the machine is slow, Phantom's stream is, too; Tor's waits most of the time, and is as fast as ever. 12 was seen where
# 21 is usual, so the short version leaves room.
AT_LEAST_SHORT = 6
# Phantom is bound by the processor, Tor's single stream is not: on a machine that others use, their speeds say little.
FREE = 0.15
# How many times less processor time a GB may cost than Tor's.
CPU_LESS = 2


@test(bound=420, bound_of_all=2400)
def phantom_beside_tor(t):
    """The slower one gets a smaller share of the work; both long enough for their windows to open."""
    scale = 8 if t.long else 1
    columns = {"Phantom": phantom(t, scale), "Tor": tor(t, scale)}
    for line in table(columns, ratio=True):
        t.note(line)
    (build.target_folder() / "phantom-beside-tor.json").write_text(json.dumps(columns, indent=2))
    single = {name: figures["single"] for name, figures in columns.items()}
    cpu = [single[name]["cpu_seconds_per_gigabyte"] for name in columns]
    assert cpu[0] * CPU_LESS <= cpu[1], f"{cpu[0]:.1f} CPU-seconds a GB beside Tor's {cpu[1]:.1f}"
    speed = single["Phantom"]["megabytes_per_second"] / single["Tor"]["megabytes_per_second"]
    if single["Phantom"]["foreign_cores"] > FREE:
        t.note(f"others took {single['Phantom']['foreign_cores']:.1f} cores meanwhile: the speed is not judged")
    else:
        at_least = AT_LEAST if t.long else AT_LEAST_SHORT
        assert speed >= at_least, f"only {speed:.1f} times Tor's single stream"


def phantom(t, scale):
    demo = Demo(t, program=build.phantom_of_users() if t.long else None)
    figures = workload(Load(t, demo.socks, demo.site, [demo.pid]), 300 * MEGABYTE * scale, 500 * MEGABYTE * scale, 500)
    demo.process.terminate()
    demo.process.wait(20)
    return figures


def tor(t, scale):
    """The site is a process of its own here: its processor time does not count, in Tor's favour."""
    server = t.children.start("site", build.loadgen(), "serve", "--listen", "127.0.0.1:0")
    target = wait_for("the site's address", lambda: whole_lines(server).strip(), 10, server)
    network = TorNetwork(t, target)
    return workload(Load(t, network.socks, network.site, network.pids), 20 * MEGABYTE * scale, 30 * MEGABYTE * scale, 200)
