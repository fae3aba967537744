//! A network of in-memory tunnels for tests: it loses, delays, freezes, kills and tampers on demand, and checks with
//! every datagram that no destination connection id is seen on two tunnels.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use phantom_protocol::{
    crypto::datagram::{SessionSecret, Speaker},
    identity::{ApPublic, ApSecret, NodeId},
    tunnel::OwnerTunnelId,
    wire::body::Kind,
};
use rand::{rand_core::UnwrapErr, rngs::SysRng};
use tokio::{sync::mpsc, time::Instant};

use super::{
    After, CongestionConfig, Group, Inbox, OpenError, OpenTunnel, OpenedTunnel, Refusal, Service,
    SessionPool, SessionStream, SpeakAs, Targets, Tunnel, TunnelRequest, TunnelSend,
    bindings::{destination, has_long_header},
};

/// What a tunnel does to what it carries.
#[derive(Default)]
pub struct Weather {
    /// Datagrams lost of a million.
    pub loss: AtomicU32,
    /// One way, in microseconds. Set it before the first tunnel is opened.
    pub delay: AtomicU64,
    /// Every tenth plain datagram has a bit flipped.
    pub tamper: AtomicBool,
    seed: AtomicU64,
}

impl Weather {
    fn loses(&self) -> bool {
        let x = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % 1_000_000 < u64::from(self.loss.load(Ordering::Relaxed))
    }
}

/// When it is due, and what.
type Delayed = (Instant, Kind, Vec<u8>);
type DelayLine = mpsc::UnboundedSender<Delayed>;

/// One tunnel: its two ends are numbered 2n (the client's) and 2n + 1 (the service's).
struct Pipe {
    ends: [Arc<Inbox>; 2],
    frozen: AtomicBool,
    confirmed: AtomicBool,
    queues: Option<[DelayLine; 2]>,
}

/// The network, and the layer below a pool and a service at once.
pub struct Net {
    pub weather: Weather,
    pipes: Mutex<Vec<Arc<Pipe>>>,
    secret: SessionSecret,
    /// What clients seal with; differs from `secret` where a test says so.
    pub client_secret: Mutex<SessionSecret>,
    services: Mutex<HashMap<ApPublic, Arc<Service>>>,
    ids: Mutex<HashMap<(u8, [u8; 8]), u64>>,
    violations: AtomicU32,
    pub requests: Mutex<Vec<TunnelRequest>>,
    pub plain: AtomicU64,
    pub sealed: AtomicU64,
    counter: AtomicU64,
    /// Opening fails with this.
    pub refuse: Mutex<Option<OpenError>>,
}

impl Net {
    fn new() -> Arc<Net> {
        let secret = SessionSecret::random(&mut UnwrapErr(SysRng));
        Arc::new(Net {
            weather: Weather::default(),
            pipes: Mutex::default(),
            client_secret: Mutex::new(secret.clone()),
            secret,
            services: Mutex::default(),
            ids: Mutex::default(),
            violations: AtomicU32::new(0),
            requests: Mutex::default(),
            plain: AtomicU64::new(0),
            sealed: AtomicU64::new(0),
            counter: AtomicU64::new(0),
            refuse: Mutex::new(None),
        })
    }

    fn pipe(&self, number: u64) -> Option<Arc<Pipe>> {
        self.pipes.lock().unwrap().get((number / 2) as usize).cloned()
    }

    fn connect(self: &Arc<Self>) -> [Tunnel; 2] {
        let mut pipes = self.pipes.lock().unwrap();
        let number = pipes.len() as u64;
        let end =
            |n| Tunnel::new(OwnerTunnelId::from_number(2 * number + n), self.clone() as Arc<dyn TunnelSend>);
        let ((client, to_client), (service, to_service)) = (end(0), end(1));
        let delayed = self.weather.delay.load(Ordering::Relaxed) > 0;
        let queues = delayed.then(|| [delay_line(to_client.clone()), delay_line(to_service.clone())]);
        pipes.push(Arc::new(Pipe {
            ends: [to_client, to_service],
            frozen: AtomicBool::new(false),
            confirmed: AtomicBool::new(false),
            queues,
        }));
        [client, service]
    }

    /// A client's end and a service's end of a new tunnel that no pool knows of.
    pub fn stray(self: &Arc<Self>, service: &Service) -> Tunnel {
        let [client, far] = self.connect();
        service.accept_tunnel(far);
        client
    }

    pub fn opened(&self) -> usize {
        self.pipes.lock().unwrap().len()
    }

    pub fn confirmed(&self) -> usize {
        let pipes = self.pipes.lock().unwrap();
        pipes.iter().filter(|pipe| pipe.confirmed.load(Ordering::Relaxed)).count()
    }

    /// The newest tunnel dies, and both ends hear it.
    pub fn kill_newest(&self) {
        if let Some(pipe) = self.pipes.lock().unwrap().last().cloned() {
            pipe.ends.iter().for_each(|inbox| inbox.close());
        }
    }

    /// The newest tunnel swallows everything from now on.
    pub fn freeze_newest(&self) {
        if let Some(pipe) = self.pipes.lock().unwrap().last() {
            pipe.frozen.store(true, Ordering::Relaxed);
        }
    }

    /// What every test ends with.
    pub fn check(&self) {
        assert_eq!(self.violations.load(Ordering::Relaxed), 0, "a connection id was seen on two tunnels");
    }

    /// The datagram inside, whoever may read it, for the check of connection ids.
    fn note_id(&self, number: u64, kind: Kind, payload: &[u8]) {
        let speaker = if number.is_multiple_of(2) { Speaker::Client } else { Speaker::Service };
        let mut opened = Vec::new();
        let datagram = match kind {
            Kind::Plain => payload,
            _ => match self.secret.open(speaker, payload, &mut opened) {
                Some(_) => &opened,
                None => return,
            },
        };
        assert!(kind == Kind::Sealed || !has_long_header(datagram), "a long header left in the clear");
        let id = (speaker as u8, destination(datagram).unwrap());
        let carrier = *self.ids.lock().unwrap().entry(id).or_insert(number / 2);
        if carrier != number / 2 {
            self.violations.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn delay_line(to: Arc<Inbox>) -> DelayLine {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Delayed>();
    tokio::spawn(async move {
        while let Some((due, kind, payload)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            to.push(kind, &payload);
            to.wake();
        }
    });
    sender
}

impl TunnelSend for Net {
    fn send(&self, tunnel: OwnerTunnelId, kind: Kind, payload: &[u8], _after: After) -> bool {
        let number = tunnel.get();
        let Some(pipe) = self.pipe(number) else { return false };
        let far = (number % 2) as usize ^ 1;
        if pipe.ends[far].is_closed() {
            return false;
        }
        self.note_id(number, kind, payload);
        let count = if kind == Kind::Sealed { &self.sealed } else { &self.plain };
        count.fetch_add(1, Ordering::Relaxed);
        if pipe.frozen.load(Ordering::Relaxed) || self.weather.loses() {
            return true;
        }
        let mut payload = payload.to_vec();
        if self.weather.tamper.load(Ordering::Relaxed)
            && kind == Kind::Plain
            && self.counter.fetch_add(1, Ordering::Relaxed) % 10 == 9
        {
            let middle = payload.len() / 2;
            payload[middle] ^= 1;
        }
        match &pipe.queues {
            None => {
                pipe.ends[far].push(kind, &payload);
                pipe.ends[far].wake();
            }
            Some(queues) => {
                let due = Instant::now() + Duration::from_micros(self.weather.delay.load(Ordering::Relaxed));
                let _closed = queues[far].send((due, kind, payload));
            }
        }
        true
    }

    fn close(&self, tunnel: OwnerTunnelId) {
        if let Some(pipe) = self.pipe(tunnel.get()) {
            pipe.ends.iter().for_each(|inbox| inbox.close());
        }
    }

    fn confirm(&self, tunnel: OwnerTunnelId) {
        if let Some(pipe) = self.pipe(tunnel.get()) {
            pipe.confirmed.store(true, Ordering::Relaxed);
        }
    }
}

/// `OpenTunnel` for a shared net.
struct Opener(Arc<Net>);

impl OpenTunnel for Opener {
    fn open(&self, request: TunnelRequest) -> BoxFuture<'_, Result<OpenedTunnel, OpenError>> {
        Box::pin(async move {
            let net = &self.0;
            net.requests.lock().unwrap().push(request.clone());
            if let Some(error) = *net.refuse.lock().unwrap() {
                return Err(error);
            }
            let service = net.services.lock().unwrap().get(&request.peer).cloned();
            let service = service.ok_or(OpenError::NotFound)?;
            let [client, far] = net.connect();
            let mut entry = [0; 32];
            entry[..8].copy_from_slice(&client.id().get().to_be_bytes());
            service.accept_tunnel(far);
            let secret = net.client_secret.lock().unwrap().clone();
            Ok(OpenedTunnel { tunnel: client, secret, entry: NodeId::from_bytes(entry) })
        })
    }
}

/// One client pool, one service, a net between them.
pub struct World {
    pub net: Arc<Net>,
    pub pool: SessionPool,
    service: Option<Arc<Service>>,
    pub peer: ApPublic,
}

impl World {
    pub fn new(targets: impl Targets + 'static) -> World {
        let net = Net::new();
        let own = Arc::new(ApSecret::generate(&mut UnwrapErr(SysRng)));
        let service =
            Arc::new(Service::new(own.clone(), Arc::new(targets), &CongestionConfig::default()).unwrap());
        service.set_secrets(vec![net.secret.clone()]);
        net.services.lock().unwrap().insert(own.public(), service.clone());
        let pool = SessionPool::new(Arc::new(Opener(net.clone())), CongestionConfig::default());
        World { net, pool, service: Some(service), peer: own.public() }
    }

    pub async fn connect(&self, port: u16) -> Result<SessionStream, Refusal> {
        self.pool.connect(&Group::default(), &SpeakAs::OneTime, self.peer, port).await
    }

    /// The service, until it was stopped.
    pub fn service(&self) -> &Service {
        self.service.as_ref().expect("not stopped")
    }

    /// Ends the service.
    pub fn stop_service(&mut self) {
        self.service = None;
        self.net.services.lock().unwrap().clear();
    }

    /// Calls for `name` reach this world's service, who is somebody else.
    pub fn impersonate(&self, name: ApPublic) {
        self.net.services.lock().unwrap().insert(name, self.service.clone().expect("not stopped"));
    }
}
