//! Which sockets a program may have.

use crate::errno::{Errno, Refusal, Why};

/// `AF_UNIX`.
pub const UNIX: i32 = 1;
/// `AF_INET`.
pub const INET: i32 = 2;
/// `AF_INET6`.
pub const INET6: i32 = 10;
/// `AF_NETLINK`: asks the kernel about this machine.
pub const NETLINK: i32 = 16;

/// The bits of a socket's type that name it; the others are `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
const TYPE: i32 = 0xf;
const STREAM: i32 = 1;
const DATAGRAM: i32 = 2;
const RAW: i32 = 3;
const PACKET: i32 = 10;

/// `NETLINK_KOBJECT_UEVENT`.
const DEVICE_EVENTS: i32 = 15;
const TCP: i32 = 6;
const UDP: i32 = 17;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// Whether a program may have an Internet socket, by what it says to `socket`. Such a socket is bound to the loopback
/// interface before the program has it.
pub fn internet(kind: i32, protocol: i32) -> Result<Kind, Refusal> {
    match (kind & TYPE, protocol) {
        (STREAM, 0 | TCP) => Ok(Kind::Stream),
        (DATAGRAM, 0 | UDP) => Ok(Kind::Datagram),
        (RAW | PACKET, _) => Err(Refusal::new(Errno::EPERM, Why::Raw)),
        // There is none of such a number.
        (STREAM | DATAGRAM, ..0) => Err(Refusal::new(Errno::EINVAL, Why::Protocol)),
        (STREAM | DATAGRAM, _) => Err(Refusal::new(Errno::EPROTONOSUPPORT, Why::Protocol)),
        _ => Err(Refusal::new(Errno::ESOCKTNOSUPPORT, Why::Protocol)),
    }
}

/// Sockets of other families that never leave the machine. No other may be made.
pub fn is_harmless(family: i32) -> bool {
    matches!(family, UNIX | NETLINK)
}

/// Whether the run makes a socket, where its own live. The program makes others by itself, if they are harmless.
pub fn is_of_run(family: i32, protocol: i32) -> bool {
    match family {
        INET | INET6 => true,
        // Events of devices come to the machine as a whole, and to no other place.
        NETLINK => protocol != DEVICE_EVENTS,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONBLOCK: i32 = 0o4000;
    const CLOEXEC: i32 = 0o2_000_000;

    #[test]
    fn tcp_and_udp_are_what_the_network_carries() {
        for flags in [0, NONBLOCK, CLOEXEC, NONBLOCK | CLOEXEC] {
            assert_eq!(internet(STREAM | flags, 0), Ok(Kind::Stream));
            assert_eq!(internet(STREAM | flags, TCP), Ok(Kind::Stream));
            assert_eq!(internet(DATAGRAM | flags, UDP), Ok(Kind::Datagram));
        }
    }

    #[test]
    fn what_could_send_anything_else_is_refused() {
        let (mptcp, sctp, icmp, dccp) = (262, 132, 1, 6);
        for protocol in [0, TCP, UDP, icmp, 255] {
            assert_eq!(internet(RAW, protocol).unwrap_err().why, Why::Raw);
        }
        assert_eq!(internet(STREAM, mptcp).unwrap_err().errno, Errno::EPROTONOSUPPORT);
        assert_eq!(internet(STREAM, sctp).unwrap_err().errno, Errno::EPROTONOSUPPORT);
        assert_eq!(internet(DATAGRAM, icmp).unwrap_err().errno, Errno::EPROTONOSUPPORT);
        assert_eq!(internet(STREAM, -1).unwrap_err().errno, Errno::EINVAL);
        assert_eq!(internet(dccp, 33).unwrap_err().errno, Errno::ESOCKTNOSUPPORT);
    }

    #[test]
    fn the_run_makes_what_could_tell_or_reach_the_network() {
        assert!(is_of_run(INET, 0) && is_of_run(INET6, UDP) && is_of_run(NETLINK, 0));
        assert!(!is_of_run(NETLINK, DEVICE_EVENTS) && !is_of_run(UNIX, 0) && !is_of_run(17, 0));
    }

    #[test]
    fn no_family_is_harmless_but_those_that_stay_here() {
        assert!(is_harmless(UNIX) && is_harmless(NETLINK));
        let (packet, vsock, bluetooth, xdp) = (17, 40, 31, 44);
        for family in [INET, INET6, packet, vsock, bluetooth, xdp, 0, -1] {
            assert!(!is_harmless(family), "{family}");
        }
    }
}
