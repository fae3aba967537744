//! Whether and how fast a party can be reached, and how all groups start afresh: for the command line.

use std::time::Duration;

use phantom_protocol::identity::ApPublic;
use tokio::time::{Instant, timeout};

use super::{Command, Daemon};
use crate::{
    doors::{Ended, FirstLink, LookedUp, Pinged},
    session::{Group, Refusal, SpeakAs},
};

/// Pings share no path and no identity with what programs do.
const PING_GROUP: &str = "ping";
/// Nobody can publish this port, so the answer of whoever is there is that it is not: one round trip end to end.
const PING_PORT: u16 = 0;

impl Daemon {
    /// Whether the network can reach a party now.
    pub async fn look_up(&self, peer: ApPublic) -> anyhow::Result<LookedUp> {
        let entry = self.ask(|answer| Command::LookUp { peer, answer }).await?;
        let now = self.0.clock.unix();
        Ok(entry.map_or_else(LookedUp::default, |(expiry, entries)| LookedUp {
            expires_in: Some(expiry.0.saturating_sub(now.0)),
            entries,
        }))
    }

    /// Goes to a party and back, end to end. Opens a session if there is none.
    pub async fn ping(&self, peer: ApPublic, patience: Duration) -> anyhow::Result<Pinged> {
        let (group, asked) = (Group::new(PING_GROUP), Instant::now());
        // Nobody who pings says who it is.
        let pinging = self.0.sessions.connect(&group, &SpeakAs::OneTime, peer, PING_PORT);
        let answered = timeout(patience, pinging).await;
        let micros = u64::try_from(asked.elapsed().as_micros()).ok();
        let why = match answered {
            Ok(Ok(_)) => None,
            Ok(Err(refusal)) if is_of_peer(refusal) => None,
            Ok(Err(refusal)) => Some(refusal.to_string()),
            Err(_) => Some(Refusal::TimedOut.to_string()),
        };
        let first_link = self.first_link(group, peer).await?;
        Ok(Pinged { micros: micros.filter(|_| why.is_none()), why, first_link })
    }

    /// Lets all isolation groups start afresh: their sessions and paths end. What is hosted goes on.
    pub async fn new_identity(&self) -> anyhow::Result<Ended> {
        let sessions = self.0.sessions.sessions();
        // First the sessions, or they would move to the new paths.
        self.0.sessions.groups().iter().for_each(|group| self.0.sessions.end_group(group));
        let (groups, paths) = self.ask(|answer| Command::NewGroups { answer }).await?;
        // Those that have begun meanwhile may have begun on the old ones.
        groups.iter().for_each(|group| self.0.sessions.end_group(group));
        Ok(Ended { sessions, paths })
    }

    async fn first_link(&self, group: Group, peer: ApPublic) -> anyhow::Result<Option<FirstLink>> {
        let relay = self.ask(|answer| Command::FirstRelay { group, peer, answer }).await?;
        let Some(relay) = relay else { return Ok(None) };
        let link = self.link_stats().into_iter().find(|link| link.peer == relay);
        Ok(link.map(|link| FirstLink {
            node: relay.to_string(),
            address: link.address,
            round_trip_micros: link.round_trip.and_then(|time| u64::try_from(time.as_micros()).ok()),
        }))
    }
}

/// Whether it is the peer who refuses: then it is there.
fn is_of_peer(refusal: Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Refused
            | Refusal::HostUnreachable
            | Refusal::NotAllowed
            | Refusal::Busy
            | Refusal::ProtocolUnknown
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::OpenError;

    #[test]
    fn who_refuses_has_answered_and_who_was_not_reached_has_not() {
        assert!(is_of_peer(Refusal::Refused) && is_of_peer(Refusal::NotAllowed));
        let silent = [
            Refusal::TimedOut,
            Refusal::SessionLost,
            Refusal::NotAuthentic,
            Refusal::Failed,
            OpenError::NotFound.into(),
        ];
        assert!(silent.iter().all(|refusal| !is_of_peer(*refusal)));
    }
}
