//! SHA-256 of the first N bytes of the sequence, without hashing them anew each time.
//!
//! While it hashes, it keeps the state at every 64 MiB. A later request starts at the last kept state below its N, so that
//! it hashes less than 64 MiB when somebody asked for as much before. One hash is computed at a time, off the runtime, and
//! stops when its last listener has gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::sequence;

/// The states are kept this far apart: 256 of them for the longest sequence.
const KEPT_EVERY: u64 = 64 << 20;
/// More requests than this do not queue up for their turn.
const MOST_WAITING: usize = 32;
const STEP: usize = 64 * 1024;

/// The hashes of the sequence.
#[derive(Clone, Debug)]
pub struct Hashes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<BTreeMap<u64, Sha256>>,
    waiting: Semaphore,
    turn: Semaphore,
}

/// Too many ask at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

impl Default for Hashes {
    fn default() -> Hashes {
        let inner =
            Inner { kept: Mutex::default(), waiting: Semaphore::new(MOST_WAITING), turn: Semaphore::new(1) };
        Hashes(Arc::new(inner))
    }
}

impl Hashes {
    /// The hash of the first `length` bytes, in hex.
    pub async fn hex(&self, length: u64) -> Result<String, Busy> {
        let _waiting = self.0.waiting.try_acquire().map_err(|_| Busy)?;
        let _turn = self.0.turn.acquire().await.map_err(|_| Busy)?;
        let unwanted = Unwanted::default();
        let (inner, stop) = (self.0.clone(), unwanted.0.clone());
        let digest = tokio::task::spawn_blocking(move || inner.compute(length, &stop)).await;
        digest.ok().flatten().ok_or(Busy)
    }
}

/// Says stop when the request that waits is dropped.
#[derive(Default)]
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Inner {
    fn compute(&self, length: u64, stop: &AtomicBool) -> Option<String> {
        let (mut place, mut state) = self.nearest(length);
        let mut buffer = vec![0; STEP];
        while place < length {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let step = (length - place).min(STEP as u64);
            let part = buffer.get_mut(..step as usize)?;
            sequence::fill(place, part);
            state.update(&*part);
            place += step;
            if place.is_multiple_of(KEPT_EVERY) {
                self.keep(place, &state);
                // The machine has other things to do, relaying above all.
                std::thread::yield_now();
            }
        }
        Some(HEXLOWER.encode(&state.finalize()))
    }

    fn nearest(&self, length: u64) -> (u64, Sha256) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.range(..=length)
            .next_back()
            .map_or_else(|| (0, Sha256::new()), |(place, state)| (*place, state.clone()))
    }

    fn keep(&self, place: u64, state: &Sha256) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(place, state.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::site::sequence::Sequence;

    fn at_once(length: u64) -> String {
        let bytes: Vec<u8> = Sequence::new(0, length).flatten().collect();
        HEXLOWER.encode(&Sha256::digest(bytes))
    }

    #[tokio::test]
    async fn it_is_the_hash_of_the_bytes() {
        let hashes = Hashes::default();
        assert_eq!(
            hashes.hex(0).await.unwrap(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for length in [1, 8, STEP as u64 - 1, STEP as u64, STEP as u64 + 1, 1_000_003] {
            assert_eq!(hashes.hex(length).await.unwrap(), at_once(length), "{length}");
        }
    }

    #[tokio::test]
    async fn a_kept_state_gives_the_same_hash() {
        let hashes = Hashes::default();
        let length = KEPT_EVERY + 12_345;
        let first = hashes.hex(length).await.unwrap();
        assert_eq!(hashes.0.kept.lock().unwrap().len(), 1);
        assert_eq!(hashes.hex(length).await.unwrap(), first);
        assert_eq!(first, at_once(length));
    }

    #[tokio::test]
    async fn nobody_listens_nobody_hashes() {
        let hashes = Hashes::default();
        let waiting = hashes.hex(16 << 30);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), waiting).await.is_err());
        let next = tokio::time::timeout(std::time::Duration::from_secs(5), hashes.hex(1)).await;
        assert_eq!(next.unwrap().unwrap(), at_once(1));
    }

    #[tokio::test]
    async fn too_many_at_once_are_sent_away() {
        let hashes = Hashes::default();
        let _taken = hashes.0.waiting.try_acquire_many(MOST_WAITING as u32).unwrap();
        assert_eq!(hashes.hex(1).await, Err(Busy));
    }
}
