//! A process that tries what no node should be able to do, and says what became of it: as JSON, an error number for each
//! attempt, 0 for one that succeeded. `attempts free ...` is what it can do if nobody hinders it, `attempts confined ...`
//! after [`confine`]. `attempts without-landlock COMMAND ...` runs a command as on a kernel that has none.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut},
    net::TcpStream,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        memfd::{MFdFlags, memfd_create},
        ptrace,
        signal::kill,
        socket::{AddressFamily, SockFlag, SockType, socket},
        uio::{RemoteIoVec, process_vm_readv},
    },
    unistd::{execv, getpid, getppid},
};
use phantom_node::confinement::{Extent, Files, confine};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde_json::{Map, Value, json};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let how = arguments.next().context("how?")?;
    let rest: Vec<OsString> = arguments.collect();
    match (how.to_str(), rest.as_slice()) {
        (Some("free"), [folder, abstract_name, server]) => {
            println!("{}", json!({ "attempts": all(folder, abstract_name, server) }));
        }
        (Some("confined"), [folder, abstract_name, server]) => {
            let report = confine(&Files::default().own(&Path::new(folder).join("own")), Extent::Usual)?;
            let here = all(folder, abstract_name, server);
            let in_thread = thread::scope(|scope| scope.spawn(|| all(folder, abstract_name, server)).join());
            let in_thread = in_thread.map_err(|_| anyhow::anyhow!("the thread panicked"))?;
            println!("{}", json!({ "report": report, "attempts": here, "in_thread": in_thread }));
        }
        (Some("without-landlock"), [program, arguments @ ..]) => {
            hide_landlock()?;
            return Err(Command::new(program).args(arguments).exec().into());
        }
        _ => bail!("free or confined FOLDER ABSTRACT-NAME SERVER, or without-landlock COMMAND"),
    }
    Ok(())
}

fn all(folder: &OsString, abstract_name: &OsString, server: &OsString) -> Value {
    let folder = Path::new(folder);
    let text = |text: &OsString| text.to_string_lossy().into_owned();
    let own = folder.join("own/file");
    let mut found = Map::new();
    let mut tried = |what: &str, errno: i32| {
        found.insert(what.to_owned(), errno.into());
    };
    // What a node must be able to do.
    tried("own file", of_io(fs::write(&own, "x").and_then(|()| fs::remove_file(&own))));
    tried("connection", of_io(TcpStream::connect(text(server))));
    // What it must not.
    tried("read a file", of_io(File::open("/etc/passwd")));
    tried("list a folder", of_io(fs::read_dir("/etc")));
    tried("write a file", of_io(fs::write(folder.join("other"), "x")));
    tried("change a file", of_io(File::options().append(true).open(folder.join("there"))));
    tried("run a program", of_io(Command::new("/bin/true").status()));
    tried("become a program", of(execv(c"/no/such/program", &[c"x"])));
    tried("trace", of(ptrace::detach(getpid(), None)));
    tried("leave shared files", of(unshare(CloneFlags::CLONE_FILES)));
    tried("netlink", of(socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::empty(), None)));
    tried("packets", of(socket(AddressFamily::Packet, SockType::Datagram, SockFlag::empty(), None)));
    tried("memory as a file", of(memfd_create("x", MFdFlags::empty())));
    tried("signal", of(kill(getppid(), None)));
    tried("memory of a process", of(read_memory()));
    let address = SocketAddr::from_abstract_name(text(abstract_name));
    tried("abstract socket", of_io(address.and_then(|address| UnixStream::connect_addr(&address))));
    found.into()
}

fn read_memory() -> Result<usize, Errno> {
    let (from, mut to) = ([7_u8; 8], [0_u8; 8]);
    let from = IoSlice::new(&from);
    let remote = RemoteIoVec { base: from.as_ptr() as usize, len: from.len() };
    process_vm_readv(getpid(), &mut [IoSliceMut::new(&mut to)], &[remote])
}

fn of<T>(result: Result<T, Errno>) -> i32 {
    result.map_or_else(|error| error as i32, |_| 0)
}

fn of_io<T>(result: io::Result<T>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0)
}

fn hide_landlock() -> anyhow::Result<()> {
    let hidden = [(libc::SYS_landlock_create_ruleset, Vec::new())];
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter =
        SeccompFilter::new(hidden.into_iter().collect(), SeccompAction::Allow, absent, TargetArch::x86_64)?;
    Ok(seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?)
}
