"""What goes through a connection of `phantom run` is as fast as through the proxy port."""

import statistics

from harness import build, test
from harness.phantom import Demo

STREAM, STREAMS, AT_LEAST = 200_000_000, 5, 0.95


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
