"""What `phantom run` costs a program, beside torsocks and proxychains4: the same program, one after the other, against a
network without hops (`tests/stub`)."""

import os
import shutil
import statistics
import subprocess
import time

from . import build
from .children import wait_for
from .phantom import free_port, world
from .suite import Skip

SOURCES = build.ROOT / "tests" / "stub"
# Never asked for: the stub leads everywhere to one place. torsocks lets nobody go to addresses of this machine.
ELSEWHERE, PARTY = "198.18.0.9", "127.192.0.9"
PER_TICK = 1e6 / os.sysconf("SC_CLK_TCK")


class Cost:
    """Runs programs each way, and measures. Times are in microseconds."""

    def __init__(self, t, phantom):
        self.t = t
        for name in ("stub", "knock"):
            t.children.run("gcc", "-O2", "-Wall", "-Werror", "-o", t.folder / name, SOURCES / f"{name}.c")
        self.target, socks = free_port(), free_port()
        surroundings = world(t.folder, "stub")
        folder = t.folder / "stub-runtime" / "phantom"
        folder.mkdir(mode=0o700)
        server = t.children.start("server", t.folder / "knock", "serve", self.target)
        self.stub = t.children.start("stub", t.folder / "stub", socks, folder / "sock", self.target)
        for process in (server, self.stub):
            wait_for(process.name, lambda one=process: "ready" in one.log.read_text(), 10, process)
        (t.folder / "torsocks.conf").write_text(f"TorAddress 127.0.0.1\nTorPort {socks}\n")
        (t.folder / "proxychains.conf").write_text(f"strict_chain\nquiet_mode\n[ProxyList]\nsocks5 127.0.0.1 {socks}\n")
        self.surroundings = {**surroundings, "TORSOCKS_CONF_FILE": str(t.folder / "torsocks.conf")}
        chains = [needed("proxychains4"), "-q", "-f", t.folder / "proxychains.conf"]
        self.ways = {
            "alone": ([], "127.0.0.1"),
            "phantom run": ([phantom, "run", "--"], PARTY),
            "torsocks": ([needed("torsocks")], ELSEWHERE),
            "proxychains4": (chains, ELSEWHERE),
        }

    def connects(self, way, count):
        """What one connect takes at the median, and what it costs all processes, but for what the run itself costs."""
        before, _ = self.spent(way, 0)
        after, printed = self.spent(way, count)
        return float(printed.split()[0]), (after - before) / count

    def spent(self, way, count):
        before = ticks(self.stub.pid)
        status, printed, resources, _ = self.run(way, self.t.folder / "knock", None, self.target, count)
        assert status == 0, (way, printed)
        own = (resources.ru_utime + resources.ru_stime) * 1e6
        return own + (ticks(self.stub.pid) - before) * PER_TICK, printed

    def start(self, way):
        """How long it takes until a program that does nothing has ended."""
        status, printed, _, took = self.run(way, "/bin/true")
        assert status == 0, (way, printed)
        return took

    def run(self, way, program, *arguments):
        prefix, host = self.ways[way]
        command = [str(part) for part in (*prefix, program, *(host if part is None else part for part in arguments))]
        begun = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=self.t.folder, env={**os.environ, **self.surroundings}
        )
        with process.stdout:
            printed = process.stdout.read().decode()
        _, status, resources = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, printed, resources, (time.monotonic() - begun) * 1e6

    def table(self, rounds, count):
        """Medians of so many rounds, in each of which every way has its turn."""
        figures = {way: {"start": [], "connect": [], "processor": []} for way in self.ways}
        for _ in range(rounds):
            for way, row in figures.items():
                row["start"] += [self.start(way) for _ in range(5)]
                took, cost = self.connects(way, count)
                row["connect"].append(took)
                row["processor"].append(cost)
        return {way: {name: statistics.median(values) for name, values in row.items()} for way, row in figures.items()}


def lines(table):
    yield f"{'microseconds':14}{'start':>10}{'a connect':>12}{'processor time of it':>24}"
    for way, row in table.items():
        yield f"{way:14}{row['start']:>10.0f}{row['connect']:>12.1f}{row['processor']:>24.1f}"


def needed(program):
    found = shutil.which(program)
    if not found:
        raise Skip(f"{program} is not installed (tests/run --install)")
    return found


def ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
