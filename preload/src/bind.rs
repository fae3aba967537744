//! `bind`: passes, but not to an interface that leads out.
//!
//! A socket of the run is where there is only the loopback interface, or is bound to it. An address with a scope would take
//! one of the second kind to the interface that the scope names.

use core::ffi::{c_int, c_void};

use libc::{sockaddr, socklen_t};
use phantom_policy::socket::INET6;

use crate::kernel::{self, Outcome, returned_int};

/// The number of the loopback interface.
const LOOPBACK: u32 = 1;
/// Where `sockaddr_in6` has its scope, and ends.
const SCOPE: usize = 24;
const END: usize = 28;

redhook::hook! {
    unsafe fn bind(socket: c_int, to: *const sockaddr, length: socklen_t) -> c_int => bind_inside {
        returned_int(bind_socket(socket, to.cast(), length))
    }
}

pub(crate) fn bind_socket(socket: c_int, to: *const c_void, length: socklen_t) -> Outcome {
    if length as usize >= END {
        let mut address = [0; END];
        kernel::copy_from(to, &mut address)?;
        if leads_out(&address) {
            return Err(libc::EADDRNOTAVAIL);
        }
    }
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    unsafe { kernel::call(libc::SYS_bind, [socket as usize, to as usize, length as usize, 0, 0, 0]) }
}

fn leads_out(address: &[u8; END]) -> bool {
    let family = address.first_chunk::<2>().map_or(0, |family| u16::from_ne_bytes(*family));
    let scope = address.get(SCOPE..).and_then(|scope| scope.try_into().ok()).map_or(0, u32::from_ne_bytes);
    i32::from(family) == INET6 && scope != 0 && scope != LOOPBACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_another_interface_leads_out() {
        let address = |family: u16, scope: u32| {
            let mut address = [0; END];
            address[..2].copy_from_slice(&family.to_ne_bytes());
            address[SCOPE..].copy_from_slice(&scope.to_ne_bytes());
            address
        };
        let inet6 = libc::AF_INET6 as u16;
        assert!(leads_out(&address(inet6, 2)) && leads_out(&address(inet6, u32::MAX)));
        assert!(!leads_out(&address(inet6, 0)) && !leads_out(&address(inet6, LOOPBACK)));
        assert!(!leads_out(&address(libc::AF_UNIX as u16, 2)), "there it is part of a path");
    }
}
