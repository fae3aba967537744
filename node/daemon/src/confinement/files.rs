//! The files that a confined node reaches: landlock.
//!
//! A right on a folder holds for all that is below it, and landlock knows no smaller one. So a folder of others is never
//! opened for more than a purpose needs, and never for reading if there are further folders in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope, make_bitflags,
};

use super::{Layer, Missing, Report};

/// What is asked of the kernel: the newest that we have seen at work. Scopes came with it, in Linux 6.12.
const ASKED: ABI = ABI::V6;

/// A folder of the node's own.
const OWN: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | MakeReg | MakeDir | MakeSock
});
/// A folder in which one file comes and goes that was opened before: what is in others cannot be read or changed.
const COMES_AND_GOES: BitFlags<AccessFs> = make_bitflags!(AccessFs::{MakeReg | RemoveFile});

/// Everything that a node still needs. What is not there is passed over.
#[derive(Debug, Default)]
pub struct Files {
    rules: Vec<(PathBuf, BitFlags<AccessFs>)>,
}

impl Files {
    /// A folder of the node's own, for reading and writing.
    pub fn own(mut self, folder: &Path) -> Files {
        self.rules.push((folder.to_owned(), OWN));
        self
    }

    /// A file that is open already, and is to be renamed to `place` and removed from there.
    pub fn comes_and_goes(mut self, place: &Path) -> Files {
        self.rules.push((folder_of(place), COMES_AND_GOES));
        self
    }

    /// A file to be read, as it is now.
    pub fn read(mut self, file: &Path) -> Files {
        self.rules.push((file.to_owned(), AccessFs::ReadFile.into()));
        self
    }

    /// A file to be read, also after another one was put in its place. For that its folder must be open for reading, as it
    /// is if there are nothing but files in it.
    pub fn read_replaced(self, file: &Path) -> Files {
        let folder = folder_of(file);
        let is_flat = fs::read_dir(&folder)
            .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| !leads_on(&entry))));
        let files = self.read(file);
        if is_flat { files.read(&folder) } else { files }
    }

    /// A file that services of the system write anew: if it leads to /run, where nothing is secret that can be read at all, to
    /// any file of the folder there.
    pub fn read_of_system(self, file: &Path) -> Files {
        let folder = fs::canonicalize(file).ok().map(|real| folder_of(&real));
        let theirs = folder.filter(|folder| folder.starts_with("/run") && folder != Path::new("/run"));
        let files = self.read(file);
        if let Some(folder) = theirs { files.read(&folder) } else { files }
    }

    pub(super) fn close_others(&self, report: &mut Report) {
        match self.restrict() {
            Ok(RestrictionStatus { ruleset: RulesetStatus::NotEnforced, landlock, .. }) => {
                let why = match landlock {
                    LandlockStatus::NotEnabled => {
                        "landlock is switched off on this machine: boot with lsm=landlock,..."
                    }
                    _ => "this kernel has no landlock; Linux 6.12 has all of it",
                };
                report.add(Layer::Files, Err(why.into()));
                report.add(Layer::Signals, Err(why.into()));
            }
            Ok(RestrictionStatus { ruleset, landlock, .. }) => {
                report.add(Layer::Files, Ok(()));
                let LandlockStatus::Available { effective_abi, .. } = landlock else { return };
                if ruleset == RulesetStatus::FullyEnforced {
                    return report.add(Layer::Signals, Ok(()));
                }
                let why = format!(
                    "this kernel has version {} of landlock; Linux 6.12 has {}",
                    effective_abi as i32, ASKED as i32
                );
                if effective_abi < ABI::V5 {
                    let why = format!("not wholly, {why}");
                    report.missing.push(Missing { layer: Layer::Files, why });
                }
                report.add(Layer::Signals, Err(why));
            }
            Err(error) => {
                report.add(Layer::Files, Err(error.to_string()));
                report.add(Layer::Signals, Err(error.to_string()));
            }
        }
    }

    fn restrict(&self) -> Result<RestrictionStatus, RulesetError> {
        let asked = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ASKED))?
            .scope(Scope::from_all(ASKED))?
            .create()?;
        self.rules.iter().try_fold(asked, allow)?.restrict_self()
    }
}

fn allow(
    asked: RulesetCreated,
    (path, rights): &(PathBuf, BitFlags<AccessFs>),
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(opened) => asked.add_rule(PathBeneath::new(opened, *rights)),
        Err(_) => Ok(asked),
    }
}

fn leads_on(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_others_is_opened_for_reading_only_if_nothing_lies_deeper() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("phantom.toml");
        fs::write(&file, "").unwrap();
        let paths = |files: Files| files.rules.into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(paths(Files::default().read_replaced(&file)), [file.clone(), folder.path().to_owned()]);
        fs::create_dir(folder.path().join("private")).unwrap();
        assert_eq!(paths(Files::default().read_replaced(&file)), [file]);
    }

    #[test]
    fn a_name_alone_lies_in_the_current_folder() {
        assert_eq!(folder_of(Path::new("ready.json")), Path::new("."));
        assert_eq!(folder_of(Path::new("/ready.json")), Path::new("/"));
    }
}
