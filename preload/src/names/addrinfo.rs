//! `getaddrinfo`. What it returns, libc's own `freeaddrinfo` gives back, which needs no hook: one piece of memory for each result
//! with its address, and one for the name.

use core::{
    ffi::{CStr, c_char, c_int},
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    ptr::null_mut,
};

use libc::{addrinfo, sockaddr};
use phantom_policy::socket::{INET, INET6};

use super::{Host, NoAnswer, find, numeric, services, text};
use crate::kernel;

const AI_IDN: c_int = 0x0040 | 0x0080 | 0x0100 | 0x0200;
const KNOWN_FLAGS: c_int = libc::AI_PASSIVE
    | libc::AI_CANONNAME
    | libc::AI_NUMERICHOST
    | libc::AI_V4MAPPED
    | libc::AI_ALL
    | libc::AI_ADDRCONFIG
    | libc::AI_NUMERICSERV
    | AI_IDN;
const EAI_ADDRFAMILY: c_int = -9;
const ANY: c_int = libc::AF_UNSPEC;

/// Kinds of sockets, with their protocols and what `/etc/services` calls them; the last is for any protocol.
const KINDS: [(c_int, c_int, &str); 3] = [
    (libc::SOCK_STREAM, libc::IPPROTO_TCP, "tcp"),
    (libc::SOCK_DGRAM, libc::IPPROTO_UDP, "udp"),
    (libc::SOCK_RAW, 0, ""),
];

redhook::hook! {
    unsafe fn getaddrinfo(
        node: *const c_char, service: *const c_char, hints: *const addrinfo, found: *mut *mut addrinfo
    ) -> c_int => addresses_of_run {
        // SAFETY: strings, hints and a place of the program, as libc wants them.
        unsafe { look_up(node, service, hints, found) }
    }
}

/// # Safety
/// As `getaddrinfo`.
pub(super) unsafe fn look_up(
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    found: *mut *mut addrinfo,
) -> c_int {
    // SAFETY: as said.
    let wanted = unsafe { hints.as_ref() }.map_or(Wanted::default(), Wanted::of);
    // SAFETY: as said.
    let (node, service) = unsafe { ((!node.is_null()).then(|| CStr::from_ptr(node)), text(service)) };
    match wanted.results(node, service) {
        Ok((host, kinds)) => {
            let name = (wanted.flags & libc::AI_CANONNAME != 0).then_some(host.name.as_str());
            match list(&host.addresses, &kinds, name) {
                Some(list) => {
                    // SAFETY: as said.
                    unsafe { *found = list };
                    0
                }
                None => libc::EAI_MEMORY,
            }
        }
        Err(error) => error,
    }
}

/// What the program wants to know.
#[derive(Clone, Copy)]
struct Wanted {
    flags: c_int,
    family: c_int,
    kind: c_int,
    protocol: c_int,
}

impl Default for Wanted {
    /// Without hints.
    fn default() -> Wanted {
        Wanted { flags: libc::AI_V4MAPPED | libc::AI_ADDRCONFIG, family: ANY, kind: 0, protocol: 0 }
    }
}

/// An address, and the number of an interface.
type Address = (IpAddr, u32);
/// A kind of socket, its protocol, and the port.
type Kind = (c_int, c_int, u16);

struct Answer {
    name: String,
    addresses: Vec<Address>,
}

impl Wanted {
    fn of(hints: &addrinfo) -> Wanted {
        Wanted {
            flags: hints.ai_flags,
            family: hints.ai_family,
            kind: hints.ai_socktype,
            protocol: hints.ai_protocol,
        }
    }

    fn results(self, node: Option<&CStr>, service: Option<&[u8]>) -> Result<(Answer, Vec<Kind>), c_int> {
        let names_nothing = node.is_none() && self.flags & libc::AI_CANONNAME != 0;
        if self.flags & !KNOWN_FLAGS != 0 || names_nothing {
            return Err(libc::EAI_BADFLAGS);
        }
        if ![ANY, INET, INET6].contains(&self.family) {
            return Err(libc::EAI_FAMILY);
        }
        // An asterisk is as good as nothing.
        let node = node.filter(|node| *node != c"*");
        let service = service.filter(|service| *service != b"*");
        if node.is_none() && service.is_none() {
            return Err(libc::EAI_NONAME);
        }
        let kinds = self.kinds(service)?;
        Ok((self.addresses(node)?, kinds))
    }

    fn kinds(self, service: Option<&[u8]>) -> Result<Vec<Kind>, c_int> {
        let fits = |(kind, protocol, _): &(c_int, c_int, &str)| {
            let same_protocol = *protocol == self.protocol || self.protocol == 0 || *protocol == 0;
            same_protocol && (self.kind == 0 || self.kind == *kind)
        };
        let kinds: Vec<_> = KINDS
            .into_iter()
            .filter(fits)
            // A protocol of its own is for sockets that take any, and only if it is none of the others'.
            .filter(|kind| self.protocol == 0 || self.kind != 0 || kind.1 == self.protocol)
            .collect();
        if kinds.is_empty() {
            return Err(if self.kind == 0 { libc::EAI_SERVICE } else { libc::EAI_SOCKTYPE });
        }
        let protocol = |own: c_int| if own == 0 { self.protocol } else { own };
        let service = service.unwrap_or(b"0");
        let text = str::from_utf8(service).map_err(|_| libc::EAI_SERVICE)?;
        if text.bytes().all(|digit| digit.is_ascii_digit()) && !text.is_empty() {
            // As libc reads it: what is beyond 16 bits is cut off.
            let port = text.parse::<u64>().map_err(|_| libc::EAI_SERVICE)? as u16;
            return Ok(kinds.iter().map(|(kind, own, _)| (*kind, protocol(*own), port)).collect());
        }
        if self.flags & libc::AI_NUMERICSERV != 0 {
            return Err(libc::EAI_NONAME);
        }
        let named: Vec<Kind> = kinds
            .iter()
            .filter_map(|(kind, own, name)| Some((*kind, protocol(*own), services::port(text, name)?)))
            .collect();
        if named.is_empty() { Err(libc::EAI_SERVICE) } else { Ok(named) }
    }

    fn addresses(self, node: Option<&CStr>) -> Result<Answer, c_int> {
        let Some(node) = node else {
            let addresses = match self.flags & libc::AI_PASSIVE != 0 {
                true => [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()],
                false => [IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()],
            };
            let fits = |address: &IpAddr| self.family == ANY || (self.family == INET6) == address.is_ipv6();
            let addresses = addresses.into_iter().filter(fits).map(|address| (address, 0)).collect();
            return Ok(Answer { name: String::new(), addresses });
        };
        if let Some((address, scope)) = numeric::parse(node) {
            let address = self.of_family(address).ok_or(EAI_ADDRFAMILY)?;
            return Ok(Answer { name: lossless(node), addresses: vec![(address, scope)] });
        }
        if self.flags & libc::AI_NUMERICHOST != 0 {
            return Err(libc::EAI_NONAME);
        }
        let Host { name, addresses } = find(node.to_bytes()).map_err(|no| match no {
            NoAnswer::Unknown => libc::EAI_NONAME,
            NoAnswer::Again => libc::EAI_AGAIN,
        })?;
        let has_v6 = addresses.iter().any(IpAddr::is_ipv6);
        let fitting: Vec<Address> = addresses
            .into_iter()
            .filter(|address| {
                // Where there is one of IPv6, the others are not wanted as such, unless all are.
                let mapped = self.family == INET6 && address.is_ipv4();
                !mapped || !has_v6 || self.flags & libc::AI_ALL != 0
            })
            .filter_map(|address| Some((self.of_family(address)?, 0)))
            .collect();
        match fitting.is_empty() {
            // A party has addresses of both kinds, but for the time in which no alias is free.
            true => Err(libc::EAI_AGAIN),
            false => Ok(Answer { name, addresses: fitting }),
        }
    }

    /// The same address for the family that is wanted.
    fn of_family(self, address: IpAddr) -> Option<IpAddr> {
        match (self.family, address) {
            (INET, IpAddr::V6(v6)) => v6.to_ipv4_mapped().map(IpAddr::V4),
            (INET6, IpAddr::V4(v4)) => {
                (self.flags & libc::AI_V4MAPPED != 0).then(|| v4.to_ipv6_mapped().into())
            }
            _ => Some(address),
        }
    }
}

fn lossless(node: &CStr) -> String {
    node.to_string_lossy().into_owned()
}

/// All kinds for the first address, then for the next. Nothing if there is no memory.
fn list(addresses: &[Address], kinds: &[Kind], name: Option<&str>) -> Option<*mut addrinfo> {
    let mut first: *mut addrinfo = null_mut();
    let mut last: *mut *mut addrinfo = &raw mut first;
    for (address, scope) in addresses {
        for (kind, protocol, port) in kinds {
            let one = result(SocketAddr::new(*address, *port), *scope, *kind, *protocol);
            if one.is_null() {
                // SAFETY: what we have made until now is such a list.
                unsafe { free(first) };
                return None;
            }
            // SAFETY: the end of the list, and its new end.
            unsafe {
                *last = one;
                last = &raw mut (*one).ai_next;
            }
        }
    }
    // SAFETY: it is a result, if there is any.
    if let (Some(name), Some(first)) = (name, unsafe { first.as_mut() }) {
        first.ai_canonname = copied(name);
        if first.ai_canonname.is_null() {
            // SAFETY: what we have made is such a list.
            unsafe { free(first) };
            return None;
        }
    }
    Some(first)
}

fn result(address: SocketAddr, scope: u32, kind: c_int, protocol: c_int) -> *mut addrinfo {
    let family = if address.is_ipv6() { INET6 } else { INET };
    let address = match address {
        SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope)),
        v4 => v4,
    };
    let (mut bytes, length) = kernel::written(family, address);
    if let Some(place) = bytes.get_mut(24..) {
        place.copy_from_slice(&scope.to_ne_bytes());
    }
    // SAFETY: memory of libc, for the result and its address behind it.
    unsafe {
        let one: *mut addrinfo = libc::calloc(1, size_of::<addrinfo>() + length).cast();
        if one.is_null() {
            return one;
        }
        let place: *mut sockaddr = one.add(1).cast();
        place.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), length);
        one.write(addrinfo {
            ai_flags: 0,
            ai_family: family,
            ai_socktype: kind,
            ai_protocol: protocol,
            ai_addrlen: length as libc::socklen_t,
            ai_addr: place,
            ai_canonname: null_mut(),
            ai_next: null_mut(),
        });
        one
    }
}

fn copied(name: &str) -> *mut c_char {
    // SAFETY: memory of libc, for the name and the zero behind it, which is there already.
    unsafe {
        let place: *mut u8 = libc::calloc(1, name.len() + 1).cast();
        if !place.is_null() {
            place.copy_from_nonoverlapping(name.as_ptr(), name.len());
        }
        place.cast()
    }
}

/// # Safety
/// It is a list of ours that nobody else has.
unsafe fn free(list: *mut addrinfo) {
    if !list.is_null() {
        // SAFETY: it is made as libc makes one.
        unsafe { libc::freeaddrinfo(list) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(family: c_int, kind: c_int, protocol: c_int, flags: c_int) -> Wanted {
        Wanted { flags, family, kind, protocol }
    }

    fn addresses(wanted: Wanted, node: Option<&CStr>) -> Result<Vec<String>, c_int> {
        let answer = wanted.addresses(node)?;
        Ok(answer.addresses.iter().map(|(address, _)| address.to_string()).collect())
    }

    #[test]
    fn numbers_are_answered_by_ourselves_in_the_family_that_is_wanted() {
        let any = Wanted::default();
        assert_eq!(addresses(any, Some(c"127.192.0.1")).unwrap(), ["127.192.0.1"]);
        assert_eq!(addresses(any, Some(c"fc00::1")).unwrap(), ["fc00::1"]);
        assert_eq!(addresses(wanted(INET, 0, 0, 0), Some(c"fc00::1")), Err(EAI_ADDRFAMILY));
        assert_eq!(addresses(wanted(INET, 0, 0, 0), Some(c"::ffff:1.2.3.4")).unwrap(), ["1.2.3.4"]);
        assert_eq!(addresses(wanted(INET6, 0, 0, 0), Some(c"1.2.3.4")), Err(EAI_ADDRFAMILY));
        let mapped = wanted(INET6, 0, 0, libc::AI_V4MAPPED);
        assert_eq!(addresses(mapped, Some(c"1.2.3.4")).unwrap(), ["::ffff:1.2.3.4"]);
        assert_eq!(addresses(wanted(ANY, 0, 0, libc::AI_NUMERICHOST), Some(c"a.ap")), Err(libc::EAI_NONAME));
    }

    #[test]
    fn without_a_name_it_is_this_machine_or_every_address_of_it() {
        assert_eq!(addresses(Wanted::default(), None).unwrap(), ["::1", "127.0.0.1"]);
        assert_eq!(addresses(wanted(ANY, 0, 0, libc::AI_PASSIVE), None).unwrap(), ["0.0.0.0", "::"]);
        assert_eq!(addresses(wanted(INET, 0, 0, 0), None).unwrap(), ["127.0.0.1"]);
    }

    #[test]
    fn kinds_are_those_that_fit_what_is_wanted() {
        let (stream, datagram, raw) = (libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW);
        let kinds = |kind, protocol| wanted(ANY, kind, protocol, 0).kinds(Some(b"80"));
        let (tcp, udp) = (libc::IPPROTO_TCP, libc::IPPROTO_UDP);
        assert_eq!(kinds(0, 0).unwrap(), [(stream, tcp, 80), (datagram, udp, 80), (raw, 0, 80)]);
        assert_eq!(kinds(stream, 0).unwrap(), [(stream, tcp, 80)]);
        assert_eq!(kinds(0, udp).unwrap(), [(datagram, udp, 80)]);
        assert_eq!(kinds(raw, 1).unwrap(), [(raw, 1, 80)]);
        assert_eq!(kinds(stream, udp), Err(libc::EAI_SOCKTYPE));
        assert_eq!(kinds(libc::SOCK_SEQPACKET, 0), Err(libc::EAI_SOCKTYPE));
        assert_eq!(kinds(0, 99), Err(libc::EAI_SERVICE));
        assert_eq!(wanted(ANY, stream, 0, libc::AI_NUMERICSERV).kinds(Some(b"http")), Err(libc::EAI_NONAME));
        assert_eq!(wanted(ANY, stream, 0, 0).kinds(Some(b"no-such-service")), Err(libc::EAI_SERVICE));
    }

    #[test]
    fn a_list_is_one_that_libc_gives_back() {
        let addresses = [("127.0.0.1".parse().unwrap(), 0), ("fe80::1".parse().unwrap(), 3)];
        let kinds = [(libc::SOCK_STREAM, libc::IPPROTO_TCP, 80), (libc::SOCK_DGRAM, libc::IPPROTO_UDP, 80)];
        let first = list(&addresses, &kinds, Some("a.ap")).unwrap();
        let mut seen = Vec::new();
        let mut at = first;
        // SAFETY: a list of results, each with its address.
        unsafe {
            assert_eq!(CStr::from_ptr((*first).ai_canonname), c"a.ap");
            while let Some(one) = at.as_ref() {
                assert_eq!(i32::from((*one.ai_addr).sa_family), one.ai_family);
                seen.push((one.ai_family, one.ai_socktype, one.ai_addrlen));
                if one.ai_family == INET6 {
                    assert_eq!((*one.ai_addr.cast::<libc::sockaddr_in6>()).sin6_scope_id, 3);
                }
                at = one.ai_next;
            }
            free(first);
        }
        let (stream, datagram) = (libc::SOCK_STREAM, libc::SOCK_DGRAM);
        let expected = [(INET, stream, 16), (INET, datagram, 16), (INET6, stream, 28), (INET6, datagram, 28)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_makes_no_sense_is_said_so() {
        let results =
            |flags, family, node, service| wanted(family, 0, 0, flags).results(node, service).map(drop);
        assert_eq!(results(1 << 20, ANY, Some(c"1.1.1.1"), None), Err(libc::EAI_BADFLAGS));
        assert_eq!(results(libc::AI_CANONNAME, ANY, None, Some(b"80")), Err(libc::EAI_BADFLAGS));
        assert_eq!(results(0, libc::AF_UNIX, Some(c"1.1.1.1"), None), Err(libc::EAI_FAMILY));
        assert_eq!(results(0, ANY, None, None), Err(libc::EAI_NONAME));
    }
}
