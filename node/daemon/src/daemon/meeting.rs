//! One visitor is awaited for one connection (PROTOCOL §8, BIND): the node publishes a port under an identity that is made
//! for it, lets one visitor in, and takes it offline when the connection has ended, nobody came, or nobody waits any more.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use phantom_protocol::{
    address::ApAddress,
    identity::{ApPublic, ApSecret},
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    Command, Daemon, fresh_rng, lock,
    online::{LastWords, Online},
};
use crate::session::{Group, Protocol, Refusal, SessionStream, Take, Target, Targets};

/// Meetings of all groups, and of one: each costs paths, and an entry that every node holds.
const MOST: usize = 8;
const MOST_OF_GROUP: usize = 2;
/// Nobody waits longer for others to be able to come.
const PUBLISHING: Duration = Duration::from_secs(100);
/// Nobody waits longer for somebody who does not come.
const PATIENCE: Duration = Duration::from_secs(300);
/// What was said last may be on its way so long.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Counts meetings by group.
#[derive(Default)]
pub(super) struct Meetings(Arc<Mutex<BTreeMap<Group, usize>>>);

impl Meetings {
    /// One more, until what is returned is dropped. Nothing if there are too many.
    fn enter(&self, group: &Group) -> Option<Place> {
        let mut all = lock(&self.0);
        let of_group = all.get(group).copied().unwrap_or(0);
        if of_group >= MOST_OF_GROUP || all.values().sum::<usize>() >= MOST {
            return None;
        }
        all.insert(group.clone(), of_group + 1);
        Some(Place { all: Arc::clone(&self.0), group: group.clone() })
    }
}

struct Place {
    all: Arc<Mutex<BTreeMap<Group, usize>>>,
    group: Group,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = lock(&self.all);
        match all.get_mut(&self.group) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = all.remove(&self.group),
        }
    }
}

/// A port that waits for one visitor. Dropping it takes it offline.
pub struct Meeting {
    public: ApPublic,
    port: u16,
    came: oneshot::Receiver<(SessionStream, ApPublic)>,
    online: Online,
}

impl Meeting {
    /// The identity that was made for it.
    pub fn public(&self) -> ApPublic {
        self.public
    }

    /// The port to come to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the visitor: the connection, and who it is.
    pub fn come(self) -> impl Future<Output = Result<(SessionStream, ApPublic), Refusal>> + Send {
        let Meeting { came, online, .. } = self;
        async move {
            let came = timeout(PATIENCE, came).await.map_err(|_| Refusal::TimedOut)?;
            let (mut stream, visitor) = came.map_err(|_| Refusal::Failed)?;
            stream.keep(Arc::new(online));
            Ok((stream, visitor))
        }
    }
}

impl fmt::Debug for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meeting({:?})", self.public)
    }
}

/// Waits for what was said last, if there was a visitor.
fn last_words() -> LastWords {
    Box::new(|service| {
        async move {
            if service.sessions() > 0 {
                sleep(LAST_WORDS).await;
            }
        }
        .boxed()
    })
}

impl Daemon {
    /// Publishes a port (0: any) for one connection, of `from` or of anybody; returns when others can find it.
    pub async fn meet(&self, group: &Group, from: Option<ApAddress>, port: u16) -> Result<Meeting, Refusal> {
        let place = self.0.meetings.enter(group).ok_or(Refusal::Busy)?;
        let mut rng = fresh_rng().map_err(|_| Refusal::Failed)?;
        let secret = Arc::new(ApSecret::generate(&mut rng));
        let port = if port == 0 { rand::RngExt::random_range(&mut rng, 49_152..=u16::MAX) } else { port };
        let (tell, came) = oneshot::channel();
        let door = Door { from, port, taken: Mutex::new(Taken::Waits(tell)) };
        let public = secret.public();
        let hosting = self.bring_online_while_held(secret, Arc::new(door), place, last_words());
        let online = hosting.await.map_err(|_| Refusal::Failed)?;
        let id = online.id;
        let published = timeout(PUBLISHING, self.ask(|answer| Command::Published { id, answer })).await;
        published.map_err(|_| Refusal::TimedOut)?.map_err(|_| Refusal::Failed)?;
        Ok(Meeting { public, port, came, online })
    }
}

/// Lets one in.
struct Door {
    from: Option<ApAddress>,
    port: u16,
    taken: Mutex<Taken>,
}

enum Taken {
    Waits(oneshot::Sender<(SessionStream, ApPublic)>),
    By(ApPublic),
}

impl Targets for Door {
    fn target(&self, _: &ApPublic, _: Protocol, _: u16) -> Result<Target, Refusal> {
        Err(Refusal::Refused)
    }

    fn taker(&self, client: &ApPublic, port: u16) -> Result<Option<Take>, Refusal> {
        if !self.admits(client) {
            return Err(Refusal::NotAllowed);
        }
        let mut taken = lock(&self.taken);
        if port != self.port || matches!(*taken, Taken::By(_)) {
            return Err(Refusal::Refused);
        }
        match std::mem::replace(&mut *taken, Taken::By(*client)) {
            Taken::Waits(tell) => Ok(Some(Box::new(move |stream, client| {
                let _nobody_waits_any_more = tell.send((stream, client));
            }))),
            Taken::By(_) => Err(Refusal::Refused),
        }
    }

    fn admits(&self, client: &ApPublic) -> bool {
        let is_named = self.from.is_none_or(|from| from == client.address());
        is_named && !matches!(&*lock(&self.taken), Taken::By(other) if other != client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        daemon::Config,
        demo::local_network,
        session::{CongestionConfig, Service},
    };

    #[tokio::test]
    async fn who_gives_up_at_once_leaves_nothing_online() {
        let daemon = Daemon::start(Config::new(local_network())).await.unwrap();
        let secret = Arc::new(ApSecret::from_bytes(&[1; 32]));
        let (targets, congestion) = (Arc::new(door(None)), CongestionConfig::default());
        let service = Arc::new(Service::new(Arc::clone(&secret), targets, &congestion).unwrap());
        let hosting = daemon.ask(|answer| Command::Host { secret, hops: 3, service, answer });
        assert!(hosting.now_or_never().is_none());
        let online = || daemon.ask(|answer| Command::Status { answer });
        assert!(online().await.unwrap().entries.is_empty());

        assert!(daemon.meet(&Group::default(), None, 0).now_or_never().is_none());
        let gone = async {
            while !lock(&daemon.0.meetings.0).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), gone).await.expect("it ends");
        assert!(online().await.unwrap().entries.is_empty());
    }

    fn party(number: u8) -> ApPublic {
        ApSecret::from_bytes(&[number; 32]).public()
    }

    fn door(from: Option<ApPublic>) -> Door {
        let (tell, _came) = oneshot::channel();
        Door { from: from.map(|from| from.address()), port: 7, taken: Mutex::new(Taken::Waits(tell)) }
    }

    #[test]
    fn one_visitor_is_let_in_once_and_then_nobody_else() {
        let door = door(None);
        assert_eq!(door.taker(&party(1), 8).err(), Some(Refusal::Refused), "another port");
        assert!(door.admits(&party(1)) && door.admits(&party(2)));
        assert!(door.taker(&party(1), 7).unwrap().is_some());
        assert_eq!(door.taker(&party(1), 7).err(), Some(Refusal::Refused));
        assert_eq!(door.taker(&party(2), 7).err(), Some(Refusal::NotAllowed));
        assert!(door.admits(&party(1)) && !door.admits(&party(2)));
    }

    #[test]
    fn who_is_awaited_by_name_comes_alone() {
        let door = door(Some(party(1)));
        assert!(!door.admits(&party(2)));
        assert_eq!(door.taker(&party(2), 7).err(), Some(Refusal::NotAllowed));
        assert!(door.taker(&party(1), 7).unwrap().is_some());
    }

    #[test]
    fn a_group_has_few_meetings_and_all_have_not_many_more() {
        let meetings = Meetings::default();
        let group = |number: usize| Group::new(&number.to_string());
        let mut all: Vec<_> =
            (0..MOST).map(|number| meetings.enter(&group(number / MOST_OF_GROUP)).unwrap()).collect();
        assert!(meetings.enter(&group(99)).is_none());
        all.truncate(MOST - 1);
        assert!(meetings.enter(&group(0)).is_none(), "it has its share");
        all.push(meetings.enter(&group(99)).unwrap());
        drop(all);
        assert!(lock(&meetings.0).is_empty());
    }
}
