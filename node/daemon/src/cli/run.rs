//! `phantom run`: a program whose sockets lead into the network and nowhere else.

mod ending;
mod handed_over;
mod namespaces;
mod program;

use std::{
    ffi::{OsStr, OsString},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    process::{Command, ExitCode},
    sync::Arc,
};

use anyhow::Context;
use data_encoding::HEXLOWER;
use nix::sys::{prctl::set_child_subreaper, signal::Signal};
use phantom_policy::connect::Rules;
use phantom_resolver::{Data, Elsewhere, Lookup, NoAnswer, Wanted};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::Handle,
    sync::Mutex,
    task::{JoinHandle, block_in_place, spawn_blocking},
};

use super::Whom;
use crate::{
    doors::{LocalClient, has_no_ipv6, local_socket::ClientError},
    supervise::{Door, Island, Run, Sealed, start},
};

/// In the environment of a run, so that prompts can show it.
const INSIDE: &str = "PHANTOM_RUN";
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
    #[command(flatten)]
    whom: Whom,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (name, arguments) = args.program.split_first().context("There is no program to run")?;
    seal(&args.options, name, arguments).await
}

/// Runs a program to its end.
pub(super) async fn seal(args: &Options, name: &OsStr, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    handed_over::check()?;
    if let Err(unfit) = program::check(name) {
        eprintln!("phantom: {unfit}");
        return Ok(ExitCode::from(NOT_STARTED));
    }
    let mut node = args.whom.connect().await?;
    let user = node.user_of_node()?;
    let (door, token) = node.run().await?;
    let token = HEXLOWER.decode(token.as_bytes()).ok().and_then(|token| token.try_into().ok());
    let token = token.context("The node gave an answer that this command does not understand")?;
    let (island, datagrams) = match Island::new() {
        Ok((island, datagrams)) => (Some(island), datagrams.map(Some)),
        Err(error) => {
            eprintln!(
                "phantom: the program gets no UDP sockets: this system lets users make no network namespaces ({error}). {}",
                namespaces::advice()
            );
            (None, [None, None])
        }
    };
    let (names, answering) =
        serve_names(node, datagrams).await.context("The program's names cannot be served")?;
    let commands = [args.whom.places(None), args.whom.places(args.whom.state.as_deref())].concat();
    let rules = Rules { allow_local: args.allow_local };
    let run = Run { door: Door { address: door, token, user }, names, island, rules, commands };
    let mut command = Command::new(name);
    command.args(arguments).env(INSIDE, "1");
    // Processes that the program leaves behind stay ours: otherwise we could not look at what they ask for.
    set_child_subreaper(true)?;
    let sealed = match start(command) {
        Ok(sealed) => sealed,
        Err(error) => {
            let (code, what) = not_started(name, &error);
            eprintln!("phantom: {what}");
            return Ok(ExitCode::from(code));
        }
    };
    let (child, calls) = sealed.into_parts();
    let _until_this_process_ends = spawn_blocking(move || Sealed::supervise(calls, run));
    let ended = ending::wait_for(child).await?;
    answering.abort();
    if ended.signal == Some(Signal::SIGSYS) {
        eprintln!(
            "phantom: the seal has ended the program: it made a call of 32 bits, which the seal does not know."
        );
    }
    Ok(ExitCode::from(ended.code))
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

/// Answers the questions of the program, whichever name server it asks: over TCP where it says, over UDP with these sockets.
async fn serve_names(
    node: LocalClient,
    datagrams: [Option<OwnedFd>; 2],
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = v4.local_addr()?;
    let v6 = match TcpListener::bind((Ipv6Addr::LOCALHOST, address.port())).await {
        // Then no program asks over it, either.
        Err(error) if has_no_ipv6(&error) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        bound => bound?,
    };
    let names = Names(Arc::new(Mutex::new(node)));
    let mut serving = Vec::new();
    for (tcp, datagrams) in [v4, v6].into_iter().zip(datagrams) {
        let udp = match datagrams {
            Some(socket) => UdpSocket::from_std(socket.into())?,
            None => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        serving.push(phantom_resolver::serve(udp, tcp, names.clone()));
    }
    let answering = tokio::spawn(async move {
        let _as_long_as_the_run = futures_util::future::join_all(serving).await;
    });
    Ok((address, answering))
}

/// The names of the run's isolation group, which the node knows.
#[derive(Clone)]
struct Names(Arc<Mutex<LocalClient>>);

impl Names {
    /// The library does not wait for answers. What is asked here is on this machine and answers at once, and its task
    /// makes room for others.
    fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut LocalClient) -> Result<T, ClientError>,
    ) -> Result<T, NoAnswer> {
        let asked = async { question(&mut *self.0.lock().await).await };
        block_in_place(|| Handle::current().block_on(asked)).map_err(|error| match error {
            ClientError::Refused(_) => NoAnswer::NoSuchName,
            _ => NoAnswer::Failed,
        })
    }
}

impl Lookup for Names {
    fn lookup(&self, host: &str, wanted: Wanted) -> Result<Vec<Data>, NoAnswer> {
        let (address, alias) = self.ask(async |node| node.run_name(host).await)?;
        match wanted {
            Wanted::A => alias.map(|alias| vec![Data::A(alias)]).ok_or(NoAnswer::Failed),
            Wanted::Aaaa => Ok(vec![Data::Aaaa(address)]),
            _ => Ok(Vec::new()),
        }
    }

    fn reverse(&self, address: IpAddr) -> Result<String, NoAnswer> {
        self.ask(async |node| node.run_address(address).await)?.ok_or(NoAnswer::NoSuchName)
    }

    fn elsewhere(&self) -> Elsewhere {
        Elsewhere::Nothing
    }
}
