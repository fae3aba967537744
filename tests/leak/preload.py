"""`phantom run --preload-only`: what goes through libc is sealed, and is as libc has it."""

import re
from pathlib import Path

from harness import build, test
from harness.island import Island
from harness.phantom import Demo

from .seal import FIRST_PORT, OUTSIDE, TOLD, WAYS, WORD, outcomes

HOOKS = Path(__file__).with_name("hooks.c")
# How the program is built that calls all hooks, and what watches it.
WATCHERS = {
    "plain": (["-O1"], []),
    "sanitizers": (["-g", "-O1", "-DWATCHED", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-static-libasan", "-static-libubsan"], []),
    "valgrind": (["-g", "-O1", "-DWATCHED"], ["{program}", "become", "/usr/libexec/valgrind/memcheck-amd64-linux", "--quiet", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite"]),
}
# Calls that libc has no part in: nothing that stands before libc sees them.
PAST_LIBC = {"assembly_tcp", "assembly_udp", "old_interrupt"}


@test(bound=150)
def every_hook_does_what_libc_does_and_nothing_leaves(t):
    island = Island(t)
    demo = Demo(t)
    for name, (options, watcher) in WATCHERS.items():
        program = t.folder / f"hooks-{name}"
        t.children.run("gcc", "-w", "-pthread", *options, "-o", program, HOOKS, "-lresolv")
        done = demo.ask("run", "--preload-only", "--", *[part.replace("{program}", str(program)) for part in watcher], program, demo.site.split(":")[0], check=False, bound=100)
        wrong = [line for line in done.stdout.splitlines() if not line.endswith(" ok")]
        assert done.returncode == 0 and wrong == ["0 wrong"], (name, wrong, done)
    called = {line.split()[0] for line in done.stdout.splitlines()}
    assert not hooks(t) - called, hooks(t) - called
    assert not island.left(), island.left()


@test(bound=100)
def no_way_through_libc_leads_out_of_the_machine(t):
    island = Island(t)
    demo = Demo(t)
    program = t.folder / "ways"
    t.children.run("gcc", "-O1", "-w", "-pthread", "-o", program, WAYS)
    for outside in OUTSIDE:
        told = outcomes(demo.ask("run", "--preload-only", "--", program, outside, WORD).stdout)
        wrong = {way: error for way, error in told.items() if way not in PAST_LIBC and error != TOLD.get(way, error)}
        assert not wrong, (outside, wrong)
    ways = list(told)
    left = {ways[packet.port - FIRST_PORT] if 0 <= packet.port - FIRST_PORT < len(ways) else packet for packet in island.left()}
    assert left <= PAST_LIBC and "assembly_udp" in left, left


def hooks(t):
    """All that the library stands before."""
    listed = t.children.run("nm", "--dynamic", "--defined-only", build.library()).stdout
    return set(re.findall(r"^[0-9a-f]+ T (\w+)$", listed, re.M))
