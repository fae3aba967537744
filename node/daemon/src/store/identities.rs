//! The AP identities that are kept: a folder in the state folder, one file each.
//!
//! A node and a command may have it open at once: each file is whole at any time, whoever changes something holds
//! `identities.lock` for that moment, and a name that is in use is never given to another key.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use phantom_protocol::identity::ApSecret;
use rand::CryptoRng;

use super::{
    FORMAT, StoreError,
    error::check_private,
    exactly,
    frame::{self, Content},
    is_leftover, make_folder,
};

const FOLDER: &str = "identities";
const LOCK: &str = "identities.lock";

/// The kept identities of one state folder.
#[derive(Clone, Debug)]
pub struct Identities {
    state: PathBuf,
}

impl Identities {
    /// Those of a state folder, whether or not a node runs on it. A folder that does not exist is made.
    pub fn of(state: &Path) -> Result<Identities, StoreError> {
        make_folder(state)?;
        if !state.join(FORMAT).exists() {
            let entries = fs::read_dir(state).map_err(|error| StoreError::io("read", state, error))?;
            let foreign = entries.flatten().map(|entry| entry.file_name()).find(|name| !is_leftover(name));
            if let Some(found) = foreign {
                return Err(StoreError::NotOurs { folder: state.to_owned(), found });
            }
        }
        Identities::beside(state)
    }

    /// Those of a state folder that was checked.
    pub(super) fn beside(state: &Path) -> Result<Identities, StoreError> {
        make_folder(&state.join(FOLDER))?;
        Ok(Identities { state: state.to_owned() })
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Result<Option<ApSecret>, StoreError> {
        let file = self.file(name)?;
        let Some(bytes) = frame::read(&file, Content::ApKey)? else { return Ok(None) };
        Ok(Some(ApSecret::from_bytes(&*exactly::<32>(&file, &bytes)?)))
    }

    /// One that must be there.
    pub fn known(&self, name: &str) -> Result<ApSecret, StoreError> {
        self.get(name)?
            .ok_or_else(|| StoreError::NoIdentity { name: name.into(), folder: self.state.clone() })
    }

    /// One of them; made when there is none.
    pub fn get_or_new(&self, name: &str, rng: &mut impl CryptoRng) -> Result<ApSecret, StoreError> {
        let _turn = self.take_turn()?;
        if let Some(secret) = self.get(name)? {
            return Ok(secret);
        }
        let secret = ApSecret::generate(rng);
        self.write(name, &secret)?;
        Ok(secret)
    }

    /// Keeps one more.
    pub fn add(&self, name: &str, secret: &ApSecret) -> Result<(), StoreError> {
        let _turn = self.take_turn()?;
        // A file that cannot be read is in use, too.
        if self.file(name)?.exists() {
            return Err(StoreError::NameTaken { name: name.into() });
        }
        self.write(name, secret)
    }

    /// Forgets one for ever.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let _turn = self.take_turn()?;
        self.known(name)?;
        let file = self.file(name)?;
        fs::remove_file(&file).map_err(|error| StoreError::io("remove", &file, error))
    }

    /// The names of all, sorted.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let folder = self.state.join(FOLDER);
        let failed = |error| StoreError::io("read", &folder, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.into_string().ok().filter(|name| is_name(name)));
        }
        names.sort();
        Ok(names)
    }

    fn write(&self, name: &str, secret: &ApSecret) -> Result<(), StoreError> {
        frame::write(&self.file(name)?, Content::ApKey, secret.to_bytes().as_slice())
    }

    fn file(&self, name: &str) -> Result<PathBuf, StoreError> {
        if is_name(name) {
            Ok(self.state.join(FOLDER).join(name))
        } else {
            Err(StoreError::BadName { name: name.to_owned() })
        }
    }

    /// Waits until nobody else changes anything. The lock goes with what is returned, or with the process.
    fn take_turn(&self) -> Result<File, StoreError> {
        let path = self.state.join(LOCK);
        let failed = |error| StoreError::io("lock", &path, error);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(failed)?;
        check_private(&path, &file.metadata().map_err(failed)?)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }
}

/// What identities bring into a state folder.
pub(super) fn is_part(name: &OsStr) -> bool {
    name == FOLDER || name == LOCK
}

/// Names are file names: nothing that hides, climbs or differs by case only.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use phantom_protocol::network::Network;
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;
    use crate::store::Store;

    fn secret(seed: u8) -> ApSecret {
        ApSecret::from_bytes(&[seed; 32])
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let state = temp.path().join("state");
        (temp, state)
    }

    #[test]
    fn what_was_made_before_the_first_start_is_there_for_the_node_and_the_reverse() {
        let (_temp, state) = place();
        let identities = Identities::of(&state).unwrap();
        identities.add("early", &secret(1)).unwrap();
        let store = Store::open(&state, &Network::private("test")).unwrap();
        assert_eq!(store.identities().names().unwrap(), ["early"]);
        let made = store.identities().get_or_new("late", &mut ChaCha20Rng::from_seed([7; 32])).unwrap();
        assert_eq!(identities.known("late").unwrap().public(), made.public());
    }

    #[test]
    fn a_name_in_use_is_never_given_to_another_key() {
        let (_temp, state) = place();
        let identities = Identities::of(&state).unwrap();
        identities.add("shop", &secret(1)).unwrap();
        assert!(matches!(identities.add("shop", &secret(2)), Err(StoreError::NameTaken { .. })));
        assert_eq!(identities.known("shop").unwrap().public(), secret(1).public());
        let damaged = state.join(FOLDER).join("damaged");
        fs::write(&damaged, "not a key").unwrap();
        assert!(matches!(identities.add("damaged", &secret(2)), Err(StoreError::NameTaken { .. })));
    }

    #[test]
    fn what_was_removed_is_gone_and_what_was_never_there_is_said() {
        let (_temp, state) = place();
        let identities = Identities::of(&state).unwrap();
        identities.add("shop", &secret(1)).unwrap();
        identities.remove("shop").unwrap();
        let error = identities.remove("shop").unwrap_err();
        assert!(matches!(error, StoreError::NoIdentity { .. }));
        assert!(error.to_string().contains("phantom identity list"), "{error}");
        assert!(identities.names().unwrap().is_empty());
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let (_temp, state) = place();
        make_folder(&state).unwrap();
        fs::write(state.join("thesis.tex"), "").unwrap();
        assert!(matches!(Identities::of(&state), Err(StoreError::NotOurs { .. })));
        assert!(!state.join(FOLDER).exists());
    }

    #[test]
    fn of_many_who_ask_for_a_new_name_at_once_all_get_the_same_key() {
        let (_temp, state) = place();
        let identities = Identities::of(&state).unwrap();
        let made = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|seed| {
                    let identities = &identities;
                    scope.spawn(move || {
                        let mut rng = ChaCha20Rng::from_seed([seed; 32]);
                        identities.get_or_new("shop", &mut rng).unwrap().public()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(made.len(), 1);
    }
}
