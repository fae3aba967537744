//! What makes programs take themselves for online: an interface beside the loopback one, which is up and has an address.
//!
//! Browsers and others ask the kernel for such a one before they try to connect at all. It is one end of a pair, the other of
//! which is here, too; no route leads to it, and what were sent by it came to nobody. Where the kernel makes no pairs, programs
//! see what is true.

use std::{fs, io, net::IpAddr};

use super::{helper::OWN_ALIAS, netlink::Kernel};

/// Both ends, with numbers that no device has by itself.
const PAIR: [(&str, u32); 2] = [("phantom0", 64), ("phantom1", 65)];

/// Makes it. What was prepared before stays as it is.
pub(super) fn show(kernel: &Kernel) -> io::Result<()> {
    // It would have addresses by itself, routes for them, and something to say to neighbours.
    match fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    kernel.add_pair(PAIR)?;
    let [(_, shown), (_, other)] = PAIR;
    kernel.raise(other)?;
    kernel.raise(shown)?;
    kernel.add_address(IpAddr::V4(OWN_ALIAS), shown)
}
