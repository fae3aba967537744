//! The door for runs: programs under `phantom run`, whose own sockets come in here (`phantom_policy::door`).
//!
//! A run is begun over the local socket, which knows who asks, and ends when that conversation does. Its token is its
//! isolation group's secret: programs of a run share names, paths and sessions with nobody else.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use phantom_policy::{
    Errno,
    door::{Ask, OPENING, Opening, TOKEN, WORD, Word},
};
use phantom_protocol::address::ApName;
use phantom_proxy::{Dial, DialError, Host, Isolation, Request, ServiceError, carry};
use rand::RngExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    task::AbortHandle,
    time::timeout,
};

use super::{Names, has_no_ipv6, socks::group};
use crate::daemon::fresh_rng;

/// Runs at once.
const RUNS: usize = 1_024;
/// Connections of all runs, and of one.
const CONNECTIONS: usize = 8_192;
const OF_A_RUN: usize = 2_048;
/// Those that have not said yet of which run they are; one more takes the place of the oldest.
const UNKNOWN: usize = 256;
/// Who comes says what it wants within this.
const OPENING_TIME: Duration = Duration::from_secs(10);
/// Outcomes that are kept for a run to ask for; the oldest make room.
const OUTCOMES: usize = 1_024;

/// The runs of a node.
#[derive(Debug)]
pub struct Runs {
    names: Arc<Names>,
    address: Mutex<Option<SocketAddr>>,
    runs: Mutex<HashMap<[u8; TOKEN], Arc<Run>>>,
}

/// One run.
#[derive(Debug)]
struct Run {
    group: Isolation,
    padded: Mutex<Padded>,
    changed: Notify,
    places: Semaphore,
}

/// Connects that nobody waits for, by where they come from.
#[derive(Debug, Default)]
struct Padded {
    by_place: BTreeMap<SocketAddr, State>,
    by_age: VecDeque<SocketAddr>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    padding: Option<u64>,
    outcome: Option<u8>,
}

/// A run that goes on as long as this lives.
#[derive(Debug)]
pub struct RunHandle {
    runs: Arc<Runs>,
    token: [u8; TOKEN],
    /// Where its connections come in.
    pub door: SocketAddr,
}

impl RunHandle {
    /// What admits it.
    pub fn token(&self) -> &[u8; TOKEN] {
        &self.token
    }

    /// The AP address and the local alias of a name.
    pub fn addresses_of(&self, name: ApName) -> (Ipv6Addr, Option<Ipv4Addr>) {
        let group = self.group();
        (self.runs.names.remember(&group, name), self.runs.names.alias(&group, name))
    }

    /// The name of an address that this run has asked for.
    pub fn name_of(&self, address: IpAddr) -> Option<ApName> {
        self.runs.names.find(&self.group(), address).map(|found| found.name)
    }

    fn group(&self) -> String {
        group(&isolation(&self.token))
    }
}

impl Drop for RunHandle {
    fn drop(&mut self) {
        lock(&self.runs.runs).remove(&self.token);
    }
}

impl Runs {
    /// None yet.
    pub fn new(names: Arc<Names>) -> Runs {
        Runs { names, address: Mutex::default(), runs: Mutex::default() }
    }

    /// Begins a run.
    pub fn begin(self: &Arc<Runs>) -> anyhow::Result<RunHandle> {
        let door = lock(&self.address).ok_or_else(|| anyhow::anyhow!("this node serves no programs"))?;
        let token: [u8; TOKEN] = fresh_rng()?.random();
        let run = Run {
            group: isolation(&token),
            padded: Mutex::default(),
            changed: Notify::new(),
            places: Semaphore::new(OF_A_RUN),
        };
        let mut runs = lock(&self.runs);
        anyhow::ensure!(runs.len() < RUNS, "{RUNS} programs run already: end some first");
        runs.insert(token, Arc::new(run));
        drop(runs);
        Ok(RunHandle { runs: self.clone(), token, door })
    }

    /// Serves runs until the future is dropped.
    pub async fn serve(self: Arc<Runs>, door: RunsDoor, dialler: Arc<impl Dial>) {
        *lock(&self.address) = door.v4.local_addr().ok();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut unknown = Unknown::default();
        loop {
            let accepted = tokio::select! {
                accepted = door.v4.accept() => accepted,
                accepted = accept(door.v6.as_ref()) => accepted,
            };
            let Ok((stream, from)) = accepted else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (runs, dialler, is_known) = (self.clone(), dialler.clone(), Arc::<AtomicBool>::default());
            let known = is_known.clone();
            let task = tokio::spawn(async move {
                let _place = place;
                let _nobody_is_told = runs.serve_one(stream, from, &*dialler, &known).await;
            });
            unknown.enter(is_known, task.abort_handle());
        }
    }

    async fn serve_one(
        &self,
        mut stream: TcpStream,
        from: SocketAddr,
        dialler: &impl Dial,
        is_known: &AtomicBool,
    ) -> io::Result<()> {
        let mut opening = [0; OPENING];
        timeout(OPENING_TIME, stream.read_exact(&mut opening)).await??;
        let Some(Opening { token, ask }) = Opening::decode(&opening) else { return Ok(()) };
        // Bound first: the guard of the map must not live on while somebody waits.
        let run = lock(&self.runs).get(&token).cloned();
        let Some(run) = run else { return Ok(()) };
        is_known.store(true, Ordering::Relaxed);
        let Ok(_place) = run.places.try_acquire() else { return Ok(()) };
        let _only_slower_without = stream.set_nodelay(true);
        match ask {
            Ask::Carry(to) => run.carry(stream, to, dialler).await,
            Ask::CarryPadded(to) => run.carry_padded(stream, canonical(from), to, dialler).await,
            Ask::Control => run.answer(stream).await,
        }
    }
}

impl Run {
    async fn carry(&self, mut stream: TcpStream, to: SocketAddr, dialler: &impl Dial) -> io::Result<()> {
        match self.dial(to, dialler).await {
            Ok(far) => {
                stream.write_all(&[0]).await?;
                carry(stream, far).await;
                Ok(())
            }
            Err(errno) => stream.write_all(&[errno]).await,
        }
    }

    async fn carry_padded(
        &self,
        mut stream: TcpStream,
        from: SocketAddr,
        to: SocketAddr,
        dialler: &impl Dial,
    ) -> io::Result<()> {
        self.note(from, |state| state.outcome = None);
        let dialled = self.dial(to, dialler).await;
        self.note(from, |state| state.outcome = Some(dialled.as_ref().err().copied().unwrap_or(0)));
        // Also if nobody needs it: a later connection may come from the same place.
        let padding = timeout(OPENING_TIME, self.padding(from)).await?;
        let Ok(far) = dialled else {
            phantom_proxy::Connection::reset(stream);
            return Ok(());
        };
        let mut padding = (&mut stream).take(padding);
        tokio::io::copy(&mut padding, &mut tokio::io::sink()).await?;
        carry(stream, far).await;
        Ok(())
    }

    async fn dial<D: Dial>(&self, to: SocketAddr, dialler: &D) -> Result<D::Connection, u8> {
        let request = Request { host: Host::Ip(to.ip()), port: to.port(), isolation: self.group.clone() };
        dialler.dial(request).await.map_err(errno)
    }

    async fn padding(&self, from: SocketAddr) -> u64 {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(padding) =
                lock(&self.padded).by_place.get_mut(&from).and_then(|state| state.padding.take())
            {
                return padding;
            }
            changed.await;
        }
    }

    /// Answers the words of a control connection.
    async fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut word = [0; WORD];
            stream.read_exact(&mut word).await?;
            let answer = match Word::decode(&word) {
                Some(Word::Padded(from, padding)) => {
                    self.note(from, |state| state.padding = Some(padding));
                    self.changed.notify_waiters();
                    0
                }
                Some(Word::Why(from)) => {
                    let known = lock(&self.padded).by_place.get(&from).copied();
                    known.unwrap_or_default().outcome.unwrap_or(Errno::EINPROGRESS.0)
                }
                None => return Ok(()),
            };
            stream.write_all(&[answer]).await?;
        }
    }

    fn note(&self, from: SocketAddr, change: impl FnOnce(&mut State)) {
        lock(&self.padded).note(from, change);
    }
}

impl Padded {
    fn note(&mut self, from: SocketAddr, change: impl FnOnce(&mut State)) {
        if !self.by_place.contains_key(&from) {
            self.by_age.push_back(from);
            if self.by_age.len() > OUTCOMES
                && let Some(oldest) = self.by_age.pop_front()
            {
                self.by_place.remove(&oldest);
            }
        }
        change(self.by_place.entry(from).or_default());
    }
}

/// Connections that have not said of which run they are, the oldest first.
#[derive(Default)]
struct Unknown(VecDeque<(Arc<AtomicBool>, AbortHandle)>);

impl Unknown {
    fn enter(&mut self, is_known: Arc<AtomicBool>, task: AbortHandle) {
        self.0.retain(|(is_known, task)| !is_known.load(Ordering::Relaxed) && !task.is_finished());
        if self.0.len() >= UNKNOWN
            && let Some((_, oldest)) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back((is_known, task));
    }
}

/// The door of runs, open but not yet served: one port, over IPv4, and IPv6 where the machine has it.
#[derive(Debug)]
pub struct RunsDoor {
    v4: TcpListener,
    v6: Option<TcpListener>,
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => pending().await,
    }
}

impl RunsDoor {
    /// Takes a port that is free for both.
    pub async fn bind() -> io::Result<RunsDoor> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..16 {
            let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            match TcpListener::bind((Ipv6Addr::LOCALHOST, v4.local_addr()?.port())).await {
                Ok(v6) => return Ok(RunsDoor { v4, v6: Some(v6) }),
                Err(error) if has_no_ipv6(&error) => return Ok(RunsDoor { v4, v6: None }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn isolation(token: &[u8; TOKEN]) -> Isolation {
    Isolation::Credentials { user: b"phantom run".to_vec(), password: token.to_vec() }
}

fn canonical(place: SocketAddr) -> SocketAddr {
    SocketAddr::new(place.ip().to_canonical(), place.port())
}

/// What a program is told.
fn errno(error: DialError) -> u8 {
    let errno = match error {
        DialError::Refused => Errno::ECONNREFUSED,
        DialError::TimedOut | DialError::Service(ServiceError::IntroductionTimedOut) => Errno::ETIMEDOUT,
        DialError::NetworkUnreachable => Errno::ENETUNREACH,
        DialError::NotAllowed
        | DialError::Service(ServiceError::AuthorizationMissing | ServiceError::AuthorizationWrong) => {
            Errno::EACCES
        }
        DialError::Failed => Errno::ECONNRESET,
        _ => Errno::EHOSTUNREACH,
    };
    errno.0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
