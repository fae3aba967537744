"""One call of cargo, whose tests are counted one by one."""

import re

from harness import build, test

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.M)
FAILED = re.compile(r"^test (.+) \.\.\. FAILED$", re.M)


@test(bound=420, bound_of_all=3 * 3600)
def workspace(t):
    command = ["cargo", "test", "--locked", "--workspace", "--profile", build.PROFILE, "--no-fail-fast"]
    if t.long:
        command += ["--", "--include-ignored"]
    process = t.children.start("cargo-test", *command, directory=build.ROOT)
    status = process.wait()
    output = process.log.read_text(errors="replace")
    passed, failed, ignored = (sum(column) for column in zip((0, 0, 0), *(map(int, r) for r in RESULT.findall(output))))
    t.counts = passed, failed
    t.note(f"{passed} of cargo's tests passed, {failed} failed" + (f", {ignored} are left for --all" if ignored else ""))
    for name in FAILED.findall(output):
        t.note(f"failed: {name}")
    assert status == 0, f"cargo test ended with {status}"
