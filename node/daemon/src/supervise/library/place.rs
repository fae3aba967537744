//! Where the preload library lies.

use std::{
    env, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

const NAME: &str = "libphantom_preload.so";
/// Where packages put it.
const OF_PACKAGES: &str = "/usr/lib/phantom";

/// There is no library for programs.
#[derive(Debug, thiserror::Error)]
pub enum NoLibrary {
    /// It is nowhere.
    #[error(
        "The library of phantom run, {NAME}, is in none of these folders: {0}. Build it in the source tree, and put it into the \
         first of them: cargo build --release -p phantom-preload"
    )]
    Nowhere(String),
    /// The loader would not find it.
    #[error("{0}: a program cannot be told of a library whose path has blanks or colons. Move it.")]
    Unnamable(PathBuf),
    /// It is not known where we are.
    #[error("It cannot be found out where phantom itself lies: {0}.")]
    Lost(#[from] io::Error),
}

/// The library that came with this program.
pub fn find() -> Result<PathBuf, NoLibrary> {
    let own = env::current_exe()?;
    find_for(own.parent().unwrap_or(Path::new("/")), Path::new(OF_PACKAGES))
}

fn find_for(own: &Path, of_packages: &Path) -> Result<PathBuf, NoLibrary> {
    let beside = own.parent().map(|above| above.join("lib/phantom"));
    let folders = [Some(own.to_owned()), beside, Some(of_packages.to_owned())];
    let mut folders = folders.into_iter().flatten();
    let Some(found) = folders.clone().map(|folder| folder.join(NAME)).find(|file| file.is_file()) else {
        let named: Vec<_> = folders.by_ref().map(|folder| folder.display().to_string()).collect();
        return Err(NoLibrary::Nowhere(named.join(", ")));
    };
    if can_be_named(&found) { Ok(found) } else { Err(NoLibrary::Unnamable(found)) }
}

/// Whether a program can be told of this file: the loader takes colons and blanks for the ends of names.
fn can_be_named(file: &Path) -> bool {
    !file.as_os_str().as_bytes().iter().any(|byte| b": \t\n".contains(byte))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_library_is_found_beside_the_program_then_where_libraries_lie() {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let folder = root.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            folder
        };
        let (own, libraries, packages) = (place("bin"), place("lib/phantom"), place("packages"));
        let nowhere = find_for(&own, &packages).unwrap_err().to_string();
        assert!(nowhere.contains("cargo build") && nowhere.contains("packages"), "{nowhere}");
        for folder in [&packages, &libraries, &own] {
            fs::write(folder.join(NAME), "").unwrap();
            assert_eq!(find_for(&own, &packages).unwrap(), folder.join(NAME));
        }
    }

    #[test]
    fn a_library_that_cannot_be_named_is_said_so() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("a folder");
        fs::create_dir(&own).unwrap();
        fs::write(own.join(NAME), "").unwrap();
        assert!(matches!(find_for(&own, &own), Err(NoLibrary::Unnamable(_))));
    }
}
