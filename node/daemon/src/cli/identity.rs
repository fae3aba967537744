//! `phantom identity`: the identities that are kept in a state folder.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use nix::unistd::geteuid;
use phantom_protocol::identity::{ApPublic, ApSecret};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    Usage,
    configuration::Configuration,
    host::label,
    passphrase,
    progress::Progress,
    running::keep_memory_private,
    say::{as_json, say},
};
use crate::{
    daemon::fresh_rng,
    doors::{
        LABEL_RULE, LocalClient,
        local_socket::{ClientError, client_places},
    },
    folders,
    store::{self, Identities, sealed},
};

/// No file that holds an exported identity is longer.
const LONGEST: u64 = 4096;

/// Keep, copy and move the identities behind .ap names
///
/// An identity is the key of a .ap name: who has it can answer to that name. `phantom host --as LABEL` uses it. These
/// commands work on the state folder itself, whether or not a node runs on it; for a node of another user run them as that
/// user. A node uses what it finds when it next hosts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom identity new shop
  phantom identity export shop /media/stick/shop.identity      asks for a passphrase, twice
  phantom identity import /media/stick/shop.identity           on another machine
  phantom host 8000 --as shop

Exit codes: 0 done, 1 could not be done (no such identity, wrong passphrase, damaged file, ...), 2 wrong usage.")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
    /// The state folder [default: that of the running node, else of phantom.toml, else ~/.local/state/phantom]
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the identities that are kept, with their names and addresses
    List {
        /// For programs: fields are added in later versions, never renamed
        #[arg(long)]
        json: bool,
    },
    /// Make one
    New {
        #[arg(value_name = "LABEL", value_parser = label, help = format!("What to call it here: {LABEL_RULE}"))]
        name: String,
    },
    /// Write one into a file, sealed by a passphrase
    ///
    /// The file is one line of text. Without the passphrase nobody learns anything from it. A file that is there already is
    /// left alone.
    Export {
        /// Which
        #[arg(value_name = "LABEL", value_parser = label)]
        name: String,
        /// The file to write [default: LABEL.identity in this folder]
        file: Option<PathBuf>,
        #[command(flatten)]
        passphrase: PassphraseFile,
    },
    /// Take one in that was exported
    Import {
        /// The file
        file: PathBuf,
        /// What to call it here [default: what it was called there]
        #[arg(long = "as", value_name = "LABEL", value_parser = label)]
        name: Option<String>,
        #[command(flatten)]
        passphrase: PassphraseFile,
    },
    /// Forget one for ever; nobody can answer to its name again unless it was exported
    Remove {
        /// Which
        #[arg(value_name = "LABEL", value_parser = label)]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct PassphraseFile {
    /// A file whose first line is the passphrase, and that nobody else can read; without it, the terminal is asked
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// One identity, as `list --json` shows it.
#[derive(Serialize)]
struct Kept {
    label: String,
    name: String,
    address: std::net::Ipv6Addr,
}

impl Kept {
    fn of(label: &str, public: &ApPublic) -> Kept {
        Kept { label: label.into(), name: public.name().to_string(), address: public.address().into() }
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    keep_memory_private()
        .context("The keys cannot be protected from being written to the disk in a crash")?;
    let state = folder(args.state).await?;
    let identities = Identities::of(&state)?;
    let said = match args.what {
        What::List { json } => list(&identities, json)?,
        What::New { name } => {
            let secret = ApSecret::generate(&mut fresh_rng()?);
            identities.add(&name, &secret)?;
            format!("{}\n", secret.public().name())
        }
        What::Export { name, file, passphrase } => {
            let file = file.unwrap_or_else(|| format!("{name}.identity").into());
            export(&identities, &name, &file, passphrase.passphrase_file.as_deref()).await?
        }
        What::Import { file, name, passphrase } => {
            import(&identities, &file, name, passphrase.passphrase_file.as_deref()).await?
        }
        What::Remove { name, yes } => remove(&identities, &state, &name, yes).await?,
    };
    Ok(say(&said)?)
}

/// The folder that is named, else that of the node that commands speak to, else that of the next node.
async fn folder(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(state) = named {
        return std::path::absolute(state).context("The current folder is gone");
    }
    let configured = Configuration::usual_state();
    let running = match LocalClient::connect(&client_places(None, configured.as_deref())).await {
        Err(ClientError::NotRunning(_)) => None,
        client => client?.status().await?.state,
    };
    // The demonstration runs, and keeps nothing.
    let next = || match Configuration::find(None)?.0.state {
        Some(state) => Ok(state),
        None => folders::of_service()
            .filter(|_| !geteuid().is_root())
            .map_or_else(|| Ok(store::default_folder()?), Ok),
    };
    running.map_or_else(next, Ok)
}

fn list(identities: &Identities, json: bool) -> anyhow::Result<String> {
    let mut kept = Vec::new();
    for name in identities.names()? {
        kept.push(Kept::of(&name, &identities.known(&name)?.public()));
    }
    if json {
        return as_json(&kept);
    }
    let width = kept.iter().map(|one| one.label.len()).max().unwrap_or_default();
    Ok(kept.iter().map(|one| format!("{:<width$}  {}  {}\n", one.label, one.name, one.address)).collect())
}

async fn export(
    identities: &Identities,
    name: &str,
    file: &Path,
    passphrase_file: Option<&Path>,
) -> anyhow::Result<String> {
    let secret = identities.known(name)?;
    // Who would be refused in the end need not think of a passphrase first.
    ensure!(!file.exists(), "{} is there already, and was left alone: name another file.", file.display());
    let passphrase = passphrase::new(passphrase_file).await?;
    let (label, mut rng) = (name.to_owned(), fresh_rng()?);
    let text = slowly("Sealing ...", move || sealed::seal(&label, &secret, &passphrase, &mut rng)).await??;
    write_new(file, text.as_bytes())
        .with_context(|| format!("The identity cannot be written into {}", file.display()))?;
    Ok(format!(
        "{name} is in {}. Whoever has this file and the passphrase can answer to its name.\n",
        file.display()
    ))
}

/// Writes a file that only its owner can read, and that was not there.
fn write_new(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    let written = opened.write_all(bytes).and_then(|()| opened.sync_all());
    if written.is_err() {
        // Half of it helps nobody; that it cannot be removed either is not the error to tell.
        let _ = fs::remove_file(file);
    }
    written
}

async fn import(
    identities: &Identities,
    file: &Path,
    name: Option<String>,
    passphrase_file: Option<&Path>,
) -> anyhow::Result<String> {
    let of_file = || format!("{} was not imported", file.display());
    let text = read(file).with_context(of_file)?;
    sealed::check(&text).with_context(of_file)?;
    let passphrase = passphrase::known(passphrase_file).await?;
    let opened = slowly("Opening ...", move || sealed::open(&text, &passphrase)).await?;
    let (called, secret) = opened.with_context(of_file)?;
    let name = name.unwrap_or(called);
    if let Some(other) = label_of(identities, &secret.public())? {
        ensure!(other == name, "{}: the same identity is here already, as {other}.", of_file());
        return Ok(format!("{name} was here already.\n{}\n", secret.public().name()));
    }
    match identities.add(&name, &secret) {
        Err(store::StoreError::NameTaken { .. }) => bail!(
            "{}: another identity is called {name} here, and was left alone. Choose another name: --as LABEL",
            of_file()
        ),
        added => added?,
    }
    Ok(format!("{name} is here now: phantom host PORT --as {name}\n{}\n", secret.public().name()))
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(LONGEST).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| sealed::SealedError::NotOne.into())
}

fn label_of(identities: &Identities, public: &ApPublic) -> anyhow::Result<Option<String>> {
    for name in identities.names()? {
        // One that is damaged is not this one.
        if identities.get(&name).is_ok_and(|kept| kept.is_some_and(|kept| kept.public() == *public)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

async fn remove(identities: &Identities, state: &Path, name: &str, yes: bool) -> anyhow::Result<String> {
    let public = identities.known(name)?.public();
    if let Some(how) = takes_offline(state, name).await? {
        bail!("{name} is online, and was left alone. Take it offline first: {how}");
    }
    if !yes && !is_sure(name, &public)? {
        bail!("{name} was left alone.");
    }
    identities.remove(name)?;
    Ok(format!("{name} is gone.\n"))
}

/// What takes an identity offline, if a node that runs on this folder has it online.
async fn takes_offline(state: &Path, name: &str) -> anyhow::Result<Option<String>> {
    let status = match LocalClient::connect(&[state.join("sock")]).await {
        Err(ClientError::NotRunning(_)) => return Ok(None),
        client => client?.status().await?,
    };
    let is_hosted = status.services.iter().any(|service| service.hosted.label == name);
    let is_served = status.published_runs.iter().any(|run| run.label.as_deref() == Some(name));
    Ok(match (is_hosted, is_served) {
        (true, _) => Some(format!("phantom unhost {name}")),
        (_, true) => Some("end the program under `phantom run` that serves as it".to_owned()),
        _ => None,
    })
}

fn is_sure(name: &str, public: &ApPublic) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Usage(format!(
            "There is no terminal to ask whether {name} shall go for ever. If so: phantom identity remove {name} --yes"
        ))
        .into());
    }
    eprint!(
        "Nobody can answer to {} again without a copy of {name}. Type its name to forget it: ",
        public.name()
    );
    let mut answer = String::new();
    std::io::stdin().lock().take(LONGEST).read_line(&mut answer)?;
    Ok(answer.trim() == name)
}

/// Does what takes a moment by design.
async fn slowly<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let mut progress = Progress::new();
    if std::io::stderr().is_terminal() {
        progress.say(what);
    }
    Ok(spawn_blocking(work).await?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct World {
        folder: tempfile::TempDir,
        identities: Identities,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let identities = Identities::of(&folder.path().join("state")).unwrap();
        for (file, passphrase) in [("passphrase", "correct horse\n"), ("wrong", "correct horses\n")] {
            let file = folder.path().join(file);
            fs::write(&file, passphrase).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        World { folder, identities }
    }

    impl World {
        fn file(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        async fn export(&self, name: &str, file: &str) -> anyhow::Result<String> {
            export(&self.identities, name, &self.file(file), Some(&self.file("passphrase"))).await
        }

        async fn import(&self, file: &str, name: Option<&str>, passphrase: &str) -> anyhow::Result<String> {
            let name = name.map(str::to_owned);
            import(&self.identities, &self.file(file), name, Some(&self.file(passphrase))).await
        }
    }

    #[tokio::test]
    async fn what_was_exported_and_removed_comes_back_under_the_name_that_is_wished() {
        let world = world();
        let secret = ApSecret::from_bytes(&[7; 32]);
        world.identities.add("shop", &secret).unwrap();
        world.export("shop", "out").await.unwrap();
        assert!(world.import("out", None, "passphrase").await.unwrap().contains("already"));
        assert!(world.import("out", Some("other"), "passphrase").await.is_err(), "one key, one label");
        remove(&world.identities, world.folder.path(), "shop", true).await.unwrap();
        let error = format!("{:#}", world.import("out", None, "wrong").await.unwrap_err());
        assert!(error.ends_with("this is not its passphrase"), "{error}");
        let said = world.import("out", Some("market"), "passphrase").await.unwrap();
        assert!(said.contains(&secret.public().name().to_string()), "{said}");
        assert_eq!(world.identities.names().unwrap(), ["market"]);
    }

    #[tokio::test]
    async fn nothing_that_is_there_is_overwritten() {
        let world = world();
        world.identities.add("shop", &ApSecret::from_bytes(&[7; 32])).unwrap();
        world.export("shop", "out").await.unwrap();
        let before = fs::read(world.file("out")).unwrap();
        assert!(world.export("shop", "out").await.unwrap_err().to_string().contains("there already"));
        assert_eq!(fs::read(world.file("out")).unwrap(), before);
        world.identities.remove("shop").unwrap();
        let other = ApSecret::from_bytes(&[8; 32]);
        world.identities.add("shop", &other).unwrap();
        let error = world.import("out", None, "passphrase").await.unwrap_err().to_string();
        assert!(error.contains("--as LABEL"), "{error}");
        assert_eq!(world.identities.known("shop").unwrap().public(), other.public());
    }

    #[tokio::test]
    async fn an_export_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let world = world();
        world.identities.add("shop", &ApSecret::from_bytes(&[7; 32])).unwrap();
        world.export("shop", "out").await.unwrap();
        assert_eq!(fs::metadata(world.file("out")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn what_is_no_export_is_a_sentence_that_names_the_file() {
        let world = world();
        fs::write(world.file("letter"), "Dear all").unwrap();
        fs::write(world.file("noise"), [0xff; 9000]).unwrap();
        for file in ["letter", "noise", "nothing"] {
            let error = format!("{:#}", world.import(file, None, "passphrase").await.unwrap_err());
            assert!(error.contains(file) && error.contains("was not imported: "), "{error}");
        }
    }

    #[test]
    fn the_list_is_for_people_and_for_programs() {
        let world = world();
        let secret = ApSecret::from_bytes(&[7; 32]);
        world.identities.add("shop", &secret).unwrap();
        world.identities.add("x", &ApSecret::from_bytes(&[8; 32])).unwrap();
        let text = list(&world.identities, false).unwrap();
        assert!(text.starts_with(&format!("shop  {}  fc", secret.public().name())), "{text}");
        assert!(text.lines().nth(1).unwrap().starts_with("x     "), "{text}");
        let json: serde_json::Value = serde_json::from_str(&list(&world.identities, true).unwrap()).unwrap();
        assert_eq!(json[0]["label"], "shop");
        assert_eq!(json[0]["name"], secret.public().name().to_string());
        assert!(json[0]["address"].as_str().unwrap().starts_with("fc"));
    }
}
