//! Hosts that `/etc/hosts` declares, and `localhost`, declared or not.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Host, declared, lines};

/// A host of this name, which is in lower case.
pub(super) fn find(name: &str) -> Option<Host> {
    let file = declared(c"/etc/hosts");
    find_in(&String::from_utf8_lossy(&file), name)
}

/// The first name of this address.
pub(super) fn name_of(address: IpAddr) -> Option<String> {
    let file = declared(c"/etc/hosts");
    name_in(&String::from_utf8_lossy(&file), address)
}

fn find_in(file: &str, name: &str) -> Option<Host> {
    let mut found: Option<Host> = None;
    for (address, mut names) in entries(file) {
        let Some(first) = names.next() else { continue };
        if !first.eq_ignore_ascii_case(name) && !names.any(|other| other.eq_ignore_ascii_case(name)) {
            continue;
        }
        let host = found.get_or_insert_with(|| Host { name: first.to_owned(), addresses: Vec::new() });
        if !host.addresses.contains(&address) {
            host.addresses.push(address);
        }
    }
    let is_here = name == "localhost" || name.ends_with(".localhost");
    let here = || Host {
        name: name.to_owned(),
        addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    };
    let mut host = found.or_else(|| is_here.then(here))?;
    host.addresses.sort_by_key(IpAddr::is_ipv6);
    Some(host)
}

fn name_in(file: &str, address: IpAddr) -> Option<String> {
    let declared = entries(file)
        .filter(|(declared, _)| *declared == address)
        .find_map(|(_, mut names)| names.next().map(str::to_owned));
    declared.or_else(|| address.is_loopback().then(|| "localhost".to_owned()).filter(|_| is_plain(address)))
}

/// Aliases of parties are loopback addresses, too.
fn is_plain(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST))
}

fn entries(file: &str) -> impl Iterator<Item = (IpAddr, impl Iterator<Item = &str>)> {
    lines(file).filter_map(|mut fields| Some((fields.next()?.parse().ok()?, fields)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "127.0.0.1 localhost # this one\n\n# nothing\n::1\tlocalhost ip6-localhost\n\
        127.0.1.1 Box.example box\nnonsense here\n10.0.0.1\n";

    fn addresses(name: &str) -> Vec<String> {
        let host = find_in(FILE, name);
        host.map_or(Vec::new(), |host| host.addresses.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn a_host_has_all_addresses_that_are_declared_for_it() {
        assert_eq!(addresses("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(addresses("box"), ["127.0.1.1"]);
        assert_eq!(find_in(FILE, "box").unwrap().name, "Box.example");
        assert_eq!(addresses("here"), [""; 0]);
    }

    #[test]
    fn localhost_is_here_even_if_nobody_says_so() {
        assert_eq!(find_in("", "a.localhost").unwrap().addresses.len(), 2);
        assert_eq!(find_in("", "localhost.example"), None);
    }

    #[test]
    fn an_address_has_the_first_name_that_is_declared_for_it() {
        let name = |address: &str| name_in(FILE, address.parse().unwrap());
        assert_eq!(name("127.0.1.1").as_deref(), Some("Box.example"));
        assert_eq!(name("::1").as_deref(), Some("localhost"));
        assert_eq!(name("10.0.0.1"), None, "it has none");
        assert_eq!(name_in("", "127.192.0.1".parse().unwrap()), None, "it is a party's");
    }
}
