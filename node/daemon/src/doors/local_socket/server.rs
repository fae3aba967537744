//! The node's side of the local socket.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use nix::unistd::geteuid;
use phantom_protocol::{address::ApName, identity::ApPublic};
use tokio::{io::AsyncReadExt, net::UnixStream, sync::OwnedSemaphorePermit, task::JoinSet, time::timeout};
use tracing::{debug, warn};

use super::{
    ErrorCode, LocalSocket, Publish, Reply, Request, VERSION, frame, origin,
    room::{Room, Stranger},
};
use crate::doors::{Begun, CommandHandle, LABEL_RULE, Runs, is_label};

/// A client that asks nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(60);
/// What a client is told that is not where the node is.
const AWAY: &str = "The node takes no commands from inside of a phantom run, nor from another network namespace than its own. \
                    Type it where the node was started.";
/// No ping takes longer.
const LONGEST_PING: Duration = Duration::from_secs(60);

impl LocalSocket {
    /// Serves clients until the future is dropped.
    pub async fn serve<N: CommandHandle>(self, node: Arc<N>, runs: Arc<Runs<N>>) -> Infallible {
        let mut room = Room::new();
        let mut clients = JoinSet::new();
        loop {
            while clients.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!("cannot accept clients of the local socket: {error}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            if !is_own_user(&stream) {
                warn!("another user was turned away from the local socket");
                continue;
            }
            let stranger = room.enter().await;
            let (node, runs) = (node.clone(), runs.clone());
            clients.spawn(async move {
                if let Err(error) = receive(stream, &*node, &runs, stranger).await {
                    debug!("a client of the local socket was left: {error}");
                }
            });
        }
    }
}

/// The folder keeps others out already; this holds even where somebody has opened it. Root may look.
fn is_own_user(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}

/// Serves a client as long as it may stay.
async fn receive<N: CommandHandle>(
    stream: UnixStream,
    node: &N,
    runs: &Arc<Runs<N>>,
    mut stranger: Stranger,
) -> io::Result<()> {
    let looked = tokio::select! {
        biased;
        looked = timeout(SILENCE, origin::look(&stream)) => looked??,
        // What has come in the meantime counts.
        () = stranger.is_in_the_way() => origin::look_once(&stream)?,
    };
    match looked {
        Some((first, true)) => converse(stream, &first, node, runs, Some(stranger.stay())).await,
        Some((first, false)) => {
            tokio::select! {
                biased;
                ended = converse(stream, &first, node, runs, None) => ended,
                () = stranger.is_in_the_way() => Ok(()),
            }
        }
        None => Ok(()),
    }
}

/// Answers a client, of whom these bytes have come. One that is not where the node is has no place of its own.
async fn converse<N: CommandHandle>(
    mut stream: UnixStream,
    first: &[u8],
    node: &N,
    runs: &Arc<Runs<N>>,
    place: Option<OwnedSemaphorePermit>,
) -> io::Result<()> {
    let (mut begun, mut greeted) = (first, false);
    loop {
        let mut said = (&mut begun).chain(&mut stream);
        let next = timeout(SILENCE, frame::read(&mut said, frame::REQUEST)).await??;
        let Some(frame) = next else { return Ok(()) };
        let reply = match serde_json::from_slice(&frame) {
            Err(error) => {
                wrong(ErrorCode::Request, format!("This node does not know this request: {error}."))
            }
            Ok(Request::Hello { version: VERSION }) if place.is_none() => {
                return frame::write(&mut stream, &wrong(ErrorCode::Failed, AWAY.to_owned())).await;
            }
            Ok(Request::Hello { version: VERSION }) => {
                greeted = true;
                Reply::Hello { version: VERSION, software: env!("CARGO_PKG_VERSION").to_owned() }
            }
            Ok(Request::Hello { .. }) => {
                let message = format!(
                    "The node speaks version {VERSION} of the local protocol ({}); use a command of the same version.",
                    env!("CARGO_PKG_VERSION")
                );
                return frame::write(&mut stream, &wrong(ErrorCode::Version, message)).await;
            }
            Ok(_) if !greeted => wrong(ErrorCode::Version, "The first request must be a hello.".to_owned()),
            Ok(Request::Run { publish }) => match begin_run(publish, runs).await {
                Ok(begun) => {
                    let name = begun.name.map(|name| name.to_string());
                    let reply = Reply::Run { address: begun.address, name };
                    frame::write(&mut stream, &reply).await?;
                    // A run goes on for long, and must not keep commands out. There are bounds for runs.
                    drop(place);
                    return begun.converse(stream).await;
                }
                Err(error) => wrong(ErrorCode::Failed, format!("{error:#}")),
            },
            Ok(request) => answer(request, node).await,
        };
        frame::write(&mut stream, &reply).await?;
    }
}

async fn begin_run<N: CommandHandle>(
    publish: Option<Publish>,
    runs: &Arc<Runs<N>>,
) -> anyhow::Result<Begun<N>> {
    let label = publish.as_ref().and_then(|publish| publish.label.as_deref());
    anyhow::ensure!(label.is_none_or(is_label), "A label consists of {LABEL_RULE}.");
    runs.begin(publish).await
}

async fn answer(request: Request, node: &impl CommandHandle) -> Reply {
    let result = match request {
        Request::Hello { .. } => Ok(Reply::Hello { version: VERSION, software: String::new() }),
        Request::Status {} => Ok(Reply::Status { status: Box::new(node.status().await) }),
        Request::Host { service } => match service.fault() {
            Some(fault) => Err(anyhow::anyhow!(fault)),
            None => node.host(service).await.map(|service| Reply::Hosted { service }),
        },
        Request::Unhost { label } => node.unhost(&label).await.map(|()| Reply::Unhosted {}),
        Request::LookUp { name } => match party(&name) {
            Ok(peer) => node.look_up(peer).await.map(|found| Reply::LookedUp { found }),
            Err(error) => Err(error),
        },
        Request::Ping { name, patience_ms } => match party(&name) {
            Ok(peer) => {
                let patience = Duration::from_millis(patience_ms).min(LONGEST_PING);
                node.ping(peer, patience).await.map(|ping| Reply::Pinged { ping })
            }
            Err(error) => Err(error),
        },
        Request::Run { .. } => Ok(wrong(ErrorCode::Request, "It is answered where runs are.".to_owned())),
        Request::NewIdentity {} => node.new_identity().await.map(|ended| Reply::NewIdentity { ended }),
        Request::Visit { label, .. } if !is_label(&label) => {
            Err(anyhow::anyhow!("A label consists of {LABEL_RULE}."))
        }
        Request::Visit { to, label } => match to.parse::<ApName>() {
            Ok(to) => node.visit(to, &label).await.map(|visit| Reply::Visits { visits: vec![visit] }),
            Err(error) => Err(error.into()),
        },
        Request::ForgetVisit { to } => match to.parse::<ApName>() {
            Ok(to) => node.forget_visit(to).await.map(|()| Reply::Visits { visits: Vec::new() }),
            Err(error) => Err(error.into()),
        },
        Request::Visits {} => Ok(Reply::Visits { visits: node.visits() }),
    };
    result.unwrap_or_else(|error| wrong(ErrorCode::Failed, format!("{error:#}")))
}

fn party(name: &str) -> anyhow::Result<ApPublic> {
    Ok(*name.parse::<ApName>()?.public())
}

fn wrong(code: ErrorCode, message: String) -> Reply {
    Reply::Error { code, message }
}
