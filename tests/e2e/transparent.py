"""The transparent port: programs without any setting for proxies, in a network of their own with the machine's DNS and nft's rules."""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess

from harness import Skip, build, test
from harness.children import LIBC, wait_for
from harness.phantom import READY, Demo, Node

from .names import needs

CLONE_NEWNET = 0x40000000
RULES = build.ROOT / "examples" / "transparent.nft"


@test(bound=240)
def plain_programs_reach_names_over_both_kinds_of_addresses(t):
    needs("ip", "unshare")
    nft = shutil.which("nft", path=os.environ["PATH"] + ":/usr/sbin")
    if not nft or os.getuid() != 0:
        raise Skip("nft is not installed" if not nft else "needs root")
    with network_of_its_own():
        demo = Demo(t)
        expected = demo.get("/sha256/1000000").strip()
        node = Node(t, "node", "127.41.0.1", join=demo.invitation, options=["--dns", "127.0.0.1:53", "--transparent", "127.0.0.1:9040"])
        assert node.status()["transparent"] == "127.0.0.1:9040", node.status()
        (t.folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:1\n")
        (t.folder / "nsswitch.conf").write_text("hosts: files dns\n")
        host, path = demo.site.split(":")[0], demo.url + "/sha256/1000000"

        # Without the rules an address leads nowhere, and the port takes nobody who was not redirected.
        assert plain(t, "-4", path).returncode == 7
        own = plain(t, "-4", "http://127.0.0.1:9040/")
        assert own.returncode in (7, 55, 56) and not own.stdout, own
        run("ip", "-6", "route", "replace", "local", "fc00::/8", "dev", "lo")
        run(nft, "-f", RULES)
        fetched = lambda: plain(t, "-4", path).stdout.strip() == expected
        wait_for("the page over the alias", fetched, READY, node.process)
        for kind in ("-6", "-4", "-6"):
            got = plain(t, kind, path)
            assert got.stdout.strip() == expected, f"{kind}: {got}"
        found = with_files(t, "getent", "ahosts", host).stdout.split()
        assert any(one.startswith("fc") for one in found) and any(one.startswith("127.") for one in found), found
        assert with_files(t, "getent", "ahosts", "example.com", check=False).returncode == 2

        # What nobody has asked for is reset, and what is no TCP ends here.
        for address in ("127.200.1.2", "127.250.1.2", "fc00::1"):
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as program:
                program.settimeout(20)
                assert raises(ConnectionResetError, lambda: (program.connect((address, 80)), program.recv(1))), address
        for address in ("127.200.1.2", "fc00::1"):
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as program:
                assert raises(PermissionError, lambda: program.sendto(b"x", (address, 80))), address


@contextlib.contextmanager
def network_of_its_own():
    """For this process and what it starts: nothing but a loopback device."""
    with open("/proc/self/ns/net") as before:
        if LIBC.unshare(CLONE_NEWNET) != 0:
            raise Skip(f"this machine gives no network namespaces: {os.strerror(ctypes.get_errno())}")
        try:
            run("ip", "link", "set", "lo", "up")
            yield
        finally:
            LIBC.setns(before.fileno(), CLONE_NEWNET)


def with_files(t, *command, **options):
    """With the test's resolv.conf, as the machine's."""
    binds = " && ".join(f"mount --bind {t.folder / name} /etc/{name}" for name in ("resolv.conf", "nsswitch.conf"))
    return t.children.run("unshare", "--mount", "sh", "-c", f'{binds} && exec "$@"', "sh", *command, **options)


def plain(t, kind, url):
    """No proxy, no setting."""
    environment = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    return with_files(t, "curl", "-q", kind, "-sSf", "--max-time", 60, url, check=False, environment=environment, bound=70)


def raises(kind, action):
    try:
        action()
    except kind:
        return True
    return False


def run(*command):
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=20)
