//! What a program is handed is its own already, whatever the seal says about sockets. So it is looked at before.

use std::{
    env,
    io::{stderr, stdin, stdout},
    os::fd::{AsFd, BorrowedFd},
    process,
};

use socket2::{Domain, SockRef};

/// Refuses what would be a way out.
pub(super) fn check() -> anyhow::Result<()> {
    for (name, open) in
        [("input", stdin().as_fd()), ("output", stdout().as_fd()), ("error", stderr().as_fd())]
    {
        anyhow::ensure!(
            !may_lead_outside(open),
            "Standard {name} is a connection of the Internet, which a sealed program must not have. Give it another one, for \
             example through cat: ... | phantom run -- PROGRAM | cat"
        );
    }
    let (count, to) = (env::var("LISTEN_FDS").ok(), env::var("LISTEN_PID").ok());
    anyhow::ensure!(
        !is_for(process::id(), count.as_deref(), to.as_deref()),
        "Sockets that listen were handed over (LISTEN_FDS), which a sealed program must not have. Start phantom run without \
         them, as a service and not by a socket unit; the program opens its ports by itself under the seal."
    );
    Ok(())
}

/// Any socket but those of this machine's own.
fn may_lead_outside(open: BorrowedFd<'_>) -> bool {
    SockRef::from(&open).domain().is_ok_and(|family| family != Domain::UNIX)
}

/// Whether sockets were handed over to this process, as service managers do (`sd_listen_fds`). What is for others would be of
/// no use to the program either.
fn is_for(process: u32, count: Option<&str>, to: Option<&str>) -> bool {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    number(count).is_some_and(|count| count > 0) && number(to) == Some(process)
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::unix::net::UnixDatagram};

    use super::*;

    #[test]
    fn sockets_lead_outside_unless_they_are_of_this_machine() {
        assert!(may_lead_outside(UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()));
        assert!(!may_lead_outside(UnixDatagram::unbound().unwrap().as_fd()));
        assert!(!may_lead_outside(tempfile::tempfile().unwrap().as_fd()));
        let kernel = socket2::Socket::new(libc::AF_NETLINK.into(), socket2::Type::RAW, None).unwrap();
        assert!(may_lead_outside(kernel.as_fd()));
    }

    #[test]
    fn sockets_for_others_are_no_concern_of_ours() {
        for (count, to, is_ours) in [
            (Some("1"), Some("7"), true),
            (Some("0"), Some("7"), false),
            (Some("1"), Some("8"), false),
            (Some("1"), None, false),
            (None, Some("7"), false),
            (Some("x"), Some("7"), false),
        ] {
            assert_eq!(is_for(7, count, to), is_ours, "{count:?} {to:?}");
        }
    }
}
