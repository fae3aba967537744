//! Circles of isolation within a run: what is of different circles shares no paths and sessions.

use std::{
    collections::HashMap,
    fs,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::lock;

/// Aliases whose parties are remembered.
const ALIASES: usize = 16_384;
/// The circle of a run that is not parted.
const WHOLE: u64 = 0;

/// What parts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parted {
    /// Each process is alone; its children are, too.
    ByProcess,
    /// Each party is alone.
    ByDestination,
}

/// The circles of a run.
#[derive(Debug, Default)]
pub struct Circles {
    by: Option<Parted>,
    numbers: RandomState,
    /// The AP address of the party that an alias stands for, as far as the program has asked for both.
    aliases: Mutex<HashMap<Ipv4Addr, Ipv6Addr>>,
    without_process: AtomicU64,
}

impl Circles {
    /// A run that is parted by this, or not.
    pub fn new(by: Option<Parted>) -> Circles {
        Circles { by, ..Circles::default() }
    }

    /// A party has these addresses.
    pub fn learn(&self, address: Ipv6Addr, alias: Option<Ipv4Addr>) {
        let mut aliases = lock(&self.aliases);
        if self.by == Some(Parted::ByDestination)
            && let Some(alias) = alias
            && aliases.len() < ALIASES
        {
            aliases.insert(alias, address);
        }
    }

    /// The circle of what a thread connects.
    pub(super) fn of(&self, thread: i32, to: SocketAddr) -> u64 {
        self.circle(to, || match process(thread) {
            Some(process) => self.numbers.hash_one(process),
            // It has just ended. Nobody else is in its circle.
            None => self.numbers.hash_one(self.without_process.fetch_add(1, Ordering::Relaxed)),
        })
    }

    /// The circle of what a socket sends that is not connected. Nobody knows which process it is that does so: the socket is
    /// alone.
    pub(super) fn of_socket(&self, from: SocketAddr, to: SocketAddr) -> u64 {
        self.circle(to, || self.numbers.hash_one(from))
    }

    fn circle(&self, to: SocketAddr, by_process: impl FnOnce() -> u64) -> u64 {
        let number = match self.by {
            None => return WHOLE,
            Some(Parted::ByProcess) => by_process(),
            Some(Parted::ByDestination) => {
                let party = match to.ip().to_canonical() {
                    IpAddr::V4(alias) => {
                        lock(&self.aliases).get(&alias).map_or(alias.into(), |known| (*known).into())
                    }
                    address @ IpAddr::V6(_) => address,
                };
                self.numbers.hash_one(party)
            }
        };
        number.max(WHOLE + 1)
    }
}

/// The number of the process of a thread, and when it began: numbers are used again.
fn process(thread: i32) -> Option<(u32, u64)> {
    const BEGAN: usize = 19;
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, behind) = line.rsplit_once(')')?;
    Some((process, behind.split_ascii_whitespace().nth(BEGAN)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread};

    use nix::unistd::gettid;

    use super::*;

    fn place(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_run_that_is_not_parted_is_one_circle() {
        let circles = Circles::new(None);
        assert_eq!(circles.of(1, place("127.192.0.1:1")), circles.of(2, place("[fc00::1]:2")));
    }

    #[test]
    fn threads_of_a_process_share_its_circle_and_children_do_not() {
        let circles = Circles::new(Some(Parted::ByProcess));
        let to = place("127.192.0.1:1");
        let own = circles.of(gettid().as_raw(), to);
        assert_eq!(circles.of(gettid().as_raw(), place("127.192.0.2:2")), own);
        let other_thread =
            thread::scope(|scope| scope.spawn(|| circles.of(gettid().as_raw(), to)).join().unwrap());
        assert_eq!(other_thread, own);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let of_child = circles.of(child.id() as i32, to);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_ne!(of_child, own);
        let gone = [(); 2].map(|()| circles.of(child.id() as i32, to));
        assert!(gone[0] != gone[1] && !gone.contains(&of_child) && !gone.contains(&WHOLE));
        assert_ne!(
            Circles::new(Some(Parted::ByProcess)).of(gettid().as_raw(), to),
            own,
            "others cannot tell"
        );
    }

    #[test]
    fn a_party_is_the_same_by_each_of_its_addresses() {
        let circles = Circles::new(Some(Parted::ByDestination));
        circles.learn("fc00::1".parse().unwrap(), Some(Ipv4Addr::new(127, 192, 0, 1)));
        let party = circles.of(1, place("[fc00::1]:1"));
        for same in ["127.192.0.1:2", "[::ffff:127.192.0.1]:3", "[fc00::1]:4"] {
            assert_eq!(circles.of(2, place(same)), party, "{same}");
        }
        assert_eq!(circles.of_socket(place("127.224.0.1:9"), place("127.192.0.1:2")), party);
        for other in ["127.192.0.2:1", "[fc00::2]:1"] {
            assert_ne!(circles.of(1, place(other)), party, "{other}");
        }
    }
}
