"""The load generator, and the workload that every comparison uses."""

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

from . import build

MEGABYTE = 1_000_000
YARDSTICK = 256 * MEGABYTE


class Load:
    """`loadgen` against one site through one SOCKS proxy, with the processor time of `pids`."""

    def __init__(self, t, socks, site, pids):
        self.t = t
        self.ends = ["--socks", socks, "--site", site, "--pids", ",".join(map(str, pids))]

    def run(self, command, *options, bound):
        done = self.t.children.run(build.loadgen(), command, *self.ends, *options, bound=bound)
        return json.loads(done.stdout)

    def download(self, size, streams=1, bound=180):
        return self.run("download", "--bytes", size, "--streams", streams, bound=bound)

    def echo(self, count, bound=60):
        return self.run("echo", "--count", count, bound=bound)

    def echo_beside(self, size, streams=1, bound=180):
        return self.run("echo", "--beside", size, "--streams", streams, bound=bound)


def yardstick():
    """MB/s of SHA-256 on all cores: how fast this machine is now, where others use it, too."""
    cores, data = os.cpu_count(), bytes(YARDSTICK)
    begun = time.monotonic()
    with ThreadPoolExecutor(cores) as together:
        list(together.map(lambda _: hashlib.sha256(data).digest(), range(cores)))
    return cores * YARDSTICK / MEGABYTE / (time.monotonic() - begun)


def workload(load, single, parallel, echoes):
    """The figures of one network: one stream, ten streams, echoes alone and beside a download. Sizes in bytes."""
    load.download(max(single // 10, MEGABYTE))  # windows open, circuits stand
    return {
        "single": load.download(single),
        "ten": load.download(parallel // 10, streams=10),
        "echo_idle": load.echo(echoes),
        "echo_loaded": load.echo_beside(single),
        "echo_beside_ten": load.echo_beside(parallel // 10, streams=10),
    }


ROWS = [
    ("one stream, MB/s", "single", "megabytes_per_second", "{:.1f}"),
    ("ten streams, MB/s", "ten", "megabytes_per_second", "{:.1f}"),
    ("CPU-seconds a GB, one stream", "single", "cpu_seconds_per_gigabyte", "{:.1f}"),
    ("CPU-seconds a GB, ten streams", "ten", "cpu_seconds_per_gigabyte", "{:.1f}"),
    ("echo idle p50, ms", "echo_idle", "p50_ms", "{:.2f}"),
    ("echo idle p99, ms", "echo_idle", "p99_ms", "{:.2f}"),
    ("echo beside a download p50, ms", "echo_loaded", "p50_ms", "{:.2f}"),
    ("echo beside a download p99, ms", "echo_loaded", "p99_ms", "{:.2f}"),
    ("echo beside ten p50, ms", "echo_beside_ten", "p50_ms", "{:.2f}"),
    ("echo beside ten p99, ms", "echo_beside_ten", "p99_ms", "{:.2f}"),
]


def table(columns, ratio=False):
    """Lines of a table: `columns` is name -> figures. With `ratio`, the first column over the second."""
    names = list(columns)
    lines = [f"{'':32}" + "".join(f"{name:>14}" for name in names) + (f"{'ratio':>10}" if ratio else "")]
    for label, part, key, form in ROWS:
        values = [figures[part][key] for figures in columns.values()]
        line = f"{label:32}" + "".join(f"{form.format(value):>14}" for value in values)
        if ratio and values[1]:
            line += f"{values[0] / values[1]:>10.2f}"
        lines.append(line)
    return lines
