//! What there is once for IPv4, and once more where there is IPv6.

use std::{io, net::SocketAddr};

use phantom_policy::socket;

#[derive(Debug)]
pub(super) struct Families<T> {
    pub(super) v4: T,
    pub(super) v6: Option<T>,
}

impl<T> Families<T> {
    /// The one to which a program's socket of this family is led that is to reach `to`.
    pub(super) fn led_to(&self, family: i32, to: SocketAddr) -> &T {
        match &self.v6 {
            Some(v6) if family == socket::INET6 && to.ip().to_canonical().is_ipv6() => v6,
            _ => &self.v4,
        }
    }

    /// The one of this address, which is not mapped.
    pub(super) fn of(&self, address: SocketAddr) -> Option<&T> {
        if address.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten()
    }

    pub(super) fn into_vec(self) -> Vec<T> {
        [Some(self.v4), self.v6].into_iter().flatten().collect()
    }

    /// Makes something else of each.
    pub(super) fn map<U>(self, mut make: impl FnMut(T) -> io::Result<U>) -> io::Result<Families<U>> {
        Ok(Families { v4: make(self.v4)?, v6: self.v6.map(make).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_to_ipv4_is_led_there_by_whatever_socket() {
        let both = Families { v4: 4, v6: Some(6) };
        for (family, to, expected) in [
            (socket::INET, "127.192.0.1:80", 4),
            (socket::INET6, "[fc00::1]:80", 6),
            (socket::INET6, "[::ffff:127.192.0.1]:80", 4),
        ] {
            assert_eq!(*both.led_to(family, to.parse().unwrap()), expected, "{to}");
        }
        let one = Families { v4: 4, v6: None };
        assert_eq!(*one.led_to(socket::INET6, "[fc00::1]:80".parse().unwrap()), 4, "there is no other");
        assert_eq!(one.of("[fc00::1]:80".parse().unwrap()), None);
    }
}
