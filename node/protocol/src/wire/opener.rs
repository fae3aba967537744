//! Openers: the first cell of a routing tunnel, for its far end (PROTOCOL §5).
//!
//! ```text
//! 16 zero | kind 1 | length 2 | random 32 | content | filler
//! Join:    token 32 | contact of the entry node
//! Publish: the AP entry, as it is stored
//! Echo, Incoming: nothing
//! ```
//!
//! The random bytes make every opener, and with it the keys of its tunnel, different from all others.

use super::{
    body::{self, BadBody, Kind, TooLong},
    cell::{BODY, Body},
    contact::Contact,
};
use crate::crypto::proof::Token;

const RANDOM: usize = 32;
const TOKEN: usize = 32;

/// The longest AP entry that an opener carries.
pub const MAX_PUBLISHED: usize = body::MAX_PAYLOAD - RANDOM;

/// What a tunnel is opened for.
#[derive(Clone, Debug)]
pub enum Opener {
    /// Owner to terminal: send an echo back. Shows that a path works.
    Echo,
    /// Owner to exit: join this entry node with this token.
    Join {
        /// Whom to dial.
        entry: Contact,
        /// What to show there.
        token: Token,
    },
    /// Entry to owner: a visitor whose token was accepted.
    Incoming,
    /// Owner to terminal: put this AP entry into the network database. At most [`MAX_PUBLISHED`] bytes.
    Publish {
        /// The entry as it is stored; the terminal cannot read it.
        entry: Vec<u8>,
    },
}

impl Opener {
    /// The innermost body of an opener.
    pub fn encode(&self, random: &[u8; RANDOM]) -> Result<Body, TooLong> {
        let mut payload = Vec::with_capacity(body::MAX_PAYLOAD);
        payload.extend_from_slice(random);
        let kind = match self {
            Opener::Echo => Kind::Echo,
            Opener::Incoming => Kind::Incoming,
            Opener::Join { entry, token } => {
                payload.extend_from_slice(token.as_bytes());
                payload.extend_from_slice(&entry.to_bytes());
                Kind::Join
            }
            Opener::Publish { entry } => {
                payload.extend_from_slice(entry);
                Kind::Publish
            }
        };
        let mut sealed = [0; BODY];
        body::write(kind, &payload, &mut sealed)?;
        Ok(sealed)
    }

    /// Checks and parses the innermost body of an opener.
    pub fn decode(sealed: &Body) -> Result<Opener, BadBody> {
        let (kind, payload) = body::read(sealed)?;
        let (_random, content) = payload.split_at_checked(RANDOM).ok_or(BadBody::Malformed)?;
        match kind {
            Kind::Echo if content.is_empty() => Ok(Opener::Echo),
            Kind::Incoming if content.is_empty() => Ok(Opener::Incoming),
            Kind::Publish => Ok(Opener::Publish { entry: content.to_vec() }),
            Kind::Join => {
                let (token, entry) = content.split_first_chunk::<TOKEN>().ok_or(BadBody::Malformed)?;
                let entry = Contact::from_bytes(entry).map_err(|_| BadBody::Malformed)?;
                Ok(Opener::Join { entry, token: Token::from_bytes(*token) })
            }
            _ => Err(BadBody::Malformed),
        }
    }
}

/// What a terminal tells the owner about an opener: the payload, one byte, of a cell of kind [`Kind::Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// The entry node has accepted the token; whether the service answers is for the session to see.
    Joined = 1,
    /// The exit has no link to the entry node, or lost it while it waited.
    Unreachable = 2,
    /// The entry node has refused the token.
    Unknown = 3,
    /// The terminal has taken the AP entry.
    Published = 4,
}

impl Answer {
    /// From the payload of a cell.
    pub fn decode(payload: &[u8]) -> Result<Answer, BadBody> {
        match payload {
            [1] => Ok(Answer::Joined),
            [2] => Ok(Answer::Unreachable),
            [3] => Ok(Answer::Unknown),
            [4] => Ok(Answer::Published),
            _ => Err(BadBody::Malformed),
        }
    }
}

/// The body of a JOIN: the token, and nothing else.
pub fn write_join(token: &Token, body: &mut Body) {
    let (place, filler) = body.split_at_mut(TOKEN);
    place.copy_from_slice(token.as_bytes());
    filler.fill(0);
}

/// Reads the body of a JOIN.
pub fn read_join(body: &Body) -> Result<Token, BadBody> {
    let (token, filler) = body.split_first_chunk::<TOKEN>().ok_or(BadBody::Malformed)?;
    if filler.iter().any(|byte| *byte != 0) {
        return Err(BadBody::Malformed);
    }
    Ok(Token::from_bytes(*token))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::contact::tests::any_contact;

    fn any_opener() -> impl Strategy<Value = Opener> {
        prop_oneof![
            Just(Opener::Echo),
            Just(Opener::Incoming),
            (any_contact(), any::<[u8; 32]>())
                .prop_map(|(entry, token)| Opener::Join { entry, token: Token::from_bytes(token) }),
            prop::collection::vec(any::<u8>(), 0..=MAX_PUBLISHED).prop_map(|entry| Opener::Publish { entry }),
        ]
    }

    proptest! {
        #[test]
        fn every_opener_comes_back(opener in any_opener(), random: [u8; 32]) {
            let body = opener.encode(&random).unwrap();
            let back = Opener::decode(&body).unwrap();
            prop_assert!(back.encode(&random).unwrap() == body);
            prop_assert_eq!(std::mem::discriminant(&back), std::mem::discriminant(&opener));
        }

        #[test]
        fn garbage_is_refused_without_panic(
            kind in 0u8..24,
            length in 0u16..1_400,
            content in prop::collection::vec(any::<u8>(), 160),
        ) {
            let mut body = [0; BODY];
            body[16] = kind;
            body[17..19].copy_from_slice(&length.to_be_bytes());
            body[19..19 + content.len()].copy_from_slice(&content);
            if let Ok(opener) = Opener::decode(&body) {
                prop_assert!((16..=19).contains(&kind), "{opener:?}");
            }
        }

        #[test]
        fn a_join_comes_back_and_has_no_room_for_anything_else(token: [u8; 32], at in 32..BODY) {
            let mut body = [1; BODY];
            write_join(&Token::from_bytes(token), &mut body);
            prop_assert!(read_join(&body).unwrap().as_bytes() == &token);
            body[at] = 1;
            prop_assert_eq!(read_join(&body).unwrap_err(), BadBody::Malformed);
        }
    }

    #[test]
    fn an_entry_that_is_too_long_is_refused() {
        let opener = Opener::Publish { entry: vec![0; MAX_PUBLISHED + 1] };
        assert!(opener.encode(&[0; 32]) == Err(TooLong));
    }

    #[test]
    fn answers_are_one_byte() {
        for answer in [Answer::Joined, Answer::Unreachable, Answer::Unknown, Answer::Published] {
            assert_eq!(Answer::decode(&[answer as u8]), Ok(answer));
        }
        for bad in [&[][..], &[0], &[5], &[1, 1]] {
            assert_eq!(Answer::decode(bad), Err(BadBody::Malformed));
        }
    }
}
