//! Frames with descriptors, over UNIX sockets (`phantom_policy::frame`): what a run and its node both need for their
//! conversation.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use phantom_policy::frame::{LONGEST, PREFIX, length};

/// No message brings more (the kernel's `SCM_MAX_FD`).
const MOST_DESCRIPTORS: usize = 253;
/// Read at once, beside the longest frame.
const AHEAD: usize = 16 * 1024;

/// Sends bytes; the descriptors ride on the first of them. Says how many bytes were taken, with them all descriptors.
pub(crate) fn send(to: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let message = [ControlMessage::ScmRights(&raw)];
    let messages = if raw.is_empty() { &[][..] } else { &message[..] };
    let parts = [IoSlice::new(bytes)];
    Ok(sendmsg::<()>(to.as_fd().as_raw_fd(), &parts, messages, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes, and the descriptors that ride on them. No bytes are the end.
pub(crate) fn receive<D: From<OwnedFd>>(
    from: impl AsFd,
    into: &mut [u8],
    descriptors: &mut VecDeque<D>,
) -> io::Result<usize> {
    let mut parts = [IoSliceMut::new(into)];
    let mut space = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let from = from.as_fd().as_raw_fd();
    let message = recvmsg::<()>(from, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            #[allow(unsafe_code)]
            // SAFETY: the kernel has just made them for us.
            descriptors.extend(received.into_iter().map(|raw| D::from(unsafe { OwnedFd::from_raw_fd(raw) })));
        }
    }
    Ok(message.bytes)
}

/// What has come in of a conversation, with its descriptors as `D`.
#[derive(Debug)]
pub(crate) struct Incoming<D = OwnedFd> {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    descriptors: VecDeque<D>,
}

/// A frame without its prefix, and the descriptors that came until then: if it has one, it is the first.
pub(crate) type Frame<'a, D> = (&'a [u8], &'a mut VecDeque<D>);

impl Incoming {
    pub(crate) fn new() -> Incoming {
        Incoming::default()
    }
}

impl<D> Default for Incoming<D> {
    fn default() -> Incoming<D> {
        let bytes = vec![0; PREFIX + LONGEST + AHEAD].into();
        Incoming { bytes, start: 0, end: 0, descriptors: VecDeque::new() }
    }
}

impl<D: From<OwnedFd>> Incoming<D> {
    /// Takes what there is, after all frames were read. False at the end. Descriptors that no frame has taken are an error: they
    /// would become more and more.
    pub(crate) fn fill(&mut self, from: impl AsFd) -> io::Result<bool> {
        let is_within_a_frame = self.start < self.end;
        if self.descriptors.len() > usize::from(is_within_a_frame) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let room = self.bytes.get_mut(self.end..).unwrap_or_default();
        let received = receive(from, room, &mut self.descriptors)?;
        self.end += received;
        Ok(received > 0)
    }

    /// The next frame that is there as a whole.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame<'_, D>>> {
        let there = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some((prefix, rest)) = there.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = length(*prefix).ok_or(io::ErrorKind::InvalidData)?;
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        self.start += PREFIX + length;
        Ok(Some((frame, &mut self.descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, os::unix::net::UnixStream};

    use nix::sys::stat::fstat;
    use phantom_policy::{
        Errno,
        frame::{FromNode, FromRun},
    };

    use super::*;

    fn number_of(descriptor: impl AsFd) -> (u64, u64) {
        let found = fstat(descriptor).unwrap();
        (found.st_dev, found.st_ino)
    }

    #[test]
    fn frames_come_in_order_each_with_its_descriptor() {
        let (mut run, node) = UnixStream::pair().unwrap();
        let (first, second) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut buffer = [0; 64];
        let visited = |id, outcome| FromRun::Visited { id, outcome };
        for (id, with) in [(1, Some(&first)), (2, None), (3, Some(&second))] {
            let outcome = with.map(|_: &File| ()).ok_or(Errno::ECONNREFUSED);
            let frame = visited(id, outcome).encode(&mut buffer).unwrap();
            let descriptors: Vec<_> = with.into_iter().map(AsFd::as_fd).collect();
            assert_eq!(send(&run, &frame[..1], &descriptors).unwrap(), 1);
            run.write_all(&frame[1..]).unwrap();
        }
        drop(run);
        let (mut incoming, mut heard) = (Incoming::new(), Vec::new());
        while incoming.fill(&node).unwrap() {
            while let Some((frame, descriptors)) = incoming.next().unwrap() {
                let said = FromRun::decode(frame).unwrap();
                let with = said.has_descriptor().then(|| number_of(descriptors.pop_front().unwrap()));
                let FromRun::Visited { id, .. } = said else { panic!("{said:?}") };
                heard.push((id, with));
            }
        }
        assert_eq!(heard, [(1, Some(number_of(&first))), (2, None), (3, Some(number_of(&second)))]);
    }

    #[test]
    fn descriptors_that_belong_to_no_frame_are_an_error() {
        let mut buffer = [0; 64];
        let nothing = FromRun::Visited { id: 1, outcome: Err(Errno::EACCES) }.encode(&mut buffer).unwrap();
        let file = tempfile::tempfile().unwrap();
        for (more, sent) in [(1, nothing.len()), (2, 3)] {
            let (run, node) = UnixStream::pair().unwrap();
            send(&run, &nothing[..sent], &vec![file.as_fd(); more]).unwrap();
            let mut incoming = Incoming::new();
            assert!(incoming.fill(&node).unwrap());
            assert_eq!(incoming.next().unwrap().is_some(), sent == nothing.len());
            assert_eq!(incoming.fill(&node).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn the_longest_frames_go_through_and_a_longer_one_is_an_error() {
        let (mut run, node) = UnixStream::pair().unwrap();
        let writing = std::thread::spawn(move || {
            let (data, mut buffer) = (vec![7; LONGEST - 5], vec![0; PREFIX + LONGEST]);
            for id in 0..20 {
                run.write_all(FromRun::Datagram { id, bytes: &data }.encode(&mut buffer).unwrap()).unwrap();
            }
            run.write_all(&u32::MAX.to_be_bytes()).unwrap();
        });
        let (mut incoming, mut next) = (Incoming::new(), 0);
        let ended = loop {
            assert!(incoming.fill(&node).unwrap());
            loop {
                match incoming.next() {
                    Ok(Some((frame, _))) => {
                        let Some(FromRun::Datagram { id, bytes }) = FromRun::decode(frame) else { panic!() };
                        assert!(
                            id == next && bytes.len() == LONGEST - 5 && FromNode::decode(frame).is_none()
                        );
                        next += 1;
                    }
                    Ok(None) => break,
                    Err(_) => return assert_eq!(next, 20),
                }
            }
            if writing.is_finished() && next > 20 {
                break next;
            }
        };
        panic!("{ended} frames, and no error");
    }
}
