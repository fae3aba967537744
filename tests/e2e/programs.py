"""Unchanged programs: ssh, git, netcat and PySocks work through the proxy port, and say the right thing when nobody is there.

The OpenSSH server is one of the test's own, on a free port and with keys of its own; so are the git servers.
"""

import getpass
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

from harness import Skip, test
from harness.phantom import AP_NAME, Demo, Node, curl, free_port

from .datagrams import has_pysocks

CONNECT = """
import sys, socks
s = socks.socksocket()
s.set_proxy(socks.SOCKS5, sys.argv[1], int(sys.argv[2]), rdns=True)
s.connect((sys.argv[3], int(sys.argv[4])))
"""
# What each program says and ends with, by what is wrong. SOCKS4 has one code for all.
REJECTED = (97, "request rejected or failed")
SAID = {
    "refused": {
        "curl socks5h": (97, "Can't complete SOCKS5 connection to {host}. (5)"),
        "curl socks4a": REJECTED,
        "curl http": (56, "CONNECT tunnel failed, response 502"),
        "nc": (1, "SOCKSv5 error: Connection refused"),
        "pysocks": (1, "0x05: Connection refused"),
        "ssh": (255, "SOCKSv5 error: Connection refused"),
        "git http": (128, "Can't complete SOCKS5 connection to {host}. (5)"),
        "git ssh": (128, "SOCKSv5 error: Connection refused"),
    },
    "unknown": {
        "curl socks5h": (97, "Can't complete SOCKS5 connection to {host}. (4)"),
        "curl socks4a": REJECTED,
        "curl http": (56, "CONNECT tunnel failed, response 404"),
        "nc": (1, "SOCKSv5 error: Host unreachable"),
        "pysocks": (1, "0x04: Host unreachable"),
        "ssh": (255, "SOCKSv5 error: Host unreachable"),
        "git http": (128, "Can't complete SOCKS5 connection to {host}. (4)"),
        "git ssh": (128, "SOCKSv5 error: Host unreachable"),
    },
    "outside": {
        "curl socks5h": (97, "Can't complete SOCKS5 connection to {host}. (2)"),
        "curl socks4a": REJECTED,
        "curl http": (56, "CONNECT tunnel failed, response 403"),
        "nc": (1, "SOCKSv5 error: Connection not allowed by ruleset"),
        "pysocks": (1, "0x02: Connection not allowed by ruleset"),
        "ssh": (255, "SOCKSv5 error: Connection not allowed by ruleset"),
        "git http": (128, "Can't complete SOCKS5 connection to {host}. (2)"),
        "git ssh": (128, "SOCKSv5 error: Connection not allowed by ruleset"),
    },
}
# A service that has gone offline is looked for half a minute: it may be about to come back.
SAID["unreachable"] = SAID["unknown"]


@test(bound=200)
def ssh_and_git_work_through_the_proxy_port(t):
    sshd, git = needed("sshd"), needed("git")
    needed("nc")
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    repository = new_repository(t, git)
    name = host.host(22, "--to", ssh_server(t, sshd))
    web, daemon = free_port(), free_port()
    t.children.start("web", "python3", "-m", "http.server", web, "--bind", "127.0.0.1", "--directory", t.folder)
    t.children.start("git-daemon", git, "daemon", "--listen=127.0.0.1", f"--port={daemon}", "--export-all", f"--base-path={t.folder}")
    assert host.host(80, "--to", web) == host.host(9418, "--to", daemon) == name
    content = os.urandom(3_000_000)
    (t.folder / "sent").write_bytes(content)
    # `run` gives programs no input of their own.
    t.children.run("sh", "-c", f"{ssh(t, demo.socks)} {name} 'tee {t.folder}/there' < sent > got")
    assert (t.folder / "got").read_bytes() == (t.folder / "there").read_bytes() == content
    proxy = t.folder / "git-proxy"
    proxy.write_text(f'#!/bin/sh\nexec nc -X 5 -x {demo.socks} "$1" "$2"\n')
    proxy.chmod(0o755)
    for way, url, options in (
        ("ssh", f"{name}:{repository}", []),
        ("http", f"http://{name}/repository.git", ["-c", f"http.proxy=socks5h://{demo.socks}"]),
        ("git", f"git://{name}/repository.git", ["-c", f"core.gitProxy={proxy}"]),
    ):
        clone = t.folder / f"clone-{way}"
        t.children.run(git, *options, "clone", "--quiet", url, clone, environment=git_world(t, demo.socks))
        assert (clone / "file").read_text() == "what is in it", way
    # And back: a commit is pushed.
    change = "echo more >> file && git commit --quiet --all --message=more && git push --quiet"
    t.children.run("sh", "-c", f"cd clone-ssh && {change}", environment=git_world(t, demo.socks))
    assert "more" in t.children.run(git, "--git-dir", repository, "log", "--format=%s").stdout.split()


@test(bound=200, bound_of_all=300)
def programs_say_why_nobody_is_there(t):
    demo = Demo(t)
    host = Node(t, "host", "127.40.0.1", join=demo.invitation)
    local = free_port()
    t.children.start("web", "python3", "-m", "http.server", local, "--bind", "127.0.0.1")
    name = host.host(80, "--to", local)
    assert curl(t, demo.socks, f"http://{name}/").returncode == 0
    nobody = AP_NAME.search(host.ask("identity", "new", "nobody").stdout).group()
    cases = [("refused", name, 81), ("unknown", nobody, 80), ("outside", "example.com", 80)]
    if t.long:
        gone = Node(t, "gone", "127.43.0.1", join=demo.invitation)
        cases.append(("unreachable", gone.host(80, "--to", local), 80))
        gone.process.kill()
        gone.process.wait()
    with ThreadPoolExecutor(len(cases) * len(SAID["refused"])) as together:
        asked = [
            (what, program, host, together.submit(t.children.run, *command, check=False, environment=git_world(t, demo.socks)))
            for what, host, port in cases
            for program, command in commands(t, demo.socks, host, port).items()
        ]
        for what, program, host, running in asked:
            done, (code, text) = running.result(), SAID[what][program]
            assert done.returncode == code and text.format(host=host) in done.stderr, f"{what}, {program}: {done}"


def commands(t, socks, host, port):
    """How each program is asked to go there, by its name in `SAID`."""
    url, (proxy, proxy_port) = f"http://{host}:{port}/", socks.split(":")
    python = next((it for it in ("python3", "/usr/bin/python3") if has_pysocks(t, it)), None)
    if not python:
        raise Skip("PySocks is not installed")
    fetch = ["curl", "-q", "--noproxy", "", "-sS", "-p", "--proxy"]
    return {
        **{f"curl {way}": [*fetch, f"{way}://{socks}", url] for way in ("socks5h", "socks4a", "http")},
        "nc": [needed("nc"), "-X", "5", "-x", socks, host, port],
        "pysocks": [python, "-c", CONNECT, proxy, proxy_port, host, port],
        "ssh": ["sh", "-c", f"{ssh(t, socks)} -p {port} {host} true"],
        "git http": [needed("git"), "-c", f"http.proxy=socks5h://{socks}", "ls-remote", f"{url}x.git"],
        "git ssh": [needed("git"), "ls-remote", f"ssh://{host}:{port}/x.git"],
    }


def needed(program):
    found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if not found:
        raise Skip(f"{program} is not installed (tests/run --install)")
    return found


def ssh(t, socks):
    """The command of a user who reaches names in .ap by netcat, as OpenSSH's own manual proposes."""
    return f"ssh -F none -i {t.folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile={t.folder}/known -o LogLevel=ERROR -o 'ProxyCommand=nc -X 5 -x {socks} %h %p'"


def ssh_server(t, program):
    """An OpenSSH server that lets in whoever runs the test. Returns its port."""
    port = ssh_configuration(t, "127.0.0.1")
    t.children.start("sshd", program, "-D", "-e", "-f", t.folder / "sshd.conf")
    return port


def ssh_configuration(t, address):
    """What a server needs that lets in whoever runs the test, by a key of the test's own. Returns its port."""
    for key in ("host", "user"):
        t.children.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", t.folder / key)
    (t.folder / "user.pub").rename(t.folder / "allowed")
    if os.getuid() == 0:
        # Where Debian's unit would make it; without it the server does not start as root.
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    port = free_port()
    (t.folder / "sshd.conf").write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {t.folder}/host\nAuthorizedKeysFile {t.folder}/allowed\nPidFile none\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nAllowUsers {getpass.getuser()}\nPermitRootLogin prohibit-password\n"
        "Subsystem sftp internal-sftp\n"
    )
    return port


def new_repository(t, git):
    """One commit in a bare repository, ready to be served by a plain web server, too. Returns its place."""
    work, bare = t.folder / "work", t.folder / "repository.git"
    environment = git_world(t, "")
    t.children.run(git, "init", "--quiet", work, environment=environment)
    (work / "file").write_text("what is in it")
    for command in (["add", "file"], ["commit", "--quiet", "--message=first"], ["clone", "--quiet", "--bare", ".", bare]):
        t.children.run(git, "-C", work, *command, environment=environment)
    t.children.run(git, "--git-dir", bare, "update-server-info", environment=environment)
    return bare


def git_world(t, socks):
    """git with nothing of this machine's user, and with ssh as above."""
    who = {f"GIT_{role}_{what}": f"test{at}" for role in ("AUTHOR", "COMMITTER") for what, at in (("NAME", ""), ("EMAIL", "@invalid"))}
    return {**who, "HOME": str(t.folder), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": ssh(t, socks)}
