//! Datagrams of a run to parties, and back.
//!
//! A flow is a socket of ours in the island, bound to the party's address and connected to the program's own socket. The node
//! has it, and reads and writes; to the network it is one from its first datagram on, for many a program connects a socket only
//! to learn which address it would have. A program that connects its socket gets its flow at once. One that does not, may use any
//! call to send: so what goes to parties outside of flows is captured on the island's loopback device, and made one.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use phantom_policy::socket::Kind;

use super::{
    Account, Circles, Deed, Run,
    capture::{self, Datagram, FlowEnds},
    conversation::{Conversation, FlowLink},
    errno,
    land::Land,
    lock, raw,
    visits::Guests,
};

/// Flows of one family that are known at once.
const MOST: usize = 320;
/// What could not be reached is not tried again before this.
const RETRY: Duration = Duration::from_secs(2);
/// The longest packet.
const LONGEST: usize = 65_536;

/// Where datagrams to parties are captured, for a family: a packet socket, and the run's own address.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) packets: OwnedFd,
    pub(super) own: IpAddr,
}

/// All flows of a run.
#[derive(Debug)]
pub(super) struct Flows {
    land: Arc<Land>,
    conversation: Arc<Conversation>,
    circles: Arc<Circles>,
    account: Arc<Account>,
    guests: Arc<Mutex<Guests>>,
    families: Vec<Family>,
    /// Of so many families datagrams are captured.
    captured: Mutex<usize>,
}

#[derive(Debug)]
struct Family {
    captured: Captured,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    flows: HashMap<FlowEnds, Flow>,
    /// Counts flows, so that an old one's end is not taken for its successor's.
    last: u64,
}

/// What the kernel does when a flow is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtRefusal {
    /// It tells the program's socket, which is connected to the party.
    Tell,
    Nothing,
}

#[derive(Debug)]
enum Flow {
    /// It is carried: by whom, and its number.
    Stands(Option<FlowLink>, u64),
    /// It was not, and then.
    Failed(Instant),
    /// Somebody has come to the program's server, and has its socket already.
    Guest,
}

impl Flows {
    /// None yet.
    pub(super) fn new(run: &Run, guests: Arc<Mutex<Guests>>) -> io::Result<Arc<Flows>> {
        let Run { land, conversation, circles, account, .. } = run;
        let captured = land.captured().iter().map(|Captured { packets, own }| {
            Ok(Family {
                captured: Captured { packets: packets.try_clone()?, own: *own },
                known: Mutex::default(),
            })
        });
        let families = captured.collect::<io::Result<_>>()?;
        Ok(Arc::new(Flows {
            land: land.clone(),
            conversation: conversation.clone(),
            circles: circles.clone(),
            account: account.clone(),
            guests,
            families,
            captured: Mutex::new(0),
        }))
    }

    /// Captures datagrams from now on, in threads that end with the process: there is a socket that may send some.
    pub(super) fn start(self: &Arc<Flows>) -> Result<(), Errno> {
        let mut captured = lock(&self.captured);
        for (at, family) in self.families.iter().enumerate().skip(*captured) {
            family.exclude_known(&lock(&family.known));
            raw::see_packets(family.captured.packets.as_fd(), family.captured.own.is_ipv4())?;
            let flows = self.clone();
            let capturing = thread::Builder::new().name("datagrams".to_owned()).spawn(move || {
                if let Some(family) = flows.families.get(at) {
                    let errno = flows.capture(family);
                    tracing::error!("datagrams to parties are not carried any more: {errno}");
                }
            });
            capturing.map_err(|error| errno(&error))?;
            *captured += 1;
        }
        Ok(())
    }

    /// Makes the flow of a socket that is connected to a party.
    pub(super) fn open(self: &Arc<Flows>, ends: FlowEnds, circle: u64) -> Result<(), Errno> {
        let family = self.family(ends).ok_or(Errno::ENETUNREACH)?;
        let stands = match lock(&family.known).flows.get(&ends) {
            Some(Flow::Stands(Some(link), _)) => link.stands(),
            Some(Flow::Stands(None, _)) => true,
            _ => false,
        };
        if stands { Ok(()) } else { self.begin(family, ends, circle, AtRefusal::Tell).map(drop) }
    }

    /// Takes what goes to parties outside of flows, until that fails.
    fn capture(self: &Arc<Flows>, family: &Family) -> Errno {
        let mut packet = vec![0; LONGEST];
        loop {
            match recv(family.captured.packets.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(length) => {
                    if let Some(datagram) = capture::parse(packet.get(..length).unwrap_or_default()) {
                        self.carry(family, datagram);
                    }
                }
                // The device was put down and up, or so.
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(errno) => return errno,
            }
        }
    }

    fn carry(self: &Arc<Flows>, family: &Family, Datagram { ends, bytes }: Datagram<'_>) {
        let link = match lock(&family.known).flows.get(&ends) {
            Some(Flow::Stands(Some(link), _)) if link.stands() => Some(link.clone()),
            Some(Flow::Stands(None, _) | Flow::Guest) => return,
            Some(Flow::Failed(at)) if at.elapsed() < RETRY => return,
            _ => None,
        };
        if link.is_none() && lock(&self.guests).has(ends.party) {
            return family.leave_alone(ends);
        }
        let link = link.map_or_else(
            || self.begin(family, ends, self.circles.of_socket(ends.program, ends.party), AtRefusal::Nothing),
            Ok,
        );
        if let Ok(link) = link {
            link.send(bytes);
        }
    }

    /// Nobody has the table meanwhile: whoever speaks to the node may have to tell others that it has gone.
    fn begin(
        self: &Arc<Flows>,
        family: &Family,
        ends: FlowEnds,
        circle: u64,
        at_refusal: AtRefusal,
    ) -> Result<FlowLink, Errno> {
        let number = {
            let mut known = lock(&family.known);
            known.make_room()?;
            known.last += 1;
            let number = known.last;
            // Excluded first: what is sent from now on is the socket's, and would come twice else.
            known.flows.insert(ends, Flow::Stands(None, number));
            family.exclude_known(&known);
            number
        };
        let begun = self.far_end(ends).and_then(|far| {
            let (flows, account) = (Arc::downgrade(self), self.account.clone());
            let at_first = Box::new(move || account.note(Deed::Connects(Kind::Datagram, ends.party), Ok(())));
            let at_end = Box::new(move |outcome: Result<(), Errno>| {
                if let Some(flows) = flows.upgrade() {
                    if outcome.is_err() {
                        flows.account.note(Deed::Connects(Kind::Datagram, ends.party), outcome);
                    }
                    flows.end(ends, number, outcome);
                    if outcome.is_err() && at_refusal == AtRefusal::Tell {
                        flows.tell_of_refusal(ends);
                    }
                }
            });
            self.conversation.flow(circle, ends.party, far.as_fd(), at_first, at_end)
        });
        match &begun {
            Ok(link) => {
                if let Some(Flow::Stands(place, last)) = lock(&family.known).flows.get_mut(&ends)
                    && *last == number
                {
                    *place = Some(link.clone());
                }
            }
            Err(errno) => {
                self.account.note(Deed::Connects(Kind::Datagram, ends.party), Err(*errno));
                self.end(ends, number, Err(*errno));
            }
        }
        begun
    }

    /// Nobody is at the party's address any more: the kernel says so to whoever sends there, as it is used to. The program has
    /// sent already, and may wait for an answer: one more goes there in its name.
    fn tell_of_refusal(&self, FlowEnds { program, party }: FlowEnds) {
        if let Ok(own) = self.land.of_party(program, Kind::Datagram) {
            let _told = socket2::SockRef::from(&own).send_to(&[], &party.into());
        }
    }

    /// A socket that is the party to the program's.
    fn far_end(&self, ends: FlowEnds) -> Result<OwnedFd, Errno> {
        let made = self.land.of_party(ends.party, Kind::Datagram)?;
        let connected = socket2::SockRef::from(&made).connect(&ends.program.into());
        connected.map_err(|error| errno(&error))?;
        Ok(made)
    }

    fn end(&self, ends: FlowEnds, number: u64, outcome: Result<(), Errno>) {
        let Some(family) = self.family(ends) else { return };
        let mut known = lock(&family.known);
        if !matches!(known.flows.get(&ends), Some(Flow::Stands(_, last)) if *last == number) {
            return;
        }
        match outcome {
            Ok(()) => known.flows.remove(&ends),
            Err(_) => known.flows.insert(ends, Flow::Failed(Instant::now())),
        };
        family.exclude_known(&known);
    }

    fn family(&self, ends: FlowEnds) -> Option<&Family> {
        self.families.iter().find(|family| family.captured.own.is_ipv4() == ends.party.is_ipv4())
    }
}

impl Known {
    fn make_room(&mut self) -> Result<(), Errno> {
        if self.flows.len() >= MOST {
            // Guests are found again when they are captured.
            self.flows.retain(|_, flow| matches!(flow, Flow::Stands(..)));
        }
        if self.flows.len() < MOST { Ok(()) } else { Err(Errno::ENOBUFS) }
    }
}

impl Family {
    fn leave_alone(&self, ends: FlowEnds) {
        let mut known = lock(&self.known);
        if known.make_room().is_ok() {
            known.flows.insert(ends, Flow::Guest);
            self.exclude_known(&known);
        }
    }

    /// What these flows carry is not captured.
    fn exclude_known(&self, known: &Known) {
        let standing = known.flows.iter().filter(|(_, flow)| !matches!(flow, Flow::Failed(_)));
        let program = capture::program(self.captured.own, standing.map(|(ends, _)| *ends));
        if let Err(errno) = raw::attach_filter(self.captured.packets.as_fd(), &program) {
            tracing::error!("datagrams to parties come twice: {errno}");
        }
    }
}
