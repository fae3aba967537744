//! The proof of identity: the first cell of each side of a link (PROTOCOL §2).
//!
//! The dialler, who has checked the listener's TLS key, speaks first; the listener answers only if that hello proves
//! that the dialler knows whom it has dialled. A hello that fails is answered by the web server.
//!
//! ```text
//! number of versions 1 | (version 2) ... | network id 32 | key 32 | work nonce 8 | listed 1 | signature 64 | zeros
//! signature over: role label | TLS exporter 32 | dialler's NodeId 32 | listener's NodeId 32 | all fields before
//! ```
//!
//! The exporter binds the proof to this TLS connection, the role to its direction, the ids to its two ends: it can
//! neither be relayed, nor mirrored, nor shown to another. The listener's id is never sent: who does not know it
//! fails. Both sides sign their lists of versions, so nobody between them can talk them down.

use super::{
    cell::{BODY, Cell, Command, PathId, TunnelId},
    reader::{Malformed, Reader, Writer},
    record::{decode_versions, encode_versions},
};
use crate::{
    identity::{NodeId, NodePublic, NodeSecret},
    network::{Network, NetworkId},
};

/// The protocol versions that this code speaks, rising.
pub const VERSIONS: &[u16] = &[1];

/// Which end of a link a hello comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It opened the connection.
    Dialler,
    /// It accepted the connection.
    Listener,
}

/// What both ends of a link know before the first hello.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The network that this node belongs to.
    pub network: &'a Network,
    /// Exported from the TLS connection.
    pub exporter: &'a [u8; 32],
}

/// A peer whose hello has been checked. The constructor is private to this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenPeer {
    id: NodeId,
    public: NodePublic,
    listed: bool,
    version: u16,
}

/// Why a hello proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHello {
    /// It is another cell, or does not parse.
    #[error("no hello: {0}")]
    Malformed(#[from] Malformed),
    /// The peer belongs to another network.
    #[error("the peer belongs to another network")]
    OtherNetwork,
    /// No protocol version in common.
    #[error("the peer speaks none of our protocol versions: one side needs an update")]
    NoCommonVersion,
    /// The id shows less work than the network asks for.
    #[error("the peer has not done the work that this network asks for")]
    TooLittleWork,
    /// Another node answers than the one that was dialled.
    #[error("another node answers than the one that was dialled")]
    OtherNode,
    /// The peer claims to be this node.
    #[error("the peer claims to be this node")]
    Ourselves,
    /// The signature is wrong: for another connection, another direction or another node.
    #[error("the peer's signature is wrong")]
    Signature,
}

impl Binding<'_> {
    /// The hello of this node. `peer` is whom the dialler expects, or whose hello the listener has checked; `listed`
    /// says whether this node can be dialled.
    pub fn hello(&self, role: Role, own: &NodeSecret, peer: NodeId, listed: bool) -> Cell {
        let mut out = Writer::with_capacity(BODY);
        let public = own.public();
        encode_versions(VERSIONS, &mut out);
        out.bytes(&self.network.id().0).bytes(&public.key).u64(public.nonce).u8(u8::from(listed));
        let signature = own.sign(&self.signed_part(role, own.id(), peer, out.as_slice()));
        out.bytes(&signature);
        hello_cell(out.as_slice())
    }

    /// Checks the hello of a peer that plays `role`. A dialler says whom it expects.
    pub fn check(
        &self,
        role: Role,
        cell: &Cell,
        own: NodeId,
        expected: Option<NodeId>,
    ) -> Result<ProvenPeer, BadHello> {
        let hello = Hello::decode(cell)?;
        let version = highest_common(&hello.versions).ok_or(BadHello::NoCommonVersion)?;
        let id = hello.public.id();
        if hello.network != self.network.id() {
            return Err(BadHello::OtherNetwork);
        }
        if id == own {
            return Err(BadHello::Ourselves);
        }
        if expected.is_some_and(|expected| expected != id) {
            return Err(BadHello::OtherNode);
        }
        if id.work() < self.network.work {
            return Err(BadHello::TooLittleWork);
        }
        let signed = self.signed_part(role, id, own, &hello.content);
        if !hello.public.verify(&signed, &hello.signature) {
            return Err(BadHello::Signature);
        }
        Ok(ProvenPeer { id, public: hello.public, listed: hello.listed, version })
    }

    fn signed_part(&self, signer: Role, signer_id: NodeId, other_id: NodeId, content: &[u8]) -> Vec<u8> {
        let (label, dialler, listener): (&[u8], _, _) = match signer {
            Role::Dialler => (b"phantom-link-dialler-v1", signer_id, other_id),
            Role::Listener => (b"phantom-link-listener-v1", other_id, signer_id),
        };
        [label, self.exporter, dialler.as_bytes(), listener.as_bytes(), content].concat()
    }
}

impl ProvenPeer {
    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its key and work.
    pub fn public(&self) -> NodePublic {
        self.public
    }

    /// Whether it says that it can be dialled.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// The protocol version that this link speaks.
    pub fn version(&self) -> u16 {
        self.version
    }
}

struct Hello {
    versions: Vec<u16>,
    network: NetworkId,
    public: NodePublic,
    listed: bool,
    signature: [u8; 64],
    /// What the signature covers of it.
    content: Vec<u8>,
}

impl Hello {
    fn decode(cell: &Cell) -> Result<Hello, Malformed> {
        let numbers = (cell.tunnel(), cell.path(), cell.index());
        if cell.command() != Ok(Command::Hello) || numbers != (TunnelId::default(), PathId::default(), 0) {
            return Err(Malformed::Field("header"));
        }
        let mut reader = Reader::new(cell.body());
        let versions = decode_versions(&mut reader)?;
        let network = NetworkId(reader.array()?);
        let public = NodePublic { key: reader.array()?, nonce: reader.u64()? };
        let listed = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed::Field("flag")),
        };
        let (content, _) =
            cell.body().split_at_checked(BODY - reader.remaining()).ok_or(Malformed::Truncated)?;
        let signature = reader.array()?;
        reader.zeros(reader.remaining())?;
        Ok(Hello { versions, network, public, listed, signature, content: content.to_vec() })
    }
}

fn hello_cell(content: &[u8]) -> Cell {
    let mut cell = Cell::new(Command::Hello, TunnelId::default());
    for (to, from) in cell.body_mut().iter_mut().zip(content) {
        *to = *from;
    }
    cell
}

/// Both sides compute the same: the highest number in both rising lists.
fn highest_common(theirs: &[u16]) -> Option<u16> {
    VERSIONS.iter().rev().find(|version| theirs.contains(version)).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::wire::record::tests::secret;

    const EXPORTER: [u8; 32] = [9; 32];

    fn network() -> Network {
        Network::private("test")
    }

    fn binding(network: &Network) -> Binding<'_> {
        Binding { network, exporter: &EXPORTER }
    }

    #[test]
    fn the_format_is_fixed() {
        let network = network();
        let cell = binding(&network).hello(Role::Dialler, &secret(1), secret(2).id(), true);
        let mut expected = vec![1, 0, 1];
        expected.extend(network.id().0);
        expected.extend(secret(1).public().key);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(cell.body()[..expected.len()], expected);
        let hash: [u8; 32] = Sha256::digest(cell.0).into();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&hash),
            "ca41ee2b2a9ad1d234c26aeff134374d2020dacda611847ec2753479adb632fe"
        );
    }

    #[test]
    fn both_sides_prove_themselves() {
        let network = network();
        let binding = binding(&network);
        let (dialler, listener) = (secret(1), secret(2));
        let hello = binding.hello(Role::Dialler, &dialler, listener.id(), false);
        let proven = binding.check(Role::Dialler, &hello, listener.id(), None).unwrap();
        assert_eq!((proven.id(), proven.listed(), proven.version()), (dialler.id(), false, 1));

        let answer = binding.hello(Role::Listener, &listener, proven.id(), true);
        let proven = binding.check(Role::Listener, &answer, dialler.id(), Some(listener.id())).unwrap();
        assert_eq!((proven.id(), proven.listed()), (listener.id(), true));
    }

    #[test]
    fn a_hello_is_worth_nothing_elsewhere() {
        let network = network();
        let here = binding(&network);
        let (dialler, listener, third) = (secret(1), secret(2), secret(3));
        let hello = here.hello(Role::Dialler, &dialler, listener.id(), true);

        let elsewhere = Binding { exporter: &[8; 32], ..here };
        assert_eq!(elsewhere.check(Role::Dialler, &hello, listener.id(), None), Err(BadHello::Signature));
        assert_eq!(here.check(Role::Listener, &hello, listener.id(), None), Err(BadHello::Signature));
        assert_eq!(here.check(Role::Dialler, &hello, third.id(), None), Err(BadHello::Signature));
        assert_eq!(here.check(Role::Dialler, &hello, dialler.id(), None), Err(BadHello::Ourselves));
        let expected = Some(third.id());
        assert_eq!(here.check(Role::Dialler, &hello, listener.id(), expected), Err(BadHello::OtherNode));

        let other = Network::private("other");
        assert_eq!(
            binding(&other).check(Role::Dialler, &hello, listener.id(), None),
            Err(BadHello::OtherNetwork)
        );
        let hard = Network { work: 60, ..network.clone() };
        let hello = binding(&hard).hello(Role::Dialler, &dialler, listener.id(), true);
        assert_eq!(
            binding(&hard).check(Role::Dialler, &hello, listener.id(), None),
            Err(BadHello::TooLittleWork)
        );
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        assert_eq!(highest_common(&[1]), Some(1));
        assert_eq!(highest_common(&[1, 2, 7]), Some(1));
        assert_eq!(highest_common(&[2]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_changed_byte_is_always_found(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let network = network();
            let binding = binding(&network);
            let mut hello = binding.hello(Role::Dialler, &secret(1), secret(2).id(), true);
            let at = at.index(hello.0.len());
            hello.0[at] ^= flip;
            prop_assert!(binding.check(Role::Dialler, &hello, secret(2).id(), None).is_err());
        }

        #[test]
        fn garbage_never_panics(content in prop::collection::vec(any::<u8>(), 0..200)) {
            let network = network();
            let cell = hello_cell(&[&[1, 0, 1], content.as_slice()].concat());
            prop_assert!(binding(&network).check(Role::Dialler, &cell, secret(2).id(), None).is_err());
        }
    }
}
