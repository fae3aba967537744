//! What the service manager that started us (systemd) is told: `sd_notify(3)` over the socket that it names.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Whoever started us, if it wants to be told anything.
#[derive(Debug, Default)]
pub(super) struct ServiceManager(Option<UnixDatagram>);

impl ServiceManager {
    /// The one that `NOTIFY_SOCKET` names.
    pub(super) fn of_environment() -> ServiceManager {
        let Some(place) = env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else {
            return ServiceManager::default();
        };
        let connected = connect(&place);
        if let Err(error) = &connected {
            tracing::warn!("the service manager at {} cannot be told anything: {error}", place.display());
        }
        ServiceManager(connected.ok())
    }

    /// The doors are open.
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The end has begun, as it was asked for.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, what: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(what.as_bytes())) {
            tracing::warn!("the service manager cannot be told {what}: {error}");
        }
    }
}

/// A path, or after an @ a name without a file.
fn connect(place: &OsStr) -> io::Result<UnixDatagram> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(place)?,
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor @ and a name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_places_are_reached_and_others_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notify");
        let name = format!("@phantom-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        for (listening, place) in [
            (UnixDatagram::bind(&file).unwrap(), file.as_os_str()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), OsStr::new(&name)),
        ] {
            let manager = ServiceManager(Some(connect(place).unwrap()));
            manager.ready();
            manager.stopping();
            let mut said = [0; 64];
            for expected in ["READY=1", "STOPPING=1"] {
                let length = listening.recv(&mut said).unwrap();
                assert_eq!(&said[..length], expected.as_bytes());
            }
        }
        assert!(connect(OsStr::new("vsock:2:1234")).is_err());
        assert!(connect(folder.path().join("nobody").as_os_str()).is_err());
    }
}
