//! The name server of an island, over UDP: whichever server a program asks, this one answers, from the address that was asked.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg},
};
use phantom_policy::connect::is_of_network;
use phantom_resolver::{Answers, Lookup, Transport};

/// No honest question is longer; the rest of a longer one is cut off.
const LONGEST: usize = 4_096;

/// To which address a question went.
#[derive(Clone, Copy)]
enum Asked {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// Answers until the socket fails. Blocks.
pub(super) fn serve(socket: &OwnedFd, answers: &Answers<impl Lookup>) -> io::Error {
    let mut question = [0; LONGEST];
    loop {
        let (length, from, asked) = match receive(socket, &mut question) {
            Ok(Some(received)) => received,
            // What a program's kernel said about an answer that it did not want.
            Ok(None) | Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
            Err(errno) => return errno.into(),
        };
        // A party's port 53 is the party's.
        if is_of_network(asked.address()) {
            continue;
        }
        if let Some(answer) = answers.respond(question.get(..length).unwrap_or_default(), Transport::Udp) {
            // A program that does not get its answer asks again.
            let _lost = send(socket, &answer, from, asked);
        }
    }
}

fn receive(socket: &OwnedFd, into: &mut [u8]) -> Result<Option<(usize, SockaddrStorage, Asked)>, Errno> {
    let mut space = cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(into)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let asked = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Asked::V4(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Asked::V6(info)),
        _ => None,
    });
    Ok(message.address.zip(asked).map(|(from, asked)| (message.bytes, from, asked)))
}

fn send(socket: &OwnedFd, answer: &[u8], to: SockaddrStorage, asked: Asked) -> Result<usize, Errno> {
    let parts = [IoSlice::new(answer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    match asked {
        Asked::V4(mut info) => {
            info.ipi_spec_dst = info.ipi_addr;
            let from = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(socket.as_raw_fd(), &parts, &from, flags, Some(&to))
        }
        Asked::V6(info) => {
            let from = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(socket.as_raw_fd(), &parts, &from, flags, Some(&to))
        }
    }
}

impl Asked {
    fn address(&self) -> IpAddr {
        match self {
            Asked::V4(info) => info.ipi_addr.s_addr.to_ne_bytes().into(),
            Asked::V6(info) => info.ipi6_addr.s6_addr.into(),
        }
    }
}
