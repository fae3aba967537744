//! The command line's side of the local socket.

use std::{
    env, fs, io,
    net::Ipv6Addr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;
use phantom_protocol::address::ApName;
use tokio::{io::AsyncWriteExt, net::UnixStream};

use super::{Publish, Reply, Request, VERSION, frame, origin};
use crate::doors::{Ended, HostRequest, Hosted, LookedUp, Pinged, Status, Visit};

/// In the environment of what runs under `phantom run`, so that prompts can show it.
pub const INSIDE: &str = "PHANTOM_RUN";

/// Why a running node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "No node is running here (nobody answers at {}). Start one with `phantom up`; if it was started with --state DIR, \
         give the same here.",
        .0.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    NotRunning(Vec<PathBuf>),
    /// Nobody answers to what is sealed.
    #[error("This is inside of a phantom run, and nodes take no commands from there. Type it outside of it.")]
    Inside,
    /// A socket of somebody else.
    #[error(
        "The node at {0} belongs to another user, and takes commands from that one and root alone. Start one of your own with \
         `phantom up`, or type this as that user."
    )]
    NotYours(PathBuf),
    /// It answered with an error.
    #[error("{0}")]
    Refused(String),
    /// It answered with something else.
    #[error("The node gave an answer that this command does not understand: are they of the same version?")]
    Strange,
    /// It ended.
    #[error("The node has gone away in the middle ({0}). Look at its output for the reason.")]
    Broken(#[from] io::Error),
}

/// A conversation with a running node.
#[derive(Debug)]
pub struct LocalClient(UnixStream);

impl LocalClient {
    /// Finds the node that answers at the first of these places.
    pub async fn connect(places: &[PathBuf]) -> Result<LocalClient, ClientError> {
        for place in places.iter() {
            match UnixStream::connect(place).await {
                Ok(stream) if !is_served_by_owner(&stream, place) => {
                    return Err(ClientError::NotYours(place.clone()));
                }
                Ok(stream) => return LocalClient::greet(stream, place).await,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(ClientError::NotYours(place.clone()));
                }
                Err(_) => {}
            }
        }
        Err(if env::var_os(INSIDE).is_some() {
            ClientError::Inside
        } else {
            ClientError::NotRunning(places.to_vec())
        })
    }

    async fn greet(stream: UnixStream, place: &Path) -> Result<LocalClient, ClientError> {
        let frame = frame::encode(&Request::Hello { version: VERSION })?;
        // Without one the node says what is wrong.
        let proof = origin::proof().ok();
        let sent = origin::show(&stream, &frame, proof.as_ref()).await?;
        let mut client = LocalClient(stream);
        client.0.write_all(frame.get(sent..).unwrap_or_default()).await?;
        match client.answer().await {
            Ok(Reply::Hello { version: VERSION, .. }) => Ok(client),
            Ok(_) => Err(ClientError::Strange),
            // A node of another user closes without a word.
            Err(ClientError::Broken(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ClientError::NotYours(place.into()))
            }
            Err(error) => Err(error),
        }
    }

    /// How the node is.
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status {}).await? {
            Reply::Status { status } => Ok(*status),
            _ => Err(ClientError::Strange),
        }
    }

    /// Publishes a port; returns when others can find it.
    pub async fn host(&mut self, service: HostRequest) -> Result<Hosted, ClientError> {
        match self.ask(&Request::Host { service }).await? {
            Reply::Hosted { service } => Ok(service),
            _ => Err(ClientError::Strange),
        }
    }

    /// Publishes it no longer.
    pub async fn unhost(&mut self, label: &str) -> Result<(), ClientError> {
        match self.ask(&Request::Unhost { label: label.to_owned() }).await? {
            Reply::Unhosted {} => Ok(()),
            _ => Err(ClientError::Strange),
        }
    }

    /// Whether a party can be reached now.
    pub async fn look_up(&mut self, name: &ApName) -> Result<LookedUp, ClientError> {
        match self.ask(&Request::LookUp { name: name.to_string() }).await? {
            Reply::LookedUp { found } => Ok(found),
            _ => Err(ClientError::Strange),
        }
    }

    /// Goes to a party and back.
    pub async fn ping(&mut self, name: &ApName, patience: Duration) -> Result<Pinged, ClientError> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Request::Ping { name: name.to_string(), patience_ms }).await? {
            Reply::Pinged { ping } => Ok(ping),
            _ => Err(ClientError::Strange),
        }
    }

    /// Lets all isolation groups start afresh.
    pub async fn new_identity(&mut self) -> Result<Ended, ClientError> {
        match self.ask(&Request::NewIdentity {}).await? {
            Reply::NewIdentity { ended } => Ok(ended),
            _ => Err(ClientError::Strange),
        }
    }

    /// Visits a party under a kept identity from now on.
    pub async fn visit(&mut self, to: &ApName, label: &str) -> Result<Vec<Visit>, ClientError> {
        self.ask_visits(&Request::Visit { to: to.to_string(), label: label.to_owned() }).await
    }

    /// Visits it under one-time identities again.
    pub async fn forget_visit(&mut self, to: &ApName) -> Result<Vec<Visit>, ClientError> {
        self.ask_visits(&Request::ForgetVisit { to: to.to_string() }).await
    }

    /// Who is visited under a kept identity.
    pub async fn visits(&mut self) -> Result<Vec<Visit>, ClientError> {
        self.ask_visits(&Request::Visits {}).await
    }

    async fn ask_visits(&mut self, request: &Request) -> Result<Vec<Visit>, ClientError> {
        match self.ask(request).await? {
            Reply::Visits { visits } => Ok(visits),
            _ => Err(ClientError::Strange),
        }
    }

    /// Begins a run: its own address, its name if its servers are published, and the connection, which speaks
    /// `phantom_policy::frame` from now on and is no conversation with a command any more.
    pub async fn run(
        mut self,
        publish: Option<Publish>,
    ) -> Result<(Ipv6Addr, Option<String>, std::os::unix::net::UnixStream), ClientError> {
        match self.ask(&Request::Run { publish }).await? {
            Reply::Run { address, name } => Ok((address, name, self.0.into_std()?)),
            _ => Err(ClientError::Strange),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        frame::write(&mut self.0, request).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Reply, ClientError> {
        let frame = frame::read(&mut self.0, frame::REPLY).await?;
        let frame = frame.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        match serde_json::from_slice(&frame) {
            Ok(Reply::Error { message, .. }) => Err(ClientError::Refused(message)),
            Ok(reply) => Ok(reply),
            Err(_) => Err(ClientError::Strange),
        }
    }
}

/// Whoever serves here learns what is asked, and what it answers is believed: in a folder that others can write, another user
/// could have put a socket in the place of the node's.
fn is_served_by_owner(stream: &UnixStream, place: &Path) -> bool {
    let folder = place.parent().and_then(|folder| fs::metadata(folder).ok()).map(|folder| folder.uid());
    stream.peer_cred().is_ok_and(|server| may_serve(server.uid(), geteuid().as_raw(), folder))
}

/// Root also looks at the nodes of others, where they are at home.
fn may_serve(server: u32, own: u32, owner_of_folder: Option<u32>) -> bool {
    server == own || server == 0 || (own == 0 && owner_of_folder == Some(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_the_own_user_and_root_is_taken_for_the_node() {
        for (server, own, folder, may) in [
            (1000, 1000, None, true),
            (0, 1000, Some(1000), true),
            (1001, 1000, Some(1000), false),
            (1001, 1000, Some(1001), false),
            (1000, 0, Some(1000), true),
            (1001, 0, Some(1000), false),
            (1001, 0, None, false),
        ] {
            assert_eq!(may_serve(server, own, folder), may, "{server} {own} {folder:?}");
        }
    }
}
