//! The system calls of a confined node: seccomp.
//!
//! A list of what is allowed, not of what is refused. A node uses about ninety of some four hundred calls; a list of
//! dangerous ones would have to be complete, also for kernels that come later, and whatever it forgot would be open to
//! whoever has taken the node over. What a list of allowed calls forgets shows as an error at once, in our tests, which all
//! run under it. A refused call returns EPERM and kills nobody: no peer may find a seldom path to a crash, and our code has
//! an error path for every call.
//!
//! What a later C library may try first before it falls back to an older call returns ENOSYS, on which it does fall back.
//! So does `clone3`, whose flags no filter can see: threads are made by `clone`, which must say that it makes a thread.
//!
//! No memory becomes executable: the program's code is all that it will ever run.

use std::collections::BTreeMap;

use libc::{
    AF_INET, AF_INET6, AF_UNIX, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID,
    CLONE_NEWUSER, CLONE_NEWUTS, CLONE_THREAD, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, PROT_EXEC,
    SOCK_DGRAM, SOCK_STREAM,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Calls that are allowed whatever they are asked for.
const ALLOWED: &[libc::c_long] = &[
    // Memory; what could make it executable is below.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads; how they are made is below.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    // Signals to this process.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Time and chance.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // Waiting for events.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    // Files; landlock says which.
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_stat,
    libc::SYS_statx,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets; of which kinds is below.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    // Who and what this process is.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Requests to devices: how much can be read, do not block, close with exec, is it a terminal, how wide is it. None that
/// types into the user's terminal.
const REQUESTS: [libc::Ioctl; 5] =
    [libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::TCGETS, libc::TIOCGWINSZ];

/// Options of sockets that bring programs for the kernel to run, or protocols of other parts of it.
const DEEP_OPTIONS: [(libc::c_int, &[libc::c_int]); 2] = [
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_ATTACH_FILTER,
            libc::SO_ATTACH_BPF,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            libc::SO_ATTACH_REUSEPORT_EBPF,
        ],
    ),
    (IPPROTO_TCP, &[libc::TCP_ULP, libc::TCP_REPAIR]),
];

/// Names of threads and of memory.
const SETTINGS: [libc::c_int; 3] = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];

/// Calls that are newer than those of [`ALLOWED`], up to where no kernel is yet.
const LATER: std::ops::Range<libc::c_long> = libc::SYS_epoll_pwait2 + 1..512;

const NAMESPACES: libc::c_int =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

/// Refuses all other calls to this thread, and to those that it starts.
pub(super) fn refuse_others() -> Result<(), String> {
    let programs = programs(std::process::id()).map_err(|error| error.to_string())?;
    for program in &programs {
        seccompiler::apply_filter(program)
            .map_err(|error| format!("this kernel takes no filter for system calls: {error}"))?;
    }
    Ok(())
}

/// What is not there, and what is allowed: in this order, for the second forbids a third.
fn programs(process: u32) -> Result<[BpfProgram; 2], BackendError> {
    let nothing = || LATER.chain([libc::SYS_clone3]).map(|call| (call, Vec::new()));
    let mut allowed: BTreeMap<_, _> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).chain(nothing()).collect();
    allowed.extend(conditional(process)?);
    let refused = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let filter =
        |rules, otherwise, matching| SeccompFilter::new(rules, otherwise, matching, TargetArch::x86_64);
    Ok([
        filter(nothing().collect(), SeccompAction::Allow, refused(libc::ENOSYS))?.try_into()?,
        filter(allowed, refused(libc::EPERM), SeccompAction::Allow)?.try_into()?,
    ])
}

/// Calls that are allowed only when they are asked for something harmless.
fn conditional(process: u32) -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, BackendError> {
    let thread = one(vec![bits(0, CLONE_THREAD | NAMESPACES, CLONE_THREAD)?])?;
    let not_executable = || one(vec![bits(2, PROT_EXEC, 0)?]);
    let mut sockets = Vec::new();
    for domain in [AF_INET, AF_INET6, AF_UNIX] {
        for (kind, protocol) in [(SOCK_STREAM, IPPROTO_TCP), (SOCK_DGRAM, IPPROTO_UDP)] {
            for protocol in [0, protocol] {
                // The flags that come with the kind are in higher bits.
                sockets.extend(one(vec![is(0, domain)?, bits(1, 0xf, kind)?, is(2, protocol)?])?);
            }
        }
    }
    let mut options = Vec::new();
    for (level, deep) in DEEP_OPTIONS {
        let mut conditions = vec![is(1, level)?];
        for option in deep {
            conditions.push(is_not(2, *option)?);
        }
        options.extend(one(conditions)?);
    }
    for level in [IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP] {
        options.extend(one(vec![is(1, level)?])?);
    }
    let pair = one(vec![is(0, AF_UNIX)?])?;
    let mut requests = Vec::new();
    for request in REQUESTS {
        requests.extend(one(vec![equal(1, SeccompCmpArgLen::Dword, request)?])?);
    }
    let mut settings = Vec::new();
    for setting in SETTINGS {
        settings.extend(one(vec![is(0, setting)?])?);
    }
    // Only asked, of this process, never set.
    let limits = one(vec![is(0, 0)?, equal(2, SeccompCmpArgLen::Qword, 0)?])?;
    let own = one(vec![equal(0, SeccompCmpArgLen::Dword, process.into())?])?;
    Ok(vec![
        (libc::SYS_clone, thread),
        (libc::SYS_mmap, not_executable()?),
        (libc::SYS_mprotect, not_executable()?),
        (libc::SYS_socket, sockets),
        (libc::SYS_setsockopt, options),
        (libc::SYS_socketpair, pair),
        (libc::SYS_ioctl, requests),
        (libc::SYS_prctl, settings),
        (libc::SYS_prlimit64, limits),
        (libc::SYS_tgkill, own),
    ])
}

fn one(conditions: Vec<SeccompCondition>) -> Result<Vec<SeccompRule>, BackendError> {
    Ok(vec![SeccompRule::new(conditions)?])
}

fn is(argument: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    equal(argument, SeccompCmpArgLen::Dword, value.unsigned_abs().into())
}

fn is_not(argument: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    let value = value.unsigned_abs().into();
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn equal(argument: u8, length: SeccompCmpArgLen, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, length, SeccompCmpOp::Eq, value)
}

fn bits(argument: u8, mask: libc::c_int, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    let mask = SeccompCmpOp::MaskedEq(mask.unsigned_abs().into());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, mask, value.unsigned_abs().into())
}

#[cfg(test)]
mod tests;
