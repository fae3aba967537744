"""What a node has given up: read from the kernel, tried by a process that confines itself as a node does, and shown to the user."""

import contextlib
import errno
import json
import os
import re
import signal
import socket
from pathlib import Path

from harness import Skip, build, test
from harness.children import wait_for
from harness.phantom import Demo, Node, free_port, world

LAYERS = ["privileges", "files", "signals", "calls"]
NOBODY = 65534
# Only root may do it even if nobody hinders it.
FOR_ROOT = {"packets"}


def threads(pid):
    """What the kernel says of each thread."""
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)


def is_confined(thread):
    no_capabilities = all(int(thread[kind], 16) == 0 for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
    return no_capabilities and thread["NoNewPrivs"] == "1" and thread["Seccomp"] == "2"


def needs_landlock(enforced):
    if "files" not in enforced or "signals" not in enforced:
        raise Skip("this kernel's landlock is not of Linux 6.12")


@test(bound=60)
def what_a_confined_process_tries_is_refused(t):
    (t.folder / "own").mkdir(mode=0o700)
    (t.folder / "there").write_text("of another")
    name = f"phantom-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        arguments = [t.folder, name, f"127.0.0.1:{server.getsockname()[1]}"]
        free, confined = (json.loads(t.children.run(build.attempts(), how, *arguments).stdout) for how in ("free", "confined"))
    needs_landlock(confined["report"]["enforced"])
    assert confined["report"] == {"enforced": LAYERS, "missing": []}, confined
    refusals = {errno.EPERM, errno.EACCES}
    for here in (confined["attempts"], confined["in_thread"]):
        for attempt, result in here.items():
            must_succeed = attempt in ("own file", "connection")
            assert (result == 0) if must_succeed else (result in refusals), (attempt, here)
            if attempt not in FOR_ROOT or os.geteuid() == 0:
                assert free["attempts"][attempt] not in refusals, (attempt, free)


@test(bound=60)
def every_thread_of_a_node_is_confined_and_its_status_says_so(t):
    node = Node(t, "node", "127.40.0.1")
    status = node.status()["confinement"]
    needs_landlock(status["enforced"])
    assert status == {"enforced": LAYERS, "missing": []}, status
    assert "\nconfined  privileges, files, signals, calls\n" in node.ask("status").stdout
    seen = list(threads(node.process.pid))
    assert len(seen) > 1 and all(is_confined(thread) for thread in seen), seen
    if os.geteuid() == 0:
        assert all(int(thread["CapBnd"], 16) == 0 for thread in seen), seen
        assert "user      root, though without root's rights: --user NAME" in node.printed()


@test(bound=60)
def a_node_that_is_told_not_to_gives_nothing_up_and_says_so(t):
    node = Node(t, "node", "127.40.0.1", options=["--no-confinement"])
    assert not any(is_confined(thread) for thread in threads(node.process.pid))
    status = node.status()["confinement"]
    assert status["enforced"] == [] and [missing["layer"] for missing in status["missing"]] == LAYERS, status
    for said in (node.ask("status").stdout, node.printed()):
        assert "not privileges, files, signals, calls: it was switched off (--no-confinement)" in said, said


@test(bound=60)
def on_a_kernel_without_landlock_a_node_does_what_it_can_unless_all_is_required(t):
    state, file = t.folder / "state", t.folder / "phantom.toml"
    ready = t.folder / "ready.json"
    command = [build.attempts(), "without-landlock", build.phantom(), "up", "--state", state, "--config", file]
    command += ["--socks", f"127.0.0.1:{free_port()}", "--ready-file", ready]
    file.write_text('confinement = "required"\n')
    done = t.children.run(*command, check=False, environment=world(t.folder, "node"))
    assert done.returncode == 1 and "no landlock" in done.stderr and 'confinement = "required"' in done.stderr, done
    file.write_text("")
    node = t.children.start("node", *command, environment=world(t.folder, "node"))
    wait_for("the node", ready.exists, 30, node)
    said = "privileges, calls; not files, signals: this kernel has no landlock"
    assert node.log.read_text().count(said) == 1, node.log.read_text()
    assert f"confined  {said}" in t.children.run(build.phantom(), "status", "--state", state).stdout
    assert all(is_confined(thread) for thread in threads(node.pid))


@test(bound=60)
def a_demonstration_is_confined(t):
    demo = Demo(t, "--hops", 1, "--nodes", 4)
    assert all(is_confined(thread) for thread in threads(demo.pid))
    assert demo.status()["confinement"]["enforced"][0] == "privileges"


@test(bound=60)
def root_opens_low_ports_and_becomes_the_user_that_is_named(t):
    if os.geteuid() != 0:
        raise Skip("only root can become somebody else")
    t.folder.chmod(0o711)
    state = t.folder / "state"
    command = ["up", "--user", "nobody", "--state", state, "--listen", "127.40.0.1:443", "--dns", "127.40.0.1:53"]
    command = [build.phantom(), *command, "--socks", f"127.0.0.1:{free_port()}"]
    environment = world(t.folder, "node")

    def refuses(*words):
        done = t.children.run(*command, check=False, environment=environment)
        assert done.returncode == 1 and all(word in done.stderr for word in words), done

    refuses("is not there", f"sudo install -d -o nobody -m 700 '{state}'")
    state.mkdir(mode=0o700)
    refuses("does not belong to nobody", f"sudo chown -R nobody: '{state}'")
    os.chown(state, NOBODY, NOBODY)
    node = t.children.start("node", *command, environment=environment)
    wait_for("the local socket", (state / "sock").exists, 30, node)
    status = json.loads(t.children.run(build.phantom(), "status", "--json", "--state", state).stdout)
    assert (status["listen"], status["dns"]) == ("127.40.0.1:443", "127.40.0.1:53"), status
    for thread in threads(node.pid):
        assert is_confined(thread) and int(thread["CapBnd"], 16) == 0, thread
        assert set(thread["Uid"].split()) == set(thread["Gid"].split()) == {str(NOBODY)}, thread
        assert thread["Groups"].split() in ([], [str(NOBODY)]), thread
    assert {file.stat().st_uid for file in state.rglob("*")} == {NOBODY}
    node.send_signal(signal.SIGTERM)
    assert node.wait(20) == 0


@test(bound=60)
def a_configuration_that_was_replaced_is_read_if_it_lies_among_files_alone(t):
    folder = t.folder / "configuration"
    folder.mkdir()
    file = folder / "phantom.toml"
    file.write_text("hops = 3\n")
    node = Node(t, "node", "127.40.0.1", options=["--config", file])
    needs_landlock(node.status()["confinement"]["enforced"])

    def replaced(text, says):
        (folder / "new").write_text(text)
        (folder / "new").rename(file)
        before = len(node.printed())
        node.process.send_signal(signal.SIGHUP)
        wait_for(f"the node to say {says!r}", lambda: re.search(says, node.printed()[before:]), 20, node.process)

    node.invitation()
    replaced("hops = 2\n", "count from the next start on: hops\n")
    (folder / "deeper").mkdir()
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(20) == 0
    node.start()
    replaced("hops = 1\n", "nothing was changed.*phantom.toml cannot be read.*a folder of its own")
