"""`phantom run`: clients as they are, with services as they are. Plainly and under the seal they print the same, byte by
byte, and end with the same code."""

import getpass
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from harness import build, test
from harness.children import wait_for
from harness.phantom import Demo, Node, free_port

from .datagrams import udp_port
from .programs import git_world, needed, new_repository, ssh_server

SOURCES = build.ROOT / "tests" / "clients"
SIZE = 2_000_000
SHELL = ["bash", "-o", "pipefail", "-c"]
SSH = "ssh -F none -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
GIT = "git clone --quiet {url} clone && git -C clone log --format=%H && cat clone/file"

# Each runs in a folder of its own. Names in braces are ports of services; {host} is 127.0.0.1, or the name in .ap.
CLIENTS = {
    "curl": "curl -q -sSf http://{host}:{web}/file | sha256sum",
    "curl, HTTP/2": "curl -q -sSf --http2-prior-knowledge -w '%{http_version}' -o got http://{host}:{h2}/file && sha256sum < got",
    "curl, 50 at once": "curl -q -sSf --parallel --parallel-immediate --parallel-max 50 'http://{host}:{web}/small?[1-50]' -o '#1' && cat * | sha256sum",
    "curl, HTTP/2, 50 at once": "curl -q -sSf --http2-prior-knowledge --parallel --parallel-immediate --parallel-max 50 'http://{host}:{h2}/small?[1-50]' -o '#1' -w '%{http_version}\\n' | sort -u && cat * | sha256sum",
    "curl, fast open": "curl -q -sSf --tcp-fastopen http://{host}:{web}/file | sha256sum",
    "curl, a page that is not there": "curl -q -sf http://{host}:{web}/nothing",
    "curl, nobody there": "curl -q -s http://{host}:{nobody}/",
    "curl, too slow": "curl -q -s --max-time 1 telnet://{host}:{echo} < <(sleep 2)",
    "wget": "wget -q -O - http://{host}:{web}/file | sha256sum",
    "wget, nobody there": "wget -q --tries 1 http://{host}:{nobody}/",
    "git": GIT.replace("{url}", "git://{host}:{git}/repository.git"),
    "git, http": GIT.replace("{url}", "http://{host}:{web}/repository.git"),
    "git, ssh": GIT.replace("{url}", "ssh://{host}:{ssh}{folder}/shared/repository.git"),
    "git, nobody there": "git ls-remote git://{host}:{nobody}/repository.git",
    "ssh": SSH + " -p {ssh} {host} 'cat; exit 3' < {folder}/file | sha256sum",
    "ssh, nobody there": SSH + " -p {nobody} {host} true",
    "ssh, a tunnel": SSH + " -p {ssh} -NL {own}:127.0.0.1:{web} {host} & curl -q -sSf --retry 9 --retry-connrefused http://127.0.0.1:{own}/small | sha256sum; code=$?; kill $!; exit $code",
    "scp": SSH.replace("ssh", "scp", 1) + " -q -P {ssh} {host}:{folder}/file here && sha256sum < here",
    "rsync": "rsync --archive rsync://{host}:{rsync}/all/some/ . && cat * | sha256sum",
    "rsync, ssh": "rsync --archive -e '" + SSH + " -p {ssh}' {host}:{folder}/shared/some/ . && cat * | sha256sum",
    "rsync, nobody there": "rsync rsync://{host}:{nobody}/all/ .",
    "socat": "head -c 300000 {folder}/file | socat -t 5 - TCP:{host}:{echo} | sha256sum",
    "socat, UDP": "head -c 1000 {folder}/text | socat -t 2 - UDP:{host}:{udp} | head -c 1000 | sha256sum",
    "netcat, UDP": "head -c 1000 {folder}/text | nc -u -q 1 {host} {udp} | sha256sum",
    "socat, nobody there": "socat - TCP:{host}:{nobody} < /dev/null",
    "netcat": "head -c 300000 {folder}/file | nc -N {host} {echo} | sha256sum",
    "iperf3": "iperf3 --client {host} --port {iperf} --time 1 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"end\"][\"sum_received\"][\"bytes\"] > 2e6)'",
    "iperf3, the other way": "iperf3 --client {host} --port {iperf_back} --reverse --time 1 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"end\"][\"sum_received\"][\"bytes\"] > 2e6)'",
    "iperf3, UDP": "iperf3 --client {host} --port {iperf_udp} --udp --bitrate 4M --time 1 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"end\"][\"sum\"][\"lost_percent\"] < 5)'",
    "iperf3, nobody there": "iperf3 --client {host} --port {nobody} --time 1",
    "redis-cli": "head -c 100000 {folder}/text | redis-cli -h {host} -p {redis} -x set key && redis-cli -h {host} -p {redis} get key | sha256sum && redis-cli -h {host} -p {redis} incr key",
    "redis-cli, nobody there": "redis-cli -h {host} -p {nobody} ping",
    "go": "{folder}/fetch-go {host} {web} /file",
    "go, static": "GODEBUG=netdns=cgo {folder}/fetch-go-static {host} {web} /file",
    "java": "java {sources}/Fetch.java http://{host}:{web}/file",
    "node": "node -e \"require('http').get('http://{host}:{web}/file', r => r.pipe(require('crypto').createHash('sha256')).on('data', h => console.log(h.toString('hex'))))\"",
    "node, fetch, nobody there": "node -e \"fetch('http://{host}:{nobody}/').catch(e => { console.log(e.cause.code); process.exit(4) })\"",
    "node, HTTP/2": "node {sources}/streams.js http://{host}:{h2} /small",
    "python, asyncio": "python3 {sources}/asynchronous.py {host} {web} /small",
    "python, asyncio, nobody there": "python3 {sources}/asynchronous.py {host} {nobody} / 2> said; code=$?; grep -o 'Errno [0-9]*' said | sort -u; exit $code",
    "perl": "perl -MHTTP::Tiny -MDigest::SHA=sha256_hex -e 'my $got = HTTP::Tiny->new->get(shift); print $got->{status}, \" \", sha256_hex($got->{content}), \"\\n\"' http://{host}:{web}/file",
    "perl, a socket": "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(PeerAddr => shift, PeerPort => shift, Proto => \"tcp\") or die; print $s \"GET /file HTTP/1.0\\r\\n\\r\\n\"; 1 while <$s> =~ /\\S/; print <$s>' {host} {web} | sha256sum",
    "perl, nobody there": "perl -MIO::Socket::INET -e 'IO::Socket::INET->new(PeerAddr => shift, PeerPort => shift) or print($!, \"\\n\"), exit 3' {host} {nobody}",
    "bash": "exec 3<> /dev/tcp/{host}/{web}; printf 'GET /file HTTP/1.0\\r\\n\\r\\n' >&3; sed '1,/^\\r$/d' <&3 | sha256sum",
    "bash, nobody there": "(exec 3<> /dev/tcp/{host}/{nobody}) 2> said; code=$?; grep -o 'Connection refused' said; exit $code",
    "python, forked": "python3 {sources}/processes.py fork http://{host}:{web}/small",
    "python, spawned": "python3 {sources}/processes.py spawn http://{host}:{web}/small",
}
# They are static, or ask the kernel themselves.
NOT_BY_LIBRARY = ("go", "go, static")


@test(bound=200, bound_of_all=300)
def clients_do_what_they_do_without_the_seal(t):
    facts = Services(t).facts
    plain = all_of(t, facts, "127.0.0.1", "plain", [])
    demo = Demo(t, "--hops", 1, "--nodes", 4)
    node = Node(t, "host", "127.40.0.1", join=demo.invitation, options=["--hops", 1])
    services = ["web", "h2", "git", "ssh", "rsync", "echo", "iperf", "iperf_back", "iperf_udp", "redis", "nobody"]
    published = [(facts[service], []) for service in services] + [(facts[service], ["--udp"]) for service in ("udp", "iperf_udp")]
    with ThreadPoolExecutor(len(published)) as together:
        (name,) = set(together.map(lambda one: node.host(one[0], "--to", one[0], *one[1]), published))
    for how, options, without in [("sealed", [], []), ("by the library", ["--preload-only"], NOT_BY_LIBRARY)][: 2 if t.long else 1]:
        found = all_of(t, facts, name, how, [build.phantom(), "run", *options, "--"], demo.environment())
        wrong = [
            f"{what}:\n  plain  {plain[what]}\n  {how} {found[what]}"
            for what in CLIENTS
            if what not in without and plain[what][:2] != found[what][:2]
        ]
        assert not wrong, "\n".join(wrong)
    # What is to work, has worked.
    for what, (code, _, error) in plain.items():
        meant = any(words in what for words in ("nobody", "not there", "too slow")) or what == "ssh"
        assert (code != 0) == meant, (what, code, error)


def all_of(t, facts, host, how, seal, environment=None, commands=CLIENTS):
    """What each client ends with and prints, by its name."""

    def run(what):
        folder = t.folder / how / what.replace(", ", "-").replace(" ", "-").replace("/", "")
        folder.mkdir(parents=True)
        command = filled_in(commands[what], {**facts, "host": host})
        surroundings = {**git_world(t, ""), "GIT_SSH_COMMAND": filled_in(SSH, facts), **(environment or {})}
        begun = time.monotonic()
        done = t.children.run("env", "-C", folder, *seal, *SHELL, command, environment=surroundings, check=False, bound=60)
        spent[what] = time.monotonic() - begun
        return done.returncode, done.stdout.replace(host, "HOST"), done.stderr[-300:]

    spent, begun = {}, time.monotonic()
    with ThreadPoolExecutor(4) as together:
        found = dict(zip(commands, together.map(run, commands)))
    longest = sorted(spent, key=spent.get)[-3:]
    t.note(f"{how}: {time.monotonic() - begun:.0f} s, " + ", ".join(f"{what} {spent[what]:.1f} s" for what in longest))
    return found


class Services:
    """Servers as they are, each on a free port of this machine. `facts` are what commands may say in braces."""

    def __init__(self, t):
        self.t = t
        shared = t.folder / "shared"
        (shared / "some").mkdir(parents=True)
        for name, size in (("file", SIZE), ("small", 5000), ("some/one", 70000), ("some/two", 0)):
            (shared / name).write_bytes(os.urandom(size))
        (t.folder / "file").write_bytes(os.urandom(SIZE))
        (t.folder / "text").write_text(os.urandom(50_000).hex())
        new_repository(t, needed("git")).rename(shared / "repository.git")
        self.facts = {name: free_port() for name in ("web", "h2", "git", "rsync", "echo", "iperf", "iperf_back", "iperf_udp", "redis", "nobody", "own")}
        self.facts["udp"] = udp_port()
        self.facts |= {"folder": t.folder, "sources": SOURCES, "ssh": ssh_server(t, needed("sshd"))}
        (t.folder / "nginx.conf").write_text(filled_in(NGINX, {**self.facts, "user": getpass.getuser()}))
        # Otherwise it would be nobody, who may not read here; who is not root is nobody else anyway.
        stays = "uid = 0\ngid = 0\n" if os.getuid() == 0 else ""
        (t.folder / "rsync.conf").write_text(f"use chroot = no\n{stays}[all]\npath = {shared}\n")
        self.start("web", needed("nginx"), "-p", t.folder, "-c", t.folder / "nginx.conf", "-e", "stderr")
        self.start("git", needed("git"), "daemon", "--listen=127.0.0.1", "--port={git}", "--export-all", "--base-path={folder}/shared")
        self.start("rsync", needed("rsync"), "--daemon", "--no-detach", "--config={folder}/rsync.conf", "--address=127.0.0.1", "--port={rsync}")
        self.start("echo", "socat", "TCP4-LISTEN:{echo},bind=127.0.0.1,fork", "PIPE")
        self.start("iperf", needed("iperf3"), "--server", "--bind", "127.0.0.1", "--port", "{iperf}")
        t.children.start("udp", "socat", "-b", "65536", f"UDP4-LISTEN:{self.facts['udp']},bind=127.0.0.1,fork", "PIPE")
        self.start("iperf_udp", "iperf3", "--server", "--bind", "127.0.0.1", "--port", "{iperf_udp}")
        self.start("iperf_back", "iperf3", "--server", "--bind", "127.0.0.1", "--port", "{iperf_back}")
        self.start("redis", needed("redis-server"), "--port", "{redis}", "--bind", "127.0.0.1", "--protected-mode", "no", "--save", "")
        for name, options in (("fetch-go", ()), ("fetch-go-static", ("-ldflags", "-linkmode external -extldflags -static"))):
            go_program(t, name, SOURCES / "fetch.go", *options)

    def start(self, name, *command):
        process = self.t.children.start(name, *(filled_in(str(part), self.facts) for part in command))
        wait_for(name, lambda: answers(self.facts[name]), 20, process)


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1; user {user};
events { worker_connections 512; }
http {
    access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server { listen 127.0.0.1:{web}; root {folder}/shared; }
    server { listen 127.0.0.1:{h2} http2; root {folder}/shared; }
}
"""


def go_program(t, name, source, *options):
    """What Go compiles once is kept for all tests."""
    surroundings = {"GOCACHE": str(build.target_folder() / "tests" / "go"), "HOME": str(t.folder)}
    t.children.run(needed("go"), "build", *options, "-o", t.folder / name, source, environment=surroundings)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def filled_in(text, facts):
    for name, value in facts.items():
        text = text.replace("{" + name + "}", str(value))
    return text
