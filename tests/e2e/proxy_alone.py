"""The proxy alone beside others that do the same work: `cargo bench -p phantom-proxy` says how, and judges."""

import os

from harness import build, test


# A second of bulk says too little on a busy machine: only the long turns are judged.
@test(bound=600, only_all=True)
def the_proxy_alone_is_as_fast_as_microsocks_and_dante(t):
    # As everything was built, so that nothing is built again.
    command = ["cargo", "bench", "--quiet", "--locked", "--workspace", "--profile", build.PROFILE, "--bench", "beside", "--", "--judge"]
    path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
    process = t.children.start("beside", *command, directory=build.ROOT, environment={"PATH": path})
    status = process.wait()
    for line in process.log.read_text().splitlines():
        t.note(line)
    assert status == 0, f"the comparison ended with {status}"
