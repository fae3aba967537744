"""A node as a service: what scripts and the service manager learn of its beginning and its end."""

import json
import re
import signal
import socket
import time

from harness import build, test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, complete_json, free_port, world


def start(t, *options, environment=None):
    command = [build.phantom(), "up", "--socks", f"127.0.0.1:{free_port()}", "--state", t.folder / "state", *options]
    return t.children.start("node", *command, environment={**world(t.folder, "node"), **(environment or {})})


@test(bound=60)
def the_service_manager_is_told_of_the_beginning_and_the_end(t):
    place = t.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place))
        manager.settimeout(30)
        node = start(t, environment={"NOTIFY_SOCKET": str(place)})
        assert manager.recv(4096) == b"READY=1"
        t.children.run(build.phantom(), "status", "--state", t.folder / "state")
        node.send_signal(signal.SIGTERM)
        assert manager.recv(4096) == b"STOPPING=1"
        assert node.wait(20) == 0


@test(bound=60)
def the_ready_file_is_there_while_programs_can_come_in(t):
    place = t.folder / "ready.json"
    place.write_text("of another run")
    node = start(t, "--ready-file", place)
    ready = wait_for("the ready file", lambda: complete_json(place), 30, node)
    status = json.loads(t.children.run(build.phantom(), "status", "--json", "--state", ready["state"]).stdout)
    assert ready["pid"] == node.pid and ready["state"] == str(t.folder / "state")
    assert all(ready[key] == status[key] for key in ("node", "socks", "dns", "listen", "invitation")), (ready, status)
    limits = dict(re.findall(r"^(Max .*?)  +(\S+)", open(f"/proc/{node.pid}/limits").read(), re.M))
    assert limits["Max core file size"] == "0", limits
    node.send_signal(signal.SIGINT)
    assert node.wait(20) == 0 and not place.exists()


@test(bound=200)
def both_ends_of_a_session_learn_at_once_that_a_node_ends(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    visitor = Node(t, "visitor", "127.41.0.1", join=demo.invitation)
    for ending, other in ((visitor, "server"), (host, "program")):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://{host.host(80, '--to', listener.getsockname()[1])}/"
            program, server = connected(t, visitor, url, listener)
            ending.process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            if other == "server":
                # Its connection ends, or is reset.
                server.settimeout(10)
                assert not read_end(server)
            else:
                assert program.wait(10) != 0, "a page that was cut off is not whole"
            t.note(f"{ending.name} was asked to end, and its peer's {other} knew {time.monotonic() - asked:.2f} s later")
            server.close()
            assert ending.process.wait(20) == 0
            ending.start()


def connected(t, visitor, url, listener):
    """A program in the middle of a page: curl's process, and the server's side of its connection."""
    programs = []

    def arrived():
        if not programs or programs[-1].poll() is not None:
            command = ["curl", "-q", "--noproxy", "", "-sSN", "--socks5-hostname", visitor.socks, url]
            programs.append(t.children.start("curl", *command))
        try:
            server, _ = listener.accept()
        except TimeoutError:
            return None
        server.settimeout(20)
        # `phantom host` itself looks whether somebody listens, and says nothing.
        return server if server.recv(4096).startswith(b"GET /") else server.close()

    listener.settimeout(1)
    server = wait_for("the page to be asked for", arrived, READY, visitor.process)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nthe beginning")
    wait_for("its beginning to arrive", lambda: "the beginning" in programs[-1].log.read_text(), 20, programs[-1])
    return programs[-1], server


def read_end(server):
    try:
        return server.recv(4096)
    except ConnectionResetError:
        return b""
