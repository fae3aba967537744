//! One partner of the exchange: what it is still to be told, and what it may ask of us (PROTOCOL §7).

use std::collections::{BTreeSet, VecDeque};

use super::view::{RecordKey, View};
use crate::{
    budget::Budget,
    identity::NodeId,
    limits::{CHECKS_PER_PARTNER, RECORD_BYTES, RECORDS_MESSAGE},
    time::Moment,
    wire::control::{ControlMessage, Published},
};

/// A neighbour that records are exchanged with.
#[derive(Debug)]
pub(super) struct Partner {
    /// Who it is.
    pub(super) id: NodeId,
    /// Whether this node wished for it, or it for this node.
    pub(super) asked: bool,
    /// Signatures that may be checked for it.
    pub(super) checks: Budget,
    /// Bytes that it may be sent.
    bytes: Budget,
    /// What it is to be told. Names, not records: what changes meanwhile is told once.
    queued: BTreeSet<RecordKey>,
    /// The order of `queued`; may name what was taken out of it.
    order: VecDeque<RecordKey>,
}

impl Partner {
    /// A partner that knows nothing yet.
    pub(super) fn new(now: Moment, id: NodeId, asked: bool) -> Partner {
        Partner {
            id,
            asked,
            checks: Budget::new(now, CHECKS_PER_PARTNER),
            bytes: Budget::new(now, RECORD_BYTES),
            queued: BTreeSet::new(),
            order: VecDeque::new(),
        }
    }

    /// It is to be told about a record.
    pub(super) fn enqueue(&mut self, key: RecordKey) {
        if self.queued.insert(key) {
            self.order.push_back(key);
        }
    }

    /// It has shown that it knows what is known here.
    pub(super) fn knows(&mut self, key: &RecordKey) {
        self.queued.remove(key);
    }

    /// The next message, if there is one and it may be sent now.
    pub(super) fn poll_message(&mut self, now: Moment, view: &View) -> Option<ControlMessage> {
        if self.order.is_empty() || !self.bytes.allows(now) {
            return None;
        }
        let mut records = Records::default();
        while let Some(key) = self.order.front() {
            let record = if self.queued.contains(key) { view.published(key) } else { None };
            if record.is_some_and(|record| !records.add(record)) {
                break; // the message is full, the record goes into the next one
            }
            self.queued.remove(key);
            self.order.pop_front();
        }
        self.bytes.spend(records.length);
        records.into_message()
    }

    /// When the next message may be sent, if one waits.
    pub(super) fn next_timeout(&self) -> Option<Moment> {
        if self.order.is_empty() { None } else { Some(self.bytes.ready()) }
    }
}

/// A message that grows to its limit.
#[derive(Debug, Default)]
pub(super) struct Records {
    records: Vec<Published>,
    length: usize,
}

impl Records {
    /// Whether there was room.
    pub(super) fn add(&mut self, record: Published) -> bool {
        let length = self.length + record.encoded_len();
        if length > RECORDS_MESSAGE {
            return false;
        }
        self.length = length;
        self.records.push(record);
        true
    }

    pub(super) fn into_message(self) -> Option<ControlMessage> {
        if self.records.is_empty() { None } else { Some(ControlMessage::Records(self.records)) }
    }
}
