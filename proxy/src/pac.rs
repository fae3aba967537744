//! Proxy auto-configuration: a script by which a browser knows what to send to this port.

use std::net::SocketAddr;

/// What comes to this port, and what becomes of the rest.
#[derive(Clone, Debug)]
pub struct Pac {
    names: String,
    addresses: Option<u8>,
    elsewhere: Elsewhere,
}

/// What a browser does with everything that is not of the proxy's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// It connects itself, without the proxy.
    Direct,
    /// It comes to this port as well, where the dialler may refuse it.
    Here,
}

impl Pac {
    /// The names below a domain come here. Nothing if it is none: labels of letters, digits and hyphens, with dots
    /// between them.
    pub fn new(domain: &str, elsewhere: Elsewhere) -> Option<Pac> {
        let is_label = |label: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !label.is_empty() && label.bytes().all(fits)
        };
        let names = format!(".{}", domain.to_ascii_lowercase());
        domain.split('.').all(is_label).then_some(Pac { names, addresses: None, elsewhere })
    }

    /// The IPv6 addresses that begin with this byte come here, too. For a byte below 16 nothing changes: their text has
    /// several forms.
    pub fn with_addresses(self, first: u8) -> Pac {
        Pac { addresses: (first >= 16).then_some(first), ..self }
    }

    /// The script for browsers that reach the proxy at `here`.
    pub(crate) fn script(&self, here: SocketAddr) -> String {
        let addresses = match self.addresses {
            Some(first) => format!(" || /^\\[?{first:02x}[0-9a-f]{{2}}:/.test(host)"),
            None => String::new(),
        };
        // Only SOCKS5 hands over names unresolved everywhere, so there is nothing else to fall back on.
        let proxy = format!("SOCKS5 {here}");
        let elsewhere = match self.elsewhere {
            Elsewhere::Direct => "DIRECT",
            Elsewhere::Here => &proxy,
        };
        let names = &self.names;
        format!(
            "function FindProxyForURL(url, host) {{\n\
             \x20 host = host.toLowerCase().replace(/\\.$/, \"\");\n\
             \x20 if (dnsDomainIs(host, \"{names}\"){addresses}) return \"{proxy}\";\n\
             \x20 return \"{elsewhere}\";\n\
             }}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_domain_cannot_get_into_the_script() {
        for domain in ["", ".", ".ap", "ap.", "a..b", "a\"b", "a b", "ä"] {
            assert!(Pac::new(domain, Elsewhere::Direct).is_none(), "{domain:?}");
        }
        assert!(Pac::new("Example.AP", Elsewhere::Direct).unwrap().names == ".example.ap");
    }
}
