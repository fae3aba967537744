"""What a test is, and how one is run: bounded in time, in a folder of its own, with children that cannot outlive it."""

import contextlib
import shutil
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from . import build
from .children import Children

REGISTERED = []


class Skip(Exception):
    """Raised by a test whose needs the machine does not meet; says what is missing."""


@dataclass
class Test:
    """One entry of the suite."""

    name: str
    run: Callable
    bound: int
    bound_of_all: int
    only_all: bool


def test(bound, bound_of_all=None, only_all=False):
    """Registers a test. `bound` is its time limit in seconds, `bound_of_all` that of its long version."""

    def register(function):
        layer = function.__module__.split(".")[0]
        name = f"{layer}/{function.__name__}"
        REGISTERED.append(Test(name, function, bound, bound_of_all or bound, only_all))
        return function

    return register


class Context:
    """What a test is handed: its folder, its children, and whether this is the long version."""

    def __init__(self, name, long):
        self.long = long
        # Short: the path of a local socket has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="phantom-"))
        self.remains = build.target_folder() / "tests" / name.replace("/", "-")
        self.children = Children(self.folder)
        self.notes = []
        self.counts = None

    def note(self, text):
        """A line that is printed with the result: a figure, or what was left out."""
        self.notes.append(text)

    def close(self, passed):
        self.children.end_all()
        shutil.rmtree(self.remains, ignore_errors=True)
        if not passed:
            with contextlib.suppress(shutil.Error):  # sockets cannot be copied, and tell nothing
                shutil.copytree(self.folder, self.remains)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Outcome:
    """How a test ended. A test that runs others (cargo's) brings their counts."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


class OutOfTime(BaseException):
    """Not an `Exception`: no test may swallow it."""


@contextlib.contextmanager
def time_limit(seconds):
    def ring(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_one(entry, long, skip_is_failure):
    """Runs one test, prints how it went, and returns its `Outcome`."""
    bound = entry.bound_of_all if long else entry.bound
    context, start = Context(entry.name, long), time.monotonic()
    verdict, detail = "ok", ""
    try:
        with time_limit(bound):
            entry.run(context)
    except Skip as reason:
        verdict, detail = "skipped", str(reason)
    except OutOfTime:
        verdict, detail = "FAILED", f"not done after {bound} s\n{context.children.logs()}"
    except Exception:  # noqa: BLE001: any fault of a test is the test's failure
        verdict, detail = "FAILED", f"{traceback.format_exc()}\n{context.children.logs()}"
    finally:
        context.close(verdict == "ok")
    if verdict == "skipped" and skip_is_failure:
        verdict, detail = "FAILED", f"skipped, where nothing may be: {detail}"
    print(f"{verdict:8}{entry.name}  ({time.monotonic() - start:.1f} s)", flush=True)
    for line in [*context.notes, *detail.strip().splitlines()]:
        print(f"          {line}", flush=True)
    if context.counts is not None:
        passed, failed = context.counts
        return Outcome(passed, max(failed, int(verdict == "FAILED")), 0)
    return Outcome(int(verdict == "ok"), int(verdict == "FAILED"), int(verdict == "skipped"))
