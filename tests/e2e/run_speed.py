"""What `phantom run` costs a program, beside what others do: a connection, and what goes through it."""

import statistics

from harness import build, test
from harness.cost import Cost, lines
from harness.phantom import Demo

STREAM, STREAMS, AT_LEAST = 200_000_000, 9, 0.95
ROUNDS, COUNT = 7, 1_000
# Times what a connect costs with the others, which put no seal on it; 1.2 and 1.1 are usual, the rest is for noise.
AT_MOST = {"torsocks": 1.6, "proxychains4": 1.45}


@test(bound=300, only_all=True)
def a_connect_costs_about_what_it_does_with_torsocks_and_proxychains(t):
    table = Cost(t, build.phantom_of_users()).table(ROUNDS, COUNT)
    for line in lines(table):
        t.note(line)
    times = {other: table["phantom run"]["connect"] / table[other]["connect"] for other in AT_MOST}
    t.note(", ".join(f"{ratio:.2f} times {other}" for other, ratio in times.items()))
    assert all(times[other] <= most for other, most in AT_MOST.items()), times


@test(bound=600, only_all=True)
def one_stream_is_as_fast_as_by_the_proxy_port(t):
    demo = Demo(t, program=build.phantom_of_users())
    fetch = ["curl", "-q", "-sSf", "-o", "/dev/null", "-w", "%{speed_download}", f"{demo.url}/bytes/{STREAM}"]

    def speed(*command):
        return float(t.children.run(*command, environment=demo.environment(), bound=60).stdout)

    by_proxy, by_run = [], []
    for _ in range(STREAMS + 1):
        by_proxy.append(speed(*fetch, "--noproxy", "", "--socks5-hostname", demo.socks))
        by_run.append(speed(build.phantom_of_users(), "run", "--", *fetch))
    # The first of each opens windows.
    proxy, run = (statistics.median(one[1:]) for one in (by_proxy, by_run))
    t.note(f"MB/s, medians of {STREAMS}: {run / 1e6:.0f} under phantom run, {proxy / 1e6:.0f} by SOCKS; {run / proxy:.3f}")
    assert run >= AT_LEAST * proxy, (by_run, by_proxy)
