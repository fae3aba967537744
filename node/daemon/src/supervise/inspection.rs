//! A look at what the processes of a run hold: whether each of their sockets is one that cannot leave this machine.
//!
//! The seal makes it so; this looks whether it is so. A socket that somebody else has handed over is none of ours.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process,
};

use nix::errno::Errno;
use socket2::{Domain, SockRef};

use super::{errno, notify::Process, raw};

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Processes that were looked at.
    pub processes: u64,
    /// Their sockets.
    pub sockets: u64,
    /// Of those, the ones that are of another network than the run's, and not UNIX sockets.
    pub foreign: u64,
    /// Descriptors that could not be looked at.
    pub hidden: u64,
    /// Processes whose descriptors the kernel does not show.
    pub hidden_processes: u64,
    /// Packets that other interfaces of the run's own network than the loopback one have sent, if it has a network.
    pub packets_outside: Option<u64>,
}

/// How the sockets of a run are told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// They are of the network namespace that the kernel knows by this number.
    Namespace(u64),
    /// They are bound to the loopback interface.
    Loopback,
}

impl Home {
    /// The home of a socket in a namespace.
    pub(super) fn of(socket: &impl AsFd) -> Result<Home, Errno> {
        raw::namespace(socket.as_fd()).map(Home::Namespace)
    }

    /// Whether this is a socket that cannot leave.
    pub(super) fn holds(self, socket: &OwnedFd) -> Result<bool, Errno> {
        if let Home::Namespace(home) = self
            && raw::namespace(socket.as_fd())? == home
        {
            return Ok(true);
        }
        let seen = SockRef::from(socket);
        let domain = seen.domain().map_err(|error| errno(&error))?;
        // What devices do on this machine is told by sockets that programs make themselves, and no other place can be reached by
        // those.
        let tells_of_devices = || seen.protocol().map(|protocol| protocol == Some(EVENTS.into()));
        if domain == Domain::UNIX
            || domain == Domain::from(libc::AF_NETLINK)
                && tells_of_devices().map_err(|error| errno(&error))?
        {
            return Ok(true);
        }
        match self {
            Home::Namespace(_) => Ok(false),
            Home::Loopback => {
                let device = seen.device().map_err(|error| errno(&error))?;
                Ok(device.as_deref().map(<[u8]>::trim_ascii_end) == Some(b"lo"))
            }
        }
    }
}

const EVENTS: i32 = libc::NETLINK_KOBJECT_UEVENT;

/// Looks at the run of this process.
#[derive(Clone, Copy, Debug)]
pub struct Inspector {
    pub(super) home: Home,
    /// Who lives where the run's sockets do, and is not of the run.
    pub(super) helper: Option<u32>,
}

impl Inspector {
    /// Looks at all processes that descend from this one.
    pub fn look(&self) -> Findings {
        let packets_outside = self
            .devices()
            .map(|table| sent(&table).filter(|(name, _)| *name != "lo").map(|(_, packets)| packets).sum());
        let mut findings = Findings { packets_outside, ..Findings::default() };
        let mut seen = HashSet::new();
        for process in descendants(process::id()) {
            if Some(process) != self.helper {
                findings.processes += 1;
                look_at(process, self.home, &mut seen, &mut findings);
            }
        }
        findings
    }

    /// The interfaces of the run's own network, if it has one.
    pub fn interfaces(&self) -> Option<Vec<String>> {
        Some(sent(&self.devices()?).map(|(name, _)| name.to_owned()).collect())
    }

    /// What the kernel tells of all interfaces.
    fn devices(&self) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/net/dev", self.helper?)).ok()
    }
}

/// Interfaces, and how many packets each has sent.
fn sent(table: &str) -> impl Iterator<Item = (&str, u64)> {
    const PACKETS: usize = 9;
    // Below two lines of headings.
    table.lines().skip(2).filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        Some((name.trim(), numbers.split_ascii_whitespace().nth(PACKETS)?.parse().ok()?))
    })
}

/// Threads may have descriptors of their own; what several hold, is one.
fn look_at(process: u32, home: Home, seen: &mut HashSet<String>, findings: &mut Findings) {
    let mut is_hidden = false;
    for thread in numbers(Path::new(&format!("/proc/{process}/task"))) {
        let folder = format!("/proc/{process}/task/{thread}/fd");
        is_hidden |= hides(&folder) && !has_ended(process, thread);
        let mut opened = None;
        for theirs in numbers(Path::new(&folder)) {
            let Ok(what) = fs::read_link(format!("{folder}/{theirs}")) else { continue };
            let what = what.to_string_lossy();
            if !what.starts_with("socket:") || !seen.insert(what.into_owned()) {
                continue;
            }
            let process = opened.get_or_insert_with(|| Process::of(thread.cast_signed()));
            let socket =
                process.as_ref().ok().and_then(|process| process.descriptor(theirs.cast_signed()).ok());
            findings.sockets += 1;
            match socket.map(|socket| home.holds(&socket)) {
                Some(Ok(true)) => {}
                Some(Ok(false)) => findings.foreign += 1,
                // It may have been closed meanwhile.
                Some(Err(_)) | None if fs::symlink_metadata(format!("{folder}/{theirs}")).is_err() => {
                    findings.sockets -= 1;
                }
                Some(Err(_)) | None => findings.hidden += 1,
            }
        }
    }
    findings.hidden_processes += u64::from(is_hidden);
}

fn hides(folder: &str) -> bool {
    fs::read_dir(folder).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// What has ended has no descriptors, and is nobody's until its parent has asked how.
fn has_ended(process: u32, thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/task/{thread}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    status.rsplit_once(") ").is_none_or(|(_, behind)| behind.starts_with(['Z', 'X']))
}

/// Children, their children, and so on.
fn descendants(of: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = numbers(Path::new("/proc"))
        .into_iter()
        .filter_map(|process| {
            let status = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            // The name before it may hold anything.
            let (_, behind) = status.rsplit_once(')')?;
            Some((process, behind.split_ascii_whitespace().nth(1)?.parse().ok()?))
        })
        .collect();
    let mut found = vec![of];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        at += 1;
    }
    found.split_off(1)
}

fn numbers(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        os::unix::net::UnixDatagram,
        process::{Child, Command, Stdio},
    };

    use super::*;

    fn holding(input: impl Into<OwnedFd>) -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::from(input.into())).spawn().unwrap()
    }

    #[test]
    fn a_socket_of_another_network_is_found_and_one_of_the_machine_is_none() {
        let internet = UdpSocket::bind("127.0.0.1:0").unwrap();
        let home = Home::of(&internet).unwrap();
        let elsewhere = Home::Namespace(0);
        let (local, _other) = UnixDatagram::pair().unwrap();
        for (child, foreign) in [(holding(local), 0), (holding(internet), 1)] {
            let mut child = child;
            let look = |home| {
                let mut findings = Findings::default();
                look_at(child.id(), home, &mut HashSet::new(), &mut findings);
                findings
            };
            let (own, strange) = (look(home), look(elsewhere));
            assert!(descendants(std::process::id()).contains(&child.id()));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(own.sockets >= 1 && own.foreign == 0 && own.hidden == 0, "{own:?}");
            assert_eq!(strange.foreign, foreign, "{strange:?}");
        }
    }

    #[test]
    fn what_tells_of_devices_leads_nowhere() {
        for (protocol, is_at_home) in [(EVENTS, true), (libc::NETLINK_ROUTE, false)] {
            let made =
                socket2::Socket::new(libc::AF_NETLINK.into(), socket2::Type::RAW, Some(protocol.into()));
            assert_eq!(Home::Namespace(0).holds(&made.unwrap().into()), Ok(is_at_home), "{protocol}");
        }
    }

    #[test]
    fn packets_are_counted_for_each_interface() {
        let table = "Inter-| Receive\n face |bytes\n    lo: 1 2 0 0 0 0 0 0 9 10 0 0 0 0 0 0\nout0: 3 4 0 0 0 0 0 0 5 6 0 0 0 0 0 0\n x\n";
        assert_eq!(sent(table).collect::<Vec<_>>(), [("lo", 10), ("out0", 6)]);
    }

    #[test]
    fn on_the_loopback_interface_a_socket_has_to_be_bound_to_it() {
        let made = socket2::Socket::new(Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert_eq!(Home::Loopback.holds(&made.try_clone().unwrap().into()), Ok(false));
        made.bind_device(Some(b"lo")).unwrap();
        assert_eq!(Home::Loopback.holds(&made.into()), Ok(true));
    }
}
