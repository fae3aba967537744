"""What a user gets wrong, or a machine: one clear sentence, a non-zero exit, nothing lost."""

import os
import re
import socket

from harness import Skip, build, test
from harness.children import wait_for
from harness.phantom import INVITATION, Node, free_port, world

# A sentence for a user, not a dump for a developer.
DEVELOPER = re.compile(r"panicked|RUST_BACKTRACE|stack backtrace|Os \{|unwrap\(\)|ParseError")


def refuses(t, *command, says, code=None, bound=20):
    """The command ends by itself, with an error that names the matter."""
    done = t.children.run(build.phantom(), *command, check=False, bound=bound, environment=world(t.folder, "user"))
    output = done.stdout + done.stderr
    assert done.returncode != 0, f"{command} succeeded:\n{output}"
    assert done.returncode > 0, f"{command} was killed by signal {-done.returncode}"
    assert code in (None, done.returncode), f"{command}: exit code {done.returncode}, not {code}:\n{output}"
    assert re.search(says, output, re.I), f"{command}: no word of {says!r}:\n{output}"
    assert not DEVELOPER.search(output), f"{command}: not for a user's eyes:\n{output}"
    assert len(done.stderr.strip().splitlines()) <= 6, f"{command}: too long:\n{output}"


def up(t, *options, state="state"):
    address = "127.60.0.1"
    ends = ["--listen", f"{address}:{free_port(address)}", "--socks", f"127.0.0.1:{free_port()}"]
    return ["up", *ends, "--state", t.folder / state, *options]


@test(bound=60)
def bad_options_are_refused_in_a_sentence(t):
    for *command, says in (
        ("demo", "--hops", "9", "hops.*0 to 8"),
        ("demo", "--hops", "many", "hops"),
        ("demo", "--nodes", "3", "nodes"),
        ("demo", "--nodes", "12", "--hops", "8", "nodes"),
        ("demo", "--no-such-option", "no-such-option"),
        ("up", "--socks", "everywhere", "socks"),
        ("up", "--socks", "203.0.113.7:1", "other machines.*--socks 127.0.0.1"),
        ("up", "--socks", "127.0.0.1:0", "--dns", "203.0.113.7:53", "other machines.*--dns 127.0.0.1"),
        ("up", "--listen", "0.0.0.0:443", "--socks", "127.0.0.1:0", "--listen ADDRESS:443"),
        ("host", "99999", "1 to 65535"),
        ("no-such-command", "no-such-command"),
    ):
        refuses(t, *command, says=says, code=2)


@test(bound=60)
def a_wrong_invitation_is_refused(t):
    for wrong in ("", "hello", "phantom-invitation-1:", "phantom-invitation-1:aaaa", "phantom-invitation-9:mfrggzdf", "phantom-invitation-1:" + "a" * 5000):
        refuses(t, *up(t, "--join", wrong), says="invitation")


@test(bound=60)
def a_taken_port_is_named(t):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        end = f"127.0.0.1:{taken.getsockname()[1]}"
        refuses(t, "demo", "--socks", end, says=re.escape(end), code=1, bound=40)
        refuses(t, "up", "--listen", f"127.60.0.1:{free_port('127.60.0.1')}", "--socks", end, "--state", t.folder / "a", says=re.escape(end))
        refuses(t, "up", "--listen", end, "--socks", f"127.0.0.1:{free_port()}", "--state", t.folder / "b", says=re.escape(end))


@test(bound=60)
def commands_without_a_daemon_say_how_to_start_one(t):
    refuses(t, "status", says="phantom up")
    refuses(t, "host", "8000", says="phantom up")


@test(bound=90)
def a_state_folder_belongs_to_one_node(t):
    first = Node(t, "first", "127.61.0.1")
    invitation = first.invitation()
    refuses(t, *up(t, state="first-state"), says="state|in use|running")
    assert first.process.poll() is None, "the node that was there has gone"
    first.process.terminate()
    assert first.process.wait(20) == 0, "an asked-for end is no failure"
    first.start()
    known = wait_for("the node to start again", lambda: INVITATION.findall(first.printed())[1:], 20, first.process)
    assert known[0] == invitation, "the node that came back is another one"


@test(bound=60)
def a_node_that_commands_would_miss_says_how_to_reach_it(t):
    first = Node(t, "first", "127.62.0.1")
    process = t.children.start("second", build.phantom(), *up(t, state="second-state"), environment=first.environment())
    printed = lambda: process.log.read_text(errors="replace")
    wait_for("the second node to invite", lambda: INVITATION.search(printed()), 30, process)
    found = re.search(r"^commands .*--state '([^']+)'", printed(), re.M)
    assert found, printed()
    assert "commands" not in first.printed(), first.printed()
    assert INVITATION.search(printed()).group() in first.ask("status", "--state", found.group(1)).stdout
    assert first.invitation() in first.ask("status").stdout


@test(bound=60)
def a_damaged_state_folder_is_refused_and_kept(t):
    node = Node(t, "node", "127.63.0.1")
    node.invitation()
    node.process.terminate()
    node.process.wait(20)
    files = [file for file in sorted(node.state.rglob("*")) if file.is_file() and file.stat().st_size]
    assert files, "a node that ran left no state"
    for file in files:
        assert file.stat().st_mode & 0o077 == 0, f"others may read {file}"
    assert node.state.stat().st_mode & 0o077 == 0, "others may look into the state folder"
    key = next((file for file in files if re.search("key|node|identity|secret", file.name)), files[0])
    key.write_bytes(b"not a key")
    refuses(t, *up(t, state="node-state"), says=re.escape(key.name))
    assert key.read_bytes() == b"not a key", "a file that could not be read was overwritten"


@test(bound=60)
def a_full_disk_is_said(t):
    disk = t.folder / "disk"
    disk.mkdir()
    namespace = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if t.children.run(*namespace, "true", check=False).returncode != 0:
        raise Skip("no mount namespace may be made here")
    command = " ".join(map(str, [build.phantom(), *up(t)[:-1], disk / "state"]))
    script = f"mount -t tmpfs -o size=64k none {disk} && head -c 1M /dev/zero >{disk}/filler; exec {command}"
    process = t.children.start("full", *namespace, "sh", "-c", script, environment=world(t.folder, "user"))
    wait_for("the node to give up", lambda: process.poll() is not None, 30)
    output = process.log.read_text(errors="replace")
    assert process.returncode > 0, output
    assert re.search("space|full", output, re.I) and not DEVELOPER.search(output.split("filler")[-1]), output
