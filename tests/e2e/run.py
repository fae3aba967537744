"""`phantom run`: programs as they are do by themselves what they do through a proxy."""

import hashlib
import ipaddress
import json
import socket
import subprocess

from harness import build, test
from harness.island import Island
from harness.phantom import Demo

SIZE = 3_000_000
READ = "hashlib.sha256(urllib.request.urlopen('{url}').read()).hexdigest()"
FETCH = "fetch('{url}').then(r => r.arrayBuffer()).then(b => console.log(require('crypto').createHash('sha256').update(Buffer.from(b)).digest('hex')))"
ASYNC = """
import asyncio, hashlib, sys
async def get(host):
    reader, writer = await asyncio.open_connection(host, 80)
    print(writer.get_extra_info("peername")[:2], file=sys.stderr)
    writer.write(f"GET /bytes/{size} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n".encode())
    body = (await reader.read()).split(b"\\r\\n\\r\\n", 1)[1]
    print(hashlib.sha256(body).hexdigest())
size = {size}
asyncio.run(get("{host}"))
"""

# Each prints the hash of what it has fetched.
PROGRAMS = {
    "curl": ["sh", "-c", "curl -q -sSf {url} | sha256sum"],
    "curl, 20 at once": ["sh", "-c", "curl -q -sSf --parallel --parallel-max 20 '{url}?[1-20]' -o '#1.part' && cat 7.part | sha256sum; rm -f *.part"],
    "wget": ["sh", "-c", "wget -q -O - {url} | sha256sum"],
    "python": ["python3", "-c", "import hashlib, urllib.request; print(" + READ + ")"],
    "python, asyncio": ["python3", "-c", ASYNC],
    "python, spawned": ["python3", "-c", "import urllib.request\nfrom concurrent.futures import ProcessPoolExecutor as P\nprint(P().submit(eval, \"" + READ.replace("hashlib", "__import__('hashlib')").replace("urllib.request.", "__import__('urllib.request').request.") + "\").result())"],
    "node": ["node", "-e", FETCH],
    "bash": ["bash", "-c", "exec 3<>/dev/tcp/{host}/80; printf 'GET /bytes/{size} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n' >&3; sed '1,/^\\r$/d' <&3 | sha256sum"],
    "perl": ["perl", "-MIO::Socket::IP", "-MDigest::SHA", "-e", "$s = IO::Socket::IP->new(PeerHost => '{host}', PeerPort => 80) or die $@; print $s \"GET /bytes/{size} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n\"; 1 while <$s> =~ /\\S/; print Digest::SHA->new(256)->addfile($s)->hexdigest"],
    "busybox, static": ["sh", "-c", "busybox wget -q -O - {url} | sha256sum"],
    "without an environment": ["env", "-i", "/bin/sh", "-c", "/usr/bin/curl -q -sSf {url} | /usr/bin/sha256sum"],
}


@test(bound=200)
def programs_go_into_the_network_as_they_are(t):
    demo = Demo(t)
    facts = {"url": f"{demo.url}/bytes/{SIZE}", "host": demo.site.split(":")[0], "size": SIZE}
    expected = demo.get(f"/sha256/{SIZE}").strip()
    assert len(expected) == 2 * hashlib.sha256().digest_size
    for name, command in PROGRAMS.items():
        filled = [filled_in(part, facts) for part in command]
        done = demo.ask("run", "--", *filled, check=False)
        assert done.returncode == 0 and done.stdout.split()[:1] == [expected], (name, done)


@test(bound=100)
def a_program_is_told_what_it_would_be_told_and_ends_as_it_does(t):
    demo = Demo(t)
    host = demo.site.split(":")[0]
    for url, code, words in (
        ("http://example.com/", 6, "Could not resolve host"),
        (f"http://{host}:81/", 7, "Connection refused"),
        ("http://93.184.216.34/", 7, "93.184.216.34"),
        (f"http://{demo.socks}/", 7, "127.0.0.1"),
    ):
        done = demo.ask("run", "--", "curl", "-q", "-sS", "-v", url, check=False)
        assert done.returncode == code and words in done.stderr, (url, done)
    assert demo.ask("run", "--allow-local", "--", "curl", "-q", "-sSf", f"http://{demo.socks}/").stdout
    assert demo.ask("run", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    assert demo.ask("run", "--", "sh", "-c", "kill -TERM $$", check=False).returncode == 128 + 15
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as foreign:
        command = [build.phantom(), "run", "--", "cat"]
        refused = subprocess.run(command, stdin=foreign, capture_output=True, text=True, timeout=20)
        assert refused.returncode == 1 and "Standard input is a connection" in refused.stderr, refused
    missing = demo.ask("run", "--", "no-such-program", check=False)
    assert missing.returncode == 127 and "no-such-program" in missing.stderr, missing


@test(bound=60)
def node_learns_names_and_addresses_by_libc_and_by_name_servers(t):
    demo = Demo(t, "--hops", 1, "--nodes", 4)
    name = demo.site.split(":")[0]
    said = json.loads(demo.ask("run", "--", "node", build.ROOT / "tests" / "clients" / "names.js", name).stdout)
    [alias], [address] = said["alias"], said["address"]
    assert ipaddress.ip_address(alias) in ipaddress.ip_network("127.192.0.0/10"), said
    assert ipaddress.ip_address(address) in ipaddress.ip_network("fc00::/8"), said
    assert sorted((one["address"], one["family"]) for one in said["all"]) == [(alias, 4), (address, 6)], said
    assert said["back"] == [[name], [name], name] and said["many"] == [alias] * 50, said
    assert said["no"] == ["ENODATA", "ENOTFOUND", "ENOTFOUND", "ENOTFOUND"], said


@test(bound=100)
def without_ipv6_programs_go_into_the_network_all_the_same(t):
    Island(t)
    t.children.run("sh", "-c", "for of in all lo; do echo 1 > /proc/sys/net/ipv6/conf/$of/disable_ipv6; done")
    demo = Demo(t)
    expected = demo.get(f"/sha256/{SIZE}").strip()
    assert demo.ask("run", "--", "curl", "-q", "-sSf", f"{demo.url}/sha256/{SIZE}").stdout.strip() == expected


def filled_in(text, facts):
    for name, value in facts.items():
        text = text.replace("{" + name + "}", str(value))
    return text
