"""Chromium without a window, driven by its own protocol (CDP) over two pipes: no port, no library."""

import contextlib
import itertools
import json
import os
import select
import shutil
import time

from .suite import Skip

# Nothing of its own accord: it starts at once, looks for no updates, and needs neither a screen nor root.
QUIET = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --disable-sync --disable-extensions
--disable-background-networking --disable-component-update --disable-default-apps --disable-domain-reliability
--disable-client-side-phishing-detection --disable-features=OptimizationHints,MediaRouter,Translate --metrics-recording-only
--no-default-browser-check --no-pings --password-store=basic --use-mock-keychain""".split()


class Browser:
    """One Chromium with an empty profile, and one page in it."""

    def __init__(self, t, name, *options, within=(), environment=None):
        if shutil.which("chromium") is None:
            raise Skip("chromium is not installed (tests/run --install)")
        to, of = (t.folder / f"{name}.{end}" for end in ("in", "out"))
        for pipe in (to, of):
            os.mkfifo(pipe)
        # Open for both directions, so that nobody waits for the other end.
        self.to, self.of = (os.open(pipe, os.O_RDWR) for pipe in (to, of))
        self.numbers, self.rest, self.events = itertools.count(1), b"", []
        command = ["chromium", *QUIET, f"--user-data-dir={t.folder / name}", "--remote-debugging-pipe", *options, "about:blank"]
        shell = ["sh", "-c", 'in=$1 out=$2; shift 2; exec "$@" 3<"$in" 4>"$out"', "sh", to, of]
        self.process = t.children.start(name, *within, *shell, *command, environment=environment)
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")

    def close(self):
        """Ends it, and all its processes."""
        with contextlib.suppress(AssertionError):
            self.ask("Browser.close", bound=10)
        self.process.wait(20)
        for end in (self.to, self.of):
            os.close(end)

    def open(self, url, bound=60):
        """Goes to a page and waits until it and all that it shows has been loaded. Returns why not, if so, as Chromium says it."""
        self.events.clear()
        failed = self.ask("Page.navigate", url=url, bound=bound).get("errorText")
        if failed is None:
            self.until(lambda: any(event.get("method") == "Page.loadEventFired" for event in self.events), bound)
        return failed

    def go(self, url):
        """Goes to a page, whatever becomes of it."""
        self.send("Page.navigate", url=url)

    def run(self, script, bound=60):
        """The value of an expression in the page, awaited if it is a promise."""
        asked = dict(expression=script, awaitPromise=True, returnByValue=True)
        answer = self.ask("Runtime.evaluate", bound=bound, **asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def ask(self, method, bound=30, **parameters):
        number, got = self.send(method, **parameters), []

        def answered():
            got.extend(event for event in self.events if event.get("id") == number)
            return got

        self.until(answered, bound)
        assert "error" not in got[0], f"{method}: {got[0]['error']}"
        return got[0]["result"]

    def send(self, method, **parameters):
        message = {"id": next(self.numbers), "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        return message["id"]

    def until(self, condition, bound):
        deadline = time.monotonic() + bound
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"the browser did not do it within {bound} s"
            assert self.process.poll() is None, f"the browser ended with {self.process.returncode}"
            if select.select([self.of], [], [], min(left, 0.5))[0]:
                self.rest += os.read(self.of, 1 << 20)
                *whole, self.rest = self.rest.split(b"\0")
                self.events.extend(json.loads(message) for message in whole)
