"""`phantom.toml`: a node that is told everything by a file."""

import re
import signal
import socket

from harness import build, test
from harness.children import wait_for
from harness.phantom import AP_NAME, READY, Demo, Node, curl, free_port, world

from .mistakes import refuses


@test(bound=60)
def a_wrong_file_is_refused_with_its_line_and_what_is_allowed(t):
    file = t.folder / "phantom.toml"
    for text, says in (
        ("hops = 3\nsock = 1\n", r"phantom.toml, line 2: unknown key `sock`, expected one of .*`socks`"),
        ("\n\nhops = 9\n", r"phantom.toml, line 3: hops: .*0 to 8"),
        ('socks = "203.0.113.7:1"\n', "other machines.*--socks 127.0.0.1"),
        ("socks = 127.0.0.1:9070\n", r"phantom.toml, line 1: .*text in quotes"),
    ):
        file.write_text(text)
        refuses(t, "up", "--config", file, says=says, code=2)
    refuses(t, "up", "--config", t.folder / "none.toml", says=r"none.toml cannot be read.*--config FILE", code=2)


@test(bound=60)
def a_hangup_makes_a_node_read_its_file_again(t):
    file = t.folder / "phantom.toml"
    say = lambda log, hops, *ports: file.write_text(f'log = "{log}"\nhops = {hops}\n' + "".join(f"[[host]]\nport = {port}\n" for port in ports))
    say("warn", 3, 80, 443)
    node = Node(t, "node", "127.40.0.1", options=["--config", file])
    node.invitation()

    def told(what):
        node.process.send_signal(signal.SIGHUP)
        wait_for(f"the node to say {what!r}", lambda: re.search(what, node.printed()), 20, node.process)
        return [service["port"] for service in node.status()["services"]]

    file.write_text("hops = 9\n")
    assert told("nothing was changed.*phantom.toml, line 1: hops: .*0 to 8") == [80, 443]
    assert "DEBUG" not in node.printed()
    say("debug", 2, 80, 22)
    assert told("count from the next start on: hops\n") == [22, 80]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(node.state / "sock"))
        client.sendall(b"\xff" * 4)
        wait_for("the bad client to be logged", lambda: re.search("DEBUG.*a client of the local socket", node.printed()), 20, node.process)
    assert node.status()["paths"]["hops"] == 3


@test(bound=200)
def a_node_at_the_usual_place_does_what_its_file_says_and_the_command_line_goes_before_it(t):
    demo = Demo(t)
    folder = t.folder / "public"
    folder.mkdir()
    (folder / "who").write_text("declared")
    web, dns = free_port(), f"127.0.0.1:{free_port()}"
    t.children.start("web", "python3", "-m", "http.server", web, "--bind", "127.0.0.1", "--directory", folder)
    usual = t.folder / "host-runtime" / ".config" / "phantom"
    usual.mkdir(parents=True)
    usual.parent.parent.chmod(0o700)
    (usual / "phantom.toml").write_text(
        f'join = "{demo.invitation}"\nsocks = "127.0.0.1:1"\ndns = "{dns}"\nhops = 2\n[[host]]\nport = 80\nto = {web}\n'
    )
    host = Node(t, "host", "127.40.0.1")
    status = host.status()
    assert (status["socks"], status["dns"], status["paths"]["hops"]) == (host.socks, dns, 2), status
    hosting = wait_for("the service to be told of", lambda: re.search("^hosting .*", host.printed(), re.M), 20, host.process)
    assert not AP_NAME.search(hosting.group()), "what is no terminal is a log, and tells nobody what is hosted here"
    name = status["services"][0]["name"]

    def found():
        try:
            return curl(t, demo.socks, f"http://{name}/who", bound=20).stdout == "declared"
        except AssertionError:
            return False

    wait_for("the declared service", found, READY, host.process)


@test(bound=60)
def commands_find_the_node_whose_state_the_file_names(t):
    environment = {**world(t.folder, "user"), "XDG_RUNTIME_DIR": ""}
    usual = t.folder / "user-runtime" / ".config" / "phantom"
    usual.mkdir(parents=True)
    (usual / "phantom.toml").write_text(f'state = "{t.folder}/elsewhere"\nsocks = "127.0.0.1:{free_port()}"\n')
    ask = lambda *command: t.children.run(build.phantom(), *command, environment=environment)
    name = ask("identity", "new", "shop").stdout
    node = t.children.start("node", build.phantom(), "up", environment=environment)
    wait_for("the local socket", (t.folder / "elsewhere" / "sock").exists, 30, node)
    assert f"{t.folder}/elsewhere" in ask("status", "--json").stdout
    assert name.strip() in ask("identity", "list").stdout
    assert "need --state" not in node.log.read_text(), node.log.read_text()
