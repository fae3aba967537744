"""`phantom run --preload-only`: programs as they are, where the kernel's seal cannot be had; and what the library does when its
run does not do what it should."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import threading

from harness import build, test
from harness.phantom import Demo, world

from .run import PROGRAMS, SIZE, filled_in

# No part of libc is in it.
STATIC = {"busybox, static"}
OTHERS = {
    "git": (["git", "ls-remote", "{url}/none.git"], 128),
    "git, the version": (["git", "--version"], 0),
    "ssh": (["ssh", "-V"], 0),
    "getent": (["getent", "ahosts", "{host}"], 0),
    "getent, unknown": (["getent", "ahosts", "www.example.com"], 2),
    "a shell that has cleared its environment": (["sh", "-c", "exec env -i /usr/bin/curl -q -sSf {url}/"], 0),
    "a thread that starts a shell": (["python3", "-c", "import os, threading\nt = threading.Thread(target=lambda: os._exit(os.WEXITSTATUS(os.system('exec env -i /usr/bin/curl -q -sSf {url}/'))))\nt.start(); t.join()"], 0),
}


@test(bound=150)
def programs_go_into_the_network_with_the_library_alone(t):
    demo = Demo(t)
    facts = {"url": f"{demo.url}/bytes/{SIZE}", "host": demo.site.split(":")[0], "size": SIZE}
    expected = demo.get(f"/sha256/{SIZE}").strip()
    assert len(expected) == 2 * hashlib.sha256().digest_size
    for name, command in PROGRAMS.items():
        if name in STATIC:
            continue
        done = demo.ask("run", "--preload-only", "--", *[filled_in(part, facts) for part in command], check=False)
        assert done.returncode == 0 and done.stdout.split()[:1] == [expected], (name, done)
        assert "no static programs" in done.stderr, done.stderr
    for name, source in NOT_HELD.items():
        program = t.folder / name
        program.with_suffix(".c").write_text(source)
        t.children.run("gcc", *(["-static"] if name == "static" else []), "-o", program, program.with_suffix(".c"))
        for command in ([program], ["sh", "-c", f"{program}; exit $?"]):
            done = demo.ask("run", "--preload-only", "--", *command, check=False)
            assert done.returncode == 126 and "in Go" in done.stderr and not done.stdout, done
        assert demo.ask("run", "--", program).stdout == "here\n"
    facts["url"] = demo.url
    for name, (command, code) in OTHERS.items():
        done = demo.ask("run", "--preload-only", "--", *[filled_in(part, facts) for part in command], check=False)
        assert done.returncode == code, (name, done)


# What the library would not hold.
NOT_HELD = {
    "static": '#include <stdio.h>\nint main(void) { puts("here"); }\n',
    "of-go": """#include <stdio.h>
__asm__(".section .note.go.buildid, \\"a\\", @note; .long 4, 4, 4; .long 0x6f47, 0x6469; .text");
int main(void) { puts("here"); }
""",
}

# A process that is watched already: then the kernel lets nobody else watch it.
WATCHED = """
import ctypes, fcntl, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
listener = libc.syscall(317, 1, 8, program)
assert listener >= 0, ctypes.get_errno()
fcntl.fcntl(listener, fcntl.F_SETFD, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@test(bound=100)
def where_there_is_no_seal_the_command_says_so_and_the_library_serves(t):
    demo = Demo(t)

    def run(*command):
        return demo.ask("run", *command, check=False)

    def watched(*command):
        environment = demo_environment(demo)
        return t.children.run("python3", "-c", WATCHED, build.phantom(), "run", *command, environment=environment, check=False)

    refused = watched("--", "true")
    assert refused.returncode == 1 and "--preload-only" in refused.stderr, refused
    done = watched("--preload-only", "--", "curl", "-q", "-sSf", demo.url)
    assert done.returncode == 0 and done.stdout, done
    # One in another one.
    for outer in ([], ["--preload-only"]):
        nested = run(*outer, "--", build.phantom(), "run", "--", "true")
        assert nested.returncode == 1 and "already" in nested.stderr, nested
    # Somewhere without the library.
    alone = t.folder / "alone" / "phantom"
    alone.parent.mkdir()
    shutil.copy(build.phantom(), alone)
    missing = t.children.run(alone, "run", "--preload-only", "--", "true", environment=demo_environment(demo), check=False)
    assert missing.returncode == 1 and "cargo build --release -p phantom-preload" in missing.stderr, missing
    # What it leaves: nothing.
    assert not [name for name in os.listdir(demo_environment(demo)["XDG_RUNTIME_DIR"]) if name.startswith("phantom-run")]


def demo_environment(demo):
    return world(demo.t.folder, demo.name)


# What a program is told, when its run says something else than it should.
PROGRAM = """
import json, os, resource, signal, socket, struct, sys, threading
def told(what):
    try:
        return what()
    except OSError as error:
        return error.errno
def connects(prepare=lambda s: None):
    with socket.socket() as s:
        prepare(s)
        s.connect(("127.192.0.1", 80))
    return 0
def interrupted():
    def stop(*_):
        raise InterruptedError(4, "a signal")
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    return connects()
def impatient():
    return connects(lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200_000)))
def crowded():
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, before))
    result = told(lambda: socket.socket().detach())
    return [result, before - len(os.listdir("/proc/self/fd"))]
def robbed():
    before = len(os.listdir("/proc/self/fd"))
    return [told(connects), before - len(os.listdir("/proc/self/fd"))]
print(json.dumps([told(eval(way)) for way in sys.argv[1:]]))
"""


class WrongRun:
    """A run that answers each call as it is told to, not as it should: with these bytes, and so many descriptors."""

    def __init__(self, t, answers):
        self.path = str(t.folder / "run")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(10)
        self.answers, self.heard = answers, []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        open_ones = []
        while True:
            try:
                conversation, _ = self.listener.accept()
            except OSError:
                return
            said, descriptors, _, _ = socket.recv_fds(conversation, 5000, 4)
            for descriptor in descriptors:
                os.close(descriptor)
            self.heard.append(said)
            answer, with_descriptors = self.answers[said[0]]
            if answer is None:
                open_ones.append(conversation)
                continue
            made = [socket.socket() for _ in range(with_descriptors)]
            socket.send_fds(conversation, [answer], [one.fileno() for one in made])
            conversation.close()

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)


SOCKET, CONNECT, NAME, QUESTION = 1, 2, 5, 7
DONE, UNKNOWN = b"\1", b"\7"


@test(bound=60)
def a_run_that_says_nonsense_or_nothing_is_no_network(t):
    def told(run, *ways):
        environment = {"LD_PRELOAD": str(build.library()), "PHANTOM_RUN_SOCKET": run.path}
        return json.loads(t.children.run("python3", "-c", PROGRAM, *ways, environment=environment).stdout)

    unreachable = errno.ENETUNREACH
    good = {SOCKET: (DONE, 1), CONNECT: (DONE, 0), NAME: (UNKNOWN, 0)}
    assert told(run := WrongRun(t, good), "connects") == [0]
    assert [said[:1] for said in run.heard] == [b"\1", b"\2"], run.heard
    name = "lambda: socket.getaddrinfo('a.ap', 80)"
    assert told(WrongRun(t, good), name) == [socket.EAI_NONAME]
    # No descriptor, where there should be one, or one where there should be none; bytes that say nothing, too many, none.
    for way, answer in (
        (SOCKET, (DONE, 0)),
        (SOCKET, (b"\3\0\0\0\1", 1)),
        (CONNECT, (b"\xff" * 64, 0)),
        (CONNECT, (b"\1\1", 1)),
        (CONNECT, (b"x" * 5000, 0)),
        (CONNECT, (b"", 0)),
    ):
        assert told(WrongRun(t, good | {way: answer}), "connects") == [unreachable], (way, answer)
    for answer in (b"\4" + b"x" * 15, b"\4" + b"x" * 300, b"\1", b""):
        assert told(WrongRun(t, good | {NAME: (answer, 0)}), name) == [socket.EAI_AGAIN], answer
    # More descriptors than there is room for, or than anybody wants; none of them stays.
    assert told(WrongRun(t, good), "crowded") == [[errno.EMFILE, 0]]
    assert told(WrongRun(t, good | {SOCKET: (DONE, 3)}), "robbed") == [[errno.EMFILE, 0]]
    assert told(WrongRun(t, good | {CONNECT: (b"\2\5", 1)}), "robbed") == [[errno.EIO, 0]]
    # Somebody who does not answer.
    silent = good | {CONNECT: (None, 0)}
    assert told(WrongRun(t, silent), "interrupted") == [errno.EINTR]
    assert told(WrongRun(t, silent), "impatient") == [errno.EINPROGRESS]
    # Somebody who has gone.
    gone = WrongRun(t, good)
    gone.end()
    assert told(gone, "connects", name) == [unreachable, socket.EAI_AGAIN]
