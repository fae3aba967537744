//! Parsing and emitting bytes: the one checked cursor that every codec of this folder uses.
//!
//! A [`Reader`] never panics and never looks ahead of what it was given; whoever parses a whole message ends with
//! [`Reader::finish`], for which bytes left over are an error. A length field never makes it allocate: what it returns
//! are parts of the input. Numbers are big-endian.

/// What is wrong with bytes that do not parse. Inside it names the sin; on the wire all sins look the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end within a field.
    #[error("it ends too early")]
    Truncated,
    /// Bytes follow the last field.
    #[error("it has bytes after its end")]
    Trailing,
    /// The named field holds what no honest encoder writes: every value has exactly one encoding.
    #[error("its {0} is not one that this version writes")]
    Field(&'static str),
    /// The message is longer than its limit.
    #[error("it is larger than allowed")]
    TooLong,
}

/// Takes fields from the front of a message.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the first byte on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(field)
    }

    /// The next `N` bytes, by value.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*field)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes that must be zero.
    pub fn zeros(&mut self, count: usize) -> Result<(), Malformed> {
        let padding = self.bytes(count)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Malformed::Field("padding"));
        }
        Ok(())
    }

    /// A length of two bytes, then that many bytes, at most `limit`.
    pub fn prefixed(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return Err(Malformed::TooLong);
        }
        self.bytes(length)
    }

    /// Everything that is left.
    pub fn remainder(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the message: nothing may be left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// Appends fields to a message.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty message that will hold `capacity` bytes without growing.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, field: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(field);
        self
    }

    /// One byte.
    pub fn u8(&mut self, number: u8) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    /// Two bytes.
    pub fn u16(&mut self, number: u16) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    /// `count` zeros.
    pub fn zeros(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    /// A length of two bytes, then the bytes, which are cut at 65,535: no message has a field as long as that.
    pub fn prefixed(&mut self, field: &[u8]) -> &mut Self {
        debug_assert!(field.len() <= usize::from(u16::MAX), "a field is longer than its length can say");
        let length = u16::try_from(field.len()).unwrap_or(u16::MAX);
        self.u16(length).bytes(field.get(..usize::from(length)).unwrap_or(field))
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The message so far: what a signature covers.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The message.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order() {
        let mut message = Writer::new();
        message.u8(1).u16(2).u32(3).u64(4).bytes(b"five").zeros(2).prefixed(b"six");
        let message = message.finish();
        let mut reader = Reader::new(&message);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.u32(), Ok(3));
        assert_eq!(reader.u64(), Ok(4));
        assert_eq!(reader.array(), Ok(*b"five"));
        assert_eq!(reader.zeros(2), Ok(()));
        assert_eq!(reader.prefixed(3), Ok(&b"six"[..]));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_short_message_and_a_long_one_are_errors() {
        assert_eq!(Reader::new(&[1]).u16(), Err(Malformed::Truncated));
        assert_eq!(Reader::new(&[1]).finish(), Err(Malformed::Trailing));
        assert_eq!(Reader::new(&[0, 5, 1]).prefixed(9), Err(Malformed::Truncated));
        assert_eq!(Reader::new(&[0, 5, 1, 2, 3, 4, 5]).prefixed(4), Err(Malformed::TooLong));
        assert_eq!(Reader::new(&[0, 1]).zeros(2), Err(Malformed::Field("padding")));
    }
}
