"""The resolver of a machine sends .ap to a node: what `phantom doctor` says, and the files of examples/resolver."""

import ipaddress
import os
import re
import shutil
import socket

from e2e.doors import AAAA, NO_ERROR, PTR, REFUSED, A, lookup
from harness import Skip, build, test
from harness.children import wait_for
from harness.phantom import AP_NAME, Node, free_port, world

EXAMPLES = build.ROOT / "examples" / "resolver"


@test(bound=60)
def the_doctor_tells_what_answers_and_what_is_missing(t):
    dns = f"127.0.0.1:{free_port()}"
    node = Node(t, "node", "127.66.0.1", options=["--dns", dns])
    told = node.ask("doctor", check=False)
    assert told.returncode == 3, f"a node alone is not in order: {told}"
    assert re.search(rf"^ok proxy +{node.socks} answers$", told.stdout, re.M), told.stdout
    assert re.search(rf"^ok dns +{dns} answers$", told.stdout, re.M), told.stdout
    assert re.search(r"^(ok|--) resolver ", told.stdout, re.M), told.stdout
    alone = t.children.run(build.phantom(), "doctor", check=False, environment=world(t.folder, "user"))
    assert alone.returncode == 3 and re.search(r"^-- node .*phantom up", alone.stdout, re.M), alone


@test(bound=60)
def dnsmasq_and_unbound_send_names_to_the_node(t):
    programs = {name: shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin") for name in ("dnsmasq", "unbound")}
    missing = [name for name, place in programs.items() if place is None]
    if missing:
        raise Skip(f"not installed: {', '.join(missing)}")
    dns = free_port()
    node = Node(t, "node", "127.66.0.1", options=["--dns", f"127.0.0.1:{dns}"])
    name = AP_NAME.search(node.ask("identity", "new", "somebody").stdout).group()
    direct = {kind: lookup(f"127.0.0.1:{dns}", name, kind) for kind in (A, AAAA)}
    assert all(code == NO_ERROR and len(answers) == 1 for code, answers in direct.values()), direct
    backwards = [ipaddress.ip_address(answers[0]).reverse_pointer for _, answers in direct.values()]
    for program, port in ((dnsmasq, free_port()), (unbound, free_port())):
        process = t.children.start(program.__name__, *program(t, programs[program.__name__], dns, port))
        end = f"127.0.0.1:{port}"
        answered = wait_for(f"{program.__name__} to answer", lambda: answer_of(end, name), 20, process)
        assert answered == direct[AAAA], f"{program.__name__}: {answered}, not {direct}"
        assert lookup(end, name, A) == direct[A], program.__name__
        for address in backwards:
            code, [found] = lookup(end, address, PTR)
            assert code == NO_ERROR and name.split(".")[0].encode() in found, f"{program.__name__}: {address} is {found}"
        # The node refuses what is not its own, and nobody else is asked.
        assert lookup(end, "1.0.0.127.in-addr.arpa", PTR)[0] in (NO_ERROR, REFUSED), program.__name__


def answer_of(end, name):
    """Nothing until somebody answers."""
    try:
        return lookup(end, name, AAAA)
    except (ConnectionRefusedError, socket.timeout):
        return None


def example(t, file, dns):
    """A file of the examples, for another port of the node."""
    text = (EXAMPLES / file).read_text()
    assert "9053" in text, text
    (t.folder / file).write_text(text.replace("9053", str(dns)))
    return t.folder / file


def dnsmasq(t, program, dns, port):
    # Answers in private addresses are what it is usually told to drop.
    only = ["--no-daemon", "--no-resolv", "--no-hosts", "--stop-dns-rebind", "--bind-interfaces", "--pid-file"]
    user = ["--user=root"] if os.getuid() == 0 else []
    return [program, *only, *user, "--listen-address=127.0.0.1", f"--port={port}", f"--conf-file={example(t, 'dnsmasq.conf', dns)}"]


def unbound(t, program, dns, port):
    main = t.folder / "unbound-main.conf"
    main.write_text(
        f'server:\n    directory: "{t.folder}"\n    chroot: ""\n    username: ""\n    pidfile: ""\n    use-syslog: no\n    do-daemonize: no\n'
        f"    interface: 127.0.0.1\n    port: {port}\n    private-address: fc00::/7\n"
        f'remote-control:\n    control-enable: no\ninclude: "{example(t, "unbound.conf", dns)}"\n'
    )
    return [program, "-d", "-c", main]
