"""What is promised of two cores that carry both ends and six relays: speed, processor time, and echoes beside it."""

import subprocess

from harness import build, test
from harness.load import Load, yardstick
from harness.phantom import Demo

GIBIBYTE = 1 << 30
STREAMS, EACH = 10, 200 << 20
AT_LEAST = 80  # MB/s
CPU_AT_MOST = 20  # seconds a GB
IDLE_ECHO, ECHO_BESIDE = 1, 10  # ms, at the median; the second above the first
# The best of so many tries counts: on a machine that others use, a slow one says nothing of the program.
TRIES = 3


@test(bound=3000, only_all=True)
def the_promised_speed(t):
    demo = Demo(t, program=build.phantom_of_users())
    load = Load(t, demo.socks, demo.site, [demo.pid])
    load.download(GIBIBYTE // 10)  # windows open
    machine = [yardstick()]
    one = [load.download(GIBIBYTE) for _ in range(TRIES)]
    ten = [load.download(EACH, streams=STREAMS) for _ in range(TRIES)]
    idle = load.echo(2000)["p50_ms"]
    beside_one = [load.echo_beside(GIBIBYTE)["p50_ms"] for _ in range(TRIES)]
    beside_ten = [load.echo_beside(EACH, streams=STREAMS)["p50_ms"] for _ in range(TRIES)]
    machine.append(yardstick())
    t.note(f"a yardstick, SHA-256 on all cores, MB/s: {machine[0]:.0f} before, {machine[1]:.0f} after")
    least = {
        "one stream, MB/s": ([run["megabytes_per_second"] for run in one], AT_LEAST),
        "ten streams, MB/s": ([run["megabytes_per_second"] for run in ten], AT_LEAST),
    }
    most = {
        "CPU-seconds a GB, one stream": ([run["cpu_seconds_per_gigabyte"] for run in one], CPU_AT_MOST),
        "CPU-seconds a GB, ten streams": ([run["cpu_seconds_per_gigabyte"] for run in ten], CPU_AT_MOST),
        "echo idle, ms": ([idle], IDLE_ECHO),
        "echo beside one stream, ms": (beside_one, idle + ECHO_BESIDE),
        "echo beside ten streams, ms": (beside_ten, idle + ECHO_BESIDE),
    }
    for name, (values, promised) in (least | most).items():
        t.note(f"{name}: {', '.join(f'{value:.2f}' for value in values)}; promised {promised:.2f}")
    missed = [name for name, (values, promised) in least.items() if max(values) < promised]
    missed += [name for name, (values, promised) in most.items() if min(values) > promised]
    assert not missed, f"not kept: {', '.join(missed)}"


@test(bound=2400, only_all=True)
def no_tunnel_is_closed_by_the_gap_rule(t):
    """The bench looks into every node of its chain, which no program from outside can."""
    command = ["cargo", "bench", "--quiet", "--locked", "-p", "phantom-tests", "--bench", "chain", "--", "--hops", "3"]
    table = subprocess.run(command, cwd=build.ROOT, check=True, capture_output=True, text=True).stdout
    for line in table.splitlines():
        t.note(line)
    rows = {line[:32].strip(): line[32:].strip() for line in table.splitlines()}
    assert rows["tunnels closed by the gap rule"] == "0", rows
