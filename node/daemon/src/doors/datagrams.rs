//! UDP ASSOCIATE through the network: one flow for each far end that a program sends to (PROTOCOL §6.9, §8).
//!
//! A flow is opened by the first datagram; what follows waits until it stands, as long as there is room. Far ends that
//! lead nowhere swallow what is sent to them: UDP has no way to say so, the log does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use phantom_proxy::{Datagram, Datagrams, Host};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};
use tracing::info;

use super::{
    Flow, NodeHandle,
    names::{Found, Hold, Names},
    socks::party,
};

/// Datagrams between the proxy and the flows, in each direction.
const QUEUE: usize = 64;
/// Far ends of one association. One more takes the place of the one that was used longest ago.
const FAR_ENDS: usize = 64;
/// Bytes of one association that wait for flows to stand, each datagram with [`OVERHEAD`].
const WAITING: usize = 512 << 10;
const OVERHEAD: usize = 256;
/// A far end that could not be reached is not tried again before this.
const RETRY: Duration = Duration::from_secs(2);

/// What a program sends, with its share of [`WAITING`].
type Waiting = (Vec<u8>, OwnedSemaphorePermit);

/// The datagrams of one program.
pub(super) struct Association<N> {
    pub(super) node: Arc<N>,
    pub(super) names: Arc<Names>,
    pub(super) group: String,
}

impl<N: NodeHandle> Association<N> {
    /// Carries datagrams until the program has gone.
    pub(super) fn start(self) -> Datagrams {
        let (near, far) = Datagrams::pair(QUEUE);
        tokio::spawn(self.carry(far));
        near
    }

    async fn carry(self, mut program: Datagrams) {
        let (room, shared) = (Arc::new(Semaphore::new(WAITING)), Arc::new(self));
        let mut far_ends = FarEnds::default();
        let mut flows = JoinSet::new();
        loop {
            let Datagram { host, port, data } = tokio::select! {
                datagram = program.incoming.recv() => match datagram {
                    Some(datagram) => datagram,
                    None => return,
                },
                Some(_) = flows.join_next() => continue,
            };
            let share = u32::try_from(data.len() + OVERHEAD).unwrap_or(u32::MAX);
            let Ok(permit) = room.clone().try_acquire_many_owned(share) else { continue };
            let queue = far_ends.queue((host, port), |(host, port), waiting| {
                let (shared, answers) = (shared.clone(), program.outgoing.clone());
                flows.spawn(async move { shared.flow(host, port, waiting, answers).await });
            });
            let _lost = queue.send((data, permit));
        }
    }

    /// One flow, from its first datagram to its end.
    async fn flow(
        &self,
        host: Host,
        port: u16,
        mut waiting: mpsc::UnboundedReceiver<Waiting>,
        answers: mpsc::Sender<Datagram>,
    ) {
        let Some((mut flow, _hold)) = self.open(host, port, answers).await else { return sleep(RETRY).await };
        loop {
            tokio::select! {
                () = flow.ended() => return,
                datagram = waiting.recv() => match datagram {
                    Some((data, _until_sent)) => flow.send(&data),
                    None => return,
                },
            }
        }
    }

    async fn open(&self, host: Host, port: u16, answers: mpsc::Sender<Datagram>) -> Option<(N::Flow, Hold)> {
        let Found { name, hold } = party(&host, &self.group, &self.names).ok()?;
        let deliver = move |data| {
            let _lost = answers.try_send(Datagram { host: host.clone(), port, data });
        };
        match self.node.flow(&self.group, *name.public(), port, Box::new(deliver)).await {
            Ok(flow) => Some((flow, hold)),
            Err(error) => {
                info!("the datagrams of a program are not carried: {error}");
                None
            }
        }
    }
}

/// The queues towards flows. Dropping a queue ends its flow; a flow that has ended has closed its queue.
#[derive(Default)]
struct FarEnds {
    queues: BTreeMap<(Host, u16), FarEnd>,
    /// Counts datagrams.
    clock: u64,
}

struct FarEnd {
    queue: mpsc::UnboundedSender<Waiting>,
    used: u64,
}

impl FarEnds {
    /// The queue to a far end; `open` begins a flow if there is none.
    fn queue(
        &mut self,
        to: (Host, u16),
        open: impl FnOnce((Host, u16), mpsc::UnboundedReceiver<Waiting>),
    ) -> mpsc::UnboundedSender<Waiting> {
        self.clock += 1;
        if let Some(known) = self.queues.get_mut(&to)
            && !known.queue.is_closed()
        {
            known.used = self.clock;
            return known.queue.clone();
        }
        self.make_room();
        let (queue, waiting) = mpsc::unbounded_channel();
        self.queues.insert(to.clone(), FarEnd { queue: queue.clone(), used: self.clock });
        open(to, waiting);
        queue
    }

    fn make_room(&mut self) {
        if self.queues.len() < FAR_ENDS {
            return;
        }
        self.queues.retain(|_, end| !end.queue.is_closed());
        if self.queues.len() >= FAR_ENDS
            && let Some(oldest) = self.queues.iter().min_by_key(|(_, end)| end.used).map(|(to, _)| to.clone())
        {
            self.queues.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, io, sync::Mutex};

    use phantom_protocol::{
        address::ApName,
        identity::{ApPublic, ApSecret},
    };
    use tokio::{net::TcpStream, sync::oneshot, time::timeout};

    use super::*;
    use crate::{
        doors::{HostRequest, Hosted, Status},
        session::Deliver,
    };

    /// Answers every datagram with group, port and what came; the port 9 does not answer, 7 cannot be reached.
    #[derive(Default)]
    struct EchoNode {
        opened: Mutex<Vec<u16>>,
        ended: Arc<Mutex<Vec<u16>>>,
        /// Flows end when this is dropped.
        ending: Mutex<Option<oneshot::Sender<()>>>,
    }

    struct Echo {
        answer: Deliver,
        prefix: String,
        port: u16,
        ended: Arc<Mutex<Vec<u16>>>,
        ending: Option<oneshot::Receiver<()>>,
    }

    impl Flow for Echo {
        fn send(&mut self, data: &[u8]) {
            if self.port != 9 {
                (self.answer)([self.prefix.as_bytes(), data].concat());
            }
        }

        async fn ended(&mut self) {
            match &mut self.ending {
                Some(ending) => _ = ending.await,
                None => pending().await,
            }
        }
    }

    impl Drop for Echo {
        fn drop(&mut self) {
            self.ended.lock().unwrap().push(self.port);
        }
    }

    impl NodeHandle for EchoNode {
        type Stream = TcpStream;
        type Flow = Echo;

        async fn connect(&self, _: &str, _: ApPublic, _: u16) -> io::Result<TcpStream> {
            Err(io::ErrorKind::ConnectionRefused.into())
        }

        fn out_proxy(&self) -> Option<ApPublic> {
            None
        }

        async fn meet(
            &self,
            _: &str,
            _: Option<phantom_protocol::address::ApAddress>,
            _: u16,
        ) -> io::Result<crate::doors::Awaited<TcpStream>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        async fn go_out(
            &self,
            _: &str,
            _: phantom_protocol::wire::outward::Outside,
            _: u16,
        ) -> io::Result<TcpStream> {
            Err(io::ErrorKind::PermissionDenied.into())
        }

        async fn flow(&self, group: &str, _: ApPublic, port: u16, answer: Deliver) -> io::Result<Echo> {
            self.opened.lock().unwrap().push(port);
            if port == 7 {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            let (keep, ending) = oneshot::channel();
            let ending = (port == 8).then(|| {
                *self.ending.lock().unwrap() = Some(keep);
                ending
            });
            Ok(Echo { answer, prefix: format!("{group} {port} "), port, ended: self.ended.clone(), ending })
        }

        async fn host(&self, _: HostRequest) -> anyhow::Result<Hosted> {
            anyhow::bail!("not here")
        }

        async fn unhost(&self, _: &str) -> anyhow::Result<()> {
            Ok(())
        }

        async fn status(&self) -> Status {
            Status::default()
        }
    }

    fn program(node: &Arc<EchoNode>) -> Datagrams {
        let names = Arc::new(Names::default());
        Association { node: node.clone(), names, group: "g".into() }.start()
    }

    fn name() -> String {
        ApName::of(&ApSecret::from_bytes(&[7; 32]).public()).to_string()
    }

    async fn send(program: &Datagrams, host: &str, port: u16, data: &[u8]) {
        let host = Host::parse(host).unwrap();
        assert!(program.outgoing.send(Datagram { host, port, data: data.to_vec() }).await.is_ok());
    }

    async fn hear(program: &mut Datagrams) -> Datagram {
        timeout(Duration::from_secs(5), program.incoming.recv()).await.unwrap().unwrap()
    }

    /// Waits until so many flows have ended.
    async fn until_ended(node: &EchoNode, count: usize) {
        let ended = async {
            while node.ended.lock().unwrap().len() < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), ended).await.unwrap();
    }

    #[tokio::test]
    async fn each_far_end_has_one_flow_and_answers_say_whose_they_are() {
        let node = Arc::new(EchoNode::default());
        let mut program = program(&node);
        for port in [1, 2, 1] {
            send(&program, &name(), port, b"x").await;
            let Datagram { host, port: from, data } = hear(&mut program).await;
            assert!(host == Host::Name(name()) && from == port);
            assert_eq!(data, format!("g {port} x").into_bytes());
        }
        assert_eq!(*node.opened.lock().unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn what_is_outside_opens_no_flow() {
        let node = Arc::new(EchoNode::default());
        let mut program = program(&node);
        for host in ["example.com", "8.8.8.8", "fc00::1", "short.ap"] {
            send(&program, host, 53, b"x").await;
        }
        send(&program, &name(), 1, b"inside").await;
        assert_eq!(hear(&mut program).await.data, b"g 1 inside");
        assert_eq!(*node.opened.lock().unwrap(), [1]);
    }

    #[tokio::test]
    async fn a_far_end_that_cannot_be_reached_is_tried_again_but_not_for_every_datagram() {
        let node = Arc::new(EchoNode::default());
        let program = program(&node);
        let start = tokio::time::Instant::now();
        while node.opened.lock().unwrap().len() < 2 {
            send(&program, &name(), 7, b"x").await;
            sleep(RETRY / 100).await;
        }
        assert!(start.elapsed() >= RETRY, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_flow_that_ended_is_followed_by_another() {
        let node = Arc::new(EchoNode::default());
        let mut program = program(&node);
        for round in 1..=2 {
            send(&program, &name(), 8, b"x").await;
            hear(&mut program).await;
            node.ending.lock().unwrap().take();
            until_ended(&node, round).await;
        }
        assert_eq!(*node.opened.lock().unwrap(), [8, 8]);
    }

    #[tokio::test]
    async fn the_far_end_that_was_used_longest_ago_makes_room() {
        let node = Arc::new(EchoNode::default());
        let mut program = program(&node);
        for port in (100..).take(FAR_ENDS).chain([100, 999]) {
            send(&program, &name(), port, b"x").await;
            hear(&mut program).await;
        }
        until_ended(&node, 1).await;
        assert_eq!(*node.ended.lock().unwrap(), [101]);
    }

    #[tokio::test]
    async fn all_flows_end_with_the_program() {
        let node = Arc::new(EchoNode::default());
        let mut program = program(&node);
        for port in [1, 2] {
            send(&program, &name(), port, b"x").await;
            hear(&mut program).await;
        }
        drop(program);
        until_ended(&node, 2).await;
    }
}
