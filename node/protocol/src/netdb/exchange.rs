//! The exchange of records with partners: every node learns every record (PROTOCOL §7).
//!
//! Partners are neighbours of which one has wished for the other. A new partner is sent all that is known, and later
//! all news, by everybody but the one who brought them; since versions rise strictly, each version of a record goes
//! over each link once, and news about one record at most every five seconds. Messages, bytes and signature checks
//! per partner are bounded. Records that only a wrong clock makes wrong are dropped; any other bad record ends the
//! link, for an honest partner checks what it passes on.
//!
//! This suits networks of up to some thousands of nodes. A distributed table will take its place behind the same
//! surface: `announce`, `handle_published`, and the look-ups of the [`View`].
//!
//! Call any `handle_*`, then [`Exchange::poll_output`] until it gives nothing, then wait until
//! [`Exchange::next_timeout`] at most.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::RangeBounds,
    sync::Arc,
};

use rand_core::CryptoRng;

use super::{
    ap_entry::{BadEntry, SealedEntry},
    entries::Source,
    pace::{News, Pace},
    partner::{Partner, Records},
    view::{RecordKey, Stored, Subnet, View},
};
use crate::{
    budget::Budget,
    identity::{NodeId, NodeSecret},
    limits::{
        NODE_RECORD_RENEW, PARTNER_PAUSE, PARTNER_PAUSE_ALONE, PARTNERS, PARTNERS_ASKED,
        PUBLISHED_AT_TERMINALS, PUBLISHED_BY_LINK, SWEEP,
    },
    network::Network,
    time::{Moment, Now, UnixTime},
    wire::{
        cell::LinkId,
        contact::Contact,
        control::{ControlMessage, Published},
        record::{BadRecord, NodeFacts, NodeRecord},
    },
};

/// The exchange of one node.
#[derive(Debug)]
pub struct Exchange {
    network: Network,
    own: NodeId,
    view: View,
    announced: Option<Announced>,
    /// Where to begin, and begin anew if all partners are lost.
    friends: Vec<Contact>,
    partners: BTreeMap<LinkId, Partner>,
    /// Links of those who wished for a partner and came when all places were taken.
    refused: BTreeSet<LinkId>,
    pace: Pace,
    /// Entries that paths have brought to this terminal, in all and by the link of the path.
    published: Budget,
    published_by: BTreeMap<LinkId, Budget>,
    outputs: VecDeque<ExchangeOutput>,
    /// The partner that is served next.
    turn: LinkId,
    next_sweep: Moment,
    next_partner: Moment,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExchangeOutput {
    /// Send this over that link.
    Send {
        /// Where to.
        link: LinkId,
        /// What.
        message: ControlMessage,
    },
    /// A partner is needed: when a link to this node stands, old or new, call
    /// [`Exchange::handle_partner_up`] with `asked`. A dial that fails needs no answer.
    Dial(Contact),
    /// End this link: no honest node sends such a thing.
    Misbehaved {
        /// Which.
        link: LinkId,
        /// What it did.
        fault: ExchangeFault,
    },
}

/// What a partner did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeFault {
    /// Records without having wished for a partner.
    #[error("records from a neighbour that is no partner")]
    NotAPartner,
    /// A bad record of a node.
    #[error("{0}")]
    Node(#[from] BadRecord),
    /// A bad entry of a party.
    #[error("{0}")]
    Entry(#[from] BadEntry),
}

#[derive(Debug)]
struct Announced {
    secret: Arc<NodeSecret>,
    facts: NodeFacts,
    /// The last version that was signed, or met with our signature.
    version: UnixTime,
    renew: Moment,
}

impl Exchange {
    /// An exchange that knows nothing but some friends' nodes.
    pub fn new(now: Moment, network: Network, own: NodeId, friends: Vec<Contact>) -> Exchange {
        Exchange {
            network,
            own,
            view: View::new(),
            announced: None,
            friends,
            partners: BTreeMap::new(),
            refused: BTreeSet::new(),
            pace: Pace::default(),
            published: Budget::new(now, PUBLISHED_AT_TERMINALS),
            published_by: BTreeMap::new(),
            outputs: VecDeque::new(),
            turn: LinkId(0),
            next_sweep: now + SWEEP,
            next_partner: now,
        }
    }

    /// What is known.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether records are exchanged over this link.
    pub fn is_partner(&self, link: LinkId) -> bool {
        self.partners.contains_key(&link)
    }

    /// How many partners there are.
    pub fn partner_count(&self) -> usize {
        self.partners.len()
    }

    /// Publishes this node's record now, and anew every five minutes. To be called again when a fact changes, a path
    /// key for instance. A node that cannot be dialled never calls it.
    pub fn announce(&mut self, now: Now, secret: Arc<NodeSecret>, facts: NodeFacts) -> Result<(), BadRecord> {
        let before = self.announced.as_ref().map(|announced| announced.version);
        let version = before.or_else(|| self.view.version(&RecordKey::Node(self.own)).map(UnixTime));
        let version = version.unwrap_or_default();
        self.announced = Some(Announced { secret, facts, version, renew: now.moment });
        self.renew(now)
    }

    /// This node can be dialled no longer: its record is not renewed, and so lapses.
    pub fn withdraw(&mut self) {
        self.announced = None;
    }

    /// Takes a record that was stored on disk before a restart. What is stale or broken is dropped.
    pub fn handle_remembered(&mut self, now: Now, record: &[u8]) {
        // There is nobody to blame for a broken file.
        let _ = self.take_node(now, None, record);
    }

    /// A link that records are exchanged over has come up: this node has `asked` for it, or the neighbour has sent
    /// [`ControlMessage::Partner`].
    pub fn handle_partner_up(&mut self, now: Now, link: LinkId, peer: NodeId, asked: bool) {
        if asked && self.partners.get(&link).is_none_or(|partner| !partner.asked) {
            self.outputs.push_back(ExchangeOutput::Send { link, message: ControlMessage::Partner });
        }
        if let Some(partner) = self.partners.get_mut(&link) {
            partner.asked |= asked;
            return;
        }
        if self.partners.len() >= PARTNERS && !asked {
            self.refuse(link, peer);
            return;
        }
        let mut partner = Partner::new(now.moment, peer, asked);
        self.view.keys().for_each(|key| partner.enqueue(key));
        self.partners.insert(link, partner);
    }

    /// A link has gone down, a partner's or another.
    pub fn handle_link_down(&mut self, link: LinkId) {
        self.partners.remove(&link);
        self.refused.remove(&link);
        self.published_by.remove(&link);
    }

    /// Records have come over a link.
    pub fn handle_records(&mut self, now: Now, link: LinkId, records: &[Published]) {
        if self.refused.contains(&link) {
            return;
        }
        let outcome = if self.partners.contains_key(&link) {
            records.iter().try_for_each(|record| self.handle_record(now, link, record))
        } else {
            Err(ExchangeFault::NotAPartner)
        };
        if let Err(fault) = outcome {
            self.partners.remove(&link);
            self.outputs.push_back(ExchangeOutput::Misbehaved { link, fault });
        }
    }

    /// An AP entry has come out of a path of which this node is the terminal, over the link to `peer`; that of its own
    /// entries is to itself. Whoever sent it is unknown, so what is bad or too much is dropped.
    pub fn handle_published(&mut self, now: Now, link: LinkId, peer: NodeId, entry: &[u8]) {
        let of_link =
            self.published_by.entry(link).or_insert_with(|| Budget::new(now.moment, PUBLISHED_BY_LINK));
        if of_link.allows(now.moment) && self.published.allows(now.moment) {
            of_link.spend(1);
            self.published.spend(1);
            let _ = self.take_entry(now, None, self.source(peer), entry);
        }
    }

    /// Whom a neighbour counts with.
    fn source(&self, peer: NodeId) -> Source {
        if peer == self.own {
            return Source::Own;
        }
        let address = self.view.node(&peer).and_then(|node| node.record.contact().address);
        address.map_or(Source::Unlisted, |address| Source::Network(Subnet::of(address.ip())))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut impl CryptoRng) {
        while let Some(news) = self.pace.handle_timeout(now.moment) {
            self.tell_partners(news);
        }
        if now.moment >= self.next_sweep {
            self.view.sweep(now.unix);
            self.next_sweep = now.moment + SWEEP;
        }
        if now.moment >= self.next_partner {
            let lonely = self.partners.is_empty();
            self.next_partner = now.moment + if lonely { PARTNER_PAUSE_ALONE } else { PARTNER_PAUSE };
            self.seek_partner(rng);
        }
        if self.announced.as_ref().is_some_and(|announced| now.moment >= announced.renew) {
            // The same facts could be signed when they were announced.
            let _ = self.renew(now);
        }
    }

    /// When [`Exchange::handle_timeout`] or [`Exchange::poll_output`] has something to do again.
    pub fn next_timeout(&self) -> Moment {
        let renew = self.announced.as_ref().map(|announced| announced.renew);
        let partners = self.partners.values().filter_map(Partner::next_timeout);
        let others = [renew, self.pace.next_timeout(), Some(self.next_partner)];
        others.into_iter().flatten().chain(partners).fold(self.next_sweep, Moment::min)
    }

    /// What to do next; nothing when all is done for now.
    pub fn poll_output(&mut self, now: Now) -> Option<ExchangeOutput> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        let turn = self.turn;
        self.poll_partners(now, turn..).or_else(|| self.poll_partners(now, ..turn))
    }

    fn poll_partners(&mut self, now: Now, links: impl RangeBounds<LinkId>) -> Option<ExchangeOutput> {
        let mut partners = self.partners.range_mut(links);
        let (link, message) = partners
            .find_map(|(link, partner)| Some((*link, partner.poll_message(now.moment, &self.view)?)))?;
        self.turn = LinkId(link.0 + 1);
        Some(ExchangeOutput::Send { link, message })
    }

    fn handle_record(&mut self, now: Now, link: LinkId, record: &Published) -> Result<(), ExchangeFault> {
        match record {
            Published::Node(bytes) => match self.take_node(now, Some(link), bytes) {
                Err(bad) if !bad.is_forgivable() => Err(bad.into()),
                _ => Ok(()),
            },
            Published::ApEntry(bytes) => {
                let Some(partner) = self.partners.get(&link) else { return Ok(()) };
                match self.take_entry(now, Some(link), self.source(partner.id), bytes) {
                    Err(bad) if !bad.is_forgivable() => Err(bad.into()),
                    _ => Ok(()),
                }
            }
        }
    }

    fn take_node(&mut self, now: Now, from: Option<LinkId>, bytes: &[u8]) -> Result<(), BadRecord> {
        let record = NodeRecord::decode(bytes)?;
        let key = RecordKey::Node(record.id());
        if !self.is_worth_checking(now, from, key, record.version().0) {
            return Ok(());
        }
        let record = record.verify(&self.network, now.unix)?;
        let (id, version) = (record.id(), record.version());
        if self.view.store_node(now.unix, record) == Stored::New {
            self.handle_news(now, News { key, from });
        }
        if let Some(announced) = self.announced.as_mut().filter(|_| id == self.own) {
            // Signed before our clock or our disk was put back: what is true now has to come after it.
            announced.version = announced.version.max(version);
            announced.renew = now.moment;
        }
        Ok(())
    }

    fn take_entry(
        &mut self,
        now: Now,
        from: Option<LinkId>,
        source: Source,
        bytes: &[u8],
    ) -> Result<(), BadEntry> {
        let entry = SealedEntry::decode(bytes)?;
        let key = RecordKey::ApEntry(entry.key());
        if !self.view.has_room_for_entry(now.unix, &entry.key(), source)
            || !self.is_worth_checking(now, from, key, entry.version())
        {
            return Ok(());
        }
        let entry = entry.verify(now.unix)?;
        if self.view.store_entry(now.unix, entry, source) == Stored::New {
            self.handle_news(now, News { key, from });
        }
        Ok(())
    }

    /// Whether a record may be new, and its bringer may still ask for a signature check. Notes that a partner who
    /// brings what is known here needs not be told.
    fn is_worth_checking(&mut self, now: Now, from: Option<LinkId>, key: RecordKey, version: u64) -> bool {
        let known = self.view.version(&key);
        let mut partner = from.and_then(|link| self.partners.get_mut(&link));
        if let Some(partner) = partner.as_mut().filter(|_| known <= Some(version)) {
            partner.knows(&key);
        }
        if known >= Some(version) {
            return false;
        }
        let Some(partner) = partner else { return true };
        let allowed = partner.checks.allows(now.moment);
        if allowed {
            partner.checks.spend(1);
        }
        allowed
    }

    fn handle_news(&mut self, now: Now, news: News) {
        if let Some(news) = self.pace.handle_news(now.moment, news) {
            self.tell_partners(news);
        }
    }

    fn tell_partners(&mut self, news: News) {
        for (link, partner) in &mut self.partners {
            if Some(*link) != news.from {
                partner.enqueue(news.key);
            }
        }
    }

    /// Tells one who finds no place here about some others: those whose ids follow its own, so that everybody is
    /// sent elsewhere.
    fn refuse(&mut self, link: LinkId, peer: NodeId) {
        self.refused.insert(link);
        let mut records = Records::default();
        for node in self.view.nodes_after(peer) {
            if !records.add(Published::Node(node.record.bytes().to_vec())) {
                break;
            }
        }
        if let Some(message) = records.into_message() {
            self.outputs.push_back(ExchangeOutput::Send { link, message });
        }
    }

    fn renew(&mut self, now: Now) -> Result<(), BadRecord> {
        let Some(announced) = &mut self.announced else { return Ok(()) };
        announced.renew = now.moment + NODE_RECORD_RENEW;
        announced.version = now.unix.max(UnixTime(announced.version.0 + 1));
        let record = NodeRecord::sign(&announced.secret, &announced.facts, announced.version)?;
        let record = record.verify(&self.network, now.unix)?;
        let key = RecordKey::Node(record.id());
        if self.view.store_node(now.unix, record) == Stored::New {
            self.handle_news(now, News { key, from: None });
        }
        Ok(())
    }

    /// Three partners of our own choice: a friend's node as long as none is among them, else any.
    fn seek_partner(&mut self, rng: &mut impl CryptoRng) {
        let asked = self.partners.values().filter(|partner| partner.asked).count();
        if asked >= PARTNERS_ASKED {
            return;
        }
        let is_partner =
            |id: NodeId| id == self.own || self.partners.values().any(|partner| partner.id == id);
        let has_friend = self.friends.iter().any(|friend| is_partner(friend.id));
        let friends: Vec<Contact> =
            self.friends.iter().copied().filter(|friend| !has_friend && !is_partner(friend.id)).collect();
        let others = self.view.nodes().map(|node| node.record.contact());
        let others: Vec<Contact> = others.filter(|contact| !is_partner(contact.id)).collect();
        let wanted = [pick(&friends, rng), pick(&others, rng)].into_iter().flatten();
        self.outputs.extend(wanted.take(PARTNERS_ASKED - asked).map(ExchangeOutput::Dial));
    }
}

/// One of them, all equally likely but for a bias below 2^-32.
fn pick(contacts: &[Contact], rng: &mut impl CryptoRng) -> Option<Contact> {
    let count = u64::try_from(contacts.len()).ok()?;
    let place = rng.next_u64().checked_rem(count)?;
    contacts.get(usize::try_from(place).ok()?).copied()
}

#[cfg(test)]
mod tests;
