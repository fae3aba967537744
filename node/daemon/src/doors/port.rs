//! Ports for the programs of this machine, and why one could not be opened: a sentence that ends with what to type.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

/// A port that programs come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPort {
    name: &'static str,
    option: &'static str,
    /// What is proposed where nothing nearer is.
    usual: u16,
    address: SocketAddr,
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Nobody here may serve other machines.
    #[error("The {0} could be used from other machines. Put it on 127.0.0.1 or [::1]: {option} 127.0.0.1:{usual}",
        option = .0.option, usual = .0.usual)]
    Public(LocalPort),
    /// Somebody has it.
    #[error("The {0} is in use by another program. Choose another one: {other}", other = .0.another())]
    Taken(LocalPort),
    /// Anything else.
    #[error("The {0} cannot be opened: {1}. Choose another one: {other}", other = .0.another())]
    Io(LocalPort, io::Error),
}

impl LocalPort {
    pub(super) fn proxy(address: SocketAddr) -> Result<LocalPort, PortError> {
        LocalPort { name: "proxy port", option: "--socks", usual: 9070, address }.checked()
    }

    pub(super) fn dns(address: SocketAddr) -> Result<LocalPort, PortError> {
        LocalPort { name: "DNS port", option: "--dns", usual: 9053, address }.checked()
    }

    pub(super) fn metrics(address: SocketAddr) -> Result<LocalPort, PortError> {
        LocalPort { name: "metrics port", option: "--metrics", usual: 9079, address }.checked()
    }

    pub(super) fn transparent(address: SocketAddr) -> Result<LocalPort, PortError> {
        LocalPort { name: "transparent port", option: "--transparent", usual: 9040, address }.checked()
    }

    /// Only what the programs of this machine can reach.
    fn checked(self) -> Result<LocalPort, PortError> {
        if self.address.ip().is_loopback() { Ok(self) } else { Err(PortError::Public(self)) }
    }

    pub(super) fn failed(self, error: io::Error) -> PortError {
        match error.kind() {
            io::ErrorKind::AddrInUse => PortError::Taken(self),
            _ => PortError::Io(self, error),
        }
    }

    /// The next one, and for those that need a right the usual one.
    fn another(self) -> String {
        let ip: IpAddr = self.address.ip();
        let port = self.address.port().checked_add(1).filter(|port| *port > 1024).unwrap_or(self.usual);
        format!("{} {}", self.option, SocketAddr::new(ip, port))
    }
}

impl fmt::Display for LocalPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.address)
    }
}

/// Whether a port could not be opened because the machine has no IPv6.
pub(crate) fn has_no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_is_a_sentence_that_ends_with_what_to_type() {
        let at = |address: &str| LocalPort::dns(address.parse().unwrap()).unwrap();
        let taken = || io::ErrorKind::AddrInUse.into();
        let denied = || io::ErrorKind::PermissionDenied.into();
        for (error, end) in [
            (
                at("127.0.0.1:9053").failed(taken()),
                "by another program. Choose another one: --dns 127.0.0.1:9054",
            ),
            (at("[::1]:65535").failed(taken()), "by another program. Choose another one: --dns [::1]:9053"),
            (at("127.0.0.1:53").failed(denied()), "denied. Choose another one: --dns 127.0.0.1:9053"),
            (
                LocalPort::dns("0.0.0.0:53".parse().unwrap()).unwrap_err(),
                "127.0.0.1 or [::1]: --dns 127.0.0.1:9053",
            ),
            (
                LocalPort::proxy("[::]:1".parse().unwrap()).unwrap_err(),
                "127.0.0.1 or [::1]: --socks 127.0.0.1:9070",
            ),
        ] {
            assert!(error.to_string().ends_with(end), "{error}");
        }
    }
}
