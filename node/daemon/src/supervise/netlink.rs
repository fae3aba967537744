//! How a network namespace is prepared: what is asked of the kernel over rtnetlink.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// The kernel's own table of what is here.
pub(super) const LOOPBACK_TABLE: u8 = libc::RT_TABLE_LOCAL;
/// Ours, of what is asked for names.
pub(super) const NAMES_TABLE: u8 = 100;

/// Before the rules of the kernel's main table.
const PRIORITY: u32 = 1;
/// The first device of any namespace.
pub(super) const LOOPBACK: u32 = 1;
/// `FRA_PRIORITY`, `FRA_DPORT_RANGE`, and `FR_ACT_TO_TBL`.
const RULE_PRIORITY: u16 = 6;
const RULE_PORTS: u16 = 24;
const TO_TABLE: u8 = 1;
/// `VETH_INFO_PEER`.
const VETH_PEER: u16 = 1;
/// Bytes of a `nlmsghdr`.
const HEADER: usize = 16;

/// The kernel, as it is asked.
#[derive(Debug)]
pub(super) struct Kernel(OwnedFd);

impl Kernel {
    pub(super) fn new() -> io::Result<Kernel> {
        let protocol = SockProtocol::NetlinkRoute;
        Ok(Kernel(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// A device is up.
    pub(super) fn raise(&self, device: u32) -> io::Result<()> {
        self.ask(libc::RTM_NEWLINK, link(device, libc::IFF_UP as u32))
    }

    /// There are two devices that lead to each other, with these names and numbers.
    pub(super) fn add_pair(&self, [one, other]: [(&str, u32); 2]) -> io::Result<()> {
        let end = |(name, number): (&str, u32)| {
            let mut body = link(number, 0);
            attribute(&mut body, libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
            body
        };
        let (mut data, mut kind) = (Vec::new(), Vec::new());
        attribute(&mut data, VETH_PEER, &end(other));
        attribute(&mut kind, libc::IFLA_INFO_KIND, b"veth");
        attribute(&mut kind, libc::IFLA_INFO_DATA, &data);
        let mut body = end(one);
        attribute(&mut body, libc::IFLA_LINKINFO, &kind);
        self.ask(libc::RTM_NEWLINK, body)
    }

    /// A device has this address.
    pub(super) fn add_address(&self, address: IpAddr, device: u32) -> io::Result<()> {
        // `ifaddrmsg`: family, bits, flags, scope, device.
        let flags = libc::IFA_F_PERMANENT | libc::IFA_F_NODAD;
        let (family, bits) = (family(address), octets(address).len() as u8 * 8);
        let mut body = vec![family, bits, flags as u8, libc::RT_SCOPE_UNIVERSE];
        body.extend(device.to_ne_bytes());
        attribute(&mut body, libc::IFA_LOCAL, &octets(address));
        attribute(&mut body, libc::IFA_ADDRESS, &octets(address));
        self.ask(libc::RTM_NEWADDR, body)
    }

    /// All addresses of a network are this namespace's own; who goes there comes from `source`.
    pub(super) fn add_local_route(
        &self,
        table: u8,
        (to, bits): (IpAddr, u8),
        source: IpAddr,
    ) -> io::Result<()> {
        // `rtmsg`: family, bits of destination and source, service, table, origin, scope, kind, flags.
        let (origin, scope, kind) = (libc::RTPROT_STATIC, libc::RT_SCOPE_HOST, libc::RTN_LOCAL);
        let mut body = vec![family(to), bits, 0, 0, table, origin, scope, kind];
        body.extend([0; 4]);
        if bits > 0 {
            attribute(&mut body, libc::RTA_DST, &octets(to));
        }
        attribute(&mut body, libc::RTA_PREFSRC, &octets(source));
        attribute(&mut body, libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
        self.ask(libc::RTM_NEWROUTE, body)
    }

    /// What goes to this port is looked up in a table, before what the kernel does otherwise.
    pub(super) fn add_rule(&self, family: i32, port: u16, table: u8) -> io::Result<()> {
        // `fib_rule_hdr`: family, bits of destination and source, service, table, two of no matter, action, flags.
        let mut body = vec![family as u8, 0, 0, 0, table, 0, 0, TO_TABLE];
        body.extend([0; 4]);
        attribute(&mut body, RULE_PRIORITY, &PRIORITY.to_ne_bytes());
        attribute(&mut body, RULE_PORTS, &[port.to_ne_bytes(), port.to_ne_bytes()].concat());
        self.ask(libc::RTM_NEWRULE, body)
    }

    fn ask(&self, what: u16, body: Vec<u8>) -> io::Result<()> {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
        let length = (HEADER + body.len()) as u32;
        let mut message = Vec::new();
        message.extend(length.to_ne_bytes());
        message.extend(what.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0; 512];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // After the header, an acknowledgement has an error number, 0 for none.
        let error = answer.get(HEADER..HEADER + 4).filter(|_| length >= HEADER + 4);
        match error.and_then(|error| error.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Err(ErrorKind::InvalidData.into()),
        }
    }
}

/// `ifinfomsg`: family and kind of no matter, the device, flags that it is to have, and which are meant.
fn link(device: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(device.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

/// Adds an attribute: length, kind, bytes, and what fills them up to a multiple of four.
fn attribute(message: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    message.extend((4 + bytes.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(bytes);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
