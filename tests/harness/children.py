"""Processes that a test starts. Each dies with the harness, whatever happens to it; only these are ever signalled."""

import ctypes
import os
import signal
import subprocess
import time

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def signal_group(process, number):
    """A child leads a group of its own, with all that it starts itself."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


class Children:
    """All processes of one test, with their output in files of the test's folder."""

    def __init__(self, folder):
        self.folder = folder
        self.started = []
        # What every command is handed to: something that changes its surroundings and then becomes it.
        self.within = []

    def start(self, name, *command, environment=None, directory=None):
        """Starts a process in the background; what it prints goes to `NAME.log`."""
        log = open(self.folder / f"{name}.log", "ab")
        with log:
            process = subprocess.Popen(
                [str(part) for part in (*self.within, *command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory or self.folder,
                env={**os.environ, **(environment or {})},
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        process.log = self.folder / f"{name}.log"
        process.name = name
        self.started.append(process)
        return process

    def run(self, *command, bound=60, check=True, environment=None):
        """Runs a command to its end and returns it, with its output as text."""
        done = subprocess.run(
            [str(part) for part in (*self.within, *command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=bound,
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
            preexec_fn=die_with_parent,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def end_all(self):
        """Asks all to end, then makes them."""
        running = [process for process in self.started if process.poll() is None]
        for process in running:
            signal_group(process, signal.SIGTERM)
        for process in running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                signal_group(process, signal.SIGKILL)
                process.wait()

    def logs(self, lines=15):
        """The last lines of every process, for a failure's report."""
        parts = []
        for process in self.started:
            tail = process.log.read_text(errors="replace").splitlines()[-lines:]
            parts += [f"--- {process.name} (exit {process.poll()})", *tail]
        return "\n".join(parts)


def whole_lines(process):
    """What it has printed so far, without a line that it is still writing: Python may write word by word."""
    text = process.log.read_text(errors="replace")
    return text[: text.rfind("\n") + 1]


def wait_for(what, condition, bound, process=None):
    """Polls until `condition()` is true and returns its value; fails at once when `process` has ended."""
    deadline = time.monotonic() + bound
    while True:
        value = condition()
        if value:
            return value
        if process is not None and process.poll() is not None:
            raise AssertionError(f"{process.name} ended with {process.returncode} while waiting for {what}")
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {bound} s in vain for {what}")
        time.sleep(0.02)
