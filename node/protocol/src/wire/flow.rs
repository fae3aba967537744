//! UDP inside a session (PROTOCOL §6.9): what one QUIC datagram holds.
//!
//! ```text
//! flow 4 | datagram 2 | part 1 | parts 1 | a part of what the program sent
//! ```
//!
//! The flow is the number of the stream that opened it. A datagram that does not fit is cut into parts of one size, the
//! last may be shorter. Relays neither reorder nor repeat, so the parts of a datagram come in their order or some are
//! lost, and with them the whole datagram: putting it together needs one buffer for a flow, and no clock.

use super::reader::{Malformed, Reader, Writer};

/// Bytes in front of a part.
pub const HEADER: usize = 8;
/// The largest datagram of a program: what UDP over IPv4 can carry.
pub const LARGEST: usize = 65_507;

/// One part of a datagram, or all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Whose it is.
    pub flow: u32,
    /// Counts the datagrams of a flow and direction; tells the parts of one from those of the next.
    pub datagram: u16,
    /// Which part, from 0.
    pub part: u8,
    /// Of how many.
    pub parts: u8,
    /// What it carries. Only a datagram that is empty has an empty part.
    pub data: &'a [u8],
}

impl<'a> Part<'a> {
    /// Reads what came in a QUIC datagram.
    pub fn decode(bytes: &'a [u8]) -> Result<Part<'a>, Malformed> {
        let mut reader = Reader::new(bytes);
        let (flow, datagram) = (reader.u32()?, reader.u16()?);
        let (part, parts, data) = (reader.u8()?, reader.u8()?, reader.remainder());
        if part >= parts {
            return Err(Malformed::Field("part"));
        }
        if data.is_empty() && parts != 1 {
            return Err(Malformed::Truncated);
        }
        if data.len() > LARGEST {
            return Err(Malformed::TooLong);
        }
        Ok(Part { flow, datagram, part, parts, data })
    }

    /// What a QUIC datagram holds.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(HEADER + self.data.len());
        writer.u32(self.flow).u16(self.datagram).u8(self.part).u8(self.parts).bytes(self.data);
        writer.finish()
    }
}

/// Cuts a datagram into parts that fit into `room` bytes each, header included. Nothing if it is larger than allowed or
/// would have more parts than can be counted.
pub fn cut(flow: u32, datagram: u16, data: &[u8], room: usize) -> Option<impl Iterator<Item = Part<'_>>> {
    let size = room.checked_sub(HEADER).filter(|size| *size > 0)?;
    let parts = u8::try_from(data.len().div_ceil(size).max(1)).ok()?;
    let at = move |part: u8| {
        let rest = data.get(usize::from(part) * size..).unwrap_or_default();
        Part { flow, datagram, part, parts, data: rest.get(..size).unwrap_or(rest) }
    };
    (data.len() <= LARGEST).then(|| (0..parts).map(at))
}

/// Puts the datagrams of one flow and direction together again.
#[derive(Debug, Default)]
pub struct Assembly {
    /// Of what is in `data`; the parts of it are those before `next`.
    datagram: u16,
    parts: u8,
    next: u8,
    data: Vec<u8>,
}

impl Assembly {
    /// Bytes of the unfinished datagram.
    pub fn held(&self) -> usize {
        self.data.len()
    }

    /// Gives up the unfinished datagram.
    pub fn clear(&mut self) {
        *self = Assembly::default();
    }

    /// Takes the next part; returns the datagram that it completes. It holds one unfinished datagram and no more bytes
    /// than have come.
    pub fn push(&mut self, part: &Part<'_>) -> Option<Vec<u8>> {
        if part.part == 0 {
            *self = Assembly { datagram: part.datagram, parts: part.parts, ..Assembly::default() };
        }
        let fits = self.data.len() + part.data.len() <= LARGEST;
        if !fits || (part.datagram, part.parts, part.part) != (self.datagram, self.parts, self.next) {
            *self = Assembly::default();
            return None;
        }
        self.data.extend_from_slice(part.data);
        self.next += 1;
        (self.next == self.parts).then(|| std::mem::take(self).data)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pushed(assembly: &mut Assembly, parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let decoded = parts.iter().map(|bytes| Part::decode(bytes).unwrap());
        decoded.filter_map(|part| assembly.push(&part)).collect()
    }

    fn cut_up(datagram: u16, data: &[u8], room: usize) -> Vec<Vec<u8>> {
        cut(7, datagram, data, room).unwrap().map(|part| part.encode()).collect()
    }

    #[test]
    fn the_layout_is_the_one_of_the_specification() {
        let part = Part { flow: 0x0102_0304, datagram: 0x0506, part: 7, parts: 8, data: b"data" };
        assert_eq!(part.encode(), b"\x01\x02\x03\x04\x05\x06\x07\x08data");
    }

    #[test]
    fn what_no_honest_peer_sends_is_refused() {
        let good = Part { flow: 1, datagram: 2, part: 0, parts: 2, data: b"x" };
        assert!(Part::decode(&good.encode()).is_ok());
        for bad in [
            Part { part: 2, ..good },
            Part { parts: 0, ..good },
            Part { data: b"", ..good },
            Part { data: &[0; LARGEST + 1], ..good },
        ] {
            assert!(Part::decode(&bad.encode()).is_err());
        }
        assert_eq!(Part::decode(&[0]), Err(Malformed::Truncated), "a keep-alive is no part");
    }

    #[test]
    fn the_largest_datagram_fits_and_one_byte_more_does_not() {
        let parts = cut_up(0, &[9; LARGEST], 1_274);
        assert_eq!(parts.len(), 52);
        assert_eq!(pushed(&mut Assembly::default(), &parts), [vec![9; LARGEST]]);
        assert!(cut(7, 0, &[9; LARGEST + 1], 1_274).is_none());
        assert!(cut(7, 0, &[9; LARGEST], 200).is_none(), "more than 255 parts");
        assert!(cut(7, 0, b"", HEADER).is_none(), "no room");
    }

    #[test]
    fn a_lost_part_loses_its_datagram_and_no_other() {
        let mut assembly = Assembly::default();
        let (first, second) = (cut_up(1, &[1; 300], 108), cut_up(2, &[2; 300], 108));
        for lost in 0..3 {
            let mut parts = first.clone();
            parts.remove(lost);
            parts.extend(second.clone());
            assert_eq!(pushed(&mut assembly, &parts), [vec![2; 300]], "part {lost}");
        }
        // The end of one and the beginning of another never make a third.
        let mixed = [&first[..2], &second[2..]].concat();
        assert!(pushed(&mut assembly, &mixed).is_empty());
    }

    #[test]
    fn parts_that_pile_up_are_let_go() {
        let mut assembly = Assembly::default();
        let data = [0; 60_000];
        for part in 0..=254 {
            assert_eq!(assembly.push(&Part { flow: 1, datagram: 0, part, parts: 255, data: &data }), None);
            assert!(assembly.data.capacity() <= 2 * LARGEST);
        }
    }

    proptest! {
        #[test]
        fn what_was_cut_comes_together(data in proptest::collection::vec(any::<u8>(), 0..3_000), room in 30_usize..1_300) {
            let parts = cut_up(3, &data, room);
            prop_assert!(parts.iter().all(|part| part.len() <= room));
            prop_assert_eq!(pushed(&mut Assembly::default(), &parts), [data]);
        }

        #[test]
        fn every_part_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(part) = Part::decode(&bytes) {
                prop_assert_eq!(part.encode(), bytes);
            }
        }

        #[test]
        fn no_row_of_parts_makes_a_datagram_that_nobody_sent(
            order in proptest::collection::vec((0_u16..4, any::<prop::sample::Index>()), 0..40),
        ) {
            let sent: Vec<Vec<Vec<u8>>> =
                (0..4).map(|number| cut_up(number, &vec![number as u8; 100 * usize::from(number + 1)], 108)).collect();
            let mut assembly = Assembly::default();
            for (number, index) in order {
                let parts = &sent[usize::from(number)];
                if let Some(whole) = assembly.push(&Part::decode(&parts[index.index(parts.len())]).unwrap()) {
                    prop_assert_eq!(whole, vec![number as u8; 100 * usize::from(number + 1)]);
                }
            }
        }
    }
}
