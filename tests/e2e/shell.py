"""`phantom shell`, and what `phantom run` says of programs that it does not start, and of names that are not of the network."""

import fcntl
import os
import pty
import re
import select
import shutil
import subprocess
import termios
import time
from pathlib import Path

from harness import build, test
from harness.children import die_with_parent
from harness.phantom import Demo, world

NOBODY = 65_534
OUTER, INNER = "outer> ", "inner> "


class Terminal:
    """A shell of somebody who sits at a terminal."""

    def __init__(self, t, environment):
        self.ours, theirs = pty.openpty()
        self.said = ""

        def sit_down():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            die_with_parent()

        (Path(environment["HOME"]) / ".bashrc").write_text(f"PS1='{INNER}'\n")
        environment = {**os.environ, **environment, "SHELL": "/bin/bash", "PS1": OUTER, "TERM": "dumb"}
        command = ["bash", "--norc", "--noprofile", "-i"]
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.shell = subprocess.Popen(command, **streams, cwd=t.folder, env=environment, preexec_fn=sit_down)
        self.shell.name, self.shell.log = "terminal", t.folder / "terminal.log"
        t.children.started.append(self.shell)
        os.close(theirs)
        self.read(OUTER)

    def type(self, text, until, prompt=None, bound=60):
        """Types, reads until that has been said, and until the prompt, which may not be typed at before."""
        os.write(self.ours, text.encode())
        said = self.read(until, bound)
        return said + self.read(prompt, bound) if prompt else said

    def read(self, until, bound=30):
        end = time.monotonic() + bound
        while not (found := re.search(until, self.said)):
            left = end - time.monotonic()
            assert left > 0 and select.select([self.ours], [], [], left)[0], f"no {until!r} in {self.said!r}"
            said = os.read(self.ours, 65_536).decode(errors="replace")
            self.said += said
            with self.shell.log.open("a") as log:
                log.write(said)
        read, self.said = self.said[: found.end()], self.said[found.end() :]
        return read


@test(bound=120)
def a_shell_under_the_seal_is_a_shell(t):
    demo = Demo(t)
    terminal = Terminal(t, world(t.folder, "demo"))
    phantom = build.phantom()
    # What is typed is shown, too: so no marker stands in it as it will be said.
    terminal.type(f"{phantom} shell\n", "under the seal", INNER)
    terminal.type("echo inside=$PHANTOM_RUN,\n", "inside=1,", INNER)
    terminal.type(f"curl -q -sSf {demo.url}/bytes/1000 | wc -c; echo fetch''ed\n", r"1000\s+fetched", INNER)
    job = "sh -c 'echo go\"\"es; exec sleep 1000'\n"
    # Ctrl-C ends the job, neither the shell nor what seals it.
    terminal.type(job, "goes")
    terminal.type("\x03", INNER)
    terminal.type("echo code=$?,\n", "code=130,", INNER)
    # Ctrl-Z stops it.
    terminal.type(job, "goes")
    terminal.type("\x1a", "Stopped", INNER)
    terminal.type("kill %1; wait; echo ga''ve up\n", "gave up", INNER)
    # The shell as a whole stops, and whoever knows phantom has the terminal.
    terminal.type("suspend\n", "Stopped.*shell", OUTER)
    terminal.type("echo outside=$PHANTOM_RUN,\n", "outside=,", OUTER)
    terminal.type("fg\n", "shell")
    terminal.type("\n", INNER)
    terminal.type("echo inside=$PHANTOM_RUN,\n", "inside=1,")
    terminal.type("exit 7\n", OUTER)
    terminal.type("echo code=$?, outside=$PHANTOM_RUN,\n", "code=7, outside=,", OUTER)
    # A shell that is killed leaves the terminal to us.
    terminal.type(f"sh -c '{phantom} shell; read line; echo $line,'\n", INNER)
    terminal.type("kill -KILL $$\n", "Killed|\\$\\$")
    terminal.type("he''ard\n", "he''ard,", OUTER)


INTERRUPTED = """
import signal, socket, sys, time
signal.signal(signal.SIGCONT, lambda *_: print("goes " + "on", flush=True))
try:
    print("wai" + "ts", flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        socket.socket(socket.AF_INET, kind)
    print("fou" + "nd", socket.getaddrinfo(sys.argv[1], 80)[0][4][1])
"""


@test(bound=100)
def a_program_keeps_its_network_when_the_terminal_interrupts_or_stops_it(t):
    demo = Demo(t)
    program = t.folder / "interrupted.py"
    program.write_text(INTERRUPTED)
    terminal = Terminal(t, world(t.folder, "demo"))
    run = f"{build.phantom()} run -- python3 {program} {demo.site}"
    terminal.type(f"{run}\n", "waits")
    terminal.type("\x03", "found 80", OUTER)
    terminal.type(f"{run}\n", "waits")
    terminal.type("\x1a", "Stopped", OUTER)
    terminal.type("fg\n", "goes on")
    terminal.type("\x03", "found 80", OUTER)
    # Ctrl-\\ is the program's, too: it ends with it, and we say how.
    terminal.type(f"{run}\n", "waits")
    terminal.type("\x1c", OUTER)
    terminal.type("echo code=$?,\n", "code=131,", OUTER)


@test(bound=100)
def what_cannot_be_itself_under_the_seal_is_not_started(t):
    demo = Demo(t)
    ping = set_user(t)
    script = t.folder / "script"
    script.write_text(f"#!{ping}\n")
    script.chmod(0o755)
    old = t.folder / "old"
    head = bytearray(Path("/bin/true").read_bytes())
    head[4], head[18] = 1, 3
    old.write_bytes(head)
    old.chmod(0o755)
    for program, word in ((ping, "set-uid"), (script, "set-uid"), (old, "32 bits")):
        refused = demo.ask("run", "--", program, check=False)
        assert refused.returncode == 126 and word in refused.stderr, refused
    # As systemd does, for the process that it starts.
    hands_over = f"LISTEN_FDS=1 LISTEN_PID=$$ exec {build.phantom()} run -- true"
    refused = t.children.run("sh", "-c", hands_over, environment=world(t.folder, "demo"), check=False)
    assert refused.returncode == 1 and "LISTEN_FDS" in refused.stderr, refused
    # Among others, it may be who starts such a program.
    source = t.folder / "calls.c"
    source.write_text('int main(void) { int is; __asm__ volatile("int $0x80" : "=a"(is) : "a"(20)); return is == 0; }')
    program = t.folder / "calls"
    t.children.run("gcc", source, "-o", program)
    if t.children.run(program, check=False).returncode == 0:
        ended = demo.ask("run", "--", program, check=False)
        assert ended.returncode == 128 + 31 and "call of 32 bits" in ended.stderr, ended


LOOK = """
#include <netdb.h>
#include <stdio.h>
#include <time.h>
int main(int count, char **words) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    struct timespec begun, ended;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    int error = getaddrinfo(words[1], "80", &hints, &found);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double seconds = ended.tv_sec - begun.tv_sec + (ended.tv_nsec - begun.tv_nsec) / 1e9;
    printf("%d %f\\n", error == EAI_NONAME, seconds);
    return 0;
}
"""


@test(bound=100)
def names_outside_are_said_not_to_be_there_at_once(t):
    demo = Demo(t)
    source = t.folder / "look.c"
    source.write_text(LOOK)
    for compiler in (["gcc"], ["musl-gcc", "-static"]):
        program = t.folder / f"look-{compiler[0]}"
        t.children.run(*compiler, source, "-o", program)
        for name in ("example.com", "localhost.example.com", "example"):
            is_no_name, seconds = demo.ask("run", "--", program, name).stdout.split()
            # One that is asked again takes seconds.
            assert is_no_name == "1" and float(seconds) < 2, (program, name, seconds)


def set_user(t):
    """A program that runs as somebody else than who starts it."""
    if os.geteuid() != 0:
        return shutil.which("passwd")
    program = t.folder / "other"
    shutil.copyfile("/bin/true", program)
    os.chown(program, NOBODY, -1)
    program.chmod(0o4755)
    return program
