//! What a node says about itself to the whole network (PROTOCOL §7).
//!
//! ```text
//! format 1 | key 32 | work nonce 8 | version 8 | expiry 8
//! | number of addresses 1 | (family 1, address 16, port 2) ... | number of TLS keys 1 | TLS keys 2 x 32
//! | number of protocol versions 1 | (version 2) ... | has family 1 | family 0 or 16
//! | number of path keys 1 | (path key 1,216) ... | signature 64
//! ```
//!
//! The version is the time of signing in seconds since 1970, so it rises without memory, and a record from the future
//! can be told. Every storer checks everything itself: [`NodeRecord`] has been parsed, [`VerifiedRecord`] has been
//! checked. Nodes without a public address have no record: nobody needs to find them.

use std::{net::SocketAddr, sync::Arc};

use super::{
    contact::{Contact, TlsKeys, canonical, decode_address, encode_address},
    reader::{Malformed, Reader, Writer},
};
use crate::{
    crypto::seal::{PUBLIC, PathPublic},
    identity::{NodeId, NodePublic, NodeSecret},
    limits::{CLOCK_SKEW_SECS, NODE_RECORD_LIFE_SECS, RECORD},
    network::Network,
    time::UnixTime,
};

/// Addresses of a record: one of each family is usual.
pub const MAX_ADDRESSES: usize = 2;
/// Path keys of a record.
pub const MAX_PATH_KEYS: usize = 3;
/// Protocol versions of a record and of a hello.
pub const MAX_VERSIONS: usize = 8;

const FORMAT: u8 = 1;
const ROLE: &[u8] = b"phantom-node-record-v1";

/// What a node has to say about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Where it listens; the first is where others dial.
    pub addresses: Vec<SocketAddr>,
    /// What it shows there.
    pub tls_keys: TlsKeys,
    /// What setup packages are sealed to, newest first.
    pub path_keys: Vec<PathPublic>,
    /// The protocol versions that it speaks, rising.
    pub versions: Vec<u16>,
    /// Shared by nodes of one operator, so that nobody uses two of them in one path.
    pub family: Option<[u8; 16]>,
}

/// A record that has been parsed and not yet checked.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeRecord {
    public: NodePublic,
    id: NodeId,
    version: UnixTime,
    expiry: UnixTime,
    addresses: Vec<SocketAddr>,
    tls_keys: TlsKeys,
    versions: Vec<u16>,
    family: Option<[u8; 16]>,
    path_keys: Vec<[u8; PUBLIC]>,
    signature: [u8; 64],
    bytes: Vec<u8>,
}

/// A record whose signature, work, times, addresses and keys have been checked. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedRecord(Arc<Checked>);

#[derive(PartialEq, Eq)]
struct Checked {
    record: NodeRecord,
    path_keys: Vec<PathPublic>,
}

/// Why a record is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// It does not parse.
    #[error("the record does not parse: {0}")]
    Malformed(#[from] Malformed),
    /// It has expired.
    #[error("the record has expired")]
    Expired,
    /// It was signed in the future.
    #[error("the record comes from the future")]
    FromTheFuture,
    /// It would live for longer than records may.
    #[error("the record would live too long")]
    LivesTooLong,
    /// The id shows less work than the network asks for.
    #[error("the node has not done the work that this network asks for")]
    TooLittleWork,
    /// An address that nobody in this network may dial.
    #[error("the record names an address that this network does not allow")]
    Address,
    /// The signature is wrong.
    #[error("the record's signature is wrong")]
    Signature,
    /// A path key that is none.
    #[error("the record has a broken path key")]
    PathKey,
}

impl BadRecord {
    /// Whether an honest partner, who checks what it passes on but whose clock differs, can have sent this.
    pub fn is_forgivable(self) -> bool {
        matches!(self, BadRecord::Expired | BadRecord::FromTheFuture)
    }
}

impl NodeRecord {
    /// Signs `facts`, to be believed from `version` on for as long as a record may live.
    pub fn sign(secret: &NodeSecret, facts: &NodeFacts, version: UnixTime) -> Result<NodeRecord, Malformed> {
        let mut out = Writer::with_capacity(RECORD);
        let public = secret.public();
        let expiry = version.0.saturating_add(NODE_RECORD_LIFE_SECS);
        out.u8(FORMAT).bytes(&public.key).u64(public.nonce).u64(version.0).u64(expiry);
        facts.encode(&mut out);
        let signature = secret.sign(&signed_part(out.as_slice()));
        out.bytes(&signature);
        // Reading it back refuses facts that nobody else could read.
        NodeRecord::decode(&out.finish())
    }

    /// Parses without any cryptography but one hash.
    pub fn decode(bytes: &[u8]) -> Result<NodeRecord, Malformed> {
        if bytes.len() > RECORD {
            return Err(Malformed::TooLong);
        }
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(Malformed::Field("format"));
        }
        let public = NodePublic { key: reader.array()?, nonce: reader.u64()? };
        let record = NodeRecord {
            public,
            id: public.id(),
            version: UnixTime(reader.u64()?),
            expiry: UnixTime(reader.u64()?),
            addresses: decode_addresses(&mut reader)?,
            tls_keys: decode_tls_keys(&mut reader)?,
            versions: decode_versions(&mut reader)?,
            family: decode_family(&mut reader)?,
            path_keys: decode_path_keys(&mut reader)?,
            signature: reader.array()?,
            bytes: bytes.to_vec(),
        };
        reader.finish()?;
        Ok(record)
    }

    /// Whose record it claims to be.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// When it claims to be signed.
    pub fn version(&self) -> UnixTime {
        self.version
    }

    /// Checks everything, the cheap things first.
    pub fn verify(mut self, network: &Network, now: UnixTime) -> Result<VerifiedRecord, BadRecord> {
        self.check_times(now)?;
        if self.id.work() < network.work {
            return Err(BadRecord::TooLittleWork);
        }
        if !self.addresses.iter().all(|address| network.admits(*address)) {
            return Err(BadRecord::Address);
        }
        let (content, _) = self.bytes.split_last_chunk::<64>().ok_or(Malformed::Truncated)?;
        if !self.public.verify(&signed_part(content), &self.signature) {
            return Err(BadRecord::Signature);
        }
        let raw = std::mem::take(&mut self.path_keys);
        let path_keys: Option<Vec<_>> = raw.iter().map(PathPublic::from_bytes).collect();
        let path_keys = path_keys.ok_or(BadRecord::PathKey)?;
        Ok(VerifiedRecord(Arc::new(Checked { record: self, path_keys })))
    }

    fn check_times(&self, now: UnixTime) -> Result<(), BadRecord> {
        let life = self.expiry.0.checked_sub(self.version.0);
        if !life.is_some_and(|life| (1..=NODE_RECORD_LIFE_SECS).contains(&life)) {
            return Err(BadRecord::LivesTooLong);
        }
        if self.expiry <= now {
            return Err(BadRecord::Expired);
        }
        if self.version.0 > now.0.saturating_add(CLOCK_SKEW_SECS) {
            return Err(BadRecord::FromTheFuture);
        }
        Ok(())
    }
}

impl VerifiedRecord {
    /// The node.
    pub fn id(&self) -> NodeId {
        self.0.record.id
    }

    /// Its key and work.
    pub fn public(&self) -> NodePublic {
        self.0.record.public
    }

    /// When it was signed: of two records of a node the higher one counts.
    pub fn version(&self) -> UnixTime {
        self.0.record.version
    }

    /// From when on it is nothing.
    pub fn expiry(&self) -> UnixTime {
        self.0.record.expiry
    }

    /// All addresses, at least one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0.record.addresses
    }

    /// How to reach the node.
    pub fn contact(&self) -> Contact {
        match self.0.record.addresses.first() {
            Some(address) => Contact::listed(self.id(), *address, self.0.record.tls_keys),
            None => Contact::unlisted(self.id()),
        }
    }

    /// What setup packages are sealed to, newest first, at least one.
    pub fn path_keys(&self) -> &[PathPublic] {
        &self.0.path_keys
    }

    /// The protocol versions that the node speaks, rising.
    pub fn versions(&self) -> &[u16] {
        &self.0.record.versions
    }

    /// What the node declares to share an operator with.
    pub fn family(&self) -> Option<[u8; 16]> {
        self.0.record.family
    }

    /// As it travels.
    pub fn bytes(&self) -> &[u8] {
        &self.0.record.bytes
    }
}

impl NodeFacts {
    fn encode(&self, out: &mut Writer) {
        out.u8(count(self.addresses.len()));
        for address in &self.addresses {
            encode_address(Some(canonical(*address)), out);
        }
        self.tls_keys.encode(out);
        encode_versions(&self.versions, out);
        match &self.family {
            Some(family) => out.u8(1).bytes(family),
            None => out.u8(0),
        };
        out.u8(count(self.path_keys.len()));
        for key in &self.path_keys {
            out.bytes(key.as_bytes());
        }
    }
}

/// The byte that says how many there are; what is too many for it is too many for the reader.
fn count(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn signed_part(content: &[u8]) -> Vec<u8> {
    [ROLE, content].concat()
}

fn decode_count(reader: &mut Reader<'_>, most: usize, what: &'static str) -> Result<usize, Malformed> {
    let count = usize::from(reader.u8()?);
    if (1..=most).contains(&count) { Ok(count) } else { Err(Malformed::Field(what)) }
}

fn decode_addresses(reader: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Malformed> {
    let count = decode_count(reader, MAX_ADDRESSES, "number of addresses")?;
    (0..count).map(|_| decode_address(reader)?.ok_or(Malformed::Field("address family"))).collect()
}

fn decode_tls_keys(reader: &mut Reader<'_>) -> Result<TlsKeys, Malformed> {
    let keys = TlsKeys::decode(reader)?;
    if keys.is_empty() { Err(Malformed::Field("number of TLS keys")) } else { Ok(keys) }
}

/// Protocol versions, as records and hellos write them.
pub(super) fn encode_versions(versions: &[u16], out: &mut Writer) {
    out.u8(count(versions.len()));
    for version in versions {
        out.u16(*version);
    }
}

/// Protocol versions: at least one, strictly rising.
pub(super) fn decode_versions(reader: &mut Reader<'_>) -> Result<Vec<u16>, Malformed> {
    let count = decode_count(reader, MAX_VERSIONS, "number of versions")?;
    let versions = (0..count).map(|_| reader.u16()).collect::<Result<Vec<_>, _>>()?;
    if versions.is_sorted_by(|a, b| a < b) { Ok(versions) } else { Err(Malformed::Field("list of versions")) }
}

fn decode_family(reader: &mut Reader<'_>) -> Result<Option<[u8; 16]>, Malformed> {
    match reader.u8()? {
        0 => Ok(None),
        1 => reader.array().map(Some),
        _ => Err(Malformed::Field("family")),
    }
}

fn decode_path_keys(reader: &mut Reader<'_>) -> Result<Vec<[u8; PUBLIC]>, Malformed> {
    let count = decode_count(reader, MAX_PATH_KEYS, "number of path keys")?;
    (0..count).map(|_| reader.array()).collect()
}

impl std::fmt::Debug for NodeRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeRecord({:?}, version {})", self.id, self.version.0)
    }
}

impl std::fmt::Debug for VerifiedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifiedRecord({:?} at {:?}, version {})", self.id(), self.addresses(), self.version().0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::OnceLock;

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::ChaCha20Rng};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::crypto::seal::PathSecret;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    pub(crate) fn secret(seed: u8) -> NodeSecret {
        NodeSecret::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
    }

    /// Making path keys takes most of a test's time, so all nodes of tests share these.
    pub(crate) fn path_keys() -> &'static [PathPublic; 4] {
        static KEYS: OnceLock<[PathPublic; 4]> = OnceLock::new();
        KEYS.get_or_init(|| {
            let mut rng = ChaCha20Rng::from_seed([0; 32]);
            std::array::from_fn(|_| PathSecret::generate(&mut rng).public().clone())
        })
    }

    pub(crate) fn facts(address: &str) -> NodeFacts {
        NodeFacts {
            addresses: vec![address.parse().unwrap()],
            tls_keys: TlsKeys::one([2; 32]),
            path_keys: path_keys()[..1].to_vec(),
            versions: vec![1],
            family: None,
        }
    }

    fn network() -> Network {
        Network::private("test")
    }

    fn any_facts() -> impl Strategy<Value = NodeFacts> {
        let address = (any::<[u8; 4]>(), 1u16..)
            .prop_map(|([_, a, b, c], port)| SocketAddr::from(([127, a, b, c], port)));
        let versions = prop::collection::btree_set(any::<u16>(), 1..=MAX_VERSIONS);
        (
            prop::collection::vec(address, 1..=MAX_ADDRESSES),
            any::<[u8; 32]>().prop_map(TlsKeys::one),
            (1..=MAX_PATH_KEYS).prop_map(|count| path_keys()[..count].to_vec()),
            versions.prop_map(|versions| versions.into_iter().collect()),
            any::<Option<[u8; 16]>>(),
        )
            .prop_map(|(addresses, tls_keys, path_keys, versions, family)| NodeFacts {
                addresses,
                tls_keys,
                path_keys,
                versions,
                family,
            })
    }

    fn example() -> NodeRecord {
        NodeRecord::sign(&secret(1), &facts("127.16.0.1:443"), NOW).unwrap()
    }

    /// `example` with some bytes changed and signed again by its node.
    fn forged(at: usize, bytes: &[u8]) -> NodeRecord {
        let mut forged = example().bytes;
        forged.truncate(forged.len() - 64);
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        let signature = secret(1).sign(&signed_part(&forged));
        forged.extend(signature);
        NodeRecord::decode(&forged).unwrap()
    }

    #[test]
    fn the_format_is_fixed() {
        let bytes = example().bytes;
        let mut expected = vec![1];
        expected.extend(secret(1).public().key);
        expected.extend([0; 8]);
        expected.extend(NOW.0.to_be_bytes());
        expected.extend((NOW.0 + 3 * 3600).to_be_bytes());
        expected.extend([1, 4, 127, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xbb]);
        expected.push(1);
        expected.extend([2; 32]);
        expected.extend([0; 32]);
        expected.extend([1, 0, 1, 0, 1]);
        expected.extend(path_keys()[0].as_bytes());
        expected.extend(secret(1).sign(&signed_part(&expected)));
        assert_eq!(bytes, expected);
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&hash),
            "89daad69c717d42a653e4fa2d875c593e5f47f698d69d6071c3f85e3918b844d"
        );
    }

    #[test]
    fn the_largest_record_is_within_the_limit() {
        let facts = NodeFacts {
            addresses: vec!["[fd00::1]:443".parse().unwrap(); MAX_ADDRESSES],
            tls_keys: TlsKeys::two([1; 32], [2; 32]),
            path_keys: path_keys()[..MAX_PATH_KEYS].to_vec(),
            versions: (1..=MAX_VERSIONS as u16).collect(),
            family: Some([1; 16]),
        };
        let record = NodeRecord::sign(&secret(1), &facts, NOW).unwrap();
        assert_eq!(record.bytes.len(), 3_908);
        assert!(record.bytes.len() <= RECORD);
    }

    #[test]
    fn facts_that_nobody_could_read_are_not_signed() {
        let good = facts("127.16.0.1:443");
        let bad = [
            NodeFacts { addresses: vec![], ..good.clone() },
            NodeFacts { addresses: vec!["0.0.0.0:1".parse().unwrap()], ..good.clone() },
            NodeFacts { tls_keys: TlsKeys::NONE, ..good.clone() },
            NodeFacts { path_keys: vec![], ..good.clone() },
            NodeFacts { path_keys: path_keys().to_vec(), ..good.clone() },
            NodeFacts { versions: vec![2, 1], ..good.clone() },
            NodeFacts { versions: vec![1; 300], ..good },
        ];
        for facts in bad {
            assert!(NodeRecord::sign(&secret(1), &facts, NOW).is_err(), "{facts:?}");
        }
    }

    #[test]
    fn times_out_of_bounds_are_refused() {
        let verify = |record: NodeRecord, now: u64| record.verify(&network(), UnixTime(now)).map(|_| ());
        assert_eq!(verify(example(), NOW.0), Ok(()));
        assert_eq!(verify(example(), NOW.0 - CLOCK_SKEW_SECS), Ok(()));
        assert_eq!(verify(example(), NOW.0 - CLOCK_SKEW_SECS - 1), Err(BadRecord::FromTheFuture));
        assert_eq!(verify(example(), NOW.0 + NODE_RECORD_LIFE_SECS - 1), Ok(()));
        assert_eq!(verify(example(), NOW.0 + NODE_RECORD_LIFE_SECS), Err(BadRecord::Expired));
        let (expiry, at) = (NOW.0 + NODE_RECORD_LIFE_SECS, 1 + 32 + 8 + 8);
        assert_eq!(verify(forged(at, &expiry.to_be_bytes()), NOW.0), Ok(()));
        assert_eq!(verify(forged(at, &(expiry + 1).to_be_bytes()), NOW.0), Err(BadRecord::LivesTooLong));
        assert_eq!(verify(forged(at, &NOW.0.to_be_bytes()), NOW.0), Err(BadRecord::LivesTooLong));
        assert_eq!(verify(forged(at, &[0; 8]), NOW.0), Err(BadRecord::LivesTooLong));
    }

    #[test]
    fn a_broken_path_key_is_refused() {
        let at = example().bytes.len() - 64 - 1_000;
        assert_eq!(forged(at, &[0xff; 64]).verify(&network(), NOW), Err(BadRecord::PathKey));
    }

    #[test]
    fn work_and_addresses_are_what_the_network_asks_for() {
        let hard = Network { work: 60, ..network() };
        assert_eq!(example().verify(&hard, NOW), Err(BadRecord::TooLittleWork));
        let outside = Network { private_addresses: false, ..network() };
        assert_eq!(example().verify(&outside, NOW), Err(BadRecord::Address));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_record_comes_back(facts in any_facts(), seed in any::<u8>()) {
            let record = NodeRecord::sign(&secret(seed), &facts, NOW).unwrap();
            prop_assert_eq!(NodeRecord::decode(&record.bytes), Ok(record.clone()));
            let verified = record.verify(&network(), NOW).unwrap();
            prop_assert_eq!(verified.id(), secret(seed).id());
            prop_assert_eq!(verified.addresses(), facts.addresses);
            prop_assert_eq!(verified.path_keys(), facts.path_keys);
            prop_assert_eq!(verified.versions(), facts.versions);
            prop_assert_eq!(verified.family(), facts.family);
        }

        #[test]
        fn a_changed_byte_is_always_found(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = example().bytes;
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(record) = NodeRecord::decode(&bytes) {
                prop_assert!(record.verify(&network(), NOW).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = NodeRecord::decode(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = FORMAT;
                let _ = NodeRecord::decode(&bytes);
            }
        }

        #[test]
        fn every_truncation_is_refused(length in any::<prop::sample::Index>()) {
            let bytes = example().bytes;
            let part = &bytes[..length.index(bytes.len())];
            prop_assert_eq!(NodeRecord::decode(part), Err(Malformed::Truncated));
        }
    }
}
