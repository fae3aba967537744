"""Servers as they are under `phantom run`, and clients as they are in a run of another node: plainly and under the seal, what
clients are told is the same, byte by byte, and they end with the same code."""

import os

from harness import build, test
from harness.children import wait_for
from harness.phantom import READY, Demo, Node, free_port

from .clients import SOURCES as CLIENT_SOURCES
from .clients import SSH, all_of, filled_in, go_program
from .programs import needed, ssh_configuration
from .serving import name_of

SOURCES = build.ROOT / "tests" / "servers"
SIZE = 2_000_000

SERVERS = {
    "java": "java {sources}/Serve.java {java} {folder}/shared",
    "go": "{folder}/serve-go {go} {folder}/shared",
    "node": "node {sources}/serve.js {node} {folder}/shared",
    "busybox": "busybox httpd -f -p {busybox} -h {folder}/shared",
    "ssh": "{sshd} -D -e -f {folder}/sshd.conf",
    "redis": "redis-server --port {redis} --protected-mode no --save ''",
    "iperf": "iperf3 --server --port {iperf}",
    "iperf_udp": "iperf3 --server --port {iperf_udp}",
}
# They are static, or ask the kernel themselves.
NOT_BY_LIBRARY = ("go", "busybox")
FETCH = "curl -q -sSf http://{host}:{SERVER}/file | sha256sum"
SEND = "curl -q -sSf -H Expect: --data-binary @{folder}/file http://{host}:{SERVER}/echo | sha256sum"
AT_ONCE = "curl -q -sSf --parallel --parallel-immediate --parallel-max 50 'http://{host}:{SERVER}/small?[1-50]' -o '#1' && cat * | sha256sum"
DATAGRAMS = "python3 {datagrams} {host} {SERVER}"
NOT_THERE = "curl -q -sf http://{host}:{SERVER}/nothing"
MOVED = "iperf3 --client {host} --port {iperf} --time 1 --json {DIRECTION} | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"end\"][\"sum_received\"][\"bytes\"] > 1e6)'"
UNTIL_IT_LISTENS = "curl -q -sSf --retry 9 --retry-connrefused -o /dev/null http://127.0.0.1:{back}/small; "
SCP = SSH.replace("ssh", "scp", 1) + " -q -P {ssh}"

CLIENTS = {
    **{f"{server}, a file": FETCH.replace("{SERVER}", "{" + server + "}") for server in ("java", "go", "busybox")},
    **{f"{server}, sent": SEND.replace("{SERVER}", "{" + server + "}") for server in ("java", "go")},
    **{f"{server}, 50 at once": AT_ONCE.replace("{SERVER}", "{" + server + "}") for server in ("java", "go", "busybox")},
    **{f"{server}, not there": NOT_THERE.replace("{SERVER}", "{" + server + "}") for server in ("java", "go", "busybox")},
    **{f"{server}, UDP": DATAGRAMS.replace("{SERVER}", "{" + server + "}") for server in ("java", "go", "node")},
    "node, HTTP/2": FETCH.replace("curl", "curl --http2-prior-knowledge").replace("{SERVER}", "{node}"),
    "node, HTTP/2, sent": SEND.replace("curl", "curl --http2-prior-knowledge").replace("{SERVER}", "{node}"),
    "node, HTTP/2, 50 at once": AT_ONCE.replace("curl", "curl --http2-prior-knowledge", 1).replace("{SERVER}", "{node}"),
    "ssh": SSH + " -p {ssh} {host} 'cat; echo $0; exit 3' < {folder}/file | sha256sum",
    # Through the one run to a server of the other, and back.
    "ssh, a tunnel": SSH + " -p {ssh} -NL {own}:127.0.0.1:{java} {host} & curl -q -sSf --retry 9 --retry-connrefused http://127.0.0.1:{own}/small | sha256sum; code=$?; kill $!; exit $code",
    "ssh, a tunnel back": "python3 -m http.server {back} --directory {folder}/shared > /dev/null 2>&1 & " + UNTIL_IT_LISTENS + SSH + " -p {ssh} -R {far}:127.0.0.1:{back} {host} 'curl -q -sSf http://127.0.0.1:{far}/small' | sha256sum; code=$?; kill $!; exit $code",
    "scp": SCP + " {folder}/file {host}:there && " + SCP + " {host}:there back && sha256sum < back",
    "sftp": "printf 'get {folder}/shared/small got\\n' | " + SSH.replace("ssh", "sftp", 1) + " -q -b - -P {ssh} {host} > /dev/null && sha256sum < got",
    "redis-cli": "head -c 100000 {folder}/text | redis-cli -h {host} -p {redis} -x set key && redis-cli -h {host} -p {redis} get key | sha256sum",
    "redis-cli, many": "seq 5000 | sed 's/.*/rpush many &/' | redis-cli -h {host} -p {redis} --pipe | tail -1 && redis-cli -h {host} -p {redis} lrange many 0 -1 | sha256sum; redis-cli -h {host} -p {redis} del many",
    "iperf3": MOVED.replace("{DIRECTION}", "") + " && " + MOVED.replace("{DIRECTION}", "--reverse"),
    "iperf3, UDP": "iperf3 --client {host} --port {iperf_udp} --udp --bitrate 4M --time 1 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"end\"][\"sum\"][\"lost_percent\"] < 5)'",
}


@test(bound=150, bound_of_all=250)
def servers_serve_others_as_they_do_without_the_seal(t):
    facts = prepared(t)
    plain_servers = t.children.start("plain-servers", *together(facts))
    await_all(plain_servers)
    if os.getuid() == 0:
        # Other users' servers are given no terminals.
        CLIENTS["ssh, a terminal"] = SSH + " -p {ssh} -tt {host} 'tty > /dev/null && echo a terminal' < /dev/null"
    plain = all_of(t, facts, "127.0.0.1", "plain", [], commands=CLIENTS)
    plain_servers.terminate()
    plain_servers.wait(20)
    for what, (code, _, error) in plain.items():
        assert (code != 0) == ("not there" in what or what == "ssh"), (what, code, error)
    demo = Demo(t, "--hops", 1, "--nodes", 4)
    visitor = Node(t, "visitor", "127.40.0.1", join=demo.invitation, options=["--hops", 1])
    visit = [build.phantom(), "run", "--"]
    for how, options, without in [("sealed", [], []), ("by the library", ["--preload-only"], NOT_BY_LIBRARY)][: 2 if t.long else 1]:
        commands = {what: command for what, command in CLIENTS.items() if not what.startswith(tuple(without))}
        servers = demo.start(how, "run", *options, "--as", "servers", "--", *together(facts, without))
        await_all(servers)
        name = name_of(servers)
        first = [*visit, "curl", "-q", "-sSf", "-o", t.folder / "first", f"http://{name}:{facts['java']}/small"]
        visited = lambda: t.children.run(*first, environment=visitor.environment(), check=False).returncode == 0
        wait_for("the first visit", visited, READY, servers)
        found = all_of(t, facts, name, how, visit, visitor.environment(), commands=commands)
        wrong = [f"{what}:\n  plain  {plain[what]}\n  {how} {found[what]}" for what in found if plain[what][:2] != found[what][:2]]
        assert not wrong, "\n".join(wrong)
        servers.terminate()
        assert servers.wait(20) == 128 + 15


def prepared(t):
    """Files, programs and free ports, by the words that stand for them in braces."""
    shared = t.folder / "shared"
    shared.mkdir()
    for place, size in ((shared / "file", SIZE), (shared / "small", 5000), (t.folder / "file", SIZE)):
        place.write_bytes(os.urandom(size))
    (t.folder / "text").write_text(os.urandom(50_000).hex())
    go_program(t, "serve-go", SOURCES / "serve.go")
    for program in ("java", "node", "busybox", "redis-server", "iperf3"):
        needed(program)
    facts = {name: free_port() for name in (*SERVERS, "own", "far", "back")}
    facts |= {"folder": t.folder, "sources": SOURCES, "datagrams": CLIENT_SOURCES / "datagrams.py"}
    return facts | {"sshd": needed("sshd"), "ssh": ssh_configuration(t, "0.0.0.0")}


def together(facts, without=()):
    """All servers. It says when all of them listen, and ends them when it is ended."""
    chosen = [server for server in SERVERS if server not in without]
    servers = [f"{filled_in(SERVERS[server], facts)} &" for server in chosen]
    ports = " ".join(str(facts[server]) for server in chosen)
    listening = f"for port in {ports}; do until (exec 3<> /dev/tcp/127.0.0.1/$port) 2> /dev/null; do sleep 0.05; done; echo $port listens; done"
    return "bash", "-c", "\n".join(["trap 'trap - TERM; kill 0' TERM", *servers, listening, "echo all listen", "wait"])


def await_all(servers):
    wait_for("all servers", lambda: "all listen" in servers.log.read_text(), 30, servers)
