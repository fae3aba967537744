//! The filter that the kernel runs at each system call of a sealed program: a classic BPF program, made of a list of rules.
//!
//! It sees numbers only, never what a pointer leads to. So it decides alone where numbers suffice, and asks the supervisor
//! everywhere else.

use libc::{c_long, sock_filter};
use phantom_policy::socket;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is carried out.
    Pass,
    /// The supervisor decides, and does it.
    Ask,
    /// It fails with this error.
    Fail(i32),
    /// It ends the program.
    Kill,
}

/// What must hold of an argument, which counts from 0.
#[derive(Clone, Copy, Debug)]
enum Holds {
    /// Its lower half is this number: where the kernel takes an `int`.
    Is(u32, u32),
    /// It has this bit.
    Has(u32, u32),
}

/// The first rule that fits decides; without one, the call passes.
struct Rule {
    call: c_long,
    when: &'static [Holds],
    fate: Fate,
}

const fn rule(call: c_long, when: &'static [Holds], fate: Fate) -> Rule {
    Rule { call, when, fate }
}

const SOL_SOCKET: Holds = Holds::Is(1, libc::SOL_SOCKET as u32);
const MAKES_INET: Holds = Holds::Is(0, socket::INET as u32);
const MAKES_INET6: Holds = Holds::Is(0, socket::INET6 as u32);
const MAKES_UNIX: Holds = Holds::Is(0, socket::UNIX as u32);
const MAKES_NETLINK: Holds = Holds::Is(0, socket::NETLINK as u32);
/// Of devices, which come to the machine as a whole.
const ASKS_FOR_EVENTS: Holds = Holds::Is(2, libc::NETLINK_KOBJECT_UEVENT as u32);
const READS_ERROR: Holds = Holds::Is(2, libc::SO_ERROR as u32);
const CHOOSES_DEVICE: Holds = Holds::Is(2, libc::SO_BINDTODEVICE as u32);
const CHOOSES_INTERFACE: Holds = Holds::Is(2, SO_BINDTOIFINDEX);

const TYPES: Holds = Holds::Is(1, libc::TIOCSTI as u32);
const PASTES: Holds = Holds::Is(1, libc::TIOCLINUX as u32);

const SO_BINDTOIFINDEX: u32 = 62;
const FAST_OPEN: u32 = libc::MSG_FASTOPEN as u32;

const RULES: &[Rule] = &[
    // Sockets are born with the supervisor, where nothing leads out.
    rule(libc::SYS_socket, &[MAKES_INET], Fate::Ask),
    rule(libc::SYS_socket, &[MAKES_INET6], Fate::Ask),
    rule(libc::SYS_socket, &[MAKES_UNIX], Fate::Pass),
    rule(libc::SYS_socket, &[MAKES_NETLINK, ASKS_FOR_EVENTS], Fate::Pass),
    rule(libc::SYS_socket, &[MAKES_NETLINK], Fate::Ask),
    rule(libc::SYS_socket, &[], Fate::Fail(libc::EAFNOSUPPORT)),
    rule(libc::SYS_socketpair, &[MAKES_UNIX], Fate::Pass),
    rule(libc::SYS_socketpair, &[], Fate::Fail(libc::EAFNOSUPPORT)),
    // What leads somewhere.
    rule(libc::SYS_connect, &[], Fate::Ask),
    rule(libc::SYS_listen, &[], Fate::Ask),
    // A connection that begins with data. Without it, programs connect first.
    rule(libc::SYS_sendto, &[Holds::Has(3, FAST_OPEN)], Fate::Fail(libc::EOPNOTSUPP)),
    rule(libc::SYS_sendmsg, &[Holds::Has(2, FAST_OPEN)], Fate::Fail(libc::EOPNOTSUPP)),
    rule(libc::SYS_sendmmsg, &[Holds::Has(3, FAST_OPEN)], Fate::Fail(libc::EOPNOTSUPP)),
    // What tells where it led.
    rule(libc::SYS_getpeername, &[], Fate::Ask),
    rule(libc::SYS_getsockopt, &[SOL_SOCKET, READS_ERROR], Fate::Ask),
    // Its operations would meet no filter.
    rule(libc::SYS_io_uring_setup, &[], Fate::Fail(libc::ENOSYS)),
    rule(libc::SYS_io_uring_enter, &[], Fate::Fail(libc::ENOSYS)),
    rule(libc::SYS_io_uring_register, &[], Fate::Fail(libc::ENOSYS)),
    // Sockets of others.
    rule(libc::SYS_pidfd_getfd, &[], Fate::Fail(libc::EPERM)),
    // What is typed at a terminal that the program shares with a shell that is not sealed: the shell would do it.
    rule(libc::SYS_ioctl, &[TYPES], Fate::Fail(libc::EPERM)),
    rule(libc::SYS_ioctl, &[PASTES], Fate::Fail(libc::EPERM)),
];

/// Sockets that are bound to the loopback interface stay so, even if the program may do what root may.
const LOOPBACK_RULES: &[Rule] = &[
    rule(libc::SYS_setsockopt, &[SOL_SOCKET, CHOOSES_DEVICE], Fate::Fail(libc::EPERM)),
    rule(libc::SYS_setsockopt, &[SOL_SOCKET, CHOOSES_INTERFACE], Fate::Fail(libc::EPERM)),
];

/// Where `struct seccomp_data` has what.
mod at {
    pub(super) const CALL: u32 = 0;
    pub(super) const ARCHITECTURE: u32 = 4;
    const ARGUMENTS: u32 = 16;

    /// The lower half of an argument.
    pub(super) const fn low(argument: u32) -> u32 {
        ARGUMENTS + 8 * argument
    }
}

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;
/// Set in the numbers of calls of the x32 kind, which have others than ours.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The filter, for a run whose sockets live in an island, or beside those of others.
pub(super) fn program(in_island: bool) -> Vec<sock_filter> {
    let mut program = vec![
        load(at::ARCHITECTURE),
        jump(IF_EQUAL, X86_64, 1, 0),
        end(Fate::Kill), // a program of 32 bits, whose calls have other numbers
        load(at::CALL),
        jump(IF_ANY_BIT, X32, 0, 1),
        end(Fate::Fail(libc::ENOSYS)),
    ];
    let more = if in_island { &[][..] } else { LOOPBACK_RULES };
    RULES.iter().chain(more).for_each(|rule| program.extend(compile(rule)));
    program.push(end(Fate::Pass));
    program
}

/// Leaves the number of the call where the next rule expects it.
fn compile(rule: &Rule) -> Vec<sock_filter> {
    // From behind: each condition jumps over what comes after it.
    let mut after = vec![end(rule.fate)];
    if !rule.when.is_empty() {
        after.push(load(at::CALL));
    }
    // A condition that fails goes on where the number is loaded again, right behind the end.
    let mut conditions = Vec::new();
    let mut left = 0;
    for holds in rule.when.iter().rev() {
        let condition = match *holds {
            Holds::Is(argument, value) => vec![load(at::low(argument)), jump(IF_EQUAL, value, 0, left + 1)],
            Holds::Has(argument, bit) => vec![load(at::low(argument)), jump(IF_ANY_BIT, bit, 0, left + 1)],
        };
        left += condition.len() as u8;
        conditions.splice(0..0, condition);
    }
    let over = left + after.len() as u8;
    let mut compiled = vec![jump(IF_EQUAL, rule.call as u32, 0, over)];
    compiled.extend(conditions);
    compiled.extend(after);
    compiled
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }
}

fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter { code, jt: if_true, jf: if_false, k: value }
}

fn end(fate: Fate) -> sock_filter {
    let value = match fate {
        Fate::Pass => libc::SECCOMP_RET_ALLOW,
        Fate::Ask => libc::SECCOMP_RET_USER_NOTIF,
        Fate::Fail(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
        Fate::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    };
    sock_filter { code: RETURN, jt: 0, jf: 0, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel does.
    fn run(program: &[sock_filter], architecture: u32, call: c_long, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((call as u32).to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend([0; 8]);
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                LOAD => {
                    let word = data[k as usize..][..4].try_into().unwrap();
                    accumulator = u32::from_ne_bytes(word);
                }
                IF_EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
                IF_ANY_BIT => at += usize::from(if accumulator & k != 0 { jt } else { jf }),
                RETURN => return k,
                other => panic!("{other}"),
            }
        }
    }

    fn fate(call: c_long, arguments: [u64; 6]) -> u32 {
        run(&program(true), X86_64, call, arguments)
    }

    const PASS: u32 = libc::SECCOMP_RET_ALLOW;
    const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;

    fn fails(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno as u32
    }

    #[test]
    fn internet_sockets_are_made_by_the_supervisor_and_foreign_families_by_nobody() {
        for family in [socket::INET, socket::INET6] {
            assert_eq!(fate(libc::SYS_socket, [family as u64, 1, 0, 0, 0, 0]), ASK);
            let upper_half_is_ignored = family as u64 | 1 << 40;
            assert_eq!(fate(libc::SYS_socket, [upper_half_is_ignored, 1, 0, 0, 0, 0]), ASK);
        }
        assert_eq!(fate(libc::SYS_socket, [socket::UNIX as u64, 1, 0, 0, 0, 0]), PASS);
        assert_eq!(fate(libc::SYS_socketpair, [socket::UNIX as u64, 1, 0, 1, 0, 0]), PASS);
        for family in [0, 17, 31, 38, 40, 44, u64::MAX] {
            assert_eq!(fate(libc::SYS_socket, [family, 3, 0, 0, 0, 0]), fails(libc::EAFNOSUPPORT));
            assert_eq!(fate(libc::SYS_socketpair, [family, 1, 0, 1, 0, 0]), fails(libc::EAFNOSUPPORT));
        }
    }

    #[test]
    fn what_is_asked_about_the_network_is_asked_where_the_run_is() {
        let (routes, diagnosis) = (0, 4);
        for protocol in [routes, diagnosis] {
            assert_eq!(fate(libc::SYS_socket, [socket::NETLINK as u64, 3, protocol, 0, 0, 0]), ASK);
        }
        let events = libc::NETLINK_KOBJECT_UEVENT as u64;
        assert_eq!(fate(libc::SYS_socket, [socket::NETLINK as u64, 3, events, 0, 0, 0]), PASS);
    }

    #[test]
    fn a_socket_stays_on_the_loopback_interface_where_there_are_others() {
        let option = |in_island, level: i32, name: u32| {
            run(&program(in_island), X86_64, libc::SYS_setsockopt, [3, level as u64, name.into(), 0, 0, 0])
        };
        for device in [libc::SO_BINDTODEVICE as u32, SO_BINDTOIFINDEX] {
            assert_eq!(option(false, libc::SOL_SOCKET, device), fails(libc::EPERM));
            assert_eq!(option(true, libc::SOL_SOCKET, device), PASS);
        }
        assert_eq!(option(false, libc::SOL_SOCKET, libc::SO_REUSEADDR as u32), PASS);
        assert_eq!(option(false, libc::IPPROTO_TCP, libc::SO_BINDTODEVICE as u32), PASS);
    }

    #[test]
    fn what_leads_somewhere_is_asked_for_and_what_does_not_passes() {
        assert_eq!(fate(libc::SYS_connect, [3, 1, 16, 0, 0, 0]), ASK);
        let fast_open = u64::from(FAST_OPEN) | 1;
        assert_eq!(fate(libc::SYS_sendto, [3, 1, 1, fast_open, 1, 16]), fails(libc::EOPNOTSUPP));
        assert_eq!(fate(libc::SYS_sendto, [3, 1, 1, 0, 1, 16]), PASS);
        assert_eq!(fate(libc::SYS_sendmsg, [3, 1, fast_open, 0, 0, 0]), fails(libc::EOPNOTSUPP));
        assert_eq!(fate(libc::SYS_sendmmsg, [3, 1, 1, fast_open, 0, 0]), fails(libc::EOPNOTSUPP));
        assert_eq!(fate(libc::SYS_sendmsg, [3, 1, 1, fast_open, 0, 0]), PASS);
        let error = [3, libc::SOL_SOCKET as u64, libc::SO_ERROR as u64, 1, 1, 0];
        assert_eq!(fate(libc::SYS_getsockopt, error), ASK);
        assert_eq!(
            fate(libc::SYS_getsockopt, [3, libc::SOL_SOCKET as u64, libc::SO_TYPE as u64, 1, 1, 0]),
            PASS
        );
        for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_sendmsg, libc::SYS_clone3] {
            assert_eq!(fate(call, [0; 6]), PASS);
        }
    }

    #[test]
    fn ways_around_the_filter_are_closed() {
        assert_eq!(fate(libc::SYS_io_uring_setup, [1; 6]), fails(libc::ENOSYS));
        assert_eq!(fate(libc::SYS_pidfd_getfd, [1; 6]), fails(libc::EPERM));
        assert_eq!(fate(libc::SYS_ioctl, [0, libc::TIOCSTI, 1, 0, 0, 0]), fails(libc::EPERM));
        assert_eq!(fate(libc::SYS_ioctl, [0, libc::TIOCLINUX, 1, 0, 0, 0]), fails(libc::EPERM));
        assert_eq!(fate(libc::SYS_ioctl, [0, libc::TIOCGWINSZ, 1, 0, 0, 0]), PASS);
        let x32_socket = libc::SYS_socket | c_long::from(X32);
        assert_eq!(fate(x32_socket, [2, 1, 0, 0, 0, 0]), fails(libc::ENOSYS));
        let i386 = 0x4000_0003;
        assert_eq!(run(&program(true), i386, 359, [2, 1, 0, 0, 0, 0]), libc::SECCOMP_RET_KILL_PROCESS);
    }
}
