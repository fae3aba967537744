"""Servers under `phantom run`: unchanged, private to their run, and found by others only where the user says so."""

import hashlib
import ipaddress
import json
import os
import re
import shutil

from harness import build, test
from harness.children import wait_for
from harness.phantom import AP_NAME, READY, Demo, Node, curl, free_port, world

from .datagrams import talk

PARTIES = ipaddress.ip_network("fc00::/8")
VISITORS = ipaddress.ip_network("127.224.0.0/11")
LENGTH = 3_000_000

# Says at each of its ports who comes, in as many ways as the system tells it, and of which process it is.
WHO = """
import json, os, socket, sys
family, address, port, processes = sys.argv[1:]
server = socket.socket(socket.AF_INET if family == "4" else socket.AF_INET6)
if family != "4":
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, family == "6")
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((address, int(port)))
server.listen(16)
if port == "0":
    print("port", server.getsockname()[1], file=open("port.part", "w"), flush=True)
    os.rename("port.part", "port")
for _ in range(int(processes) - 1):
    if os.fork() == 0:
        break
while True:
    client, came = server.accept()
    client.recv(4096)
    said = {"accept": came, "peer": client.getpeername(), "own": client.getsockname(), "process": os.getpid()}
    body = json.dumps(said).encode()
    client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    client.close()
"""

DATAGRAM = """
import socket, sys
s = socket.socket(socket.{family}, socket.SOCK_DGRAM)
s.settimeout(20)
s.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
print(s.recvfrom(9)[0].decode())
"""

NODE = """
const cluster = require("cluster");
if (cluster.isPrimary) {
    for (let i = 0; i < 3; i++) cluster.fork();
    require("http").createServer((_, answer) => answer.end("one process")).listen(9007);
} else {
    require("http").createServer((asked, answer) => answer.end(asked.socket.remoteAddress)).listen(9008);
}
"""

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 4;
events {{}}
http {{
    access_log off; root {folder};
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{
        listen 80 reuseport; listen [::]:80 reuseport;
        location = /who {{ return 200 "$remote_addr $server_port $pid"; }}
    }}
}}
"""

LISTENING = """
python3 -u who.py both :: 8080 1 & one=$!
python3 -u who.py both :: 8081 1 & two=$!
trap "kill $one $two" TERM
wait
"""

# All servers of one run.
SERVERS = """
python3 -u who.py 4 0.0.0.0 9001 1 &
python3 -u who.py 6 :: 9002 1 &
python3 -u who.py both :: 9003 1 &
python3 -u who.py 4 127.0.0.1 9004 1 &
python3 -u who.py 6 ::1 9005 3 &
python3 -u who.py both :: 0 1 &
python3 -u -m http.server 9006 > v4.log 2>&1 --bind 0.0.0.0 &
python3 -u -m http.server 9016 > v6.log 2>&1 --bind :: &
node server.js &
socat UDP4-LISTEN:9009,fork PIPE &
socat UDP6-LISTEN:9010,fork,ipv6only=1 PIPE &
socat -b 65536 UDP4-RECVFROM:53,fork 'SYSTEM:echo $SOCAT_PEERADDR' &
systemd-socket-activate --accept --inetd --listen=9011 cat &
{as_nobody} {nginx} -p . -c {folder}/nginx.conf -e stderr &
wait
"""


def run_servers(t, demo):
    """Starts them all under the label `servers` and returns their name."""
    folder = t.folder / "servers"
    folder.mkdir()
    folder.chmod(0o777)
    t.folder.chmod(0o755)
    (folder / "who.py").write_text(WHO)
    (folder / "server.js").write_text(NODE)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    (folder / "bytes").write_bytes(os.urandom(LENGTH))
    as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups" if os.getuid() == 0 else ""
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    script = SERVERS.format(folder=folder, as_nobody=as_nobody, nginx=nginx)
    servers = demo.start("servers", "run", "--as", "servers", "--", "sh", "-c", f"cd {folder}\n{script}")
    return servers, name_of(servers), folder


def name_of(run):
    said = wait_for("the run's name", lambda: AP_NAME.search(run.log.read_text()), 30, run)
    return said.group()


def ask(t, demo, url, group, *options):
    """What a page says to a visitor by the proxy port; None while it is not there."""
    try:
        return curl(t, demo.socks, url, "--proxy-user", f"{group}:x", *options, bound=20).stdout
    except AssertionError:
        return None


def await_page(t, demo, run, url, group="anna"):
    return wait_for(url, lambda: ask(t, demo, url, group), READY, run)


@test(bound=200)
def servers_under_a_seal_are_reached_by_name_and_learn_who_comes(t):
    demo = Demo(t)
    servers, name, folder = run_servers(t, demo)
    who = lambda port, group="anna": json.loads(await_page(t, demo, servers, f"http://{name}:{port}/", group))

    ports = (9001, 9002, 9003, 9004, 9005)
    # The first of each may come while its server begins to listen, when some of its addresses are refused and others not.
    by_port = [{port: who(port) for port in ports} for _ in range(2)][1]
    visitor = {port: ipaddress.ip_address(said["peer"][0]) for port, said in by_port.items()}
    own = {port: (ipaddress.ip_address(said["own"][0]), said["own"][1]) for port, said in by_port.items()}
    for port, said in by_port.items():
        assert said["accept"] == said["peer"], said
        assert visitor[port] in (VISITORS if port in (9001, 9004) else PARTIES), by_port
    assert visitor[9001] == visitor[9004] and visitor[9002] == visitor[9003] == visitor[9005], by_port
    assert own[9002] == (own[9003][0], 9002) and own[9002][0] in PARTIES, by_port
    assert own[9001][0] in VISITORS and own[9001][0] != visitor[9001], by_port
    assert str(own[9004][0]) == "127.0.0.1" and str(own[9005][0]) == "::1", by_port
    other = who(9003, "boris")
    assert ipaddress.ip_address(other["peer"][0]) in PARTIES and other["peer"][0] != by_port[9003]["peer"][0], other
    chosen = int((folder / "port").read_text().split()[1])
    assert who(chosen)["own"][1] == chosen
    assert len({who(9005)["process"] for _ in range(20)}) > 1, "one process of three takes all"

    for port, log, network in ((9006, "v4.log", VISITORS), (9016, "v6.log", PARTIES)):
        assert "who.py" in await_page(t, demo, servers, f"http://{name}:{port}/")
        logged = ipaddress.ip_address(re.search(r"^(\S+) - - ", (folder / log).read_text(), re.M).group(1))
        assert logged in network and logged in visitor.values(), logged

    assert await_page(t, demo, servers, f"http://{name}:9007/") == "one process"
    assert ipaddress.ip_address(await_page(t, demo, servers, f"http://{name}:9008/")) == visitor[9002]
    told = [await_page(t, demo, servers, f"http://{name}/who").split() for _ in range(20)]
    assert {(one[0], one[1]) for one in told} == {(str(visitor[9002]), "80")} and len({one[2] for one in told}) > 1, told

    expected = hashlib.sha256((folder / "bytes").read_bytes()).hexdigest()
    fetch = f"curl -q -sSf http://{name}/bytes | sha256sum"
    assert demo.ask("run", "--", "sh", "-c", fetch).stdout.split()[0] == expected, "by another run"
    curl(t, demo.socks, f"http://{name}/bytes", "-o", t.folder / "got")
    assert hashlib.sha256((t.folder / "got").read_bytes()).hexdigest() == expected
    echoed = demo.ask("run", "--", "sh", "-c", f"printf activated | socat -t 10 - TCP:{name}:9011")
    assert echoed.stdout == "activated", echoed

    large = bytes(range(256)).hex() * 16
    said = talk(t, demo, name, "anna", f"9009 {large}", f"9010 {large}", "again", f"9010 {large}")
    assert said == [large] * 3, said
    whence = bytes.fromhex(talk(t, demo, name, "anna", f"53 {b'whence'.hex()}")[0]).decode().strip()
    for family, port in (("AF_INET", 9009), ("AF_INET6", 9010)):
        said = demo.ask("run", "--", "python3", "-c", DATAGRAM.format(family=family), name, port)
        assert said.stdout == "hello\n", (family, said)
    assert ipaddress.ip_address(whence) == visitor[9001], "its own port 53, not where its names are"


@test(bound=200)
def what_is_published_is_what_the_user_says_and_all_else_is_private(t):
    demo = Demo(t)
    (t.folder / "who.py").write_text(WHO)
    run = demo.start("run", "run", "--publish", "80:8080,8081,53/udp", "--", "sh", "-c", LISTENING)
    name = name_of(run)
    said = run.log.read_text()
    assert f"phantom: what the program serves is at {name} (ports 80, 8081, 53/udp)" in said, said
    assert json.loads(await_page(t, demo, run, f"http://{name}/"))["own"][1] == 8080
    assert json.loads(await_page(t, demo, run, f"http://{name}:8081/"))["own"][1] == 8081
    for closed in (8080, 53, 65535, 65534):
        refused = demo.ask("run", "--", "curl", "-q", "-sS", f"http://{name}:{closed}/", check=False)
        assert refused.returncode == 7 and "connect to server" in refused.stderr, (closed, refused)
    run.terminate()
    run.wait(20)
    # In vain for how long, decides the visitor; the longest that a node tries is half a minute.
    patience, codes = (40, [97]) if t.long else (3, [28, 97])
    visit = ["--max-time", patience, "--socks5-hostname", demo.socks, f"http://{name}/"]
    gone = t.children.run("curl", "-q", "-sS", *visit, check=False)
    assert gone.returncode in codes, gone

    asking = "python3 -u who.py both :: 8080 1 & server=$!; until curl -q -sSf http://127.0.0.1:8080/; do :; done; kill $server"
    done = demo.ask("run", "--", "sh", "-c", asking)
    assert '"accept": ["::ffff:127.0.0.1"' in done.stdout, done
    told = "phantom: port 8080 of the program is its own; others can come to it with: phantom run --publish 8080"
    assert done.stderr.count(told) == 1, done


@test(bound=240)
def a_label_keeps_the_name_of_a_run_and_a_node_that_is_back_has_it_again(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    (t.folder / "who.py").write_text(WHO)
    start = lambda name: t.children.start(
        name, build.phantom(), "run", "--as", "shop", "--", "sh", "-c", LISTENING, environment=host.environment()
    )
    first = start("first")
    name = name_of(first)
    await_page(t, demo, first, f"http://{name}:8080/")
    [shown] = host.status()["published_runs"]
    assert (shown["name"], shown["label"], shown["sessions"]) == (name, "shop", 1), shown
    for other in (["run", "--as", "shop", "--", "true"], ["host", 80, "--as", "shop"]):
        taken = host.ask(*other, check=False)
        assert taken.returncode == 1 and "serves as shop: end it first" in taken.stderr, taken
    for other in (["unhost", "shop"], ["identity", "remove", "shop", "--yes", "--state", host.state]):
        kept = host.ask(*other, check=False)
        assert kept.returncode == 1 and "program under `phantom run`" in kept.stderr, kept
    host.process.terminate()
    host.process.wait(20)
    host.start()
    await_page(t, demo, first, f"http://{name}:8080/", "boris")
    first.terminate()
    first.wait(20)
    second = start("second")
    assert name_of(second) == name
    if t.long:
        await_page(t, demo, second, f"http://{name}:8081/")


@test(bound=120)
def where_there_are_no_namespaces_servers_are_reached_and_nothing_else_of_the_machine(t):
    demo = Demo(t)
    (t.folder / "who.py").write_text(WHO)
    port, foreign = free_port(), free_port()
    t.children.start("foreign", "python3", "-u", "-m", "http.server", foreign, "--bind", "127.0.0.1")
    without = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
    listening = ["python3", "-u", "who.py", "4", "0.0.0.0", port, 1]
    command = [*without, build.phantom(), "run", "--publish", f"80:{port},81:{foreign}", "--", *listening]
    run = t.children.start("run", *command, environment=world(t.folder, "demo"))
    name = name_of(run)
    who = json.loads(await_page(t, demo, run, f"http://{name}/"))
    assert "no network namespaces" in run.log.read_text(), "the test has run elsewhere"
    assert ipaddress.ip_address(who["peer"][0]) in VISITORS and who["own"] == ["127.0.0.1", port], who
    wait_for("the foreign server", lambda: t.children.run("curl", "-q", "-sSf", f"http://127.0.0.1:{foreign}/", check=False).stdout, 20)
    refused = demo.ask("run", "--", "curl", "-q", "-sS", f"http://{name}:81/", check=False)
    assert refused.returncode == 7, refused


@test(bound=20)
def a_wrong_wish_to_publish_is_answered_with_what_to_type(t):
    for wrong in ("0", "80:0", "80/sctp", "http", "80:8080:1", "70000", ""):
        done = t.children.run(build.phantom(), "run", "--publish", wrong, "--", "true", check=False)
        assert done.returncode == 2 and "80, 80:8080 or 53/udp" in done.stderr, (wrong, done)
    done = t.children.run(build.phantom(), "run", "--publish", "80,80:8080", "--", "true", check=False)
    assert done.returncode == 2 and "port 80 stands twice" in done.stderr, done
    done = t.children.run(build.phantom(), "run", "--as", "My Shop", "--", "true", check=False)
    assert done.returncode == 2 and "1 to 32 of a-z, 0-9 and -" in done.stderr, done
