"""`phantom run`: a sealed program has nobody else make its connections: it reaches into no process that is not sealed."""

import fcntl
import json
import os
import pty
import subprocess
import termios

from harness import build, test
from harness.children import die_with_parent
from harness.phantom import Demo, Node, world

# What a program may try with a process of the same user; it goes well if it returns nothing.
REACHES = """
import ctypes, json, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
ATTACH, DETACH, SEIZE, PIDFD_OPEN, PIDFD_GETFD = 16, 17, 0x4206, 434, 438
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def attach(process):
    checked(libc.ptrace(ATTACH, process, 0, 0))
    os.waitpid(process, 0x40000000)
    libc.ptrace(DETACH, process, 0, 0)
def seize(process):
    checked(libc.ptrace(SEIZE, process, 0, 0))
    libc.ptrace(DETACH, process, 0, 0)
def stack(process):
    line = next(line for line in open(f"/proc/{process}/maps") if "[stack]" in line)
    return int(line.split("-")[0], 16)
def write_memory(process):
    word = ctypes.create_string_buffer(b"word")
    theirs = Part(stack(process), 4)
    checked(libc.process_vm_writev(process, ctypes.byref(Part(ctypes.addressof(word), 4)), 1, ctypes.byref(theirs), 1, 0))
def write_memory_by_file(process):
    with open(f"/proc/{process}/mem", "r+b", buffering=0) as memory:
        memory.seek(stack(process))
        memory.write(b"word")
def take_descriptor(process):
    checked(libc.syscall(PIDFD_GETFD, checked(libc.syscall(PIDFD_OPEN, process, 0)), 0, 0))
def told(what, process):
    try:
        what(process)
    except OSError as error:
        return error.errno
    return 0
ways = [attach, seize, write_memory, write_memory_by_file, take_descriptor]
process = int(sys.argv[1]) or subprocess.Popen(["sleep", "1000"]).pid
print(json.dumps({way.__name__: told(way, process) for way in ways}))
if not int(sys.argv[1]):
    os.kill(process, 9)
"""
EPERM, EACCES = 1, 13


@test(bound=100)
def a_sealed_program_reaches_into_no_process_that_is_not_sealed(t):
    demo = Demo(t)
    other = t.children.start("other", "sleep", "1000")
    reaches = lambda process, *command: json.loads(t.children.run(*command, "python3", "-c", REACHES, process, environment=world(t.folder, "demo")).stdout)
    # Who is not sealed does all that.
    assert set(reaches(other.pid).values()) == {0}
    sealed = [build.phantom(), "run", "--"]
    told = reaches(other.pid, *sealed)
    assert set(told.values()) <= {EPERM, EACCES} and len(told) == 5, told
    # Nor into who seals it: the parent of its parent, for it is a shell's child.
    told = reaches("0", *sealed)
    assert told.pop("take_descriptor") == EPERM and set(told.values()) == {0}, told
    script = f"python3 -c '{REACHES}' $PPID"
    told = json.loads(demo.ask("run", "--", "sh", "-c", script).stdout)
    assert set(told.values()) <= {EPERM, EACCES}, told


TYPES = """
import fcntl, sys, termios
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
except OSError as error:
    sys.exit(error.errno)
"""


@test(bound=100)
def a_sealed_program_types_nothing_into_the_terminal_that_it_shares(t):
    Demo(t)

    def told(*command):
        """By a program that leads the session of a terminal, as a shell does."""
        ours, theirs = pty.openpty()

        def sit_down():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            die_with_parent()

        environment = {**os.environ, **world(t.folder, "demo")}
        done = subprocess.run([*command, "python3", "-c", TYPES], stdin=theirs, capture_output=True, preexec_fn=sit_down, env=environment, cwd=t.folder, timeout=60)
        os.close(ours)
        os.close(theirs)
        return done.returncode

    assert told(build.phantom(), "run", "--") == EPERM
    # Kernels that let root do it let us see that the seal is what keeps it from that.
    t.note(f"without the seal: {told()}")


# Who may give orders shows the node what it has. Says what the node says to each.
ORDERS = """
import array, json, socket, struct, sys
def told(*shown):
    node = socket.socket(socket.AF_UNIX)
    node.connect(sys.argv[1])
    hello = b'{"request": "hello", "version": 1}'
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno() for one in shown]))] if shown else []
    node.sendmsg([struct.pack(">I", len(hello)) + hello], rights)
    length, = struct.unpack(">I", node.recv(4, socket.MSG_WAITALL))
    return json.loads(node.recv(length, socket.MSG_WAITALL))["reply"]
own, (unix, _) = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socketpair()
print(json.dumps([
    told(), told(own), told(socket.socket(socket.AF_INET6)), told(unix), told(unix, own), told(sys.stdin),
    told(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
]))
"""


@test(bound=120)
def a_sealed_program_gives_no_orders_to_any_node_of_its_user(t):
    demo = Demo(t)
    other = Node(t, "other", "127.40.0.1", join=demo.invitation)
    asks = lambda *command: json.loads(t.children.run(*command, "python3", "-c", ORDERS, other.state / "sock", environment=demo.environment()).stdout)
    hello, no = "hello", "error"
    assert asks() == [no, hello, hello, no, no, no, no]
    for options in ([], ["--preload-only"]):
        assert set(asks(build.phantom(), "run", *options, "--")) == {no}, options
    # Nor by the command line, which says why.
    for options in (["--state", other.state], []):
        refused = demo.ask("run", "--", build.phantom(), "status", *options, check=False)
        assert refused.returncode == 1 and "inside of a phantom run" in refused.stderr, refused
    assert other.status()["node"]
