//! Connections and flows of a run, from its handing over to their end.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use phantom_policy::{Errno, frame::FromNode};
use phantom_proxy::{Connection, Dial, DialError, Host, Request, ServiceError};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval_at, timeout},
};

use super::{Run, conversation::Voice};
use crate::{
    doors::{
        CommandHandle, Flow,
        held::Held,
        names::{Found, Hold},
        socks::{group, reason},
    },
    program::{ProgramDatagrams, ProgramStream},
};

/// A run whose connection a party has accepted has the program's socket within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// A flow that nothing goes through for so long, or twice as long at most, is over.
const IDLE: Duration = Duration::from_secs(5 * 60);

impl<N: CommandHandle> Run<N> {
    /// Carries a connection to a party: first to its verdict, then for the program's socket.
    pub(super) async fn carry(
        &self,
        id: u32,
        circle: u64,
        to: SocketAddr,
        joined: oneshot::Receiver<ProgramStream>,
        voice: &Voice,
    ) {
        match self.dial(circle, to).await {
            Ok(far) => {
                voice.verdict(id, Ok(())).await;
                match timeout(PATIENCE, joined).await {
                    Ok(Ok(program)) => phantom_proxy::carry(program, far).await,
                    // The program does not want it any more.
                    _ => far.reset(),
                }
            }
            Err(errno) => {
                drop(joined);
                voice.verdict(id, Err(errno)).await;
            }
        }
    }

    async fn dial(&self, circle: u64, to: SocketAddr) -> Result<impl Connection + use<N>, Errno> {
        let Found { name, hold } = self.known(to)?;
        let host = Host::Name(name.to_string());
        let request = Request { host, port: to.port(), isolation: self.isolation(circle) };
        let far = self.runs.dialler.dial(request).await.map_err(errno)?;
        Ok(Held::new(far, hold))
    }

    /// Carries datagrams to a party and back, first those that came early.
    pub(super) async fn carry_flow(
        &self,
        program: ProgramDatagrams,
        id: u32,
        circle: u64,
        to: SocketAddr,
        mut early: mpsc::Receiver<Vec<u8>>,
        voice: &Voice,
    ) {
        let Ok(first) = timeout(IDLE, first(&program, &mut early)).await else {
            drop(program);
            return voice.say(FromNode::Ended { id }).await;
        };
        let (program, is_used) = (Arc::new(program), Arc::new(AtomicBool::new(true)));
        match self.open_flow(circle, to, &program, &is_used).await {
            Ok((mut flow, _hold)) => {
                voice.verdict(id, Ok(())).await;
                if let Some(first) = first {
                    flow.send(&first);
                }
                pump(&program, flow, early, &is_used).await;
                drop(program);
                voice.say(FromNode::Ended { id }).await;
            }
            Err(errno) => {
                drop(program);
                voice.verdict(id, Err(errno)).await;
            }
        }
    }

    async fn open_flow(
        &self,
        circle: u64,
        to: SocketAddr,
        program: &Arc<ProgramDatagrams>,
        is_used: &Arc<AtomicBool>,
    ) -> Result<(N::Flow, Hold), Errno> {
        let Found { name, hold } = self.known(to)?;
        let (program, is_used) = (program.clone(), is_used.clone());
        let deliver = move |datagram: Vec<u8>| {
            is_used.store(true, Ordering::Relaxed);
            program.send(&datagram);
        };
        let group = group(&self.isolation(circle));
        let flow = self.runs.node.flow(&group, *name.public(), to.port(), Box::new(deliver)).await;
        flow.map(|flow| (flow, hold)).map_err(|error| errno(reason(&error)))
    }

    fn known(&self, to: SocketAddr) -> Result<Found, Errno> {
        self.party(to.ip()).ok_or(Errno::EHOSTUNREACH)
    }
}

/// Waits until there is something to carry, which is returned if it has come the other way.
async fn first(program: &ProgramDatagrams, early: &mut mpsc::Receiver<Vec<u8>>) -> Option<Vec<u8>> {
    tokio::select! {
        Some(datagram) = early.recv() => Some(datagram),
        _readable_or_over = program.readable() => None,
    }
}

async fn pump(
    program: &ProgramDatagrams,
    mut flow: impl Flow,
    mut early: mpsc::Receiver<Vec<u8>>,
    is_used: &AtomicBool,
) {
    let mut idle = interval_at(tokio::time::Instant::now() + IDLE, IDLE);
    idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = flow.ended() => return,
            Some(datagram) = early.recv() => flow.send(&datagram),
            readable = program.readable() => {
                let received = readable.and_then(|()| program.try_receive(|datagram| {
                    is_used.store(true, Ordering::Relaxed);
                    flow.send(datagram);
                }));
                match received {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return, // the program has closed its socket
                    _received_or_it_was_nothing => {}
                }
            }
            _ = idle.tick() => if !is_used.swap(false, Ordering::Relaxed) {
                return;
            },
        }
    }
}

/// What a program is told.
fn errno(error: DialError) -> Errno {
    match error {
        DialError::Refused => Errno::ECONNREFUSED,
        DialError::TimedOut | DialError::Service(ServiceError::IntroductionTimedOut) => Errno::ETIMEDOUT,
        DialError::NetworkUnreachable => Errno::ENETUNREACH,
        DialError::NotAllowed
        | DialError::Service(ServiceError::AuthorizationMissing | ServiceError::AuthorizationWrong) => {
            Errno::EACCES
        }
        DialError::Failed => Errno::ECONNRESET,
        _ => Errno::EHOSTUNREACH,
    }
}
