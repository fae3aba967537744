//! What lies inside all layers of a cell (PROTOCOL §3): 16 zero bytes, kind 1, length 2, payload, filler.
//!
//! The zeros are the authenticity of a cell: whoever changed one bit at any hop has made the whole body random. They
//! are checked in constant time. An unknown kind is an error, never ignored.

use subtle::ConstantTimeEq;

use super::cell::{BODY, Body};

const ZEROS: usize = 16;
const KIND: usize = ZEROS;
const LENGTH: usize = KIND + 1;
const PAYLOAD: usize = LENGTH + 2;

/// The longest payload of a cell.
pub const MAX_PAYLOAD: usize = BODY - PAYLOAD;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A session's datagram, sealed under the session secret (PROTOCOL §6). Crosses between terminals.
    Sealed = 1,
    /// A session's datagram as QUIC made it. Crosses between terminals.
    Plain = 2,
    /// From terminal to owner: what became of the opener.
    Answer = 3,
    /// From owner to entry: this incoming tunnel is wanted.
    Confirm = 4,
    /// Opener: the terminal sends a cell of this kind back.
    Echo = 16,
    /// Opener: the terminal is to join an entry node.
    Join = 17,
    /// Opener: from an entry to the owner, who is visited.
    Incoming = 18,
    /// Opener: the terminal is to put an AP entry into the network database.
    Publish = 19,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Sealed,
            2 => Kind::Plain,
            3 => Kind::Answer,
            4 => Kind::Confirm,
            16 => Kind::Echo,
            17 => Kind::Join,
            18 => Kind::Incoming,
            19 => Kind::Publish,
            _ => return None,
        })
    }

    /// Whether terminals hand this kind to each other.
    pub fn crosses(self) -> bool {
        matches!(self, Kind::Sealed | Kind::Plain)
    }
}

/// A payload that no cell can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payload longer than a cell carries")]
pub struct TooLong;

/// A body that no honest end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// Somebody changed the cell on its way, or it was made under other keys.
    #[error("the zeros of a body are not zero")]
    NotAuthentic,
    /// A kind that this version does not know.
    #[error("a body of an unknown kind")]
    UnknownKind,
    /// A length that does not fit, or content that does not parse.
    #[error("a body with an impossible length or content")]
    Malformed,
}

/// Writes a whole body: zeros, `kind`, `payload`, and filler of zeros.
pub fn write(kind: Kind, payload: &[u8], body: &mut Body) -> Result<(), TooLong> {
    let (head, room) = body.split_at_mut(PAYLOAD);
    let (place, filler) = room.split_at_mut_checked(payload.len()).ok_or(TooLong)?;
    let length = u16::try_from(payload.len()).map_err(|_| TooLong)?;
    head.fill(0);
    head[KIND] = kind as u8;
    head[LENGTH..].copy_from_slice(&length.to_be_bytes());
    place.copy_from_slice(payload);
    filler.fill(0);
    Ok(())
}

/// Checks a body and returns its kind and payload.
pub fn read(body: &Body) -> Result<(Kind, &[u8]), BadBody> {
    if !bool::from(body[..ZEROS].ct_eq(&[0; ZEROS])) {
        return Err(BadBody::NotAuthentic);
    }
    let kind = Kind::from_byte(body[KIND]).ok_or(BadBody::UnknownKind)?;
    let length = usize::from(u16::from_be_bytes([body[LENGTH], body[LENGTH + 1]]));
    let payload = body[PAYLOAD..].get(..length).ok_or(BadBody::Malformed)?;
    Ok((kind, payload))
}

/// Makes the filler of a body zero, so that nothing but kind and payload passes from one path into the next
/// (PROTOCOL §5). Returns the kind.
pub fn scrub(body: &mut Body) -> Result<Kind, BadBody> {
    let (kind, payload) = read(body)?;
    let end = PAYLOAD + payload.len();
    body[end..].fill(0);
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_payload_of_any_length_comes_back() {
        let mut body = [7; BODY];
        for length in [0, 1, 1_312, MAX_PAYLOAD] {
            let payload = vec![9; length];
            write(Kind::Plain, &payload, &mut body).unwrap();
            assert_eq!(read(&body), Ok((Kind::Plain, &payload[..])));
        }
        assert_eq!(write(Kind::Plain, &[0; MAX_PAYLOAD + 1], &mut body), Err(TooLong));
    }

    #[test]
    fn any_bit_of_the_zeros_counts() {
        let mut body = [0; BODY];
        write(Kind::Sealed, b"x", &mut body).unwrap();
        for bit in 0..ZEROS * 8 {
            let mut bad = body;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&bad), Err(BadBody::NotAuthentic));
        }
    }

    #[test]
    fn unknown_kinds_and_impossible_lengths_are_errors() {
        let mut body = [0; BODY];
        assert_eq!(read(&body), Err(BadBody::UnknownKind));
        body[KIND] = 5;
        assert_eq!(read(&body), Err(BadBody::UnknownKind));
        write(Kind::Plain, b"", &mut body).unwrap();
        body[LENGTH..PAYLOAD].copy_from_slice(&1_358u16.to_be_bytes());
        assert_eq!(read(&body), Err(BadBody::Malformed));
    }

    #[test]
    fn scrubbing_leaves_nothing_in_the_filler() {
        let mut body = [0; BODY];
        write(Kind::Plain, b"hello", &mut body).unwrap();
        let clean = body;
        body[PAYLOAD + 5..].fill(0xaa);
        assert_eq!(scrub(&mut body), Ok(Kind::Plain));
        assert!(body == clean);
    }

    proptest! {
        #[test]
        fn reading_garbage_never_panics(head in any::<[u8; 24]>(), zeros in any::<bool>()) {
            let mut body = [1; BODY];
            body[..24].copy_from_slice(&head);
            if zeros { body[..ZEROS].fill(0); }
            let _ = read(&body);
            let _ = scrub(&mut body);
        }
    }
}
