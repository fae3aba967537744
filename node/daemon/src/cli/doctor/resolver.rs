//! Which resolver the programs of a machine use, and what it must be told to send `.ap` to the node. Pure.

use std::net::{IpAddr, SocketAddr};

use super::machine::Machine;

/// Since this version systemd-resolved can send a domain elsewhere without touching anything else.
const DELEGATES_SINCE: u32 = 258;

const DELEGATE_FILE: &str = "/etc/systemd/dns-delegate.d/phantom.dns-delegate";
const RESOLVED_FILE: &str = "/etc/systemd/resolved.conf.d/phantom.conf";
const DNSMASQ_FILE: &str = "/etc/dnsmasq.d/phantom.conf";
const UNBOUND_FILE: &str = "/etc/unbound/unbound.conf.d/phantom.conf";
const MANAGED_FILE: &str = "/etc/NetworkManager/dnsmasq.d/phantom.conf";
const MANAGER_FILE: &str = "/etc/NetworkManager/conf.d/phantom.conf";

/// All files that may be proposed.
pub(super) const PROPOSED: [&str; 6] =
    [DELEGATE_FILE, RESOLVED_FILE, DNSMASQ_FILE, UNBOUND_FILE, MANAGED_FILE, MANAGER_FILE];

/// Who answers the programs of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolver {
    /// systemd-resolved, by its version.
    Resolved(Option<u32>),
    /// dnsmasq, started by NetworkManager.
    ManagedDnsmasq,
    /// dnsmasq.
    Dnsmasq,
    /// unbound.
    Unbound,
    /// Somebody on this machine whom we do not know.
    Unknown(IpAddr),
    /// Nobody here: programs ask others. True if NetworkManager says whom.
    Elsewhere(Vec<IpAddr>, bool),
}

/// Finds out who answers.
pub(super) fn find(machine: &Machine) -> Resolver {
    let servers = servers(&machine.resolv_conf);
    let runs = |name: &str| machine.processes.contains(name);
    let has_resolved = runs("systemd-resolve");
    let is_stub = servers
        .iter()
        .any(|server| matches!(server, IpAddr::V4(ip) if matches!(ip.octets(), [127, 0, 0, 53 | 54])));
    if has_resolved && (is_stub || asks_resolved(&machine.nsswitch)) {
        return Resolver::Resolved(machine.systemd);
    }
    let is_managed = runs("NetworkManager");
    match servers.iter().find(|server| server.is_loopback()) {
        Some(_) if is_managed && dns_of_manager(&machine.network_manager) == Some("dnsmasq") => {
            Resolver::ManagedDnsmasq
        }
        Some(_) if runs("dnsmasq") => Resolver::Dnsmasq,
        Some(_) if runs("unbound") => Resolver::Unbound,
        Some(server) => Resolver::Unknown(*server),
        None => Resolver::Elsewhere(servers, is_managed),
    }
}

/// The `nameserver` lines of resolv.conf.
fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        // A link-local address has its interface behind a percent sign.
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        address.split('%').next()?.parse().ok()
    };
    resolv_conf.lines().filter_map(server).collect()
}

/// Whether programs ask systemd-resolved without resolv.conf.
fn asks_resolved(nsswitch: &str) -> bool {
    let hosts = nsswitch.lines().find_map(|line| line.trim_start().strip_prefix("hosts:"));
    hosts.is_some_and(|hosts| hosts.split_whitespace().any(|module| module == "resolve"))
}

/// `dns=` of `[main]`: the last one counts.
fn dns_of_manager(configuration: &str) -> Option<&str> {
    let (mut section, mut found) = ("", None);
    for line in configuration.lines().map(str::trim) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name,
            None if section == "main" => {
                found = line
                    .split_once('=')
                    .filter(|(key, _)| key.trim() == "dns")
                    .map(|(_, value)| value.trim())
                    .or(found);
            }
            None => {}
        }
    }
    found
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// This file does it already.
    Done(&'static str),
    /// Paste this into a shell.
    Paste(String),
    /// There is nothing to paste.
    Say(String),
}

impl Resolver {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Resolver::Resolved(Some(version)) => format!("systemd-resolved {version}"),
            Resolver::Resolved(None) => "systemd-resolved".into(),
            Resolver::ManagedDnsmasq => "dnsmasq under NetworkManager".into(),
            Resolver::Dnsmasq => "dnsmasq".into(),
            Resolver::Unbound => "unbound".into(),
            Resolver::Unknown(server) => format!("unknown, at {server}"),
            Resolver::Elsewhere(servers, _) if servers.is_empty() => "none".into(),
            Resolver::Elsewhere(servers, _) => {
                let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
                format!("none on this machine: programs ask {}", servers.join(", "))
            }
        }
    }

    /// What it must be told so that it asks the node's DNS port, and nobody else, for `.ap`.
    pub(super) fn advice(&self, machine: &Machine, dns: SocketAddr) -> Advice {
        let files = self.files(dns);
        let Some((first, _)) = files.first() else { return Advice::Say(self.without_files()) };
        let is_there = |(file, text): &(&str, String)| {
            machine.ours.iter().any(|(place, found)| place.as_os_str() == *file && says(found) == says(text))
        };
        if files.iter().all(is_there) {
            return Advice::Done(first);
        }
        Advice::Paste(
            files.iter().map(|(file, text)| write(file, text)).collect::<String>()
                + "sudo systemctl restart "
                + self.unit(),
        )
    }

    /// The files to write, as in examples/resolver.
    fn files(&self, dns: SocketAddr) -> Vec<(&'static str, String)> {
        let (ip, port) = (dns.ip(), dns.port());
        let delegate = || {
            include_str!("../../../../../examples/resolver/phantom.dns-delegate")
                .replace("127.0.0.1:9053", &dns.to_string())
        };
        let resolved = || {
            include_str!("../../../../../examples/resolver/resolved.conf")
                .replace("127.0.0.1:9053", &dns.to_string())
        };
        let dnsmasq = || {
            include_str!("../../../../../examples/resolver/dnsmasq.conf")
                .replace("127.0.0.1#9053", &format!("{ip}#{port}"))
        };
        let unbound = || {
            include_str!("../../../../../examples/resolver/unbound.conf")
                .replace("127.0.0.1@9053", &format!("{ip}@{port}"))
        };
        let manager = || include_str!("../../../../../examples/resolver/networkmanager.conf").to_owned();
        match self {
            Resolver::Resolved(Some(version)) if *version >= DELEGATES_SINCE => {
                vec![(DELEGATE_FILE, delegate())]
            }
            Resolver::Resolved(_) => vec![(RESOLVED_FILE, resolved())],
            Resolver::ManagedDnsmasq => vec![(MANAGED_FILE, dnsmasq())],
            Resolver::Dnsmasq => vec![(DNSMASQ_FILE, dnsmasq())],
            Resolver::Unbound => vec![(UNBOUND_FILE, unbound())],
            Resolver::Elsewhere(_, true) => vec![(MANAGED_FILE, dnsmasq()), (MANAGER_FILE, manager())],
            Resolver::Unknown(_) | Resolver::Elsewhere(_, false) => vec![],
        }
    }

    fn unit(&self) -> &'static str {
        match self {
            Resolver::Resolved(_) => "systemd-resolved",
            Resolver::Dnsmasq => "dnsmasq",
            Resolver::Unbound => "unbound",
            Resolver::ManagedDnsmasq | Resolver::Elsewhere(..) | Resolver::Unknown(_) => "NetworkManager",
        }
    }

    fn without_files(&self) -> String {
        let ways = "let programs use the proxy port, which needs no resolver";
        match self {
            Resolver::Unknown(server) => {
                format!("Tell whoever answers at {server} to send .ap to the node's DNS port, or {ways}.")
            }
            _ => format!(
                "A plain resolv.conf cannot send .ap alone elsewhere: install systemd-resolved, dnsmasq or unbound and type \
                 `phantom doctor` again, or {ways}."
            ),
        }
    }
}

/// What a file says, without comments.
fn says(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Shell that writes a file.
fn write(file: &str, text: &str) -> String {
    let folder = file.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    format!("sudo mkdir -p {folder}\nsudo tee {file} <<'END'\n{text}END\n")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// A machine with these files and processes.
    fn machine(files: &[(&str, &str)], processes: &[&str]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).unwrap();
            fs::write(file, text).unwrap();
        };
        files.iter().for_each(|(file, text)| write(file, text));
        for (id, name) in processes.iter().enumerate() {
            write(&format!("proc/{id}/comm"), &format!("{name}\n"));
        }
        Machine::read(root.path(), &PROPOSED)
    }

    fn dns() -> SocketAddr {
        "127.0.0.1:5353".parse().unwrap()
    }

    const STUB: (&str, &str) = (
        "etc/resolv.conf",
        "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n",
    );
    const LOCAL: (&str, &str) = ("etc/resolv.conf", "search lan\nnameserver 127.0.0.1\n");
    const REMOTE: (&str, &str) = ("etc/resolv.conf", "nameserver 192.168.1.1\nnameserver fe80::1%eth0\n");

    #[test]
    fn each_resolver_is_known_by_its_files_and_processes() {
        let managed = (
            "etc/NetworkManager/conf.d/dns.conf",
            "[main]\nplugins=keyfile\ndns = dnsmasq\n[other]\ndns=none\n",
        );
        let asks = ("etc/nsswitch.conf", "passwd: files\nhosts: files resolve [!UNAVAIL=return] dns\n");
        let gateway = || vec!["192.168.1.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        for (files, processes, expected) in [
            (vec![STUB], vec!["systemd", "systemd-resolve"], Resolver::Resolved(None)),
            (vec![REMOTE, asks], vec!["systemd-resolve"], Resolver::Resolved(None)),
            (vec![LOCAL, managed], vec!["NetworkManager", "dnsmasq"], Resolver::ManagedDnsmasq),
            (vec![LOCAL], vec!["NetworkManager", "dnsmasq"], Resolver::Dnsmasq),
            (vec![LOCAL], vec!["unbound"], Resolver::Unbound),
            (vec![LOCAL], vec!["named"], Resolver::Unknown("127.0.0.1".parse().unwrap())),
            // What runs but is not asked does not count.
            (vec![REMOTE], vec!["dnsmasq", "systemd-resolve"], Resolver::Elsewhere(gateway(), false)),
            (vec![REMOTE], vec!["NetworkManager"], Resolver::Elsewhere(gateway(), true)),
            (vec![], vec![], Resolver::Elsewhere(vec![], false)),
        ] {
            assert_eq!(find(&machine(&files, &processes)), expected, "{files:?} {processes:?}");
        }
    }

    #[test]
    fn what_is_to_be_pasted_names_the_nodes_port_and_one_unit() {
        let nobody = Machine::default();
        for (resolver, file, line, unit) in [
            (
                Resolver::Resolved(Some(258)),
                DELEGATE_FILE,
                "\nDNS=127.0.0.1:5353\nDomains=~ap ~c.f.ip6.arpa\n",
                "systemd-resolved",
            ),
            (
                Resolver::Resolved(Some(257)),
                RESOLVED_FILE,
                "[Resolve]\nDNS=127.0.0.1:5353\nDomains=~ap ~c.f.ip6.arpa\n",
                "systemd-resolved",
            ),
            (Resolver::Dnsmasq, DNSMASQ_FILE, "\nserver=/ap/127.0.0.1#5353\n", "dnsmasq"),
            (Resolver::ManagedDnsmasq, MANAGED_FILE, "\nserver=/ap/127.0.0.1#5353\n", "NetworkManager"),
            (Resolver::Unbound, UNBOUND_FILE, "\n    forward-addr: 127.0.0.1@5353\n", "unbound"),
            (Resolver::Elsewhere(vec![], true), MANAGER_FILE, "[main]\ndns=dnsmasq\n", "NetworkManager"),
        ] {
            let Advice::Paste(text) = resolver.advice(&nobody, dns()) else { panic!("{resolver:?}") };
            assert!(text.contains(&format!("sudo tee {file} <<'END'\n")), "{text}");
            assert!(text.contains(line), "{text}");
            assert!(text.ends_with(&format!("END\nsudo systemctl restart {unit}")), "{text}");
        }
    }

    #[test]
    fn what_is_set_up_for_this_port_is_left_as_it_is_and_for_another_is_not() {
        let file = (
            "etc/dnsmasq.d/phantom.conf",
            "# mine\nserver=/ap/127.0.0.1#5353\nserver=/127.in-addr.arpa/127.0.0.1#5353\n\
             server=/c.f.ip6.arpa/127.0.0.1#5353\nrebind-domain-ok=/ap/\n",
        );
        let machine = machine(&[LOCAL, file], &["dnsmasq"]);
        let resolver = find(&machine);
        assert_eq!(resolver.advice(&machine, dns()), Advice::Done(DNSMASQ_FILE));
        let moved = resolver.advice(&machine, "127.0.0.1:9053".parse().unwrap());
        assert!(matches!(moved, Advice::Paste(_)), "{moved:?}");
    }

    #[test]
    fn where_nothing_can_be_pasted_it_is_said_what_can_be_done() {
        for resolver in [Resolver::Unknown("::1".parse().unwrap()), Resolver::Elsewhere(vec![], false)] {
            let Advice::Say(text) = resolver.advice(&Machine::default(), dns()) else {
                panic!("{resolver:?}")
            };
            assert!(text.contains("proxy port"), "{text}");
        }
    }
}
