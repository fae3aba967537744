//! The node's side of the conversation with a run.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    io::{self, ErrorKind},
    sync::Arc,
};

use phantom_policy::{
    Errno,
    frame::{FromNode, FromRun, LONGEST_NAME},
};
use phantom_protocol::address::ApName;
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};

use super::Run;
use crate::{
    doors::{
        CommandHandle,
        visitors::{Visit, Visitors, Visits},
    },
    frames::Incoming,
    program::{Handed, ProgramStream},
};

/// Frames that wait to be written.
const QUEUE: usize = 64;
/// The longest frame of a node: one with a name.
const LONGEST: usize = LONGEST_NAME + 64;
/// Datagrams of a flow that came before its socket stood.
const EARLY: usize = 32;
/// Flows of a run at once. One more takes the place of the oldest.
const FLOWS: usize = 256;

/// By which a node speaks to a run.
#[derive(Clone, Debug)]
pub(super) struct Voice(mpsc::Sender<Vec<u8>>);

impl Voice {
    /// Nobody hears it any more when the conversation has ended.
    pub(super) async fn say(&self, frame: FromNode<'_>) {
        let mut buffer = [0; LONGEST];
        if let Some(bytes) = frame.encode(&mut buffer) {
            let _heard = self.0.send(bytes.to_vec()).await;
        }
    }

    pub(super) async fn verdict(&self, id: u32, outcome: Result<(), Errno>) {
        self.say(FromNode::Verdict { id, outcome }).await;
    }
}

/// Does what a run asks for, until it has ended. What is carried for it ends with it.
pub(super) async fn converse<N: CommandHandle>(
    run: &Arc<Run<N>>,
    stream: UnixStream,
    visits: Option<Visits>,
) -> io::Result<()> {
    let (voice, said) = mpsc::channel(QUEUE);
    let voice = Voice(voice);
    let visitors = visits.as_ref().map(Visits::visitors);
    let mut asked = Asked {
        run,
        voice: voice.clone(),
        visitors,
        carried: JoinSet::new(),
        joins: HashMap::new(),
        flows: VecDeque::new(),
    };
    tokio::select! {
        ended = read(&stream, &mut asked) => ended,
        failed = write(&stream, said) => failed,
        () = announce(visits, &voice) => Ok(()),
    }
}

/// Says who comes.
async fn announce(visits: Option<Visits>, voice: &Voice) {
    let Some(mut visits) = visits else { return pending().await };
    while let Some(Visit { id, kind, port, address, alias }) = visits.next().await {
        voice.say(FromNode::Visit { id, kind, port, address, alias }).await;
    }
}

async fn read<N: CommandHandle>(stream: &UnixStream, asked: &mut Asked<'_, N>) -> io::Result<()> {
    let mut incoming = Incoming::<Handed>::default();
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || incoming.fill(stream)) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        while let Some((frame, descriptors)) = incoming.next()? {
            let frame = FromRun::decode(frame).ok_or(ErrorKind::InvalidData)?;
            asked.answer(frame, descriptors).await?;
        }
    }
}

async fn write(stream: &UnixStream, mut said: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(frame) = said.recv().await {
        let mut left = &frame[..];
        while !left.is_empty() {
            stream.writable().await?;
            match stream.try_write(left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// What a run has asked for.
struct Asked<'a, N> {
    run: &'a Arc<Run<N>>,
    voice: Voice,
    /// Who wants to come in, if anybody can.
    visitors: Option<Arc<Visitors>>,
    carried: JoinSet<()>,
    /// Who waits for the program's end of a connection.
    joins: HashMap<u32, oneshot::Sender<ProgramStream>>,
    /// The oldest first.
    flows: VecDeque<Carried>,
}

/// A flow that is carried.
struct Carried {
    id: u32,
    task: AbortHandle,
    /// For datagrams that come this way.
    early: mpsc::Sender<Vec<u8>>,
}

impl<N: CommandHandle> Asked<'_, N> {
    /// What a run hands over is what it says, or the conversation ends.
    async fn answer(&mut self, frame: FromRun<'_>, descriptors: &mut VecDeque<Handed>) -> io::Result<()> {
        while self.carried.try_join_next().is_some() {}
        let descriptor = if frame.has_descriptor() {
            Some(descriptors.pop_front().ok_or(ErrorKind::InvalidData)?)
        } else {
            None
        };
        match (frame, descriptor) {
            (FromRun::Open { id, circle, to }, _) => {
                let Some(place) = self.place(id).await else { return Ok(()) };
                let (run, voice) = (self.run.clone(), self.voice.clone());
                let (join, joined) = oneshot::channel();
                self.joins.retain(|_, join| !join.is_closed());
                self.joins.insert(id, join);
                self.carried.spawn(async move {
                    let _place = place;
                    run.carry(id, circle, to, joined, &voice).await;
                });
            }
            (FromRun::Joined { id, outcome }, program) => {
                let program = program.map(Handed::into_stream).transpose()?;
                if let (Some(join), Some(program), Ok(())) = (self.joins.remove(&id), program, outcome) {
                    let _too_late = join.send(program);
                }
            }
            (FromRun::Flow { id, circle, to }, Some(descriptor)) => {
                let socket = descriptor.into_datagrams()?;
                let Some(place) = self.place(id).await else { return Ok(()) };
                let (run, voice) = (self.run.clone(), self.voice.clone());
                let (early, came_early) = mpsc::channel(EARLY);
                self.make_room_for_flow().await;
                let task = self.carried.spawn(async move {
                    let _place = place;
                    run.carry_flow(socket, id, circle, to, came_early, &voice).await;
                });
                self.flows.push_back(Carried { id, task, early });
            }
            (FromRun::Datagram { id, bytes }, _) => {
                if let Some(flow) = self.flows.iter().rev().find(|flow| flow.id == id) {
                    let _lost = flow.early.try_send(bytes.to_vec());
                }
            }
            (FromRun::Name { id, name }, _) => {
                let found = name.parse::<ApName>().ok().map(|name| self.run.addresses_of(name));
                self.voice.say(FromNode::Named { id, found }).await;
            }
            (FromRun::Address { id, address }, _) => {
                let name = self.run.party(address).map(|found| found.name.to_string());
                self.voice.say(FromNode::Addressed { id, name: name.as_deref() }).await;
            }
            (FromRun::Visited { id, outcome }, socket) => {
                if let Some(visitors) = &self.visitors {
                    let answer = outcome.and_then(|()| socket.ok_or(Errno::ECONNREFUSED));
                    visitors.answer(id, answer);
                }
            }
            (FromRun::Flow { .. }, None) => return Err(ErrorKind::InvalidData.into()),
        }
        Ok(())
    }

    async fn make_room_for_flow(&mut self) {
        self.flows.retain(|flow| !flow.task.is_finished());
        while self.flows.len() >= FLOWS
            && let Some(oldest) = self.flows.pop_front()
        {
            oldest.task.abort();
            self.voice.say(FromNode::Ended { id: oldest.id }).await;
        }
    }

    /// Room for one more, or the verdict that there is none.
    async fn place(&mut self, id: u32) -> Option<[OwnedSemaphorePermit; 2]> {
        let own = self.run.connections.clone().try_acquire_owned();
        let common = self.run.runs.connections.clone().try_acquire_owned();
        match (own, common) {
            (Ok(own), Ok(common)) => Some([own, common]),
            _ => {
                self.voice.verdict(id, Err(Errno::EAGAIN)).await;
                None
            }
        }
    }
}
