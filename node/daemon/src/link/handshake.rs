//! TLS' handshake, which is rustls', and the handover of the connection to records of our own.
//!
//! rustls gets record by record, and none after the last of the handshake: the next ones are not for it to open.
//! rustls says under which numbers the next records go (its extraction of secrets, which also sees to it that the
//! handshake is complete and nothing waits to be sent). The traffic secrets themselves, from which the keys follow and
//! after them those of all key updates, it gives to its `KeyLog` alone: each handshake has one of its own.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use phantom_protocol::wire::hello::Role;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ExtractedSecrets, KeyLog, ServerConfig, ServerConnection,
    pki_types::ServerName,
};
use zeroize::Zeroizing;

use super::{
    connection::Connection,
    record::{Fault, HEADER, RecordKey, Records, Suite},
    socket::Socket,
    tls,
};

/// What the TLS exporter is asked for.
const EXPORTER: &[u8] = b"EXPORTER-phantom-link-v1";

/// A connection whose handshake is complete.
pub(super) struct Shaken {
    pub(super) connection: Connection,
    /// What binds a proof of identity to this connection.
    pub(super) exporter: [u8; 32],
    /// Whether the keys are those of two nodes: agreed in the hybrid group.
    pub(super) is_hybrid: bool,
}

/// The dialler's side.
pub(super) async fn dial(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    socket: Socket,
) -> io::Result<Shaken> {
    let secrets = Arc::<Secrets>::default();
    let mut config = Arc::unwrap_or_clone(config);
    config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
    config.enable_secret_extraction = true;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(invalid)?;
    complete(Role::Dialler, connection.into(), socket, &secrets).await
}

/// The listener's side.
pub(super) async fn accept(config: &ServerConfig, socket: Socket) -> io::Result<Shaken> {
    let secrets = Arc::<Secrets>::default();
    let mut config = config.clone();
    config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
    config.enable_secret_extraction = true;
    let connection = ServerConnection::new(Arc::new(config)).map_err(invalid)?;
    complete(Role::Listener, connection.into(), socket, &secrets).await
}

/// Shakes hands and takes rustls' connection apart.
async fn complete(
    role: Role,
    mut connection: rustls::Connection,
    mut socket: Socket,
    secrets: &Secrets,
) -> io::Result<Shaken> {
    shake(&mut connection, &mut socket).await?;
    let facts = Facts::of(&connection)?;
    let numbers = connection.dangerous_extract_secrets().map_err(invalid)?;
    facts.hand_over(role, socket, secrets, &numbers)
}

/// Shakes hands. What the peer has sent behind its last message waits in the socket then.
async fn shake(connection: &mut rustls::Connection, socket: &mut Socket) -> io::Result<()> {
    let mut record = Boundary::default();
    loop {
        write(connection, socket).await?;
        if !connection.is_handshaking() {
            return Ok(());
        }
        if socket.waiting().is_empty() && !poll_fn(|cx| socket.poll_more(cx)).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let waiting = &*socket.waiting();
        let piece = waiting.get(..record.allowed()).unwrap_or(waiting);
        let taken = connection.read_tls(&mut &*piece)?;
        if taken == 0 {
            // The peer has taken leave before it was there.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        record.passed(piece.get(..taken).unwrap_or_default());
        socket.done_with(taken);
        if let Err(error) = connection.process_new_packets() {
            // The peer is told why, if it listens.
            let _ = write(connection, socket).await;
            return Err(invalid(error));
        }
    }
}

async fn write(connection: &mut rustls::Connection, socket: &mut Socket) -> io::Result<()> {
    let mut flight = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut flight)?;
    }
    let mut rest = flight.as_slice();
    while !rest.is_empty() {
        let written = poll_fn(|cx| socket.poll_write(cx, rest)).await?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Where the record ends that rustls is at: it gets no byte of the next before it is known whether that is its own.
#[derive(Default)]
struct Boundary {
    header: [u8; HEADER],
    /// How much of the header has passed.
    seen: usize,
    /// How much of the body has not.
    left: usize,
}

impl Boundary {
    /// How many bytes may pass until more is known.
    fn allowed(&self) -> usize {
        if self.left > 0 { self.left } else { HEADER - self.seen }
    }

    /// So many have passed, at most what was allowed.
    fn passed(&mut self, bytes: &[u8]) {
        if self.left > 0 {
            self.left -= bytes.len();
            return;
        }
        self.header.iter_mut().skip(self.seen).zip(bytes).for_each(|(to, from)| *to = *from);
        self.seen += bytes.len();
        if self.seen == HEADER {
            let [.., high, low] = self.header;
            self.left = usize::from(u16::from_be_bytes([high, low]));
            self.seen = 0;
        }
    }
}

/// What is asked of a connection before it is taken apart.
struct Facts {
    suite: CipherSuite,
    exporter: [u8; 32],
    is_hybrid: bool,
}

impl Facts {
    fn of(connection: &rustls::Connection) -> io::Result<Facts> {
        let suite = connection.negotiated_cipher_suite().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Facts {
            suite: suite.suite(),
            exporter: connection.export_keying_material([0; 32], EXPORTER, None).map_err(io::Error::other)?,
            is_hybrid: tls::is_hybrid(connection.negotiated_key_exchange_group()),
        })
    }

    fn hand_over(
        self,
        role: Role,
        socket: Socket,
        secrets: &Secrets,
        numbers: &ExtractedSecrets,
    ) -> io::Result<Shaken> {
        let (ours, theirs) = (numbers.tx.0, numbers.rx.0);
        let records = secrets.records(role, self.suite, ours, theirs).map_err(io::Error::other)?;
        let connection = Connection::new(socket, records);
        Ok(Shaken { connection, exporter: self.exporter, is_hybrid: self.is_hybrid })
    }
}

/// The traffic secrets of one handshake.
#[derive(Default)]
pub(super) struct Secrets(Mutex<TrafficSecrets>);

#[derive(Default)]
struct TrafficSecrets {
    dialler: Zeroizing<Vec<u8>>,
    listener: Zeroizing<Vec<u8>>,
}

impl Secrets {
    /// The connection's records, after so many of each side under these secrets.
    pub(super) fn records(
        &self,
        role: Role,
        suite: CipherSuite,
        ours: u64,
        theirs: u64,
    ) -> Result<Records, Fault> {
        let suite = Suite::from_rustls(suite).ok_or(Fault::NoKey)?;
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (our_secret, their_secret) = match role {
            Role::Dialler => (&secrets.dialler, &secrets.listener),
            Role::Listener => (&secrets.listener, &secrets.dialler),
        };
        let ours = RecordKey::new(suite, our_secret, ours)?;
        let theirs = RecordKey::new(suite, their_secret, theirs)?;
        Ok(Records::new(role, ours, theirs))
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => secrets.dialler = Zeroizing::new(secret.to_vec()),
            "SERVER_TRAFFIC_SECRET_0" => secrets.listener = Zeroizing::new(secret.to_vec()),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}
