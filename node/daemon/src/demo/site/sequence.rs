//! The fixed pseudo-random sequence of `/bytes/N`: splitmix64 from seed 0, each output as 8 bytes, lowest first.
//!
//! Any place in it can be computed directly, so ranges cost nothing. It is fast and it does not compress; it is no
//! cryptography and need not be.

use bytes::Bytes;

/// Bytes that are made at once.
pub const CHUNK: usize = 64 * 1024;

const WORD: u64 = 8;

/// The sequence from a place to another, in chunks.
#[derive(Clone, Debug)]
pub struct Sequence {
    place: u64,
    end: u64,
}

impl Sequence {
    /// The bytes from `start` up to, and without, `end`.
    pub fn new(start: u64, end: u64) -> Sequence {
        Sequence { place: start, end: end.max(start) }
    }
}

impl Iterator for Sequence {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        // Chunks end at whole multiples, so all but the first and the last are made of whole words.
        let boundary = (self.place / CHUNK as u64 + 1) * CHUNK as u64;
        let end = boundary.min(self.end);
        let length = usize::try_from(end.checked_sub(self.place).filter(|length| *length > 0)?).ok()?;
        let mut chunk = vec![0; length];
        fill(self.place, &mut chunk);
        self.place = end;
        Some(chunk.into())
    }
}

/// Writes the bytes that begin at `place`.
pub fn fill(place: u64, out: &mut [u8]) {
    let into_word = (place % WORD) as usize;
    let mut index = place / WORD;
    let mut rest = out;
    if into_word > 0 {
        let bytes = word(index).to_le_bytes();
        let tail = bytes.get(into_word..).unwrap_or_default();
        let taken = tail.len().min(rest.len());
        let (head, after) = rest.split_at_mut(taken);
        head.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
        rest = after;
        index += 1;
    }
    let (words, last) = rest.as_chunks_mut::<{ WORD as usize }>();
    for to in words {
        *to = word(index).to_le_bytes();
        index += 1;
    }
    last.iter_mut().zip(word(index).to_le_bytes()).for_each(|(to, from)| *to = from);
}

fn word(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(start: u64, end: u64) -> Vec<u8> {
        Sequence::new(start, end).flatten().collect()
    }

    #[test]
    fn it_is_splitmix64() {
        let published: [u64; 3] = [0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f];
        let bytes: Vec<u8> = published.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(collect(0, 24), bytes);
    }

    #[test]
    fn every_part_is_a_part_of_the_whole() {
        let end = 3 * CHUNK as u64 + 5;
        let whole = collect(0, end);
        let places = [0, 1, 7, 8, 9, 1000, CHUNK as u64 - 1, CHUNK as u64, CHUNK as u64 + 3, end - 1, end];
        for start in places {
            for stop in places.into_iter().filter(|stop| *stop >= start) {
                assert!(collect(start, stop) == whole[start as usize..stop as usize], "{start}..{stop}");
            }
        }
    }

    #[test]
    fn the_far_end_is_as_near_as_the_start() {
        let end = 16 << 30;
        assert_eq!(collect(end - 3, end).len(), 3);
    }
}
