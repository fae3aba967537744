//! Nodes that are remembered over restarts, as one note: each record with its length, two bytes, in front.

/// Records that are remembered.
pub(super) const REMEMBERED: usize = 256;

/// One note of many records.
pub(super) fn join(records: &[Vec<u8>]) -> Vec<u8> {
    let mut note = Vec::new();
    for record in records {
        if let Ok(length) = u16::try_from(record.len()) {
            note.extend_from_slice(&length.to_be_bytes());
            note.extend_from_slice(record);
        }
    }
    note
}

/// The records of a note. Whether each is whole is checked by whoever takes it.
pub(super) fn split(mut note: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some(([high, low], rest)) = note.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (record, rest) = rest.split_at(length);
        records.push(record.to_vec());
        note = rest;
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_joined_splits_again() {
        let records = vec![vec![1, 2, 3], vec![], vec![7; 5_000]];
        assert_eq!(split(&join(&records)), records);
    }

    #[test]
    fn a_torn_note_gives_what_is_left_of_it() {
        let note = join(&[vec![1, 2, 3], vec![4; 100]]);
        for length in 0..note.len() {
            assert!(split(&note[..length]).len() <= 2);
        }
    }
}
