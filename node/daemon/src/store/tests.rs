use std::{
    fs::Permissions,
    os::unix::fs::{PermissionsExt, symlink},
};

use phantom_protocol::time::UnixTime;
use rand::{SeedableRng, rngs::ChaCha20Rng};

use super::*;

const NOW: UnixTime = UnixTime(1_772_323_200);

fn network(number: u8) -> Network {
    Network::private(&format!("test {number}"))
}

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([7; 32])
}

/// A place for a state folder that does not exist yet.
fn place() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("some/state");
    (temp, folder)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn keys_and_notes_come_back() {
    let (_temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    let node = store.node_secret(&mut rng()).unwrap().id();
    let tls = store.tls_identity(NOW).unwrap().key_hash();
    let shop = store.identities().get_or_new("shop", &mut rng()).unwrap().public();
    assert_eq!(store.read_notes(Notes::Building).unwrap(), None);
    store.write_notes(Notes::Building, b"four guards").unwrap();
    drop(store);

    let store = Store::open(&folder, &network(1)).unwrap();
    let mut other = ChaCha20Rng::from_seed([8; 32]);
    assert_eq!(store.node_secret(&mut other).unwrap().id(), node);
    assert_eq!(store.tls_identity(NOW).unwrap().key_hash(), tls);
    assert_eq!(store.identities().get("shop").unwrap().unwrap().public().as_bytes(), shop.as_bytes());
    assert!(store.identities().get("blog").unwrap().is_none());
    assert_eq!(store.identities().names().unwrap(), ["shop"]);
    assert_eq!(store.read_notes(Notes::Building).unwrap().unwrap().as_slice(), b"four guards");
}

#[test]
fn nobody_else_can_read_what_is_written() {
    let (_temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    store.node_secret(&mut rng()).unwrap();
    store.tls_identity(NOW).unwrap();
    store.identities().get_or_new("shop", &mut rng()).unwrap();
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("identities")), 0o700);
    for file in ["format", "lock", "node.key", "tls.key", "tls.cert", "identities/shop"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
}

#[test]
fn loose_modes_are_refused_with_the_command_that_mends_them() {
    let (_temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    store.node_secret(&mut rng()).unwrap();

    fs::set_permissions(folder.join("node.key"), Permissions::from_mode(0o644)).unwrap();
    let error = store.node_secret(&mut rng()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("chmod 600 ") && error.contains("node.key"), "{error}");
    drop(store);

    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let error = Store::open(&folder, &network(1)).unwrap_err().to_string();
    assert!(error.contains("chmod 700 "), "{error}");
}

#[test]
fn a_second_node_is_told_who_has_the_folder() {
    let (_temp, folder) = place();
    let _store = Store::open(&folder, &network(1)).unwrap();
    let error = Store::open(&folder, &network(1)).unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
}

#[test]
fn a_damaged_file_is_reported_and_left_alone() {
    let (_temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    store.node_secret(&mut rng()).unwrap();
    let file = folder.join("node.key");
    let whole = fs::read(&file).unwrap();
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        fs::write(&file, &damaged).unwrap();
        assert!(matches!(store.node_secret(&mut rng()), Err(StoreError::Damaged { .. })), "{place}");
        assert_eq!(fs::read(&file).unwrap(), damaged);
    }
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(matches!(store.node_secret(&mut rng()), Err(StoreError::Damaged { .. })), "{length}");
    }
}

#[test]
fn no_file_is_taken_for_another() {
    let (_temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    store.identities().get_or_new("shop", &mut rng()).unwrap();
    fs::copy(folder.join("identities/shop"), folder.join("node.key")).unwrap();
    assert!(matches!(store.node_secret(&mut rng()), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_key_without_its_certificate_is_made_anew_and_the_reverse_is_damage() {
    let (_temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    store.tls_identity(NOW).unwrap();
    fs::remove_file(folder.join("tls.cert")).unwrap();
    store.tls_identity(NOW).unwrap();
    fs::remove_file(folder.join("tls.key")).unwrap();
    assert!(matches!(store.tls_identity(NOW), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_folder_of_another_network_or_version_is_left_alone() {
    let (_temp, folder) = place();
    drop(Store::open(&folder, &network(1)).unwrap());
    assert!(matches!(Store::open(&folder, &network(2)), Err(StoreError::OtherNetwork { .. })));
    let format = folder.join("format");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replace("state 1", "state 2")).unwrap();
    let error = Store::open(&folder, &network(1)).unwrap_err();
    assert!(matches!(error, StoreError::OtherVersion { version: 2, .. }));
    fs::write(&format, "nonsense").unwrap();
    assert!(matches!(Store::open(&folder, &network(1)), Err(StoreError::Damaged { .. })));
    assert_eq!(fs::read_to_string(&format).unwrap(), "nonsense");
}

#[test]
fn a_folder_with_other_peoples_files_is_left_alone() {
    let (_temp, folder) = place();
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
    fs::write(folder.join("thesis.tex"), "").unwrap();
    let error = Store::open(&folder, &network(1)).unwrap_err().to_string();
    assert!(error.contains("thesis.tex"), "{error}");
    assert!(!folder.join("format").exists());
}

#[test]
fn an_interrupted_write_leaves_the_old_content() {
    let (_temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    store.write_notes(Notes::Nodes, b"old").unwrap();
    // What a crash between writing and renaming leaves.
    fs::write(folder.join("nodes.new"), b"half of the n").unwrap();
    assert_eq!(store.read_notes(Notes::Nodes).unwrap().unwrap().as_slice(), b"old");
    store.write_notes(Notes::Nodes, b"new").unwrap();
    assert_eq!(store.read_notes(Notes::Nodes).unwrap().unwrap().as_slice(), b"new");
    assert!(!folder.join("nodes.new").exists());
}

#[test]
fn a_planted_link_is_not_followed_when_writing() {
    let (temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    let victim = temp.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, folder.join("nodes.new")).unwrap();
    store.write_notes(Notes::Nodes, b"new").unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_full_disk_is_a_clear_sentence() {
    let full = std::io::Error::from_raw_os_error(nix::libc::ENOSPC);
    let error = StoreError::io("write", Path::new("/state/node.key"), full).to_string();
    assert!(error.contains("no room") && error.contains("/state/node.key"), "{error}");
}

#[test]
fn names_of_identities_are_harmless_file_names() {
    let (_temp, folder) = place();
    let store = Store::open(&folder, &network(1)).unwrap();
    for bad in ["", ".", "..", "a/b", "A", "a.new", "ä", &"a".repeat(65)] {
        assert!(
            matches!(store.identities().get_or_new(bad, &mut rng()), Err(StoreError::BadName { .. })),
            "{bad}"
        );
    }
    store.identities().get_or_new("my-shop_2", &mut rng()).unwrap();
}
