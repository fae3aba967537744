//! From a call of the library to its answer.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use phantom_policy::{
    Errno as Told,
    call::{Answer as Said, Call as Asked, LONGEST},
    socket::is_of_run,
};
use phantom_resolver::{Answers, Lookup, Transport};
use socket2::Socket;

use super::{
    super::{
        Run,
        call::{Answer, Call, Caller, Given, Outcome, Reply},
        engine::Engine,
        peers::Peers,
    },
    Entrance,
};
use crate::frames::{receive, send};

/// Threads that answer calls, and those of them that stay when there is nothing to do.
const MOST: usize = 512;
const KEPT: usize = 4;
/// Who has connected says at once what it wants.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Until there may be room again for what was not there.
const A_MOMENT: Duration = Duration::from_millis(20);

/// Answers the library's calls until the socket fails. Blocks.
pub fn serve(entrance: &Entrance, run: Run, names: Arc<Answers<impl Lookup>>) -> io::Result<()> {
    let engine = Arc::new(Engine::new(run, Peers::Written)?);
    Engine::receive_visitors(&engine);
    let listener = entrance.0.try_clone()?;
    let (idle, all) = (AtomicUsize::new(0), AtomicUsize::new(1));
    Arc::new(Answering { engine, names, listener, idle, all }).work(true)
}

/// One has gone, or there is no room for it now.
fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(|errno| {
        [Errno::EINTR, Errno::ECONNABORTED, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM].contains(&errno)
    })
}

struct Answering<L> {
    engine: Arc<Engine>,
    names: Arc<Answers<L>>,
    listener: Socket,
    /// Threads that wait for a call, and all of them.
    idle: AtomicUsize,
    all: AtomicUsize,
}

impl<L: Lookup> Answering<L> {
    /// Takes calls. Who takes one while nobody else waits for the next, starts somebody who does.
    fn work(self: &Arc<Self>, stays: bool) -> io::Result<()> {
        loop {
            self.idle.fetch_add(1, Ordering::Relaxed);
            let accepted = self.listener.accept();
            let is_last = self.idle.fetch_sub(1, Ordering::Relaxed) == 1;
            let conversation = match accepted {
                Err(error) if is_passing(&error) => {
                    thread::sleep(A_MOMENT);
                    continue;
                }
                accepted => accepted?.0,
            };
            if is_last {
                self.start_another();
            }
            self.converse(conversation);
            if !stays && self.idle.load(Ordering::Relaxed) >= KEPT {
                return Ok(());
            }
        }
    }

    /// If there is room for one: until then, calls wait.
    fn start_another(self: &Arc<Self>) {
        if self.all.fetch_add(1, Ordering::Relaxed) < MOST {
            let another = self.clone();
            let work = move || {
                let ended = another.work(false);
                another.all.fetch_sub(1, Ordering::Relaxed);
                ended
            };
            if thread::Builder::new().name("library".to_owned()).spawn(work).is_ok() {
                return;
            }
        }
        self.all.fetch_sub(1, Ordering::Relaxed);
    }

    /// One call.
    fn converse(&self, conversation: Socket) {
        let Ok(who) = getsockopt(&conversation, PeerCredentials) else { return };
        // The folder keeps others out already.
        if who.uid() != geteuid().as_raw() || conversation.set_read_timeout(Some(AT_ONCE)).is_err() {
            return;
        }
        let (mut space, mut descriptors) = ([0; LONGEST], VecDeque::new());
        let Ok(length) = receive(&conversation, &mut space, &mut descriptors) else { return };
        let Some(asked) = space.get(..length).and_then(Asked::decode) else { return };
        match call(asked, descriptors.pop_front(), who.pid()) {
            Ok(Some(call)) => self.engine.handle(call, Reply::to(Waiting(conversation))),
            Ok(None) => self.answer_about_names(&conversation, asked),
            Err(errno) => say(&conversation, &failed(errno), None),
        }
    }

    fn answer_about_names(&self, conversation: &Socket, asked: Asked<'_>) {
        let node = self.engine.conversation();
        match asked {
            Asked::Name(name) => {
                let known = str::from_utf8(name).map_or(Ok(None), |name| self.engine.addresses_of(name));
                let answer = match known {
                    Ok(Some((address, alias))) => Said::Addresses(address, alias),
                    Ok(None) => Said::Unknown,
                    Err(_) => Said::Again,
                };
                say(conversation, &answer, None);
            }
            Asked::Address(address) => match node.name_of(address) {
                Ok(Some(name)) => say(conversation, &Said::Name(name.as_bytes()), None),
                Ok(None) => say(conversation, &Said::Unknown, None),
                Err(_) => say(conversation, &Said::Again, None),
            },
            Asked::Question(question) => match self.names.respond(question, Transport::Tcp) {
                Some(answer) => say(conversation, &Said::Message(&answer), None),
                None => say(conversation, &failed(Errno::EINVAL), None),
            },
            _ => {}
        }
    }
}

/// The call as the engine knows it. Nothing if it is about names.
fn call(asked: Asked<'_>, descriptor: Option<OwnedFd>, process: i32) -> Result<Option<Call>, Errno> {
    let socket = || descriptor.ok_or(Errno::EBADF);
    Ok(Some(match asked {
        Asked::Socket { family, protocol, .. } if !is_of_run(family, protocol) => {
            return Err(Errno::EAFNOSUPPORT);
        }
        Asked::Socket { family, kind, protocol } => Call::Socket { family, kind, protocol },
        Asked::Connect(address) => {
            let to = Given::parse(address).ok_or(Errno::EINVAL)?;
            Call::Connect { socket: socket()?, to, thread: process }
        }
        Asked::Listen { backlog } => Call::Listen { socket: socket()?, backlog },
        Asked::SocketError => Call::Error { socket: socket()? },
        Asked::Name(_) | Asked::Address(_) | Asked::Question(_) => return Ok(None),
    }))
}

/// A program that waits in the library.
struct Waiting(Socket);

impl Caller for Waiting {
    fn waits(&self) -> bool {
        // Who has closed its end hears nothing any more.
        let mut asked = [PollFd::new(self.0.as_fd(), PollFlags::POLLHUP)];
        poll(&mut asked, PollTimeout::ZERO) == Ok(0)
    }

    fn answer(self: Box<Self>, outcome: Outcome) {
        match outcome {
            Ok(Answer::Done) => say(&self.0, &Said::Done, None),
            Ok(Answer::Socket { descriptor, .. }) => say(&self.0, &Said::Done, Some(&descriptor)),
            Ok(Answer::Bytes(bytes)) => match bytes.try_into() {
                Ok(number) => say(&self.0, &Said::Number(i32::from_ne_bytes(number)), None),
                Err(_) => say(&self.0, &failed(Errno::EIO), None),
            },
            Ok(Answer::Interrupted) => say(&self.0, &failed(Errno::EINTR), None),
            Err(errno) => say(&self.0, &failed(errno), None),
        }
    }
}

fn failed(errno: Errno) -> Said<'static> {
    Said::Failed(Told(u8::try_from(errno as i32).unwrap_or(libc::EIO as u8)))
}

/// Who does not hear it has closed its end.
fn say(conversation: &Socket, answer: &Said<'_>, with: Option<&OwnedFd>) {
    let mut space = [0; LONGEST];
    // A longer one is a message of DNS.
    let said = answer.encode(&mut space).unwrap_or_default();
    let descriptors: Vec<_> = with.into_iter().map(AsFd::as_fd).collect();
    let _unheard = send(conversation, said, &descriptors);
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, SocketAddr},
        os::unix::net::UnixStream,
        path::Path,
    };

    use phantom_policy::connect::Rules;
    use phantom_resolver::{Data, NoAnswer, Wanted};
    use socket2::{Domain, SockAddr, Type};

    use super::{
        super::{
            super::{Conversation, Land, Open},
            Library,
        },
        *,
    };

    struct NoNames;

    impl Lookup for NoNames {
        fn lookup(&self, _: &str, _: Wanted) -> Result<Vec<Data>, NoAnswer> {
            Err(NoAnswer::NoSuchName)
        }

        fn reverse(&self, _: IpAddr) -> Result<String, NoAnswer> {
            Err(NoAnswer::NoSuchName)
        }
    }

    /// A run whose node has gone.
    fn run(above: &Path) -> Library {
        let library = Library::within(above, "library.so".into()).unwrap();
        let gone = || Err(io::ErrorKind::ConnectionRefused.into());
        let (begun, _) = UnixStream::pair().unwrap();
        let conversation = Arc::new(Conversation::new(begun, Box::new(gone)).unwrap());
        let (land, _) = Land::loopback().unwrap();
        let runtime = tokio::runtime::Handle::current();
        let run = Run {
            land: Arc::new(land),
            conversation,
            rules: Rules::default(),
            open: Open::All,
            commands: Vec::new(),
            runtime,
            circles: Arc::default(),
            account: Arc::default(),
        };
        let entrance = library.entrance().unwrap();
        thread::spawn(move || serve(&entrance, run, Arc::new(Answers::new(NoNames))));
        library
    }

    /// What is answered to these bytes.
    fn told(library: &Library, bytes: &[u8], with: Option<&OwnedFd>) -> (Vec<u8>, VecDeque<OwnedFd>) {
        let conversation = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        conversation.connect(&SockAddr::unix(library.folder.socket()).unwrap()).unwrap();
        let descriptors: Vec<_> = with.into_iter().map(AsFd::as_fd).collect();
        send(&conversation, bytes, &descriptors).unwrap();
        let (mut space, mut descriptors) = (vec![0; LONGEST], VecDeque::new());
        let length = receive(&conversation, &mut space, &mut descriptors).unwrap_or(0);
        space.truncate(length);
        (space, descriptors)
    }

    fn answer(library: &Library, call: Asked<'_>, with: Option<&OwnedFd>) -> Option<Said<'static>> {
        let mut space = [0; LONGEST];
        let (answer, _) = told(library, call.encode(&mut space).unwrap(), with);
        match Said::decode(&answer)? {
            Said::Done => Some(Said::Done),
            Said::Failed(errno) => Some(Said::Failed(errno)),
            Said::Number(number) => Some(Said::Number(number)),
            Said::Again => Some(Said::Again),
            Said::Message(message) => Some(Said::Number(message.len() as i32)),
            _ => None,
        }
    }

    fn socket(library: &Library) -> OwnedFd {
        let call = Asked::Socket { family: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 };
        let mut space = [0; LONGEST];
        let (answer, mut descriptors) = told(library, call.encode(&mut space).unwrap(), None);
        assert_eq!(Said::decode(&answer), Some(Said::Done));
        descriptors.pop_front().unwrap()
    }

    fn address(place: &str) -> Vec<u8> {
        super::super::super::call::address_bytes(libc::AF_INET, place.parse::<SocketAddr>().unwrap())
    }

    #[tokio::test]
    async fn a_program_is_handed_sockets_of_the_run_and_told_where_they_lead() {
        let folder = tempfile::tempdir().unwrap();
        let library = run(folder.path());
        let program = socket(&library);
        let fails = |errno| Some(failed(errno));
        assert_eq!(
            answer(&library, Asked::Connect(&address("8.8.8.8:80")), Some(&program)),
            fails(Errno::ENETUNREACH)
        );
        assert_eq!(
            answer(&library, Asked::Connect(&address("127.0.0.1:1")), Some(&program)),
            fails(Errno::ECONNREFUSED)
        );
        assert_eq!(
            answer(&library, Asked::Connect(&address("127.192.0.1:80")), Some(&program)),
            fails(Errno::ENETUNREACH)
        );
        assert_eq!(answer(&library, Asked::SocketError, Some(&program)), Some(Said::Number(0)));
        assert_eq!(answer(&library, Asked::Listen { backlog: 5 }, Some(&program)), Some(Said::Done));
        assert_eq!(answer(&library, Asked::Name(b"a.ap"), None), Some(Said::Again), "its node has gone");
        let question = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\x02ap\0\0\x01\0\x01";
        assert!(
            matches!(answer(&library, Asked::Question(question), None), Some(Said::Number(length)) if length > 12)
        );
    }

    #[tokio::test]
    async fn what_makes_no_sense_gets_an_error_or_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let library = run(folder.path());
        let program = socket(&library);
        for bytes in [&b"\0"[..], &[9], &[0xff; LONGEST], &[1, 2, 3]] {
            assert_eq!(told(&library, bytes, Some(&program)).0, b"", "{bytes:?}");
        }
        let fails = |errno| Some(failed(errno));
        for family in [libc::AF_PACKET, libc::AF_UNIX, libc::AF_VSOCK, -1] {
            let call = Asked::Socket { family, kind: libc::SOCK_DGRAM, protocol: 0 };
            assert_eq!(answer(&library, call, None), fails(Errno::EAFNOSUPPORT), "{family}");
        }
        assert_eq!(answer(&library, Asked::SocketError, None), fails(Errno::EBADF));
        assert_eq!(answer(&library, Asked::Connect(&[2]), Some(&program)), fails(Errno::EINVAL));
        assert_eq!(answer(&library, Asked::Question(b"?"), None), fails(Errno::EINVAL));
    }

    #[tokio::test]
    async fn nothing_of_a_run_stays() {
        let folder = tempfile::tempdir().unwrap();
        drop(run(folder.path()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
