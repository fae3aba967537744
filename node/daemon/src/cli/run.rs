//! `phantom run`: a program whose sockets lead into the network and nowhere else.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, ExitStatus},
    sync::Arc,
};

use anyhow::Context;
use data_encoding::HEXLOWER;
use phantom_policy::connect::Rules;
use phantom_resolver::{Addresses, Lookup, NoAnswer};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Mutex,
    task::{JoinHandle, spawn_blocking},
};

use super::Whom;
use crate::{
    doors::LocalClient,
    supervise::{Door, Run, Sealed, start},
};

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

Exit codes: those of the program; 128 and the number of the signal that ended it; 1 it could not be started.")]
pub(super) struct Args {
    /// Services of this machine can be reached, too
    #[arg(long)]
    allow_local: bool,
    #[command(flatten)]
    whom: Whom,
    /// The program, with what it is given
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut node = args.whom.connect().await?;
    let (door, token) = node.run().await?;
    let token = HEXLOWER.decode(token.as_bytes()).ok().and_then(|token| token.try_into().ok());
    let token = token.context("The node gave an answer that this command does not understand")?;
    let (names, answering) = serve_names(node).await.context("The program's names cannot be served")?;
    let run =
        Run { door: Door { address: door, token }, names, rules: Rules { allow_local: args.allow_local } };
    let (name, arguments) = args.program.split_first().context("There is no program to run")?;
    let mut command = Command::new(name);
    command.args(arguments);
    let sealed = start(command).map_err(|error| not_started(name, error))?;
    let (mut child, calls) = sealed.into_parts();
    let supervised = spawn_blocking(move || Sealed::supervise(calls, run));
    let ended = spawn_blocking(move || child.wait()).await??;
    supervised.abort();
    answering.abort();
    Ok(code(ended))
}

fn not_started(program: &OsString, error: io::Error) -> anyhow::Error {
    let program = program.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow::anyhow!("There is no program {program}. Is it installed, and spelt right?")
        }
        io::ErrorKind::PermissionDenied => anyhow::anyhow!("{program} may not be executed ({error})"),
        _ => anyhow::anyhow!("{program} cannot be started under the seal: {error}"),
    }
}

fn code(ended: ExitStatus) -> ExitCode {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Answers the questions of the program, whichever name server it asks.
async fn serve_names(node: LocalClient) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let v4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = v4.local_addr()?.port();
    let v4_tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, port)).await?;
    let v6_tcp = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await?;
    let names = Names(Arc::new(Mutex::new(node)));
    let address = v4.local_addr()?;
    let answering = tokio::spawn(async move {
        let over_v4 = phantom_resolver::serve(v4, v4_tcp, names.clone());
        let over_v6 = phantom_resolver::serve(v6, v6_tcp, names);
        let _as_long_as_the_run = tokio::join!(over_v4, over_v6);
    });
    Ok((address, answering))
}

/// The names of the run's isolation group, which the node knows.
#[derive(Clone)]
struct Names(Arc<Mutex<LocalClient>>);

impl Lookup for Names {
    async fn lookup(&self, host: &str) -> Result<Addresses, NoAnswer> {
        use crate::doors::local_socket::ClientError;
        match self.0.lock().await.run_name(host).await {
            Ok((address, alias)) => Ok(Addresses { alias, address: Some(address) }),
            Err(ClientError::Refused(_)) => Err(NoAnswer::NoSuchName),
            Err(_) => Err(NoAnswer::Failed),
        }
    }

    async fn reverse(&self, address: IpAddr) -> Result<String, NoAnswer> {
        match self.0.lock().await.run_address(address).await {
            Ok(Some(name)) => Ok(name),
            Ok(None) => Err(NoAnswer::NoSuchName),
            Err(_) => Err(NoAnswer::Failed),
        }
    }
}
