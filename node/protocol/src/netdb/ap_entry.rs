//! AP entries: how an anonymous party is reached, readable only by who knows its name (PROTOCOL §7).
//!
//! ```text
//! sealed:   format 1 | blinded key 32 | epoch 8 | version 8 | salt 16 | enciphered 973 | tag 16 | signature 64
//! inside:   public key 32 | session secret 32 | capabilities 4 | issued 8 | expiry 8
//!           | number of entry nodes 1 | 6 x (contact 116, route key 32), the unused ones zero
//! ```
//!
//! Stored under H("ap-entry", blinded key, epoch) and signed by the blinded key, so nobody else can take the place;
//! enciphered under (public key, epoch, salt), so those who store it can neither read it nor tell whose it is. Its
//! size is always the same and fits into one opener. The version rises strictly; it is the time of issue plus an
//! offset that only readers of the entry can compute, or two epochs' entries of one party would be linked by it.

use std::fmt;

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};

use crate::{
    crypto::{
        Key,
        blind::{self, BlindedPublic, BlindedSecret},
        datagram::SessionSecret,
        proof::RouteKey,
        seal::{TAG, aead_open, aead_seal},
    },
    identity::{ApPublic, ApSecret},
    limits::{AP_EPOCH_SECS, ENTRIES_PER_AP},
    time::UnixTime,
    wire::{
        contact::Contact,
        reader::{Malformed, Reader, Writer},
    },
};

/// Bytes of every sealed entry. One opener's content is at most 1,325 bytes.
pub const SEALED: usize = 1 + 32 + 8 + 8 + SALT + INSIDE + TAG + 64;

const FORMAT: u8 = 1;
const SALT: usize = 16;
const ROUTE: usize = Contact::ENCODED + 32;
const INSIDE: usize = 32 + 32 + 4 + 8 + 8 + 1 + ENTRIES_PER_AP * ROUTE;
const ROLE: &[u8] = b"phantom-ap-entry-signature-v1";

/// How a party is reached: what its owner publishes and its peers read.
#[derive(Clone, PartialEq, Eq)]
pub struct ApEntry {
    /// The party.
    pub public: ApPublic,
    /// One to six ways in, each at the end of a path of its own.
    pub entry_nodes: Vec<EntryNode>,
    /// What the first datagrams of sessions are sealed under.
    pub session_secret: SessionSecret,
    /// Reserved; a bit that this version does not know is ignored.
    pub capabilities: u32,
    /// When it was made; must rise from entry to entry of a party.
    pub issued: UnixTime,
    /// From when on it is nothing.
    pub expiry: UnixTime,
}

/// One way in.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryNode {
    /// The terminal of the path, always one that can be dialled.
    pub contact: Contact,
    /// What tokens for this path are made with.
    pub route_key: RouteKey,
}

/// Where an entry is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey([u8; 32]);

/// A sealed entry that has been parsed and not yet checked.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedEntry {
    blinded: [u8; 32],
    key: EntryKey,
    epoch: u64,
    version: u64,
    signature: [u8; 64],
    bytes: Vec<u8>,
}

/// A sealed entry whose signature and epoch have been checked: what storers keep and pass on.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedEntry(SealedEntry);

/// Why an entry is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// It does not parse.
    #[error("the entry does not parse: {0}")]
    Malformed(#[from] Malformed),
    /// It belongs to an epoch that is over, or that is not near.
    #[error("the entry belongs to another epoch")]
    Epoch,
    /// The blinded key is not canonical, or has a small-order part.
    #[error("the entry's key is broken")]
    Key,
    /// The blinded key has not signed it.
    #[error("the entry's signature is wrong")]
    Signature,
}

impl BadEntry {
    /// Whether an honest partner, who checks what it passes on but whose clock differs, can have sent this.
    pub fn is_forgivable(self) -> bool {
        self == BadEntry::Epoch
    }
}

/// The epoch of a time.
pub fn epoch_of(time: UnixTime) -> u64 {
    time.0 / AP_EPOCH_SECS
}

impl EntryKey {
    /// Where the entry of a party in an epoch is.
    pub fn of(public: &ApPublic, epoch: u64) -> EntryKey {
        EntryKey::of_blinded(BlindedPublic::of(public, epoch).as_bytes(), epoch)
    }

    fn of_blinded(blinded: &[u8; 32], epoch: u64) -> EntryKey {
        let hash =
            Sha256::new().chain_update(b"ap-entry").chain_update(blinded).chain_update(epoch.to_be_bytes());
        EntryKey(hash.finalize().into())
    }
}

/// Where the entries of one party may be: worked out once, for each costs a multiplication.
#[derive(Debug, Clone)]
pub struct LookUp {
    public: ApPublic,
    today: u64,
    /// Today's last: of entries that were issued together it is taken, for its secret is the one both clocks agree about.
    keys: [Option<EntryKey>; 3],
}

impl LookUp {
    /// For the time until the epoch ends.
    pub fn new(public: ApPublic, now: UnixTime) -> LookUp {
        let today = epoch_of(now);
        let epochs = [today.checked_sub(1), today.checked_add(1), Some(today)];
        LookUp { public, today, keys: epochs.map(|epoch| Some(EntryKey::of(&public, epoch?))) }
    }

    /// Whose.
    pub fn public(&self) -> &ApPublic {
        &self.public
    }

    /// Where to look.
    pub fn keys(&self) -> impl Iterator<Item = &EntryKey> {
        self.keys.iter().flatten()
    }

    /// Whether the epoch is still the one that it was made in.
    pub fn is_current(&self, now: UnixTime) -> bool {
        self.today == epoch_of(now)
    }
}

impl ApEntry {
    /// Seals this entry for an epoch. Fails if it has no entry node, more than six, or one that cannot be dialled.
    pub fn seal(
        &self,
        secret: &ApSecret,
        epoch: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<SealedEntry, Malformed> {
        let signer = BlindedSecret::of(secret, epoch);
        let mut salt = [0; SALT];
        rng.fill_bytes(&mut salt);
        let mut inside = self.encode();
        ApEntry::decode(&inside)?;
        let tag = aead_seal(&content_key(&self.public, epoch, &salt), &mut inside);

        let mut out = Writer::with_capacity(SEALED);
        out.u8(FORMAT).bytes(signer.public().as_bytes()).u64(epoch);
        out.u64(self.issued.0.wrapping_add(version_offset(&self.public, epoch)));
        out.bytes(&salt).bytes(&inside).bytes(&tag);
        let signature = signer.sign(&signed_part(out.as_slice()));
        out.bytes(&signature);
        SealedEntry::decode(&out.finish())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(INSIDE);
        out.bytes(self.public.as_bytes()).bytes(self.session_secret.as_bytes()).u32(self.capabilities);
        out.u64(self.issued.0).u64(self.expiry.0);
        out.u8(u8::try_from(self.entry_nodes.len()).unwrap_or(u8::MAX));
        for node in &self.entry_nodes {
            node.contact.encode(&mut out);
            out.bytes(node.route_key.as_bytes());
        }
        out.zeros(INSIDE.saturating_sub(out.len()));
        out.finish()
    }

    fn decode(inside: &[u8]) -> Result<ApEntry, Malformed> {
        let mut reader = Reader::new(inside);
        let public = ApPublic::from_bytes(reader.array()?).ok_or(Malformed::Field("public key"))?;
        let session_secret = SessionSecret::from_bytes(reader.array()?);
        let capabilities = reader.u32()?;
        let (issued, expiry) = (UnixTime(reader.u64()?), UnixTime(reader.u64()?));
        let count = usize::from(reader.u8()?);
        if !(1..=ENTRIES_PER_AP).contains(&count) {
            return Err(Malformed::Field("number of entry nodes"));
        }
        let entry_nodes =
            (0..count).map(|_| EntryNode::decode(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        reader.zeros((ENTRIES_PER_AP - count) * ROUTE)?;
        reader.finish()?;
        Ok(ApEntry { public, entry_nodes, session_secret, capabilities, issued, expiry })
    }
}

impl EntryNode {
    fn decode(reader: &mut Reader<'_>) -> Result<EntryNode, Malformed> {
        let contact = Contact::decode(reader)?;
        if contact.address.is_none() {
            return Err(Malformed::Field("entry node"));
        }
        Ok(EntryNode { contact, route_key: RouteKey::from_bytes(reader.array()?) })
    }
}

impl SealedEntry {
    /// Parses without any cryptography but one hash.
    pub fn decode(bytes: &[u8]) -> Result<SealedEntry, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(Malformed::Field("format"));
        }
        let blinded = reader.array()?;
        let (epoch, version) = (reader.u64()?, reader.u64()?);
        reader.bytes(SALT + INSIDE + TAG)?;
        let signature = reader.array()?;
        reader.finish()?;
        let key = EntryKey::of_blinded(&blinded, epoch);
        Ok(SealedEntry { blinded, key, epoch, version, signature, bytes: bytes.to_vec() })
    }

    /// Where it wants to be stored.
    pub fn key(&self) -> EntryKey {
        self.key
    }

    /// Of two entries under one key the higher one counts.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// As it travels: the content of an opener of kind `publish`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks what a storer can check.
    pub fn verify(self, now: UnixTime) -> Result<VerifiedEntry, BadEntry> {
        if !is_near(self.epoch, now) {
            return Err(BadEntry::Epoch);
        }
        let blinded = BlindedPublic::from_bytes(self.blinded).ok_or(BadEntry::Key)?;
        let (content, _) = self.bytes.split_last_chunk::<64>().ok_or(Malformed::Truncated)?;
        if !blinded.verify(&signed_part(content), &self.signature) {
            return Err(BadEntry::Signature);
        }
        Ok(VerifiedEntry(self))
    }
}

impl VerifiedEntry {
    /// Where it is stored.
    pub fn key(&self) -> EntryKey {
        self.0.key
    }

    /// Of two entries under one key the higher one counts.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// As it travels.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Which it was made for.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Whether its epoch is still this one or a neighbour of it.
    pub fn is_current(&self, now: UnixTime) -> bool {
        is_near(self.0.epoch, now)
    }

    /// Reads it; nothing if it is not this party's, or is broken inside, or has expired.
    pub fn open(&self, public: &ApPublic, now: UnixTime) -> Option<ApEntry> {
        let mut reader = Reader::new(&self.0.bytes);
        reader.bytes(1 + 32 + 8 + 8).ok()?;
        let salt = reader.array().ok()?;
        let mut inside = reader.bytes(INSIDE).ok()?.to_vec();
        let tag = reader.array().ok()?;
        if !aead_open(&content_key(public, self.0.epoch, &salt), &mut inside, &tag) {
            return None;
        }
        let entry = ApEntry::decode(&inside).ok()?;
        (entry.public == *public && entry.expiry > now).then_some(entry)
    }
}

/// Entries are kept for the epoch before, this one, and the one after.
fn is_near(epoch: u64, now: UnixTime) -> bool {
    epoch.abs_diff(epoch_of(now)) <= 1
}

fn content_key(public: &ApPublic, epoch: u64, salt: &[u8; SALT]) -> Key {
    blind::entry_key(public, epoch).derive(&[b"content", salt])
}

/// Below 2^32, so that the version of an honest entry never overflows.
fn version_offset(public: &ApPublic, epoch: u64) -> u64 {
    let key = blind::entry_key(public, epoch).derive(&[b"version"]);
    let [a, b, c, d, ..] = *key.as_bytes();
    u64::from(u32::from_be_bytes([a, b, c, d]))
}

fn signed_part(content: &[u8]) -> Vec<u8> {
    [ROLE, content].concat()
}

impl fmt::Debug for ApEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApEntry({:?}, {} entry nodes)", self.public, self.entry_nodes.len())
    }
}

impl fmt::Debug for EntryNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryNode({:?})", self.contact)
    }
}

impl fmt::Debug for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "EntryKey({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

impl fmt::Debug for SealedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedEntry({:?}, epoch {}, version {})", self.key, self.epoch, self.version)
    }
}

impl fmt::Debug for VerifiedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified{:?}", self.0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;
    use crate::{identity::NodeId, wire::contact::TlsKeys};

    pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

    pub(crate) fn rng(seed: u8) -> ChaCha20Rng {
        ChaCha20Rng::from_seed([seed; 32])
    }

    pub(crate) fn party(seed: u8) -> ApSecret {
        ApSecret::generate(&mut rng(seed))
    }

    pub(crate) fn entry(seed: u8, nodes: usize, issued: UnixTime) -> ApEntry {
        let node = |number: usize| EntryNode {
            contact: Contact::listed(
                NodeId::from_bytes([number as u8; 32]),
                SocketAddr::from(([127, 16, 0, number as u8], 443)),
                TlsKeys::one([2; 32]),
            ),
            route_key: RouteKey::from_bytes([number as u8; 32]),
        };
        ApEntry {
            public: party(seed).public(),
            entry_nodes: (0..nodes).map(node).collect(),
            session_secret: SessionSecret::from_bytes([5; 32]),
            capabilities: 0,
            issued,
            expiry: UnixTime(issued.0 + 3600),
        }
    }

    fn sealed(nodes: usize) -> SealedEntry {
        entry(1, nodes, NOW).seal(&party(1), epoch_of(NOW), &mut rng(2)).unwrap()
    }

    #[test]
    fn the_format_is_fixed() {
        let sealed = sealed(6);
        let mut expected = vec![1];
        expected.extend(BlindedPublic::of(&party(1).public(), epoch_of(NOW)).as_bytes());
        expected.extend(epoch_of(NOW).to_be_bytes());
        expected.extend(sealed.version().to_be_bytes());
        assert_eq!(sealed.bytes()[..expected.len()], expected);
        let hash: [u8; 32] = Sha256::digest(sealed.bytes()).into();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&hash),
            "ef4ddf9787b7087fd87036cb65e0055d87769c8fe1ff5e30810d48375ea93778"
        );
    }

    #[test]
    fn six_entry_nodes_fit_into_one_opener_and_one_takes_as_much() {
        assert_eq!((sealed(1).bytes().len(), sealed(6).bytes().len()), (SEALED, SEALED));
        assert_eq!(SEALED, 1_118);
        const { assert!(SEALED <= 1_325) };
    }

    #[test]
    fn who_knows_the_name_reads_it_and_nobody_else() {
        let verified = sealed(3).verify(NOW).unwrap();
        assert_eq!(verified.key(), EntryKey::of(&party(1).public(), epoch_of(NOW)));
        assert_eq!(verified.open(&party(1).public(), NOW), Some(entry(1, 3, NOW)));
        assert_eq!(verified.open(&party(2).public(), NOW), None);
        assert_eq!(verified.open(&party(1).public(), UnixTime(NOW.0 + 3600)), None);
    }

    #[test]
    fn nothing_links_the_entries_of_two_epochs() {
        let today = sealed(3);
        let tomorrow = entry(1, 3, NOW).seal(&party(1), epoch_of(NOW) + 1, &mut rng(3)).unwrap();
        assert_ne!(today.blinded, tomorrow.blinded);
        assert_ne!(today.key, tomorrow.key);
        assert!(today.version.abs_diff(tomorrow.version) > 1_000, "versions give the time of issue away");
    }

    #[test]
    fn entries_are_kept_in_their_epoch_and_its_neighbours() {
        let at = |days: i64| UnixTime(NOW.0.saturating_add_signed(days * 86_400));
        for (days, outcome) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
            assert_eq!(sealed(1).verify(at(days)).is_ok(), outcome, "{days} days");
        }
    }

    #[test]
    fn nobody_else_can_take_the_place_of_a_party() {
        let mut forged = sealed(1);
        let other = BlindedSecret::of(&party(2), epoch_of(NOW));
        forged.signature = other.sign(&signed_part(&forged.bytes[..SEALED - 64]));
        assert_eq!(forged.verify(NOW), Err(BadEntry::Signature));
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let mut bytes = sealed(1).bytes;
        bytes[1..33].fill(0);
        assert_eq!(SealedEntry::decode(&bytes).unwrap().verify(NOW), Err(BadEntry::Key));
    }

    #[test]
    fn an_entry_without_nodes_or_with_too_many_is_not_sealed() {
        for nodes in [0, 7, 300] {
            assert!(entry(1, nodes, NOW).seal(&party(1), 1, &mut rng(2)).is_err());
        }
        let mut unlisted = entry(1, 1, NOW);
        unlisted.entry_nodes[0].contact = Contact::unlisted(NodeId::from_bytes([1; 32]));
        assert!(unlisted.seal(&party(1), 1, &mut rng(2)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_changed_byte_is_always_found(at in 0..SEALED, flip in 1u8..) {
            let mut bytes = sealed(2).bytes;
            bytes[at] ^= flip;
            if let Ok(entry) = SealedEntry::decode(&bytes) {
                prop_assert!(entry.verify(NOW).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), SEALED), short in 0..SEALED) {
            let _ = SealedEntry::decode(&bytes[..short]);
            if let Ok(entry) = SealedEntry::decode(&bytes) {
                let _ = entry.verify(NOW);
            }
            let _ = ApEntry::decode(&bytes[..INSIDE]);
        }
    }
}
