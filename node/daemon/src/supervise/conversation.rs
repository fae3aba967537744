//! The run's side of the conversation with its node.
//!
//! If the node ends, so does the conversation, and all that was under way is unreachable. It is made again when somebody has
//! something to say, if a node answers.

mod link;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, OnceLock, mpsc::sync_channel},
    thread,
    time::Duration,
};

use link::{Ask, Link, Waiter};
use nix::errno::Errno;
use phantom_policy::frame::FromRun;

use super::{lock, visits::Visit};

/// Before a node is looked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// Begins a run at the node, once more.
pub type Again = Box<dyn Fn() -> io::Result<UnixStream> + Send + Sync>;
/// What is done when a flow's first datagram is on its way.
pub(super) type AtFirst = Box<dyn FnOnce() + Send>;
/// What is done at a verdict: the node waits for the program's end of what was accepted.
pub(super) type AtVerdict = Box<dyn FnOnce(Result<Accepted, Errno>) + Send>;
/// What is done at the end of a flow, for which an error is one that never stood.
pub(super) type AtEnd = Box<dyn FnOnce(Result<(), Errno>) + Send>;
/// An AP address, and what stands for it in IPv4.
pub type Addresses = (Ipv6Addr, Option<Ipv4Addr>);

/// With the node, as long as the run goes on.
pub struct Conversation {
    again: Again,
    link: Mutex<Option<Arc<Link>>>,
    reception: Arc<Reception>,
}

/// Who makes sockets for those who come to the run. Until there is somebody, all are turned away.
type Reception = OnceLock<AtVisit>;
/// Blocks as long as a server takes to have room for one more.
pub(super) type AtVisit = Box<dyn Fn(Visit) -> Result<OwnedFd, Errno> + Send + Sync>;

impl Conversation {
    /// Goes on with a run that was begun over this stream.
    pub fn new(begun: UnixStream, again: Again) -> io::Result<Conversation> {
        let reception = Arc::<Reception>::default();
        let link = Link::over(begun, reception.clone())?;
        Ok(Conversation { again, link: Mutex::new(Some(link)), reception })
    }

    /// Begins again whenever the node has ended and another one answers. Without it that happens when somebody asks for
    /// something, which a server may never do.
    pub fn keep_up(self: &Arc<Self>) -> io::Result<()> {
        let kept = Arc::downgrade(self);
        let keep = move || {
            while let Some(conversation) = kept.upgrade() {
                let link = conversation.link();
                drop(conversation);
                match link {
                    Ok(link) => link.wait_until_ended(),
                    Err(_) => thread::sleep(PAUSE),
                }
            }
        };
        thread::Builder::new().name("keep up".to_owned()).spawn(keep).map(drop)
    }

    /// From now on this makes sockets for those who come.
    pub(super) fn receive_visitors(&self, at_visit: AtVisit) {
        let _only_once = self.reception.set(at_visit);
    }

    /// Has a connection carried to a party. If this returns an error, nothing comes of it.
    pub(super) fn open(&self, circle: u64, to: SocketAddr, at_verdict: AtVerdict) -> Result<(), Errno> {
        self.ask(Ask::Open { circle, to }, None, Waiter::Verdict(at_verdict)).map(drop)
    }

    /// Hands a flow over, to be carried to a party. If this returns an error, nothing comes of it.
    pub(super) fn flow(
        &self,
        circle: u64,
        to: SocketAddr,
        far: BorrowedFd<'_>,
        at_first: AtFirst,
        at_end: AtEnd,
    ) -> Result<FlowLink, Errno> {
        let waiter = Waiter::Flow { at_first: Some(at_first), at_end };
        let (link, id) = self.ask(Ask::Flow { circle, to }, Some(far), waiter)?;
        Ok(FlowLink { link, id })
    }

    /// The addresses of a name. Nothing if there is no such name.
    pub fn addresses_of(&self, name: &str) -> Result<Option<Addresses>, Errno> {
        let (answer, answered) = sync_channel(1);
        self.ask(Ask::Name(name), None, Waiter::Named(answer))?;
        answered.recv().map_err(|_| Errno::ENETUNREACH)
    }

    /// The name of an address that the run has asked for.
    pub fn name_of(&self, address: IpAddr) -> Result<Option<String>, Errno> {
        let (answer, answered) = sync_channel(1);
        self.ask(Ask::Address(address), None, Waiter::Addressed(answer))?;
        answered.recv().map_err(|_| Errno::ENETUNREACH)
    }

    fn ask(
        &self,
        ask: Ask<'_>,
        with: Option<BorrowedFd<'_>>,
        waiter: Waiter,
    ) -> Result<(Arc<Link>, u32), Errno> {
        let mut waiter = waiter;
        // That the node has gone may show only when something is said.
        for _ in 0..2 {
            let link = self.link().map_err(|_| Errno::ENETUNREACH)?;
            match link.ask(ask, with, waiter) {
                Ok(id) => return Ok((link, id)),
                Err(unheard) => waiter = unheard,
            }
        }
        Err(Errno::ENETUNREACH)
    }

    /// The link that stands, or another one.
    fn link(&self) -> io::Result<Arc<Link>> {
        let mut link = lock(&self.link);
        if let Some(link) = link.as_ref().filter(|link| link.stands()) {
            return Ok(link.clone());
        }
        let fresh = Link::over((self.again)()?, self.reception.clone())?;
        *link = Some(fresh.clone());
        Ok(fresh)
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Conversation")
    }
}

/// A connection that a party has accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    link: Arc<Link>,
    id: u32,
}

impl Accepted {
    /// Hands the other end of the program's socket over, or says that there is none.
    pub(super) fn joined(self, end: Result<OwnedFd, Errno>) {
        self.link.join(self.id, end);
    }
}

/// A flow that the node has.
#[derive(Clone, Debug)]
pub(super) struct FlowLink {
    link: Arc<Link>,
    id: u32,
}

impl FlowLink {
    /// Whether the node is still there.
    pub(super) fn stands(&self) -> bool {
        self.link.stands()
    }

    /// Sends a datagram that came before the flow's socket stood.
    pub(super) fn send(&self, bytes: &[u8]) {
        let _lost = self.link.say(FromRun::Datagram { id: self.id, bytes }, None);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::{ErrorKind, Write},
        sync::mpsc::{Receiver, channel},
    };

    use phantom_policy::{Errno as Told, frame::FromNode, socket::Kind};

    use super::*;
    use crate::frames::Incoming;

    /// A run whose node is played by the test: the streams that it makes.
    fn run() -> (Conversation, Receiver<UnixStream>) {
        let (made, nodes) = channel();
        let again = move || {
            let (run, node) = UnixStream::pair()?;
            made.send(node).map_err(|_| io::Error::from(ErrorKind::ConnectionRefused))?;
            Ok(run)
        };
        (Conversation::new(again().unwrap(), Box::new(again)).unwrap(), nodes)
    }

    /// The next frame that a run says, as its id, whether it is about a name, and its descriptors.
    fn heard(node: &UnixStream, incoming: &mut Incoming) -> (u32, bool, VecDeque<OwnedFd>) {
        loop {
            if let Some((frame, descriptors)) = incoming.next().unwrap() {
                return match FromRun::decode(frame).unwrap() {
                    FromRun::Open { id, .. } => (id, false, VecDeque::new()),
                    FromRun::Joined { id, outcome: Ok(()) } => (id, false, std::mem::take(descriptors)),
                    FromRun::Name { id, .. } => (id, true, VecDeque::new()),
                    other => panic!("{other:?}"),
                };
            }
            assert!(incoming.fill(node).unwrap());
        }
    }

    fn say(mut node: &UnixStream, frame: FromNode<'_>) {
        node.write_all(frame.encode(&mut [0; 256]).unwrap()).unwrap();
    }

    fn open(run: &Conversation) -> (Result<(), Errno>, Receiver<Result<(), Errno>>) {
        let (told, verdict) = channel();
        let at_verdict = Box::new(move |outcome: Result<Accepted, Errno>| {
            let joined = outcome.map(|accepted| accepted.joined(Ok(UnixStream::pair().unwrap().0.into())));
            told.send(joined).unwrap();
        });
        (run.open(0, "[fc00::1]:80".parse().unwrap(), at_verdict), verdict)
    }

    #[test]
    fn a_node_that_waits_to_be_heard_is_heard() {
        const MANY: usize = 200;
        let (run, nodes) = run();
        let node = nodes.recv().unwrap();
        let verdicts: Vec<_> = (0..MANY).map(|_| open(&run).1).collect();
        // It reads nothing, so there is no room for all that is to be handed over.
        (1..=MANY as u32).for_each(|id| say(&node, FromNode::Verdict { id, outcome: Ok(()) }));
        for verdict in &verdicts {
            assert_eq!(verdict.recv_timeout(Duration::from_secs(3)), Ok(Ok(())));
        }
        let mut incoming = Incoming::new();
        let mut joined = 0;
        while joined < MANY {
            let (_, _, descriptors) = heard(&node, &mut incoming);
            joined += descriptors.len();
        }
        assert!(run.link().unwrap().stands());
    }

    #[test]
    fn answers_find_whoever_asked_in_any_order() {
        let (run, nodes) = run();
        let (node, mut incoming) = (nodes.recv().unwrap(), Incoming::new());
        let opened = [open(&run).1, open(&run).1];
        let (first, _, descriptors) = heard(&node, &mut incoming);
        let (second, ..) = heard(&node, &mut incoming);
        assert!(descriptors.is_empty() && first != second);
        say(&node, FromNode::Verdict { id: second, outcome: Err(Told::ECONNREFUSED) });
        say(&node, FromNode::Verdict { id: first, outcome: Ok(()) });
        assert_eq!(opened[0].recv().unwrap(), Ok(()));
        let (joined, _, descriptors) = heard(&node, &mut incoming);
        assert_eq!((joined, descriptors.len()), (first, 1));
        assert_eq!(opened[1].recv().unwrap(), Err(Errno::ECONNREFUSED));
        thread::scope(|scope| {
            let asking = scope.spawn(|| run.addresses_of("x.ap"));
            let (id, is_name, _) = heard(&node, &mut incoming);
            assert!(is_name);
            let found = ("fc00::2".parse().unwrap(), None);
            say(&node, FromNode::Named { id, found: Some(found) });
            assert_eq!(asking.join().unwrap(), Ok(Some(found)));
        });
    }

    #[test]
    fn what_is_under_way_is_unreachable_when_the_node_ends_and_the_next_call_finds_another_one() {
        let (run, nodes) = run();
        let (_, verdict) = open(&run);
        let node = nodes.recv().unwrap();
        heard(&node, &mut Incoming::new());
        drop(node);
        assert_eq!(verdict.recv().unwrap(), Err(Errno::ENETUNREACH));
        let (done, verdict) = open(&run);
        assert_eq!(done, Ok(()));
        let node = nodes.recv().unwrap();
        let (id, ..) = heard(&node, &mut Incoming::new());
        say(&node, FromNode::Verdict { id, outcome: Ok(()) });
        assert_eq!(verdict.recv().unwrap(), Ok(()));
        // And if there is none, it is told at once.
        drop((node, nodes));
        loop {
            match open(&run) {
                (Err(Errno::ENETUNREACH), _) => break,
                // It has not noticed yet.
                (Ok(()), verdict) => assert_eq!(verdict.recv().unwrap(), Err(Errno::ENETUNREACH)),
                (other, _) => panic!("{other:?}"),
            }
        }
        assert_eq!(run.addresses_of("x.ap"), Err(Errno::ENETUNREACH));
    }

    fn visit(port: u16) -> FromNode<'static> {
        let (address, alias) = ("fc00::1".parse().unwrap(), Ipv4Addr::new(127, 224, 0, 2));
        FromNode::Visit { id: port.into(), kind: Kind::Stream, port, address, alias }
    }

    /// What is said to so many visits, by port, and how many sockets came.
    fn visited(
        node: &UnixStream,
        incoming: &mut Incoming,
        count: usize,
    ) -> Vec<(u32, Result<(), Told>, usize)> {
        let mut all = Vec::new();
        while all.len() < count {
            match incoming.next().unwrap() {
                Some((frame, descriptors)) => {
                    let Some(FromRun::Visited { id, outcome }) = FromRun::decode(frame) else { panic!() };
                    let descriptor = outcome.is_ok().then(|| descriptors.pop_front().unwrap());
                    all.push((id, outcome, descriptor.iter().count()));
                }
                None => assert!(incoming.fill(node).unwrap()),
            }
        }
        all.sort_by_key(|(id, ..)| *id);
        all
    }

    #[test]
    fn a_visitor_gets_a_socket_and_one_that_waits_keeps_nobody_else_waiting() {
        let (run, nodes) = run();
        let (node, mut incoming) = (nodes.recv().unwrap(), Incoming::new());
        say(&node, visit(1));
        let refused = Err(Told::ECONNREFUSED);
        assert_eq!(visited(&node, &mut incoming, 1), [(1, refused, 0)], "there is nobody yet");
        let (release, held) = channel::<()>();
        let held = Mutex::new(held);
        run.receive_visitors(Box::new(move |visit| match visit.port {
            2 => {
                let _released = lock(&held).recv();
                Ok(UnixStream::pair().unwrap().0.into())
            }
            3 => Ok(UnixStream::pair().unwrap().0.into()),
            _ => Err(Errno::EACCES),
        }));
        for port in 2..=4 {
            say(&node, visit(port));
        }
        assert_eq!(visited(&node, &mut incoming, 2), [(3, Ok(()), 1), (4, Err(Told::EACCES), 0)]);
        release.send(()).unwrap();
        assert_eq!(visited(&node, &mut incoming, 1), [(2, Ok(()), 1)]);
    }

    #[test]
    fn who_is_published_looks_for_another_node_unasked() {
        let (run, nodes) = run();
        let run = Arc::new(run);
        run.keep_up().unwrap();
        for _ in 0..3 {
            drop(nodes.recv_timeout(Duration::from_secs(20)).unwrap());
        }
        let node = nodes.recv_timeout(Duration::from_secs(20)).unwrap();
        say(&node, visit(1));
        assert_eq!(visited(&node, &mut Incoming::new(), 1).len(), 1);
    }
}
