"""A private Tor network on loopback, from Debian's package: nothing leaves the machine, nothing stays behind.

Three authorities that relay too, five more relays, one onion service and one client, each with an address of its own,
so that Tor's rule of one relay per address is met. The clocks of voting run fast; everything else is Tor's default, and
congestion control is set as in the public network.
"""

import os
import re
import shutil
import socket

from harness import Skip
from harness.children import wait_for
from harness.phantom import free_port

AUTHORITIES, RELAYS = 3, 5
OR_PORT, DIR_PORT = 9101, 9102
# Tor votes every 20 s here; a consensus that lists everybody needs one or two rounds.
CONSENSUS, BOOTSTRAP = 120, 60


def program(name):
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if not found:
        raise Skip(f"{name} is not installed (tests/run --install)")
    return found


class TorNetwork:
    """Brought up by the constructor; its processes are the test's children and die with them."""

    def __init__(self, t, target):
        self.t = t
        self.tor, self.gencert = program("tor"), program("tor-gencert")
        self.empty = t.folder / "empty.torrc"
        self.empty.touch()
        self.folders, self.addresses, self.processes = {}, {}, {}
        authorities = [f"authority{i}" for i in range(AUTHORITIES)]
        relays = [f"relay{i}" for i in range(RELAYS)]
        for number, name in enumerate([*authorities, *relays, "service", "client"]):
            self.addresses[name] = f"127.80.{number}.1"
            self.folders[name] = t.folder / f"tor-{name}"
            (self.folders[name] / "keys").mkdir(parents=True, mode=0o700)
            self.folders[name].chmod(0o700)
        self.directory = [self.found_authority(name) for name in authorities]
        for name in authorities:
            self.start(name, *self.relay_lines(name), *self.authority_lines(name))
        for name in relays:
            self.start(name, *self.relay_lines(name))
        # Owners that start on an early consensus would choose their guards from a part of the relays.
        wait_for("a consensus of all relays", self.consensus_is_full, CONSENSUS, self.processes["relay0"])
        onion = self.folders["service"] / "onion"
        self.start("service", "SocksPort 0", f"HiddenServiceDir {onion}", f"HiddenServicePort 80 {target}")
        self.wait_bootstrapped("service")
        self.socks = f"{self.addresses['client']}:{free_port(self.addresses['client'])}"
        self.start("client", f"SocksPort {self.socks}")
        self.wait_bootstrapped("client")
        self.site = (onion / "hostname").read_text().strip()
        wait_for("the onion service to answer", self.answers, BOOTSTRAP, self.processes["client"])

    @property
    def pids(self):
        return [process.pid for process in self.processes.values()]

    def found_authority(self, name):
        """Makes an authority's keys and returns the line by which the others know it."""
        folder, address = self.folders[name], self.addresses[name]
        keys = folder / "keys"
        script = (
            f"echo unattended | {self.gencert} --create-identity-key --passphrase-fd 0 -m 12 -a {address}:{DIR_PORT}"
            f" -i {keys}/authority_identity_key -s {keys}/authority_signing_key -c {keys}/authority_certificate"
        )
        self.t.children.run("sh", "-c", script)
        certificate = (keys / "authority_certificate").read_text()
        identity = re.search(r"^fingerprint ([0-9A-F]{40})$", certificate, re.M).group(1)
        # An ORPort is needed to make a relay's key; the authority named here is nobody.
        listed = self.t.children.run(
            *[self.tor, "--defaults-torrc", self.empty, "-f", self.empty, "--quiet", "--list-fingerprint"],
            *["--ORPort", OR_PORT, "--DataDirectory", folder, "--Nickname", name],
            *["--DirAuthority", f"nobody 127.0.0.1:1 {'0' * 40}"],
        ).stdout
        fingerprint = re.search(r"((?:[0-9A-F]{4} ?){10})", listed).group(1).replace(" ", "")
        return f"DirAuthority {name} orport={OR_PORT} v3ident={identity} {address}:{DIR_PORT} {fingerprint}"

    def relay_lines(self, name):
        address = self.addresses[name]
        return [
            "SocksPort 0",
            f"Address {address}",
            f"OutboundBindAddress {address}",
            f"ORPort {address}:{OR_PORT} IPv4Only",
            "AssumeReachable 1",
            "ExitRelay 0",
            "ExitPolicy reject *:*",
        ]

    def authority_lines(self, name):
        return [
            f"DirPort {self.addresses[name]}:{DIR_PORT} IPv4Only",
            "AuthoritativeDirectory 1",
            "V3AuthoritativeDirectory 1",
            "ContactInfo nobody@invalid",
            "TestingV3AuthInitialVotingInterval 20",
            "TestingV3AuthInitialVoteDelay 4",
            "TestingV3AuthInitialDistDelay 4",
            "V3AuthVotingInterval 20",
            "V3AuthVoteDelay 4",
            "V3AuthDistDelay 4",
            "TestingDirAuthVoteExit *",
            "TestingDirAuthVoteGuard *",
            "TestingDirAuthVoteHSDir *",
            "ConsensusParams cc_alg=2 sendme_emit_min_version=1",
        ]

    def start(self, name, *lines):
        folder = self.folders[name]
        common = ["TestingTorNetwork 1", f"Nickname {name}", f"DataDirectory {folder}", "ShutdownWaitLength 0"]
        torrc = folder / "torrc"
        torrc.write_text("\n".join([*common, f"Log notice file {folder}/notices", *self.directory, *lines]) + "\n")
        command = [self.tor, "--defaults-torrc", self.empty, "-f", torrc, "--quiet"]
        self.processes[name] = self.t.children.start(f"tor-{name}-process", *command)

    def consensus_is_full(self):
        consensus = self.folders["relay0"] / "cached-microdesc-consensus"
        return consensus.exists() and len(re.findall("^r ", consensus.read_text(), re.M)) == AUTHORITIES + RELAYS

    def wait_bootstrapped(self, name):
        notices = self.folders[name] / "notices"
        done = lambda: notices.exists() and "Bootstrapped 100%" in notices.read_text()  # noqa: E731
        wait_for(f"Tor's {name} to bootstrap", done, BOOTSTRAP, self.processes[name])

    def answers(self):
        """One SOCKS request to the service, answered within Tor's own patience."""
        host, port = self.socks.split(":")
        try:
            with socket.create_connection((host, int(port)), timeout=15) as connection:
                connection.sendall(b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(self.site)]) + self.site.encode() + b"\x00\x50")
                reply = b""
                while len(reply) < 4:
                    part = connection.recv(64)
                    if not part:
                        return False
                    reply += part
                return reply[3] == 0
        except OSError:
            return False
