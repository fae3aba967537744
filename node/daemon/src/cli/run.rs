//! `phantom run`: a program whose sockets lead into the network and nowhere else.

mod ending;
mod explanation;
mod handed_over;
mod namespaces;
mod program;
mod publish;
mod tracing;

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    net::{IpAddr, Ipv6Addr},
    process::{Child, Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::ValueEnum;
use ending::{Asked, Others};
use explanation::{Explanation, Tier, Wish};
use nix::{
    errno::Errno,
    sys::{
        prctl::set_child_subreaper,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use phantom_policy::connect::Rules;
use phantom_resolver::{Answers, Data, Elsewhere, Lookup, NoAnswer, Wanted};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::oneshot,
    task::{block_in_place, spawn_blocking},
    time::timeout,
    try_join,
};

use self::publish::{Serving, Told};
use super::Whom;
use crate::doors::local_socket::{INSIDE, Publish};
use crate::supervise::{
    self, Account, Again, Begun, Circles, Conversation, Deed, Descriptors, Entrance, Land, Library,
    NameServers, NotStarted, Parted, Run, SealedCalls, find_library, serve, start, supervise,
};

/// A node that does not answer for so long is not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a shell says of a program that is there and cannot be started.
const NOT_STARTED: u8 = 126;

/// Run a program whose connections go through the network, and nowhere else
///
/// The program needs no change, and may be any: what it does by libc, by static code or by calls of its own meets the same
/// seal. Its sockets reach names in .ap; all else is refused to it, as if nobody were there.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  phantom run -- curl http://NAME.ap/
  phantom run -- bash
  phantom run --allow-local -- psql -h 127.0.0.1
  phantom run --publish 80:8000 --as site -- python3 -m http.server      others open http://NAME.ap/
  phantom run --explain -- PROGRAM       what it did, and what it was refused

Exit codes: those of the program; 128 and the number of the signal that ended it; 127 there is no such program; 126 it
cannot be started; 1 no node is running.")]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
    /// The program, with what it is given
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// What is the same for any program.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Services of this machine can be reached, too
    #[arg(long)]
    allow_local: bool,
    /// Hold the program by a library before libc, where the kernel's seal cannot be had. Neither static programs nor system
    /// calls that a program makes past libc are held by it
    #[arg(long)]
    preload_only: bool,
    /// Isolate parts of the run from each other: they share no paths and sessions
    #[arg(long, value_name = "BY")]
    isolate: Option<Isolate>,
    #[command(flatten)]
    explain: Wish,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    whom: Whom,
}

/// What parts a run.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Isolate {
    /// Each process is alone, also those that it starts
    ByProcess,
    /// Each party is alone
    ByDestination,
}

impl From<Isolate> for Parted {
    fn from(by: Isolate) -> Parted {
        match by {
            Isolate::ByProcess => Parted::ByProcess,
            Isolate::ByDestination => Parted::ByDestination,
        }
    }
}

pub(super) async fn run(args: Args, island: io::Result<Begun>) -> anyhow::Result<ExitCode> {
    let (name, arguments) = args.program.split_first().context("There is no program to run")?;
    seal(&args.options, island, name, arguments).await
}

/// Runs a program to its end, on an island, if there is one.
pub(super) async fn seal(
    args: &Options,
    island: io::Result<Begun>,
    name: &OsStr,
    arguments: &[OsString],
) -> anyhow::Result<ExitCode> {
    if let Some(unfit) = unfit(args, name)? {
        eprintln!("phantom: {unfit}");
        return Ok(ExitCode::from(NOT_STARTED));
    }
    let descriptors = Descriptors::raise();
    let library = args.preload_only.then(library).transpose()?;
    let explanation = args.explain.begin(if args.preload_only { Tier::Library } else { Tier::Seal })?;
    let (account, news) = explanation.as_ref().map(Explanation::account).unwrap_or_default();
    let account = Arc::new(account);
    let circles = Arc::new(Circles::new(args.isolate.map(Parted::from)));
    let open = args.serving.open()?;
    let commands = [args.whom.places(None), args.whom.places(args.whom.state.as_deref())].concat();
    let (own, conversation) = begin(args).await?;
    let island = settled(island);
    let helper = island.as_ref().map(Begun::helper);
    let mut command = Command::new(name);
    command.args(arguments).env(INSIDE, "1");
    // Processes that the program leaves behind stay ours: otherwise we could not look at what they ask for.
    set_child_subreaper(true)?;
    let asked = Asked::listen()?;
    let (child, calls) = match start_by(library.as_ref(), command, island.is_some(), descriptors) {
        Ok(started) => started,
        Err(error) => return told_of(name, error),
    };
    let (prepared, inspector) = oneshot::channel();
    let (rules, runtime, seen) =
        (Rules { allow_local: args.allow_local }, Handle::current(), account.clone());
    let prepare = move || -> anyhow::Result<Prepared> {
        let (land, name_servers) = land(island, own)?;
        let _only_who_explains_asks = prepared.send(land.inspector());
        let names = Names { node: conversation.clone(), account: seen.clone(), circles: circles.clone() };
        let land = Arc::new(land);
        let run = Run { land, conversation, rules, open, circles, account: seen, commands, runtime };
        Ok(Prepared { run, name_servers, names })
    };
    // What the program asks for waits until then.
    let program = Pid::from_raw(i32::try_from(child.id())?);
    let _until_this_process_ends = spawn_blocking(move || calls.answer(program, prepare));
    let ours = explanation.is_some().then_some(Signal::SIGUSR1);
    let following = async {
        let Some(explanation) = explanation else { return Ok(None) };
        // Without an inspector the program has been ended.
        let Ok(inspector) = inspector.await else { return Ok(None) };
        Ok(Some(explanation.follow(account, inspector, news)?))
    };
    let ending = ending::wait_for(child, Some(Others { helper }), asked, ours);
    let (followed, ended) = try_join!(following, ending)?;
    if let Some(followed) = followed {
        followed.end().await?;
    }
    if ended.signal == Some(Signal::SIGSYS) {
        eprintln!(
            "phantom: the seal has ended the program: it made a call of 32 bits, which the seal does not know."
        );
    }
    Ok(ExitCode::from(ended.code))
}

/// Why this program cannot be run here as itself.
fn unfit(args: &Options, name: &OsStr) -> anyhow::Result<Option<program::Unfit>> {
    anyhow::ensure!(
        env::var_os(INSIDE).is_none(),
        "This is inside of a phantom run already: what is started here reaches the network as it is. Leave `phantom run` away."
    );
    handed_over::check()?;
    if !args.preload_only {
        tracing::check()?;
    }
    Ok(program::check(name, args.preload_only).err())
}

/// Begins a run at the node. Returns its address, and the conversation about it.
async fn begin(args: &Options) -> anyhow::Result<(Ipv6Addr, Arc<Conversation>)> {
    let publish = args.serving.publish();
    let is_published = publish.is_some();
    let (own, public, begun) = args.whom.connect().await?.run(publish.clone()).await?;
    let told = args.serving.told(public);
    let again = again(args.whom.clone(), publish, told, Handle::current());
    let conversation = Arc::new(Conversation::new(begun, again)?);
    if is_published {
        conversation.keep_up()?;
    }
    Ok((own, conversation))
}

/// How a program's calls reach us.
enum Calls {
    BySeal(SealedCalls),
    ByLibrary(Entrance),
}

/// Starts the program by a library, if there is one, and otherwise under the seal.
fn start_by(
    library: Option<&Library>,
    command: Command,
    in_island: bool,
    descriptors: Descriptors,
) -> Result<(Child, Calls), NotStarted> {
    match library {
        Some(library) => {
            let entrance = library.entrance()?;
            Ok((library.start(command, descriptors)?, Calls::ByLibrary(entrance)))
        }
        None => {
            let (child, calls) = start(command, in_island, descriptors)?.into_parts();
            Ok((child, Calls::BySeal(calls)))
        }
    }
}

/// What a program's calls are answered with.
struct Prepared {
    run: Run,
    name_servers: NameServers,
    names: Names,
}

impl Calls {
    /// Blocks as long as there is a run.
    fn answer(self, program: Pid, prepare: impl FnOnce() -> anyhow::Result<Prepared>) {
        let answered = prepare().and_then(|prepared| Ok(self.answer_with(prepared)?));
        if let Err(error) = answered {
            eprintln!("phantom: the program is ended, for its calls cannot be answered: {error:#}");
            let _has_ended = kill(program, Signal::SIGKILL);
        }
    }

    fn answer_with(self, Prepared { run, name_servers, names }: Prepared) -> io::Result<()> {
        match self {
            Calls::BySeal(calls) => {
                supervise(calls, || serve_names(name_servers, names).map(|_| run)).map(|never| match never {})
            }
            Calls::ByLibrary(entrance) => {
                serve_names(name_servers, names).and_then(|names| serve(&entrance, run, names))
            }
        }
    }
}

/// What a shell learns of a program that was not started.
fn told_of(name: &OsStr, error: NotStarted) -> anyhow::Result<ExitCode> {
    match error {
        NotStarted::NoSeal(error) => anyhow::bail!(
            "The kernel gives no seal here ({error}): it is old, or somebody watches this process already, as some containers \
             do. What goes through libc can be held without: phantom run --preload-only -- ..."
        ),
        NotStarted::Program(error) => {
            let (code, what) = not_started(name, &error);
            eprintln!("phantom: {what}");
            Ok(ExitCode::from(code))
        }
    }
}

fn library() -> anyhow::Result<Library> {
    let library = Library::new(find_library()?).context("The run's socket cannot be made")?;
    eprintln!(
        "phantom: without the seal. What goes through libc is held; no static programs are started, nor those in Go, but \
         system calls of a program's own go where they like."
    );
    Ok(library)
}

/// Begins the run once more: the node may have been started again.
fn again(whom: Whom, publish: Option<Publish>, told: Told, runtime: Handle) -> Again {
    Box::new(move || {
        let begun = runtime.block_on(async {
            let begin = async { anyhow::Ok(whom.connect().await?.run(publish.clone()).await?) };
            timeout(PATIENCE, begin).await.map_err(io::Error::from)?.map_err(io::Error::other)
        });
        begun.map(|(_, public, stream)| {
            told.tell(public);
            stream
        })
    })
}

/// An island, if there is one.
fn settled(island: io::Result<Begun>) -> Option<Begun> {
    let settled = island.and_then(Begun::settled).inspect_err(|error| {
        eprintln!(
            "phantom: the program gets no UDP sockets: this system lets users make no network namespaces ({error}). {}",
            namespaces::advice()
        );
    });
    settled.ok()
}

fn land(island: Option<Begun>, own: Ipv6Addr) -> anyhow::Result<(Land, NameServers)> {
    let land = match island {
        Some(begun) => Land::island(begun, own),
        None => Land::loopback(),
    };
    land.context("no sockets can be made for it")
}

/// With the exit codes of a shell.
fn not_started(program: &OsStr, error: &io::Error) -> (u8, String) {
    let program = program.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            (127, format!("There is no program {program}. Is it installed, and spelt right?"))
        }
        io::ErrorKind::PermissionDenied => (NOT_STARTED, format!("{program} may not be executed ({error})")),
        _ => (NOT_STARTED, format!("{program} cannot be started under the seal: {error}")),
    }
}

/// Answers the questions of the program, whichever name server it asks.
fn serve_names(servers: NameServers, names: Names) -> io::Result<Arc<Answers<Names>>> {
    let answers = Arc::new(Answers::new(names));
    for listener in servers.tcp {
        listener.set_nonblocking(true)?;
        tokio::spawn(phantom_resolver::serve_tcp(TcpListener::from_std(listener)?, answers.clone()));
    }
    supervise::serve_names(servers.udp, &answers)?;
    Ok(answers)
}

/// The names of the run's isolation group, which the node knows.
struct Names {
    node: Arc<Conversation>,
    account: Arc<Account>,
    circles: Arc<Circles>,
}

impl Names {
    /// The library does not wait for answers. What is asked here is on this machine and answers at once, and its task
    /// makes room for others.
    fn ask<T>(
        &self,
        question: impl FnOnce(&Conversation) -> Result<Option<T>, Errno>,
    ) -> Result<T, NoAnswer> {
        let answer = block_in_place(|| question(&self.node)).map_err(|_| NoAnswer::Failed)?;
        answer.ok_or(NoAnswer::NoSuchName)
    }
}

impl Lookup for Names {
    fn lookup(&self, host: &str, wanted: Wanted) -> Result<Vec<Data>, NoAnswer> {
        let (address, alias) = self.ask(|node| {
            let found = node.addresses_of(host);
            self.account.resolved(host, found);
            found
        })?;
        self.circles.learn(address, alias);
        match wanted {
            Wanted::A => alias.map(|alias| vec![Data::A(alias)]).ok_or(NoAnswer::Failed),
            Wanted::Aaaa => Ok(vec![Data::Aaaa(address)]),
            _ => Ok(Vec::new()),
        }
    }

    fn reverse(&self, address: IpAddr) -> Result<String, NoAnswer> {
        self.ask(|node| node.name_of(address))
    }

    fn elsewhere(&self, labels: &[&[u8]]) -> Elsewhere {
        let name = labels.iter().map(|label| String::from_utf8_lossy(label)).collect::<Vec<_>>().join(".");
        self.account.note(Deed::Resolves(name), Err(Errno::ENOENT));
        Elsewhere::Nothing
    }
}
