//! System calls, made by ourselves.
//!
//! Not through libc, because there the names of these calls are ours: we would come back to ourselves. So nothing is looked
//! up, `errno` stays as it was until a hook sets it, no signal handler and no child of `vfork` finds anything half done, and
//! no thread is cancelled inside of Rust, which could not be unwound.

use core::{
    arch::asm,
    ffi::{CStr, c_char, c_int, c_long, c_void},
    mem::size_of,
    net::SocketAddr,
    ptr::null_mut,
};

use libc::{iovec, msghdr, sockaddr_un, socklen_t};

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
compile_error!("the library is for Linux with glibc on x86-64");

/// What a call returns, or its error number.
pub(crate) type Outcome = Result<usize, c_int>;

/// Six arguments, as the kernel takes them.
pub(crate) type Arguments = [usize; 6];

/// Makes a call.
///
/// # Safety
/// As the call itself says.
#[inline]
pub(crate) unsafe fn call(number: c_long, arguments: Arguments) -> Outcome {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the kernel's convention; what the call does to memory is the caller's affair.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    if (-4_095..0).contains(&result) { Err(-result as c_int) } else { Ok(result as usize) }
}

/// Closes a descriptor.
pub(crate) fn close(descriptor: c_int) {
    // SAFETY: numbers only; the descriptor is one that we have made.
    let _nothing_helps = unsafe { call(libc::SYS_close, [descriptor as usize, 0, 0, 0, 0, 0]) };
}

/// Puts one descriptor where another one is, which is closed by that: never is the place free.
pub(crate) fn take_place(of: c_int, descriptor: c_int, close_on_exec: bool) -> Result<(), c_int> {
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: numbers only; both descriptors are ones that we have made.
    unsafe { call(libc::SYS_dup3, [descriptor as usize, of as usize, flags as usize, 0, 0, 0]) }.map(drop)
}

/// A socket that keeps the borders of messages, connected to this place.
pub(crate) fn dial(place: &sockaddr_un, length: usize) -> Result<c_int, c_int> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: numbers only.
    let made = unsafe { call(libc::SYS_socket, [libc::AF_UNIX as usize, kind as usize, 0, 0, 0, 0]) }?;
    loop {
        // SAFETY: the kernel reads one structure of at least this length.
        let done = unsafe { call(libc::SYS_connect, [made, &raw const *place as usize, length, 0, 0, 0]) };
        match done {
            Ok(_) => return Ok(made as c_int),
            Err(libc::EINTR) => {}
            Err(errno) => {
                close(made as c_int);
                return Err(errno);
            }
        }
    }
}

/// Room for one descriptor beside a message.
#[repr(C, align(8))]
struct Rights {
    header: libc::cmsghdr,
    descriptor: c_int,
    _to_the_end: c_int,
}

const RIGHTS: usize = size_of::<libc::cmsghdr>() + size_of::<c_int>();

/// Says one message, in parts, which may lie in the program's memory; if they do not, it is its fault (`EFAULT`).
pub(crate) fn say(to: c_int, parts: &mut [iovec], with: Option<c_int>) -> Result<(), c_int> {
    let header =
        libc::cmsghdr { cmsg_len: RIGHTS, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
    let mut rights = Rights { header, descriptor: with.unwrap_or(-1), _to_the_end: 0 };
    let message = msghdr {
        msg_name: null_mut(),
        msg_namelen: 0,
        msg_iov: parts.as_mut_ptr(),
        msg_iovlen: parts.len(),
        msg_control: if with.is_some() { (&raw mut rights).cast() } else { null_mut() },
        msg_controllen: if with.is_some() { size_of::<Rights>() } else { 0 },
        msg_flags: 0,
    };
    loop {
        let arguments = [to as usize, &raw const message as usize, libc::MSG_NOSIGNAL as usize, 0, 0, 0];
        // SAFETY: the kernel reads the message and what it leads to, and answers EFAULT where there is nothing.
        match unsafe { call(libc::SYS_sendmsg, arguments) } {
            Ok(_) => return Ok(()),
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Hears one message, with the descriptor that comes along. Nothing is heard when the other side has gone.
pub(crate) fn hear(
    from: c_int,
    space: &mut [u8],
    close_on_exec: bool,
) -> Result<(usize, Option<c_int>), c_int> {
    let mut part = iovec { iov_base: space.as_mut_ptr().cast(), iov_len: space.len() };
    let header = libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 };
    let mut rights = Rights { header, descriptor: -1, _to_the_end: 0 };
    let mut message = msghdr {
        msg_name: null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut part,
        msg_iovlen: 1,
        msg_control: (&raw mut rights).cast(),
        // Up to the end of the first one: behind it the kernel would put another.
        msg_controllen: RIGHTS,
        msg_flags: 0,
    };
    let flags = if close_on_exec { libc::MSG_CMSG_CLOEXEC } else { 0 };
    let arguments = [from as usize, &raw mut message as usize, flags as usize, 0, 0, 0];
    // SAFETY: the kernel writes into the message, its one part and the room beside it, all of them as long as they say.
    let length = unsafe { call(libc::SYS_recvmsg, arguments) }?;
    let came = message.msg_controllen >= RIGHTS && rights.header.cmsg_type == libc::SCM_RIGHTS;
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        if came {
            close(rights.descriptor);
        }
        // More than anybody asked for; or the table of descriptors is full.
        return Err(libc::EMFILE);
    }
    Ok((length, came.then_some(rights.descriptor)))
}

/// An option of a socket that is one number.
pub(crate) fn option(socket: c_int, level: c_int, name: c_int) -> Result<c_int, c_int> {
    let (mut value, mut length) = (0 as c_int, size_of::<c_int>() as socklen_t);
    let place = (&raw mut value as usize, &raw mut length as usize);
    // SAFETY: the kernel writes one number, and how long it is.
    unsafe {
        call(libc::SYS_getsockopt, [socket as usize, level as usize, name as usize, place.0, place.1, 0])
    }?;
    Ok(value)
}

/// Lets one socket wait for messages as long as another one waits until it can send.
pub(crate) fn wait_as_long_as(socket: c_int, other: c_int) {
    let mut time = [0_u8; size_of::<libc::timeval>()];
    let mut length = time.len() as socklen_t;
    let (level, place, length_at) =
        (libc::SOL_SOCKET as usize, time.as_mut_ptr() as usize, &raw mut length as usize);
    // SAFETY: the kernel writes one structure, and how long it is.
    let known = unsafe {
        call(libc::SYS_getsockopt, [other as usize, level, libc::SO_SNDTIMEO as usize, place, length_at, 0])
    };
    // Without a bound it is all zeros.
    if known.is_ok() && time.iter().any(|byte| *byte != 0) {
        let arguments = [socket as usize, level, libc::SO_RCVTIMEO as usize, place, length as usize, 0];
        // SAFETY: the kernel reads one structure.
        let _then_it_waits_longer = unsafe { call(libc::SYS_setsockopt, arguments) };
    }
}

/// The family that a socket was made with.
pub(crate) fn family(socket: c_int) -> Result<c_int, c_int> {
    option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)
}

/// Copies from the program's memory, or says `EFAULT`.
pub(crate) fn copy_from(program: *const c_void, to: &mut [u8]) -> Result<(), c_int> {
    let ours = iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let theirs = iovec { iov_base: program.cast_mut(), iov_len: to.len() };
    let arguments = [own_process(), &raw const ours as usize, 1, &raw const theirs as usize, 1, 0];
    // SAFETY: the kernel writes into `to`, and looks before it reads.
    match unsafe { call(libc::SYS_process_vm_readv, arguments) } {
        Ok(got) if got == to.len() => Ok(()),
        Ok(_) | Err(_) => Err(libc::EFAULT),
    }
}

fn own_process() -> usize {
    // SAFETY: it has no arguments.
    unsafe { call(libc::SYS_getpid, [0; 6]) }.unwrap_or_default()
}

/// Reads a file from its beginning, as much of it as there is room for.
pub(crate) fn read_file(path: &CStr, space: &mut [u8]) -> usize {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let arguments = [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, 0, 0, 0];
    // SAFETY: the path ends with a zero.
    let Ok(file) = (unsafe { call(libc::SYS_openat, arguments) }) else { return 0 };
    read_all(file, space)
}

/// Reads a program's file, of which the path is said as `execveat` takes it. It is as long as there is room for, or shorter.
pub(crate) fn read_program(folder: c_int, path: *const c_char, space: &mut [u8]) -> Result<usize, c_int> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    let file = unsafe { call(libc::SYS_openat, [folder as usize, path as usize, flags as usize, 0, 0, 0]) }?;
    Ok(read_all(file, space))
}

/// Whether the kernel would execute what lies there, as far as permissions go.
pub(crate) fn is_executable(path: *const c_char) -> bool {
    let mode = libc::X_OK as usize;
    // SAFETY: the kernel says EFAULT where the program gave no memory.
    unsafe { call(libc::SYS_faccessat, [libc::AT_FDCWD as usize, path as usize, mode, 0, 0, 0]) }.is_ok()
}

/// Reads as much as there is room for, and closes the file.
fn read_all(file: usize, space: &mut [u8]) -> usize {
    let mut read = 0;
    while let Some(rest) = space.get_mut(read..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the kernel writes into the rest, no more than it is long.
        match unsafe { call(libc::SYS_read, [file, rest.as_mut_ptr() as usize, rest.len(), 0, 0, 0]) } {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(libc::EINTR) => {}
            Err(_) => break,
        }
    }
    close(file as c_int);
    read
}

/// Memory of its own, for what does not fit on the stack. Nothing if there is none.
pub(crate) fn map(length: usize) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let arguments = [0, length, protection as usize, flags as usize, usize::MAX, 0];
    // SAFETY: the kernel chooses a free place.
    unsafe { call(libc::SYS_mmap, arguments) }.map_or(null_mut(), |place| place as *mut u8)
}

/// Gives it back.
///
/// # Safety
/// It came from [`map`], with this length, and nothing leads there any more.
pub(crate) unsafe fn unmap(place: *mut u8, length: usize) {
    // SAFETY: as said.
    let _nothing_helps = unsafe { call(libc::SYS_munmap, [place as usize, length, 0, 0, 0, 0]) };
}

/// Writes a sentence where errors go, as far as that is possible.
pub(crate) fn complain(sentence: &[u8]) {
    let to = libc::STDERR_FILENO as usize;
    // SAFETY: the kernel reads so many bytes, and they are there.
    let _nobody_listens =
        unsafe { call(libc::SYS_write, [to, sentence.as_ptr() as usize, sentence.len(), 0, 0, 0]) };
}

/// Ends the process, with all its threads, and nothing else is done.
pub(crate) fn end(code: c_int) -> ! {
    loop {
        // SAFETY: numbers only.
        let _never_returns = unsafe { call(libc::SYS_exit_group, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// What a function of libc returns: -1 and `errno`, which a success leaves alone.
pub(crate) fn returned(outcome: Outcome) -> isize {
    match outcome {
        Ok(value) => value as isize,
        Err(errno) => {
            // SAFETY: it leads to this thread's own number.
            unsafe { *libc::__errno_location() = errno };
            -1
        }
    }
}

/// The same, where an `int` is returned.
pub(crate) fn returned_int(outcome: Outcome) -> c_int {
    returned(outcome) as c_int
}

/// An address as the kernel writes it, and how much of it there is.
pub(crate) fn written(family: c_int, address: SocketAddr) -> ([u8; 28], usize) {
    let mut bytes = [0; 28];
    let port = address.port().to_be_bytes();
    let parts: (&[u8], usize) = match (family, address) {
        (libc::AF_INET, SocketAddr::V4(v4)) => (&v4.ip().octets(), 4),
        (_, SocketAddr::V4(v4)) => (&v4.ip().to_ipv6_mapped().octets(), 8),
        (_, SocketAddr::V6(v6)) => (&v6.ip().octets(), 8),
    };
    let (octets, at) = parts;
    let family = if at == 4 { libc::AF_INET } else { libc::AF_INET6 };
    put(&mut bytes, 0, &(family as u16).to_ne_bytes());
    put(&mut bytes, 2, &port);
    put(&mut bytes, at, octets);
    (bytes, if at == 4 { 16 } else { 28 })
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = to.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A part of a message.
pub(crate) fn part(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
