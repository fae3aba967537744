"""tests/run, once python3 is there: collect, build, run, sum up."""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import build
from .suite import REGISTERED, Outcome, run_one

# Cheap and telling first.
LAYERS = ["cargo", "e2e", "leak", "peers"]


def collect():
    tests = Path(__file__).resolve().parents[1]
    for layer in LAYERS:
        for file in sorted((tests / layer).glob("*.py")):
            if file.stem != "__init__":
                importlib.import_module(f"{layer}.{file.stem}")
    return REGISTERED


def options():
    parser = argparse.ArgumentParser(prog="tests/run")
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("filters", nargs="*")
    return parser.parse_args()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Files of tests are such as nobody else may write, whatever the machine's habit is.
    os.umask(0o022)
    chosen = options()
    entries = [
        entry
        for entry in collect()
        if (chosen.all or not entry.only_all)
        and (not chosen.filters or any(part in entry.name for part in chosen.filters))
    ]
    if chosen.list:
        print("\n".join(entry.name for entry in entries))
        return 0
    if not entries:
        print("tests/run: no test has such a name; see tests/run --list", file=sys.stderr)
        return 2
    start = time.monotonic()
    try:
        build.build()
    except subprocess.CalledProcessError:
        print("the build failed\n0 passed, 1 failed, 0 skipped")
        return 1
    print(f"built in {time.monotonic() - start:.0f} s", flush=True)
    start, total = time.monotonic(), Outcome()
    for entry in entries:
        outcome = run_one(entry, chosen.all, skip_is_failure=os.environ.get("CI") == "true")
        total.passed += outcome.passed
        total.failed += outcome.failed
        total.skipped += outcome.skipped
    print(f"tests took {time.monotonic() - start:.0f} s")
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    return 1 if total.failed else 0


sys.exit(main())
