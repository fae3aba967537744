"""The way out: an out-proxy leads to an Internet that is made up in a network namespace, and nothing else does."""

import os
import re
import shutil
import stat

from harness import Skip, build, test
from harness.children import wait_for
from harness.phantom import AP_NAME, READY, Demo, Node

PAGE = "a page of the Internet"
# The machine of the nodes, and two of the Internet: a web server and the resolver.
MACHINE, WEB, RESOLVER = "93.184.216.1", "93.184.216.34", "93.184.216.53"
# Beside the machine in its own network, which is of four addresses.
NEIGHBOUR = "93.184.216.2"
# What the resolver says of names. All but the first lead home, or nowhere.
NAMES = {
    "page": WEB,
    "loop": "127.0.0.1",
    "private": "10.0.0.1",
    "six": "::1",
    "mapped": "::ffff:10.0.0.1",
    "sixtofour": "2002:a00:1::1",
    "own": MACHINE,
    "neighbour": NEIGHBOUR,
    "link": "169.254.169.254",
}


@test(bound=300)
def an_out_proxy_leads_to_the_internet_and_nowhere_else(t):
    world = World(t)
    demo = Demo(t, program=world.program("demo"))
    host = Node(t, "host", "127.40.0.1", join=demo.invitation, program=world.program("host"))
    said = host.ask("host", "--out-proxy", "--allow-ports", "80,8081", "--as", "way", bound=2 * READY).stdout
    name = AP_NAME.search(said).group()
    options = ["--out-proxy", name]
    visitor = Node(t, "visitor", "127.41.0.1", join=demo.invitation, options=options, program=world.program("visitor", resolver="127.0.0.53"))
    assert visitor.status()["out_proxy"] == name and "ports 80, 8081" in host.ask("status").stdout

    fetched = lambda: world.curl(visitor.socks, "http://page.example.com/page").stdout == PAGE
    wait_for("the page of the Internet", fetched, READY, visitor.process)
    assert world.curl(visitor.socks, f"http://{WEB}/page").stdout == PAGE, "an address leads out, too"
    assert world.curl(visitor.socks, "http://page.example.com:8081/").returncode == 97, "nobody listens there"
    assert world.refusal(visitor.socks, "page.example.com:8081") == 5
    for near in NAMES.keys() - {"page"}:
        assert world.refusal(visitor.socks, f"{near}.example.com") == 2, near
    assert world.refusal(visitor.socks, "page.example.com:8080") == 2, "the port is not on the list"
    assert world.refusal(visitor.socks, "nowhere.example.com") == 4, "there is no such name"

    # What is near never reaches the out-proxy, and without one nothing goes out.
    asked, sent = len(world.questions()), world.packets()
    for home in ("localhost", "printer", "router.lan", "x.onion", "10.0.0.1", "[::1]", "127.0.0.1", "169.254.169.254", "short.ap"):
        assert world.refusal(visitor.socks, home) in (2, 4), home
    for outside in ("page.example.com", WEB, "loop.example.com"):
        assert world.refusal(demo.socks, outside) == 2, outside
    assert (len(world.questions()), world.packets()) == (asked, sent)
    assert world.trapped() == [], "neither the machine's own servers nor the visitor's resolver were asked"


class World:
    """A machine for nodes, and an Internet beside it. Nothing of it is seen outside its namespaces."""

    def __init__(self, t):
        programs = ("unshare", "nsenter", "ip", "dnsmasq")
        self.path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        missing = [name for name in programs if shutil.which(name, path=self.path) is None]
        if missing:
            raise Skip(f"not installed: {', '.join(missing)}")
        self.t, self.user = t, [] if os.getuid() == 0 else ["--user", "--preserve-credentials"]
        new = ["unshare", *(["--map-root-user"] if self.user else []), "--net", "--mount"]
        if t.children.run(*new, "true", check=False).returncode != 0:
            raise Skip("this user may make no network namespaces")
        self.near = t.children.start("near", *new, "sleep", "infinity")
        self.inside(self.near, "true")
        self.far = t.children.start("far", *self.enter(self.near), "unshare", "--net", "sleep", "infinity")
        wait_for("the Internet", lambda: self.namespace(self.far) not in (None, self.namespace(self.near)), 20, self.far)
        self.connect()
        self.serve()

    def connect(self):
        run = lambda where, line: self.inside(where, *line.split())
        # Addresses of links that are known from the start, so that nobody asks for them at a time of his own.
        here, there = "02:00:00:00:00:01", "02:00:00:00:00:02"
        run(self.near, f"ip link add world address {here} type veth peer name world address {there} netns {self.far.pid}")
        for where, address in ((self.near, f"{MACHINE}/30"), (self.far, f"{WEB}/24"), (self.far, f"{RESOLVER}/24"), (self.far, f"{NEIGHBOUR}/24")):
            run(where, f"ip address add {address} dev world")
        for where in (self.near, self.far):
            self.inside(where, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/world/disable_ipv6")
            run(where, "ip link set lo up")
            run(where, "ip link set world up")
        run(self.near, "ip route add 93.184.216.0/24 dev world")
        for where, address, link in ((self.near, WEB, there), (self.near, RESOLVER, there), (self.far, MACHINE, here)):
            run(where, f"ip neighbour replace {address} lladdr {link} dev world nud permanent")

    def serve(self):
        (self.t.folder / "web").mkdir()
        (self.t.folder / "web" / "page").write_text(PAGE)
        web = ["python3", "-u", "-m", "http.server", "--directory", self.t.folder / "web", "--bind"]
        self.web = [self.background(self.far, f"web-{port}", *web, WEB, port) for port in (80, 8080)]
        # Servers of the machine itself, which trust whoever comes from it.
        self.traps = [self.background(self.near, f"trap-{number}", *web, address, 80) for number, address in enumerate(("0.0.0.0", "::1"))]
        self.dns = self.resolver(self.far, "dns", RESOLVER)
        self.traps.append(self.resolver(self.near, "trap-dns", "127.0.0.53"))
        up = lambda: all("Serving" in server.log.read_text() for server in [*self.web, *self.traps[:2]])
        wait_for("the web servers", up, 20, self.web[0])
        wait_for("the resolvers", lambda: all("started" in it.log.read_text() for it in (self.dns, self.traps[2])), 20, self.dns)

    def resolver(self, where, name, address):
        records = [f"--address=/{label}.example.com/{to}" for label, to in NAMES.items()]
        only = ["--no-daemon", "--no-resolv", "--no-hosts", "--log-queries", "--log-facility=-", "--bind-interfaces", "--pid-file", "--user=root"]
        return self.background(where, name, "dnsmasq", *only, *records, f"--listen-address={address}", "--local=/#/", "--conf-file=/dev/null")

    def enter(self, where):
        return ["nsenter", *self.user, "--net", "--mount", "--target", where.pid]

    def inside(self, where, *command, check=True):
        return self.t.children.run(*self.enter(where), *command, check=check, environment={"PATH": self.path})

    def background(self, where, name, *command):
        return self.t.children.start(name, *self.enter(where), *command, environment={"PATH": self.path})

    def namespace(self, process):
        try:
            return os.readlink(f"/proc/{process.pid}/ns/net")
        except OSError:
            return None

    def program(self, name, resolver=RESOLVER):
        """A `phantom` that runs on the machine, which asks this resolver."""
        conf, script = self.t.folder / f"{name}.resolv", self.t.folder / f"{name}.sh"
        conf.write_text(f"nameserver {resolver}\n")
        enter = " ".join(str(part) for part in self.enter(self.near))
        mount = f"mount --bind {conf} /etc/resolv.conf && exec {build.phantom()} \"$@\""
        script.write_text(f"#!/bin/sh\nexec {enter} unshare --mount sh -c '{mount}' sh \"$@\"\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return script

    def curl(self, socks, url):
        command = ["curl", "-q", "--noproxy", "", "-sS", "--fail", "--max-time", 30, "--socks5-hostname", socks, url]
        return self.inside(self.near, *command, check=False)

    def refusal(self, socks, end):
        """The reply code of SOCKS5, as curl tells it."""
        got = self.curl(socks, f"http://{end}/page")
        told = re.search(r"SOCKS5 connection to .* \((\d+)\)", got.stderr)
        assert got.returncode == 97 and told, f"{end}: {got}"
        return int(told.group(1))

    def questions(self):
        return [line for line in self.dns.log.read_text().splitlines() if " query[" in line]

    def packets(self):
        """That left the machine."""
        wait_for("connections to the Internet to end", lambda: not self.connections(), 20)
        line = next(line for line in self.inside(self.near, "cat", "/proc/net/dev").stdout.splitlines() if "world:" in line)
        return int(line.split(":")[1].split()[9])

    def connections(self):
        """To the web server; what is but remembered (TIME_WAIT, 06) sends nothing."""
        lines = self.inside(self.near, "cat", "/proc/net/tcp").stdout.splitlines()[1:]
        far = "".join(f"{int(part):02X}" for part in reversed(WEB.split(".")))
        return [line for line in lines if line.split()[2].startswith(far) and line.split()[3] != "06"]

    def trapped(self):
        marks = ("GET ", " query[")
        return [line for trap in self.traps for line in trap.log.read_text().splitlines() if any(mark in line for mark in marks)]
