"""`phantom run --preload-only`: what goes through libc is sealed, and is as libc has it."""

import re
from pathlib import Path

from harness import build, test
from harness.island import Island
from harness.phantom import Demo

from .seal import ENETUNREACH, FIRST_PORT, OUTSIDE, WORD, built, outcomes, wrong

HOOKS = Path(__file__).with_name("hooks.c")
# How the program is built that calls all hooks, and what watches it.
WATCHERS = {
    "plain": (["-O1"], []),
    "sanitizers": (["-g", "-O1", "-DWATCHED", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-static-libasan", "-static-libubsan"], []),
    "valgrind": (["-g", "-O1", "-DWATCHED"], ["{program}", "become", "/usr/libexec/valgrind/memcheck-amd64-linux", "--quiet", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite"]),
}
# Calls that libc has no part in: nothing that stands before libc sees them.
PAST_LIBC = {"assembly_tcp", "assembly_udp", "old_interrupt"}
# Who starts something here is somebody whom the system lets make no namespaces.
WITHOUT_NAMESPACES = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh"]


@test(bound=150)
def every_hook_does_what_libc_does_and_nothing_leaves(t):
    island = Island(t)
    demo = Demo(t)
    host = demo.site.split(":")[0]
    for name, (options, watcher) in WATCHERS.items():
        program = t.folder / f"hooks-{name}"
        t.children.run("gcc", "-w", "-pthread", *options, "-o", program, HOOKS, "-lresolv")
        called = all_right(demo, *[part.replace("{program}", str(program)) for part in watcher], program, host)
    assert not hooks(t) - called, hooks(t) - called
    assert not island.left(), island.left()
    t.children.within += WITHOUT_NAMESPACES
    all_right(demo, t.folder / "hooks-plain", host, "no-island")
    del t.children.within[-len(WITHOUT_NAMESPACES) :]
    assert not island.left(), island.left()


@test(bound=100)
def no_way_through_libc_leads_out_of_the_machine(t):
    island = Island(t)
    demo = Demo(t)
    program = built(t, "gcc")
    for outside in OUTSIDE:
        told = outcomes(demo.ask("run", "--preload-only", "--", program, outside, WORD).stdout)
        # Root may enter the namespace; the socket that it asks for there lies in the run's all the same.
        assert told["namespace_of_parent"] == ENETUNREACH, told
        assert not wrong(told).keys() - PAST_LIBC - {"namespace_of_parent"}, (outside, wrong(told))
    ways = list(told)
    left = {ways[packet.port - FIRST_PORT] if 0 <= packet.port - FIRST_PORT < len(ways) else packet for packet in island.left()}
    assert left <= PAST_LIBC and "assembly_udp" in left, left


def all_right(demo, *program):
    """What was called, and nothing of it was wrong."""
    done = demo.ask("run", "--preload-only", "--", *program, check=False, bound=100)
    *called, last = done.stdout.splitlines() or [""]
    faults = [line for line in called if not line.endswith(" ok")]
    assert done.returncode == 0 and not faults and last == "0 wrong", (program, faults, done)
    return {line.split()[0] for line in called}


def hooks(t):
    """All that the library stands before."""
    listed = t.children.run("nm", "--dynamic", "--defined-only", build.library()).stdout
    return set(re.findall(r"^[0-9a-f]+ T (\w+)$", listed, re.M))
