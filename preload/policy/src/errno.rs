//! The errors that a program may get, and why.

/// An error number of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u8);

impl Errno {
    /// Not permitted.
    pub const EPERM: Errno = Errno(1);
    /// Try again: there is no room.
    pub const EAGAIN: Errno = Errno(11);
    /// Permission denied.
    pub const EACCES: Errno = Errno(13);
    /// It makes no sense.
    pub const EINVAL: Errno = Errno(22);
    /// Protocol not supported.
    pub const EPROTONOSUPPORT: Errno = Errno(93);
    /// Kind of socket not supported.
    pub const ESOCKTNOSUPPORT: Errno = Errno(94);
    /// Address family not supported.
    pub const EAFNOSUPPORT: Errno = Errno(97);
    /// Network is unreachable.
    pub const ENETUNREACH: Errno = Errno(101);
    /// Connection reset by peer.
    pub const ECONNRESET: Errno = Errno(104);
    /// Connection timed out.
    pub const ETIMEDOUT: Errno = Errno(110);
    /// Connection refused.
    pub const ECONNREFUSED: Errno = Errno(111);
    /// No route to host.
    pub const EHOSTUNREACH: Errno = Errno(113);
    /// Operation now in progress.
    pub const EINPROGRESS: Errno = Errno(115);
}

/// Why a call was refused, as the user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It leads out of the network.
    Outside,
    /// It leads to a service of this machine.
    Local,
    /// The socket could send what the network does not carry.
    Raw,
    /// The network does not carry this protocol.
    Protocol,
    /// No socket of this family is known to be harmless.
    Family,
    /// The socket was not made under the seal.
    HandedOver,
    /// The program is one into which nobody of its user may look.
    Hidden,
}

impl Why {
    /// What happened, and what to type.
    pub fn sentence(self) -> &'static str {
        match self {
            Why::Outside => "not of the network: only names in .ap lead anywhere",
            Why::Local => "a service of this machine: phantom run --allow-local lets the program reach those",
            Why::Raw => "a raw socket, which could send anything anywhere",
            Why::Protocol => "a protocol that the network does not carry: it carries TCP and UDP",
            Why::Family => "a kind of socket that could leave the machine",
            Why::HandedOver => "a socket that a program outside of the seal has handed over",
            Why::Hidden => {
                "of a program that keeps its user's others from looking at it: phantom run --preload-only can hold it"
            }
        }
    }
}

/// A call that is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the program is told.
    pub errno: Errno,
    /// What the user is told.
    pub why: Why,
}

impl Refusal {
    /// What is to be done with a socket that was not made under the seal.
    pub const HANDED_OVER: Refusal = Refusal::new(Errno::EPERM, Why::HandedOver);
    /// What is to be done with the sockets of a program into which we may not look.
    pub const HIDDEN: Refusal = Refusal::new(Errno::EPERM, Why::Hidden);

    pub(crate) const fn new(errno: Errno, why: Why) -> Refusal {
        Refusal { errno, why }
    }
}
