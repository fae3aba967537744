//! Which datagrams of a session are sealed under the session secret, and which are plain (PROTOCOL §6).
//!
//! Sealed are all that begin with a long header, and everything that a client sends on a tunnel until something of
//! the service has come back on it. The service's end of a tunnel is deaf until a sealed one opens. So relays can
//! neither read a handshake nor make one, and a tunnel cannot be tried without the AP entry.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use phantom_protocol::{
    crypto::datagram::{Salt, SessionSecret, Speaker},
    wire::body::Kind,
};
use rand::{rand_core::UnwrapErr, rngs::SysRng};

use super::bindings::has_long_header;

/// Salts that one endpoint remembers, the oldest forgotten first.
const SALTS: usize = 65_536;

/// Salts and the tunnels that they were seen on: a recorded datagram does not open another tunnel.
#[derive(Default)]
pub(super) struct Salts(Mutex<(HashMap<Salt, u64>, VecDeque<Salt>)>);

impl Salts {
    /// Whether the salt is new, or known from this very tunnel.
    fn admits(&self, salt: Salt, tunnel: u64) -> bool {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen_on, order) = &mut *guard;
        if let Some(known) = seen_on.get(&salt) {
            return *known == tunnel;
        }
        if order.len() >= SALTS
            && let Some(oldest) = order.pop_front()
        {
            seen_on.remove(&oldest);
        }
        order.push_back(salt);
        seen_on.insert(salt, tunnel);
        true
    }
}

/// The client's end of one tunnel.
pub(super) struct ClientEnd {
    tunnel: u64,
    secret: SessionSecret,
    answered: AtomicBool,
}

impl ClientEnd {
    pub(super) fn new(tunnel: u64, secret: SessionSecret) -> ClientEnd {
        ClientEnd { tunnel, secret, answered: AtomicBool::new(false) }
    }

    /// The form in which a datagram leaves; a sealed one is written to `sealed`.
    pub(super) fn wrap<'a>(&self, datagram: &'a [u8], sealed: &'a mut Vec<u8>) -> (Kind, &'a [u8]) {
        if has_long_header(datagram) || !self.answered.load(Ordering::Relaxed) {
            return seal(&self.secret, Speaker::Client, datagram, sealed);
        }
        (Kind::Plain, datagram)
    }

    /// The datagram inside what came in, if it is one that a service sends.
    pub(super) fn unwrap<'a>(
        &self,
        salts: &Salts,
        kind: Kind,
        payload: &'a [u8],
        opened: &'a mut Vec<u8>,
    ) -> Option<&'a [u8]> {
        let datagram = match kind {
            Kind::Plain if !has_long_header(payload) => payload,
            Kind::Sealed => {
                opened.clear();
                let salt = self.secret.open(Speaker::Service, payload, opened)?;
                salts.admits(salt, self.tunnel).then_some(opened.as_slice())?
            }
            _ => return None,
        };
        self.answered.store(true, Ordering::Relaxed);
        Some(datagram)
    }
}

/// The secrets of all entries of an identity that may still be in use.
#[derive(Default)]
pub(super) struct Secrets(RwLock<Vec<SessionSecret>>);

impl Secrets {
    pub(super) fn replace(&self, secrets: Vec<SessionSecret>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = secrets;
    }

    fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Option<(SessionSecret, Salt)> {
        let secrets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        secrets.iter().find_map(|secret| Some((secret.clone(), secret.open(Speaker::Client, sealed, out)?)))
    }
}

/// The service's end of one tunnel.
pub(super) struct ServiceEnd {
    tunnel: u64,
    /// The secret that has opened the first sealed datagram; until then the tunnel is deaf, and dumb.
    secret: OnceLock<SessionSecret>,
}

impl ServiceEnd {
    pub(super) fn new(tunnel: u64) -> ServiceEnd {
        ServiceEnd { tunnel, secret: OnceLock::new() }
    }

    /// Whether a sealed datagram has opened.
    pub(super) fn hears(&self) -> bool {
        self.secret.get().is_some()
    }

    /// The form in which a datagram leaves; a sealed one is written to `sealed`. Nothing leaves a deaf tunnel.
    pub(super) fn wrap<'a>(&self, datagram: &'a [u8], sealed: &'a mut Vec<u8>) -> Option<(Kind, &'a [u8])> {
        let secret = self.secret.get()?;
        if has_long_header(datagram) {
            return Some(seal(secret, Speaker::Service, datagram, sealed));
        }
        Some((Kind::Plain, datagram))
    }

    /// The datagram inside what came in, if it is one that a client who has read an AP entry sends.
    pub(super) fn unwrap<'a>(
        &self,
        salts: &Salts,
        secrets: &Secrets,
        kind: Kind,
        payload: &'a [u8],
        opened: &'a mut Vec<u8>,
    ) -> Option<&'a [u8]> {
        match kind {
            Kind::Plain if self.hears() && !has_long_header(payload) => Some(payload),
            Kind::Sealed => {
                opened.clear();
                let salt = match self.secret.get() {
                    Some(secret) => secret.open(Speaker::Client, payload, opened)?,
                    None => {
                        let (secret, salt) = secrets.open(payload, opened)?;
                        if !salts.admits(salt, self.tunnel) {
                            return None;
                        }
                        let _only_this_reader_sets_it = self.secret.set(secret);
                        salt
                    }
                };
                salts.admits(salt, self.tunnel).then_some(opened.as_slice())
            }
            _ => None,
        }
    }
}

fn seal<'a>(
    secret: &SessionSecret,
    speaker: Speaker,
    datagram: &[u8],
    sealed: &'a mut Vec<u8>,
) -> (Kind, &'a [u8]) {
    sealed.clear();
    secret.seal(&mut UnwrapErr(SysRng), speaker, datagram, sealed);
    (Kind::Sealed, sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: [u8; 40] = [0xc0; 40];
    const SHORT: [u8; 40] = [0x40; 40];

    struct Both {
        client: ClientEnd,
        service: ServiceEnd,
        secrets: Secrets,
        client_salts: Salts,
        service_salts: Salts,
    }

    fn both() -> Both {
        let secret = SessionSecret::from_bytes([3; 32]);
        let secrets = Secrets::default();
        secrets.replace(vec![SessionSecret::from_bytes([9; 32]), secret.clone()]);
        Both {
            client: ClientEnd::new(1, secret),
            service: ServiceEnd::new(1),
            secrets,
            client_salts: Salts::default(),
            service_salts: Salts::default(),
        }
    }

    impl Both {
        fn up(&self, datagram: &[u8]) -> (Kind, Option<Vec<u8>>) {
            let mut sealed = Vec::new();
            let (kind, payload) = self.client.wrap(datagram, &mut sealed);
            (kind, self.hear(&self.service, kind, payload))
        }

        fn hear(&self, service: &ServiceEnd, kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
            let mut opened = Vec::new();
            service.unwrap(&self.service_salts, &self.secrets, kind, payload, &mut opened).map(<[u8]>::to_vec)
        }

        fn down(&self, datagram: &[u8]) -> (Kind, Option<Vec<u8>>) {
            let (mut sealed, mut opened) = (Vec::new(), Vec::new());
            let (kind, payload) = self.service.wrap(datagram, &mut sealed).unwrap();
            let heard = self.client.unwrap(&self.client_salts, kind, payload, &mut opened);
            (kind, heard.map(<[u8]>::to_vec))
        }
    }

    #[test]
    fn a_client_seals_everything_until_it_is_answered_then_long_headers_only() {
        let both = both();
        assert_eq!(both.up(&LONG), (Kind::Sealed, Some(LONG.to_vec())));
        assert_eq!(both.up(&SHORT), (Kind::Sealed, Some(SHORT.to_vec())));
        assert_eq!(both.down(&LONG), (Kind::Sealed, Some(LONG.to_vec())));
        assert_eq!(both.up(&SHORT), (Kind::Plain, Some(SHORT.to_vec())));
        assert_eq!(both.up(&LONG), (Kind::Sealed, Some(LONG.to_vec())));
        assert_eq!(both.down(&SHORT), (Kind::Plain, Some(SHORT.to_vec())));
    }

    #[test]
    fn a_deaf_tunnel_neither_hears_nor_speaks() {
        let both = both();
        assert_eq!(both.hear(&both.service, Kind::Plain, &SHORT), None);
        assert_eq!(both.service.wrap(&SHORT, &mut Vec::new()), None);
        let mut foreign = Vec::new();
        let stranger = SessionSecret::from_bytes([4; 32]);
        stranger.seal(&mut UnwrapErr(SysRng), Speaker::Client, &LONG, &mut foreign);
        assert_eq!(both.hear(&both.service, Kind::Sealed, &foreign), None);
        assert!(!both.service.hears());
    }

    #[test]
    fn a_salt_known_from_another_tunnel_does_not_open() {
        let both = both();
        let mut sealed = Vec::new();
        both.client.wrap(&LONG, &mut sealed);
        assert!(both.hear(&both.service, Kind::Sealed, &sealed).is_some());
        let other = ServiceEnd::new(2);
        assert_eq!(both.hear(&other, Kind::Sealed, &sealed), None);
        assert!(!other.hears());
    }

    #[test]
    fn a_plain_long_header_is_never_taken() {
        let both = both();
        both.up(&LONG);
        assert_eq!(both.hear(&both.service, Kind::Plain, &LONG), None);
        let mut opened = Vec::new();
        assert_eq!(both.client.unwrap(&both.client_salts, Kind::Plain, &LONG, &mut opened), None);
    }

    #[test]
    fn a_reflected_datagram_does_not_open() {
        let both = both();
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        both.client.wrap(&LONG, &mut sealed);
        assert_eq!(both.client.unwrap(&both.client_salts, Kind::Sealed, &sealed, &mut opened), None);
    }

    #[test]
    fn the_memory_of_salts_is_bounded() {
        let salts = Salts::default();
        for n in 0..2 * SALTS as u128 {
            assert!(salts.admits(Salt(n.to_be_bytes()), 1));
        }
        assert_eq!(salts.0.lock().unwrap().0.len(), SALTS);
    }
}
