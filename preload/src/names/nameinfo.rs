//! `getnameinfo`.

use core::{
    ffi::{c_char, c_int},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libc::{sockaddr, socklen_t};
use phantom_policy::socket::{INET, INET6, UNIX};

use super::{NoAnswer, name_of, services};
use crate::run::bytes;

const KNOWN_FLAGS: c_int = libc::NI_NUMERICHOST
    | libc::NI_NUMERICSERV
    | libc::NI_NOFQDN
    | libc::NI_NAMEREQD
    | libc::NI_DGRAM
    | 32 // NI_IDN, and two that once went with it
    | 64
    | 128;

redhook::hook! {
    unsafe fn getnameinfo(
        address: *const sockaddr, length: socklen_t, host: *mut c_char, host_length: socklen_t,
        service: *mut c_char, service_length: socklen_t, flags: c_int
    ) -> c_int => names_of_run {
        // SAFETY: an address of the program, as long as it says.
        let address = unsafe { bytes(address.cast(), length as usize) };
        let named = match names(address, !host.is_null() && host_length > 0, flags) {
            Ok(named) => named,
            Err(error) => return error,
        };
        // SAFETY: places of the program, as long as it says.
        unsafe {
            if !put(&named.0, host, host_length) || !put(&named.1, service, service_length) {
                return libc::EAI_OVERFLOW;
            }
        }
        0
    }
}

/// Host and service.
fn names(address: &[u8], wants_host: bool, flags: c_int) -> Result<(String, String), c_int> {
    if flags & !KNOWN_FLAGS != 0 {
        return Err(libc::EAI_BADFLAGS);
    }
    let Place { address, port, scope } = match Place::parse(address).ok_or(libc::EAI_FAMILY)? {
        Parsed::Internet(place) => place,
        Parsed::Unix(path) => return Ok(("localhost".to_owned(), path)),
    };
    let protocol = if flags & libc::NI_DGRAM != 0 { "udp" } else { "tcp" };
    let service = if flags & libc::NI_NUMERICSERV != 0 { None } else { services::name(port, protocol) };
    let service = service.unwrap_or_else(|| port.to_string());
    let numeric = || match scope {
        0 => address.to_string(),
        1 => format!("{address}%lo"),
        scope => format!("{address}%{scope}"),
    };
    if !wants_host {
        return Ok((String::new(), service));
    }
    let host = if flags & libc::NI_NUMERICHOST != 0 { Err(NoAnswer::Unknown) } else { name_of(address) };
    match host {
        Ok(name) => Ok((name, service)),
        Err(_) if flags & libc::NI_NAMEREQD == 0 => Ok((numeric(), service)),
        Err(NoAnswer::Unknown) => Err(libc::EAI_NONAME),
        Err(NoAnswer::Again) => Err(libc::EAI_AGAIN),
    }
}

struct Place {
    address: IpAddr,
    port: u16,
    scope: u32,
}

enum Parsed {
    Internet(Place),
    Unix(String),
}

impl Place {
    fn parse(bytes: &[u8]) -> Option<Parsed> {
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let family = i32::from(u16::from_ne_bytes(*family));
        if family == UNIX {
            let path = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(Parsed::Unix(String::from_utf8_lossy(path).into_owned()));
        }
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        match family {
            INET if bytes.len() >= 16 => {
                let address = Ipv4Addr::from(*rest.first_chunk::<4>()?).into();
                Some(Parsed::Internet(Place { address, port, scope: 0 }))
            }
            INET6 => {
                let (octets, scope) = rest.get(4..)?.split_first_chunk::<16>()?;
                let address = Ipv6Addr::from(*octets);
                let scope = u32::from_ne_bytes(*scope.first_chunk::<4>()?);
                let is_local = address.is_unicast_link_local() || address.is_multicast();
                let scope = if is_local { scope } else { 0 };
                Some(Parsed::Internet(Place { address: address.into(), port, scope }))
            }
            _ => None,
        }
    }
}

/// Whether it fits, with a zero behind it. Nothing is written where nothing is wanted.
///
/// # Safety
/// There is so much room.
unsafe fn put(text: &str, to: *mut c_char, room: socklen_t) -> bool {
    if to.is_null() || room == 0 {
        return true;
    }
    if text.len() >= room as usize {
        return false;
    }
    // SAFETY: as said.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::written;

    fn of(address: &str, flags: c_int) -> Result<(String, String), c_int> {
        let (bytes, length) = written(INET, address.parse().unwrap());
        names(&bytes[..length], true, flags)
    }

    #[test]
    fn numbers_are_written_as_such() {
        let numeric = libc::NI_NUMERICHOST | libc::NI_NUMERICSERV;
        assert_eq!(of("8.8.8.8:80", numeric).unwrap(), ("8.8.8.8".to_owned(), "80".to_owned()));
        assert_eq!(of("[fc00::1]:9", numeric).unwrap(), ("fc00::1".to_owned(), "9".to_owned()));
    }

    #[test]
    fn who_is_not_of_the_network_has_no_name_and_nobody_is_asked() {
        assert_eq!(of("8.8.8.8:80", libc::NI_NUMERICSERV).unwrap().0, "8.8.8.8");
        assert_eq!(of("8.8.8.8:80", libc::NI_NAMEREQD), Err(libc::EAI_NONAME));
    }

    #[test]
    fn what_is_no_address_is_said_so() {
        for bytes in [&[][..], &[2], &[2, 0, 0], &[2, 0, 0, 80, 1, 2, 3, 4], &[99, 0, 0, 80, 1, 2, 3, 4]] {
            assert_eq!(names(bytes, true, 0), Err(libc::EAI_FAMILY), "{bytes:?}");
        }
        assert_eq!(names(&[0; 16], true, 1 << 20), Err(libc::EAI_BADFLAGS));
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut space = [7; 4];
        // SAFETY: so much room there is.
        unsafe {
            assert!(!put("abcd", space.as_mut_ptr(), 4));
            assert_eq!(space, [7; 4]);
            assert!(put("abc", space.as_mut_ptr(), 4));
            assert!(put("abc", core::ptr::null_mut(), 4));
        }
        assert_eq!(space.map(|byte| byte as u8), *b"abc\0");
    }
}
