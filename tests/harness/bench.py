"""tests/bench: the same workload for every number of relays, one fresh demo each; or what `phantom run` costs."""

import argparse
import json
import sys

from . import build, cost
from .load import MEGABYTE, Load, table, workload
from .phantom import Demo
from .suite import Context


def measure(hops, size):
    context = Context(f"bench/hops-{hops}", long=True)
    try:
        nodes = max(12, 4 * hops + 2)
        demo = Demo(context, "--hops", hops, "--nodes", nodes)
        return workload(Load(context, demo.socks, demo.site, [demo.pid]), size, 2 * size, 2000)
    finally:
        context.close(passed=True)


def measure_run(rounds, count):
    context = Context("bench/run", long=True)
    try:
        return cost.Cost(context, build.binary("phantom")).table(rounds, count)
    finally:
        context.close(passed=True)


def main():
    parser = argparse.ArgumentParser(prog="tests/bench")
    parser.add_argument("--hops", default="0,1,2,3,4", help="relays per side, separated by commas")
    parser.add_argument("--json", metavar="FILE", help="also write every figure to this file")
    parser.add_argument("--quick", action="store_true", help="200 MB a run instead of 1 GB")
    parser.add_argument("--run", action="store_true", help="what phantom run costs, beside torsocks and proxychains4")
    chosen = parser.parse_args()
    build.build_binaries()
    if chosen.run:
        print("\n".join(cost.lines(measure_run(3 if chosen.quick else 9, 2000))))
        return
    size = (200 if chosen.quick else 1000) * MEGABYTE
    columns = {}
    for hops in map(int, chosen.hops.split(",")):
        columns[f"{hops} + {hops}"] = measure(hops, size)
        print(f"{hops} + {hops} relays measured", file=sys.stderr, flush=True)
    print("\n".join(table(columns)))
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump(columns, file, indent=2)


main()
