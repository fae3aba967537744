//! What the kernel would do with calls, found out by running the very programs that it is given.

use super::*;

const OWN: u32 = 4711;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
/// Of `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

/// What the program of one filter returns, by the rules of `bpf(4)` as far as filters use them.
fn run(program: &BpfProgram, architecture: u32, call: libc::c_long, arguments: &[u64]) -> u32 {
    // struct seccomp_data: number, architecture, where from, arguments.
    let mut data = Vec::new();
    data.extend_from_slice(&(call as u32).to_le_bytes());
    data.extend_from_slice(&architecture.to_le_bytes());
    data.extend_from_slice(&[0; 8]);
    for index in 0..6 {
        data.extend_from_slice(&arguments.get(index).copied().unwrap_or(0).to_le_bytes());
    }
    let word = |at: u32| u32::from_le_bytes(data[at as usize..][..4].try_into().unwrap());
    let (mut accumulator, mut next) = (0, 0);
    loop {
        let step = &program[next];
        next += 1;
        let code = u32::from(step.code);
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match code {
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => accumulator = word(step.k),
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= step.k,
            code if code == libc::BPF_JMP | libc::BPF_JA => next += step.k as usize,
            code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                next += jump(accumulator == step.k)
            }
            code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => next += jump(accumulator > step.k),
            code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                next += jump(accumulator >= step.k)
            }
            code if code == libc::BPF_RET | libc::BPF_K => return step.k,
            code => panic!("a step that nobody has asked for: {code:#x}"),
        }
    }
}

/// What the kernel makes of all filters: what is not allowed by one goes before what is by another, the later first.
fn ask(call: libc::c_long, arguments: &[u64]) -> u32 {
    let [absent, allowed] = programs(OWN).unwrap().map(|program| run(&program, X86_64, call, arguments));
    if allowed == ALLOW { absent } else { allowed }
}

#[test]
fn what_turns_a_process_into_another_or_looks_into_one_is_refused() {
    for (name, call) in [
        ("execve", libc::SYS_execve),
        ("execveat", libc::SYS_execveat),
        ("fork", libc::SYS_fork),
        ("vfork", libc::SYS_vfork),
        ("kill", libc::SYS_kill),
        ("pidfd_getfd", libc::SYS_pidfd_getfd),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("process_vm_writev", libc::SYS_process_vm_writev),
        ("ptrace", libc::SYS_ptrace),
        ("setuid", libc::SYS_setuid),
        ("capset", libc::SYS_capset),
        ("unshare", libc::SYS_unshare),
        ("setns", libc::SYS_setns),
    ] {
        assert_eq!(ask(call, &[]), EPERM, "{name}");
    }
}

#[test]
fn what_reaches_deep_into_the_kernel_is_refused() {
    for (name, call) in [
        ("mount", libc::SYS_mount),
        ("pivot_root", libc::SYS_pivot_root),
        ("chroot", libc::SYS_chroot),
        ("init_module", libc::SYS_init_module),
        ("finit_module", libc::SYS_finit_module),
        ("kexec_load", libc::SYS_kexec_load),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("memfd_create", libc::SYS_memfd_create),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("reboot", libc::SYS_reboot),
        ("settimeofday", libc::SYS_settimeofday),
        ("mknod", libc::SYS_mknod),
        ("chown", libc::SYS_chown),
        ("seccomp", libc::SYS_seccomp),
    ] {
        assert_eq!(ask(call, &[]), EPERM, "{name}");
    }
}

#[test]
fn threads_are_made_and_processes_and_namespaces_are_not() {
    // What the C library asks for.
    let thread = 0x003d_0f00_u64;
    assert_eq!(ask(libc::SYS_clone, &[thread]), ALLOW);
    assert_eq!(ask(libc::SYS_clone, &[libc::SIGCHLD as u64]), EPERM, "fork");
    assert_eq!(ask(libc::SYS_clone, &[0x4000 | 0x100 | libc::SIGCHLD as u64]), EPERM, "vfork");
    for namespace in [CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWPID] {
        assert_eq!(ask(libc::SYS_clone, &[thread | namespace as u64]), EPERM);
    }
    assert_eq!(ask(libc::SYS_clone3, &[]), ENOSYS);
}

#[test]
fn sockets_are_of_tcp_udp_and_this_machine() {
    let socket = |domain: i32, kind: i32, protocol: i32| {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        ask(libc::SYS_socket, &[domain as u64, (kind | flags) as u64, protocol as u64])
    };
    for domain in [AF_INET, AF_INET6, AF_UNIX] {
        for kind in [SOCK_STREAM, SOCK_DGRAM] {
            assert_eq!(socket(domain, kind, 0), ALLOW, "{domain} {kind}");
        }
        assert_eq!(socket(domain, libc::SOCK_RAW, 0), EPERM, "{domain}");
    }
    assert_eq!(socket(AF_INET, SOCK_STREAM, IPPROTO_TCP), ALLOW);
    assert_eq!(socket(AF_INET6, SOCK_DGRAM, IPPROTO_UDP), ALLOW);
    for (domain, kind, protocol) in [
        (libc::AF_PACKET, SOCK_DGRAM, 0),
        (libc::AF_NETLINK, SOCK_DGRAM, 0),
        (libc::AF_VSOCK, SOCK_STREAM, 0),
        (libc::AF_ALG, SOCK_STREAM, 0),
        (AF_INET, SOCK_DGRAM, libc::IPPROTO_ICMP),
        (AF_INET, SOCK_STREAM, libc::IPPROTO_SCTP),
        (AF_INET, SOCK_STREAM, libc::IPPROTO_MPTCP),
    ] {
        assert_eq!(socket(domain, kind, protocol), EPERM, "{domain} {kind} {protocol}");
    }
}

#[test]
fn sockets_bring_no_programs_into_the_kernel() {
    let option = |level: i32, option: i32| ask(libc::SYS_setsockopt, &[3, level as u64, option as u64]);
    for (level, usual) in [
        (libc::SOL_SOCKET, libc::SO_REUSEADDR),
        (libc::SOL_SOCKET, libc::SO_RCVBUF),
        (IPPROTO_TCP, libc::TCP_NODELAY),
        (IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
        (IPPROTO_IPV6, libc::IPV6_V6ONLY),
    ] {
        assert_eq!(option(level, usual), ALLOW, "{level} {usual}");
    }
    for (level, deep) in DEEP_OPTIONS {
        assert!(deep.iter().all(|deep| option(level, *deep) == EPERM), "{level}");
    }
    assert_eq!(option(libc::SOL_TLS, 1), EPERM);
}

#[test]
fn memory_never_becomes_executable() {
    let usual = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        assert_eq!(ask(call, &[0, 4096, usual]), ALLOW);
        assert_eq!(ask(call, &[0, 4096, usual | PROT_EXEC as u64]), EPERM);
    }
    assert_eq!(ask(libc::SYS_pkey_mprotect, &[0, 4096, usual]), EPERM);
}

#[test]
fn what_belongs_to_others_is_left_alone() {
    assert_eq!(ask(libc::SYS_tgkill, &[OWN.into(), 1, 6]), ALLOW);
    assert_eq!(ask(libc::SYS_tgkill, &[1, 1, 9]), EPERM);
    assert_eq!(ask(libc::SYS_ioctl, &[0, libc::FIONREAD]), ALLOW);
    assert_eq!(ask(libc::SYS_ioctl, &[0, libc::TIOCSTI]), EPERM);
    assert_eq!(ask(libc::SYS_prctl, &[libc::PR_SET_NAME as u64]), ALLOW);
    assert_eq!(ask(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as u64, 1]), EPERM);
    assert_eq!(ask(libc::SYS_prlimit64, &[0, 7, 0]), ALLOW);
    assert_eq!(ask(libc::SYS_prlimit64, &[0, 7, 1 << 40]), EPERM);
    assert_eq!(ask(libc::SYS_prlimit64, &[1, 7, 0]), EPERM);
}

#[test]
fn a_call_that_only_a_later_kernel_has_does_not_exist() {
    assert_eq!(ask(libc::SYS_futex_waitv, &[]), ENOSYS);
    assert_eq!(ask(500, &[]), ENOSYS);
    assert_eq!(ask(libc::SYS_read, &[]), ALLOW);
}

#[test]
fn the_numbers_of_other_architectures_lead_nowhere() {
    let [_, allowed] = programs(OWN).unwrap();
    assert_eq!(run(&allowed, X86, libc::SYS_read, &[]), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(ask(libc::SYS_read | 0x4000_0000, &[]), EPERM, "x32");
}
