"""Ten downloads at once over one session: every one whole, and no tunnel given up below them."""

import hashlib
import time

from harness import test
from harness.phantom import Demo

STREAMS = 10


@test(bound=200, bound_of_all=400)
def ten_downloads_at_once_are_whole(t):
    size = (200 if t.long else 40) << 20
    demo = Demo(t)
    expected = demo.get(f"/sha256/{size}").strip()
    files = [t.folder / f"download-{number}" for number in range(STREAMS)]
    wanted = [part for file in files for part in ("--output", file, f"{demo.url}/bytes/{size}")]
    command = ["curl", "-q", "--noproxy", "", "--silent", "--show-error", "--fail", "--parallel", "--parallel-immediate"]
    began = time.monotonic()
    t.children.run(*command, "--parallel-max", STREAMS, "--socks5-hostname", demo.socks, *wanted, bound=300)
    took = time.monotonic() - began
    for file in files:
        with open(file, "rb") as content:
            assert hashlib.file_digest(content, "sha256").hexdigest() == expected, f"{file.name} is not what was sent"
        file.unlink()
    t.note(f"{STREAMS} x {size >> 20} MiB in {took:.1f} s: {STREAMS * size / took / 1e6:.0f} MB/s together")
