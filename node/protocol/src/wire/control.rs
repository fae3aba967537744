//! Control messages of two neighbours, and how they are cut into cells (PROTOCOL §2).
//!
//! A message is longer than a cell, so it travels as a row of [`Command::Control`] cells, which no other message of
//! the same direction interrupts. The index of a cell is the number of the fragment, from 0; tunnel and path are zero.
//!
//! ```text
//! fragment 0:  kind 1 | length of the content 4 | content
//! others:      content
//! kind 1, 2    setup array of round 1, 2:   connection 5 | array 58,880
//! kind 3       partner:                     nothing
//! kind 4       records:                     (kind 1 | length 2 | record) ...   kind 1 node, 2 AP entry
//! kind 5       knock:                       contact 116, listed
//! kind 6       knocked:                     1 byte: 1 if the node was reached, else 0
//! ```
//!
//! What the last cell does not need is zero. The [`Reassembler`] checks kind and length at fragment 0 and grows with
//! what arrives, never with what is promised. Any error ends the link.

use super::{
    cell::{BODY, Cell, Command, PathId, TunnelId},
    contact::Contact,
    reader::{Malformed, Reader, Writer},
};
use crate::limits::{ARRAY, RECORD, RECORDS_MESSAGE};

/// What one neighbour tells another apart from tunnels.
#[derive(Clone, PartialEq, Eq)]
pub enum ControlMessage {
    /// A setup array on its way around the circle (PROTOCOL §4).
    Setup {
        /// Which of the two times around.
        round: Round,
        /// The connection of the path that the array came over.
        connection: PathId,
        /// The slots.
        array: Box<[u8; ARRAY]>,
    },
    /// The sender wishes to exchange records over this link (PROTOCOL §7).
    Partner,
    /// Records that the sender believes to be news (PROTOCOL §7).
    Records(Vec<Published>),
    /// The sender wishes to know whether others reach it there (PROTOCOL §7).
    Knock(Contact),
    /// Whether the receiver, who has asked for it, was reached.
    Knocked(bool),
}

/// The two times that an array goes around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Round {
    /// Setup packages.
    One,
    /// Goodie boxes.
    Two,
}

/// A record of the network database as it travels, unchecked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Published {
    /// A [`crate::wire::record::NodeRecord`].
    Node(Vec<u8>),
    /// A sealed [`crate::netdb::ap_entry::ApEntry`].
    ApEntry(Vec<u8>),
}

/// A fault of the link's peer in its control messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadControl {
    /// A fragment that does not follow the one before it.
    #[error("a fragment of a control message is out of turn")]
    OutOfTurn,
    /// A kind that this version does not know.
    #[error("an unknown kind of control message")]
    UnknownKind,
    /// A length that this kind never has.
    #[error("a control message of a wrong length")]
    WrongLength,
    /// Tunnel, path or the end of the last cell are not zero.
    #[error("a control cell with data where zeros belong")]
    Dirty,
    /// The content does not parse.
    #[error("a control message does not parse: {0}")]
    Malformed(#[from] Malformed),
}

const SETUP_LENGTH: usize = 5 + ARRAY;
/// Kind and length, in fragment 0.
const PREFIX: usize = 1 + 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Setup(Round),
    Partner,
    Records,
    Knock,
    Knocked,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Setup(Round::One),
        Kind::Setup(Round::Two),
        Kind::Partner,
        Kind::Records,
        Kind::Knock,
        Kind::Knocked,
    ];

    fn to_byte(self) -> u8 {
        match self {
            Kind::Setup(Round::One) => 1,
            Kind::Setup(Round::Two) => 2,
            Kind::Partner => 3,
            Kind::Records => 4,
            Kind::Knock => 5,
            Kind::Knocked => 6,
        }
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.to_byte() == byte)
    }

    fn allows(self, length: usize) -> bool {
        match self {
            Kind::Setup(_) => length == SETUP_LENGTH,
            Kind::Partner => length == 0,
            Kind::Records => (1..=RECORDS_MESSAGE).contains(&length),
            Kind::Knock => length == Contact::ENCODED,
            Kind::Knocked => length == 1,
        }
    }
}

impl ControlMessage {
    /// The cells that carry this message, in order.
    pub fn to_cells(&self) -> Vec<Cell> {
        let content = self.encode();
        let mut message = Writer::with_capacity(PREFIX + content.len());
        message.u8(self.kind().to_byte()).u32(content.len() as u32).bytes(&content);
        let fragments = message.as_slice().chunks(BODY);
        (0..).zip(fragments).map(|(number, fragment)| control_cell(number, fragment)).collect()
    }

    fn kind(&self) -> Kind {
        match self {
            ControlMessage::Setup { round, .. } => Kind::Setup(*round),
            ControlMessage::Partner => Kind::Partner,
            ControlMessage::Records(_) => Kind::Records,
            ControlMessage::Knock(_) => Kind::Knock,
            ControlMessage::Knocked(_) => Kind::Knocked,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            ControlMessage::Setup { connection, array, .. } => {
                out.bytes(&connection.to_bytes()).bytes(array.as_slice());
            }
            ControlMessage::Partner => {}
            ControlMessage::Records(records) => records.iter().for_each(|record| record.encode(&mut out)),
            ControlMessage::Knock(contact) => contact.encode(&mut out),
            ControlMessage::Knocked(reached) => _ = out.u8(u8::from(*reached)),
        }
        out.finish()
    }

    fn decode(kind: Kind, content: &[u8]) -> Result<ControlMessage, Malformed> {
        let mut reader = Reader::new(content);
        let message = match kind {
            Kind::Setup(round) => ControlMessage::Setup {
                round,
                connection: PathId::from_bytes(reader.array()?),
                array: boxed_array(reader.bytes(ARRAY)?)?,
            },
            Kind::Partner => ControlMessage::Partner,
            Kind::Records => {
                let mut records = Vec::new();
                while reader.remaining() > 0 {
                    records.push(Published::decode(&mut reader)?);
                }
                ControlMessage::Records(records)
            }
            Kind::Knock => {
                let contact = Contact::decode(&mut reader)?;
                contact.address.ok_or(Malformed::Field("address"))?;
                ControlMessage::Knock(contact)
            }
            Kind::Knocked => match reader.u8()? {
                0 => ControlMessage::Knocked(false),
                1 => ControlMessage::Knocked(true),
                _ => return Err(Malformed::Field("flag")),
            },
        };
        reader.finish()?;
        Ok(message)
    }
}

impl Published {
    /// Bytes that this record takes in a message.
    pub fn encoded_len(&self) -> usize {
        1 + 2 + self.bytes().len()
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Published::Node(bytes) | Published::ApEntry(bytes) => bytes,
        }
    }

    fn encode(&self, out: &mut Writer) {
        let kind = match self {
            Published::Node(_) => 1,
            Published::ApEntry(_) => 2,
        };
        out.u8(kind).prefixed(self.bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Published, Malformed> {
        let kind = reader.u8()?;
        let bytes = reader.prefixed(RECORD)?.to_vec();
        if bytes.is_empty() {
            return Err(Malformed::Truncated);
        }
        match kind {
            1 => Ok(Published::Node(bytes)),
            2 => Ok(Published::ApEntry(bytes)),
            _ => Err(Malformed::Field("kind of record")),
        }
    }
}

/// Puts the control cells of one link back together.
#[derive(Debug, Default)]
pub struct Reassembler {
    /// The message under way: its kind and length, and what has come of it.
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    kind: Kind,
    length: usize,
    next_fragment: u32,
    content: Vec<u8>,
}

impl Reassembler {
    /// Between two messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next [`Command::Control`] cell; gives the message that it completes.
    pub fn push(&mut self, cell: &Cell) -> Result<Option<ControlMessage>, BadControl> {
        if cell.tunnel() != TunnelId::default() || cell.path() != PathId::default() {
            return Err(BadControl::Dirty);
        }
        let (mut partial, fragment) = match self.partial.take() {
            None => Partial::begin(cell)?,
            Some(partial) if cell.index() == partial.next_fragment => (partial, cell.body().as_slice()),
            Some(_) => return Err(BadControl::OutOfTurn),
        };
        if partial.add(fragment)? {
            return Ok(Some(ControlMessage::decode(partial.kind, &partial.content)?));
        }
        self.partial = Some(partial);
        Ok(None)
    }
}

impl Partial {
    fn begin(cell: &Cell) -> Result<(Partial, &[u8]), BadControl> {
        if cell.index() != 0 {
            return Err(BadControl::OutOfTurn);
        }
        let mut reader = Reader::new(cell.body());
        let kind = Kind::from_byte(reader.u8()?).ok_or(BadControl::UnknownKind)?;
        let length = usize::try_from(reader.u32()?).map_err(|_| BadControl::WrongLength)?;
        if !kind.allows(length) {
            return Err(BadControl::WrongLength);
        }
        Ok((Partial { kind, length, next_fragment: 0, content: Vec::new() }, reader.remainder()))
    }

    /// Whether this fragment was the last.
    fn add(&mut self, fragment: &[u8]) -> Result<bool, BadControl> {
        let missing = self.length - self.content.len();
        let (content, padding) = fragment.split_at(missing.min(fragment.len()));
        if padding.iter().any(|byte| *byte != 0) {
            return Err(BadControl::Dirty);
        }
        self.content.extend_from_slice(content);
        self.next_fragment += 1;
        Ok(self.content.len() == self.length)
    }
}

fn control_cell(number: u32, fragment: &[u8]) -> Cell {
    let mut cell = Cell::new(Command::Control, TunnelId::default());
    cell.set_index(number);
    for (to, from) in cell.body_mut().iter_mut().zip(fragment) {
        *to = *from;
    }
    cell
}

fn boxed_array(bytes: &[u8]) -> Result<Box<[u8; ARRAY]>, Malformed> {
    bytes.to_vec().into_boxed_slice().try_into().map_err(|_| Malformed::Truncated)
}

impl std::fmt::Debug for ControlMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ControlMessage::Setup { round, connection, .. } => write!(f, "Setup({round:?}, {connection:?})"),
            ControlMessage::Partner => write!(f, "Partner"),
            ControlMessage::Records(records) => write!(f, "Records({})", records.len()),
            ControlMessage::Knock(contact) => write!(f, "Knock({:?})", contact.id),
            ControlMessage::Knocked(reached) => write!(f, "Knocked({reached})"),
        }
    }
}

impl std::fmt::Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Published::Node(bytes) => write!(f, "Node({} bytes)", bytes.len()),
            Published::ApEntry(bytes) => write!(f, "ApEntry({} bytes)", bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{identity::NodeId, wire::contact::TlsKeys};

    fn knock() -> ControlMessage {
        let address = "198.51.100.7:443".parse().unwrap();
        ControlMessage::Knock(Contact::listed(NodeId::from_bytes([3; 32]), address, TlsKeys::one([4; 32])))
    }

    fn setup(fill: u8) -> ControlMessage {
        let connection = PathId::new(0x01_0203_0405);
        ControlMessage::Setup { round: Round::Two, connection, array: Box::new([fill; ARRAY]) }
    }

    fn deliver(reassembler: &mut Reassembler, cells: &[Cell]) -> Result<Option<ControlMessage>, BadControl> {
        let mut last = Ok(None);
        for cell in cells {
            assert_eq!(last, Ok(None), "a message completed before its last cell");
            last = reassembler.push(cell);
            if last.is_err() {
                break;
            }
        }
        last
    }

    fn any_message() -> impl Strategy<Value = ControlMessage> {
        let record =
            (any::<bool>(), prop::collection::vec(any::<u8>(), 1..2000)).prop_map(|(node, bytes)| {
                if node { Published::Node(bytes) } else { Published::ApEntry(bytes) }
            });
        prop_oneof![
            any::<u8>().prop_map(setup),
            Just(ControlMessage::Partner),
            Just(knock()),
            any::<bool>().prop_map(ControlMessage::Knocked),
            prop::collection::vec(record, 1..15).prop_map(ControlMessage::Records),
        ]
    }

    #[test]
    fn the_format_is_fixed() {
        let message = ControlMessage::Records(vec![Published::Node(vec![7, 8]), Published::ApEntry(vec![9])]);
        let cells = message.to_cells();
        assert_eq!(cells.len(), 1);
        assert_eq!(cells[0].command(), Ok(Command::Control));
        assert_eq!(cells[0].body()[..14], [4, 0, 0, 0, 9, 1, 0, 2, 7, 8, 2, 0, 1, 9]);

        let cells = setup(0xaa).to_cells();
        assert_eq!(cells.len(), 43);
        assert_eq!(cells[0].body()[..11], [2, 0, 0, 0xe6, 0x05, 1, 2, 3, 4, 5, 0xaa]);
        assert_eq!(cells[42].index(), 42);

        let [cell] = knock().to_cells().try_into().unwrap();
        assert_eq!(cell.body()[..6], [5, 0, 0, 0, 116, 3]);
        assert_eq!(cell.body()[5 + 32..5 + 37], [4, 198, 51, 100, 7]);
        let [cell] = ControlMessage::Knocked(true).to_cells().try_into().unwrap();
        assert_eq!(cell.body()[..7], [6, 0, 0, 0, 1, 1, 0]);
    }

    #[test]
    fn a_knock_names_an_address_and_its_answer_is_yes_or_no() {
        let unlisted = ControlMessage::Knock(Contact::unlisted(NodeId::from_bytes([3; 32])));
        let [mut answer] = ControlMessage::Knocked(true).to_cells().try_into().unwrap();
        answer.body_mut()[5] = 2;
        for (cell, field) in [(&unlisted.to_cells()[0], "address"), (&answer, "flag")] {
            let malformed = BadControl::Malformed(Malformed::Field(field));
            assert_eq!(Reassembler::new().push(cell), Err(malformed));
        }
    }

    #[test]
    fn a_fragment_out_of_turn_is_an_error() {
        let cells = setup(1).to_cells();
        assert_eq!(Reassembler::new().push(&cells[1]), Err(BadControl::OutOfTurn));
        let skipping = [cells[0].clone(), cells[2].clone()];
        assert_eq!(deliver(&mut Reassembler::new(), &skipping), Err(BadControl::OutOfTurn));
        let repeating = [cells[0].clone(), cells[0].clone()];
        assert_eq!(deliver(&mut Reassembler::new(), &repeating), Err(BadControl::OutOfTurn));
    }

    #[test]
    fn a_length_that_the_kind_never_has_is_refused_at_the_first_fragment() {
        for (kind, length) in
            [(1, 5 + ARRAY as u32 + 1), (3, 1), (4, 0), (4, u32::MAX), (5, 115), (5, 117), (6, 0), (6, 2)]
        {
            let mut body = vec![kind];
            body.extend(u32::to_be_bytes(length));
            assert_eq!(Reassembler::new().push(&control_cell(0, &body)), Err(BadControl::WrongLength));
        }
        assert_eq!(Reassembler::new().push(&control_cell(0, &[0])), Err(BadControl::UnknownKind));
    }

    #[test]
    fn a_promised_length_allocates_nothing() {
        let mut reassembler = Reassembler::new();
        assert_eq!(reassembler.push(&setup(1).to_cells()[0]), Ok(None));
        assert!(reassembler.partial.unwrap().content.capacity() < 2 * BODY);
    }

    #[test]
    fn data_where_zeros_belong_is_an_error() {
        let [mut cell] = ControlMessage::Partner.to_cells().try_into().unwrap();
        cell.body_mut()[1000] = 1;
        assert_eq!(Reassembler::new().push(&cell), Err(BadControl::Dirty));
        let [mut cell] = ControlMessage::Partner.to_cells().try_into().unwrap();
        cell.set_tunnel(TunnelId::new(1));
        assert_eq!(Reassembler::new().push(&cell), Err(BadControl::Dirty));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_come_back_one_after_the_other(messages in prop::collection::vec(any_message(), 1..4)) {
            let mut reassembler = Reassembler::new();
            for message in messages {
                prop_assert_eq!(deliver(&mut reassembler, &message.to_cells()), Ok(Some(message)));
            }
        }

        #[test]
        fn garbage_never_panics(
            kind in 0u8..8,
            length in prop_oneof![0u32..40, Just(116), Just(5 + ARRAY as u32), any::<u32>()],
            content in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut body = vec![kind];
            body.extend(length.to_be_bytes());
            body.extend(content);
            let _ = Reassembler::new().push(&control_cell(0, &body));
        }
    }
}
