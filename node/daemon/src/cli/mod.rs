//! The command line. One file per subcommand.
//!
//! Exit codes: 0 done, 1 it could not be done, 2 it was asked for in a wrong way, 3 it was done and the answer is no. What a command says is on standard output;
//! progress, complaints and logs are on standard error. An error says what happened, why, and what to type next.

mod completions;
mod configuration;
mod demo;
mod dns;
mod doctor;
mod giving;
mod host;
mod identity;
mod logs;
mod lookup;
mod man;
mod new_identity;
mod passphrase;
mod peers;
mod ping;
mod progress;
mod ready_file;
mod reload;
mod run;
mod running;
mod say;
mod service_manager;
mod shell;
mod status;
mod unhost;
mod up;
mod visit;

use std::{
    fmt::Display,
    net::SocketAddr,
    num::NonZero,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    thread::available_parallelism,
};

use clap::{Parser, Subcommand};

use crate::{
    confinement::{Extent, Files, Report, confine},
    doors::{PortError, local_socket::client_places},
    supervise::Begun,
};
use configuration::Configuration;
use logs::Logs;
use say::say;

/// Relays of a path.
const HOPS: RangeInclusive<u8> = 0..=8;

#[derive(Debug, Parser)]
#[command(name = "phantom", version, about = "An anonymous network that unchanged programs can use.", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  phantom demo                    a network on this machine, and a page in it
  phantom up --join INVITATION    a node; programs use the proxy 127.0.0.1:9070
  phantom host 8000               publish a web server; needs a running `up`
  phantom run -- curl http://NAME.ap/   any program, under a seal
  phantom shell                   a shell under that seal
  phantom status                  how the running node is

Exit codes: 0 done, 1 could not be done, 2 wrong usage, 3 done, and the answer is no (lookup, ping, doctor).
`run` and `shell` end with the program's own code.
PHANTOM_LOG=debug shows what happens inside.";

/// What is listed. Each says more of itself and its options where it is, and that is looked at only when it is the one that
/// was asked for: to build them all takes as long as the shortest of programs that `phantom run` starts.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Run a node
    Up(Box<up::Args>),
    /// Publish a local port under a .ap name
    Host(host::Args),
    /// End what `phantom host` began
    Unhost(unhost::Args),
    /// Visit a .ap name under an identity that is kept, or list who is visited so
    Visit(visit::Args),
    /// Run a program whose connections go through the network, and nowhere else
    Run(run::Args),
    /// Open a shell, from which everything goes through the network, and nowhere else
    Shell(shell::Args),
    /// Show how the running node is
    Status(status::Args),
    /// Start a whole network on this machine and a page to fetch through it
    Demo(demo::Args),
    /// Show the links to other nodes
    Peers(peers::Args),
    /// Show the address of a .ap name, and whether its host can be reached now
    Lookup(lookup::Args),
    /// Measure how long it takes to a .ap name and back
    Ping(ping::Args),
    /// Let programs start afresh: other paths, other sessions
    NewIdentity(new_identity::Args),
    /// Keep, copy and move the identities behind .ap names
    Identity(identity::Args),
    /// Find out whether the node works, and what makes this machine send .ap to it
    Doctor(doctor::Args),
    /// Print what a shell needs to finish the words of this command
    Completions(completions::Args),
    /// Write the manual: one page for each command
    Man(man::Args),
}

/// The `--state` of commands that speak to a running node.
#[derive(Clone, Debug, clap::Args)]
struct Whom {
    /// The state folder that the node was started with, if it was given one
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Whom {
    async fn connect(&self) -> anyhow::Result<crate::doors::LocalClient> {
        Ok(crate::doors::LocalClient::connect(&self.places(self.state.as_deref())).await?)
    }

    /// Where a node that has this state folder, if one is named, can be asked.
    fn places(&self, state: Option<&Path>) -> Vec<PathBuf> {
        client_places(state, Configuration::usual_state().as_deref())
    }
}

/// A wrong wish that only shows when several options are looked at together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// The command was carried out, and the answer to its question is no. Why, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Negative(String);

/// What the shell learns of an error.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error {
        error if is_usage(error) => 2,
        error if error.is::<Negative>() => 3,
        _ => 1,
    }
}

/// Whether the command was at fault, and not the world.
fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || error.is::<configuration::ConfigurationError>()
        || matches!(error.downcast_ref(), Some(PortError::Public(_)))
}

/// An address with its port.
fn end_point(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "it looks like 127.0.0.1:9070: an IP address and a port")
}

/// A number of this range.
fn number<T: FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone
where
    RangeInclusive<T>: Clone,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("it is a number from {} to {}", range.start(), range.end()))
    }
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let logs = Logs::begin();
    match run(cli.command, &logs) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("phantom: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(command: Command, logs: &Logs) -> anyhow::Result<ExitCode> {
    let threads = match command {
        Command::Run(_) | Command::Shell(_) => Threads::ONE,
        _ => Threads::known(),
    };
    match command {
        // The helper of an island is a copy of a process without threads.
        Command::Run(args) => return threads.run(run::run(args, Begun::fork())),
        Command::Shell(args) => return threads.run(shell::run(args, Begun::fork())),
        // What a node gives up it gives up before there are threads.
        Command::Up(args) => threads.run(up::prepare(*args, logs)?.run()),
        Command::Demo(args) => threads.run(demo::prepare(args)?.run()),
        Command::Host(args) => threads.run(host::run(args)),
        Command::Unhost(args) => threads.run(unhost::run(args)),
        Command::Visit(args) => threads.run(visit::run(args)),
        Command::Status(args) => threads.run(status::run(args)),
        Command::Peers(args) => threads.run(peers::run(args)),
        Command::Lookup(args) => threads.run(lookup::run(args)),
        Command::Ping(args) => threads.run(ping::run(args)),
        Command::NewIdentity(args) => threads.run(new_identity::run(args)),
        Command::Identity(args) => threads.run(identity::run(args)),
        Command::Doctor(args) => threads.run(doctor::run(args)),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Gives up what a node does not need, and tells the user what could not be.
fn confined(files: &Files, extent: Extent) -> anyhow::Result<Report> {
    let report = confine(files, extent)?;
    if !report.missing.is_empty() {
        eprintln!("Not everything that a node does not need could be given up: {report}.");
    }
    Ok(report)
}

/// How many threads work at once: one on each core that we are given. The files that say so may be closed later.
struct Threads(usize);

impl Threads {
    /// For runs: what they wait for they wait for in threads of their own, and to count the cores takes a while.
    const ONE: Threads = Threads(1);

    fn known() -> Threads {
        Threads(available_parallelism().map_or(1, NonZero::get))
    }

    fn run<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(self.0).enable_all().build()?;
        let result = runtime.block_on(work);
        // A hash that is still being computed must not hold up the end.
        runtime.shutdown_background();
        result
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_listed_with_what_they_say_of_themselves() {
        let listed = Cli::command();
        let mut built = Cli::command();
        built.build();
        for command in listed.get_subcommands() {
            let itself = built.find_subcommand(command.get_name()).unwrap();
            assert!(command.get_about().is_some(), "{}", command.get_name());
            assert_eq!(
                command.get_about().map(ToString::to_string),
                itself.get_about().map(ToString::to_string)
            );
        }
    }

    #[test]
    fn wrong_values_are_refused_with_the_name_of_their_option() {
        for (line, word) in [
            ("demo --hops 9", "--hops"),
            ("demo --hops many", "--hops"),
            ("up --hops x", "a number from 0 to 8"),
            ("demo --nodes x", "--nodes"),
            ("up --socks everywhere", "--socks"),
            ("up --socks 127.0.0.1", "it looks like 127.0.0.1:9070"),
            ("up --dns 53", "it is on, off, or looks like 127.0.0.1:9053"),
            ("up --dns-records mx", "it is a, aaaa, or a,aaaa"),
            ("up --transparent 9040", "it looks like 127.0.0.1:9070"),
            ("up --relay sometimes", "it is auto, always or never"),
            ("up --rate 5", "it looks like 5 MB/s"),
            ("up --burst 5MB/s", "it looks like 50 MB"),
            ("up --listen :443", "it looks like 127.0.0.1:9070"),
            ("up --join hello", "invitation"),
            ("host 99999", "99999"),
            ("host http", "a number from 1 to 65535"),
            ("host 0", "PORT"),
            ("host 53 --udp --proxy-protocol", "--proxy-protocol"),
            ("host 80 --as A/B", "--as"),
            ("host 80 --to localhost", "it looks like 127.0.0.1:8000"),
            ("host 80 --allow everybody", "--allow"),
            ("host", "PORT"),
            ("host 80 --out-proxy", "--out-proxy"),
            ("host 80 --allow-ports 1", "--allow-ports"),
            ("host --out-proxy --allow-ports 0", "443"),
            ("host --out-proxy --allow-names localhost", "example.org"),
            ("up --out-proxy short.ap", "cut off"),
            ("host 80 --allow ::1", "begin with fc"),
            ("visit short.ap --as anna", "cut off"),
            ("visit --as anna", "NAME.ap"),
            ("identity new Shop", "a-z"),
            ("identity fly", "fly"),
            ("lookup short.ap", "cut off"),
            ("lookup example.com", "does not end in .ap"),
            ("ping -c 0 x.ap", "a number from 1 to"),
            ("no-such-command", "no-such-command"),
        ] {
            let error = Cli::try_parse_from(["phantom"].into_iter().chain(line.split(' '))).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn what_the_help_shows_is_understood() {
        for line in [
            "identity list --json",
            "identity new shop --state /tmp/x",
            "identity export shop",
            "identity export shop /tmp/x --passphrase-file /tmp/y",
            "identity import /tmp/x --as market --passphrase-file /tmp/y",
            "identity remove shop --yes",
            "status --watch --json",
            "peers --json",
            "new-identity --state /tmp/x",
        ] {
            let parsed = Cli::try_parse_from(["phantom"].into_iter().chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn a_port_for_other_machines_is_wrong_usage_and_a_taken_one_is_not() {
        let refused = |address| anyhow::Error::from(crate::doors::bind_socks(address).unwrap_err());
        assert!(is_usage(&refused("203.0.113.7:1".parse().unwrap())));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_usage(&refused(taken.local_addr().unwrap())));
    }
}
