//! The run that this process belongs to, and how it is asked.
//!
//! All that is known is one path, which the environment says when the process begins. Each question is a connection of its
//! own: nothing stays open, so a program may close whatever it finds, fork, start threads and be interrupted where it likes.
//! If the run has ended, or was never there, calls fail as on a machine without a network.

use core::{
    ffi::{CStr, c_char, c_int},
    mem::{offset_of, size_of, zeroed},
    slice,
};
use std::sync::OnceLock;

use libc::{iovec, sockaddr_un};
use phantom_policy::call::{Answer, Call, LONGEST};

use crate::kernel;

/// What tells a program where its run is.
const VARIABLE: &[u8] = b"PHANTOM_RUN_SOCKET=";
/// What tells the loader about us.
const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// A path of ours is not longer.
const PATH: usize = 1_024;

/// The run of this process.
pub(crate) struct Run {
    place: sockaddr_un,
    place_length: usize,
    /// Both as they stand in an environment, ended by a zero.
    variable: Text<{ 110 + 32 }>,
    preload: Text<{ PATH + 16 }>,
}

/// Looked up once, when the process begins, or at the first call if another library makes one before that.
static RUN: OnceLock<Option<Run>> = OnceLock::new();

/// Gets everything ready. From now on nothing is looked up.
pub(crate) fn begin() -> Option<&'static Run> {
    RUN.get_or_init(|| {
        #[cfg(not(test))] // which is to tell of its own panics
        crate::panics::end_the_process();
        Run::of_environment()
    })
    .as_ref()
}

/// What the environment of every program that is started must say: where the run is, and where we are.
pub(crate) struct Carried {
    /// `PHANTOM_RUN_SOCKET=...`
    pub(crate) variable: &'static CStr,
    /// `LD_PRELOAD=...`
    pub(crate) preload: &'static CStr,
}

/// Nothing if there is no run: then there is nothing to carry on.
pub(crate) fn carried() -> Option<Carried> {
    let run = begin()?;
    Some(Carried { variable: run.variable.get()?, preload: run.preload.get()? })
}

/// What is said to the run and heard from it.
pub(crate) struct Conversation(c_int);

impl Drop for Conversation {
    fn drop(&mut self) {
        kernel::close(self.0);
    }
}

impl Conversation {
    /// Begins one.
    pub(crate) fn begin() -> Result<Conversation, c_int> {
        let run = begin().ok_or(libc::ENETUNREACH)?;
        match kernel::dial(&run.place, run.place_length) {
            Ok(conversation) => Ok(Conversation(conversation)),
            Err(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) => Err(errno),
            // The run has ended, or we may not see it any more.
            Err(_) => Err(libc::ENETUNREACH),
        }
    }

    /// Says what is wanted.
    pub(crate) fn say(&self, call: &Call<'_>, with: Option<c_int>) -> Result<(), c_int> {
        let mut space = [0; LONGEST];
        let said = call.encode(&mut space).ok_or(libc::EMSGSIZE)?;
        self.say_parts(&mut [kernel::part(said)], with)
    }

    /// Says what is in the program's memory.
    pub(crate) fn say_parts(&self, parts: &mut [iovec], with: Option<c_int>) -> Result<(), c_int> {
        kernel::say(self.0, parts, with).map_err(|errno| match errno {
            libc::EPIPE | libc::ECONNRESET => libc::ENETUNREACH,
            errno => errno,
        })
    }

    /// Waits no longer for an answer than this socket waits until it is connected (`SO_SNDTIMEO`).
    pub(crate) fn be_as_patient_as(&self, socket: c_int) {
        kernel::wait_as_long_as(self.0, socket);
    }

    /// The answer. A signal may interrupt who waits for it, unless it is to begin again by itself.
    pub(crate) fn hear<'a>(&self, space: &'a mut [u8]) -> Result<Answer<'a>, c_int> {
        let (length, descriptor) = kernel::hear(self.0, space, true).map_err(gone)?;
        if let Some(unasked) = descriptor {
            kernel::close(unasked);
        }
        understood(space, length)
    }

    /// The answer, however often signals come.
    pub(crate) fn hear_whatever_comes<'a>(&self, space: &'a mut [u8]) -> Result<Answer<'a>, c_int> {
        loop {
            match kernel::hear(self.0, space, true) {
                Err(libc::EINTR) => {}
                Err(errno) => return Err(gone(errno)),
                Ok((length, descriptor)) => {
                    if let Some(unasked) = descriptor {
                        kernel::close(unasked);
                    }
                    return understood(space, length);
                }
            }
        }
    }

    /// The descriptor that is the answer. It takes the place of the conversation, which was the lowest that was free when
    /// the program asked for one, as the kernel promises it.
    pub(crate) fn become_descriptor(self, close_on_exec: bool) -> Result<c_int, c_int> {
        let mut space = [0; 64];
        let (length, descriptor) = loop {
            match kernel::hear(self.0, &mut space, true) {
                Err(libc::EINTR) => {}
                heard => break heard.map_err(gone)?,
            }
        };
        match (understood(&space, length), descriptor) {
            (Ok(Answer::Done), Some(descriptor)) => {
                let place = self.0;
                let taken = kernel::take_place(place, descriptor, close_on_exec);
                kernel::close(descriptor);
                taken?;
                core::mem::forget(self);
                Ok(place)
            }
            (answer, descriptor) => {
                if let Some(unasked) = descriptor {
                    kernel::close(unasked);
                }
                Err(refusal(answer?))
            }
        }
    }
}

/// Asks one question about names, which waits for nothing but this machine.
pub(crate) fn ask<'a>(call: &Call<'_>, space: &'a mut [u8]) -> Result<Answer<'a>, c_int> {
    let conversation = Conversation::begin()?;
    conversation.say(call, None)?;
    conversation.hear_whatever_comes(space)
}

/// The error that an answer means where another one was expected.
pub(crate) fn refusal(answer: Answer<'_>) -> c_int {
    match answer {
        Answer::Failed(errno) => errno.0.into(),
        _ => libc::ENETUNREACH,
    }
}

fn gone(errno: c_int) -> c_int {
    match errno {
        libc::EINTR | libc::EAGAIN | libc::EMFILE | libc::ENOMEM => errno,
        _ => libc::ENETUNREACH,
    }
}

/// What says nothing is the end of the run.
fn understood(space: &[u8], length: usize) -> Result<Answer<'_>, c_int> {
    space.get(..length).and_then(Answer::decode).ok_or(libc::ENETUNREACH)
}

impl Run {
    fn of_environment() -> Option<Run> {
        // SAFETY: a name that ends with a zero; what it leads to is copied at once, before the program can change it.
        let value = unsafe { libc::getenv(c"PHANTOM_RUN_SOCKET".as_ptr()) };
        if value.is_null() {
            return None;
        }
        // SAFETY: a value of the environment ends with a zero.
        let path = unsafe { CStr::from_ptr(value) }.to_bytes();
        let own = own_path()?;
        let mut run = Run {
            // SAFETY: numbers, for which zero is a value.
            place: unsafe { zeroed() },
            place_length: offset_of!(sockaddr_un, sun_path) + path.len() + 1,
            variable: Text::default(),
            preload: Text::default(),
        };
        run.place.sun_family = libc::AF_UNIX as u16;
        // One byte stays zero.
        if path.first() != Some(&b'/') || path.len() >= run.place.sun_path.len() {
            return None;
        }
        run.place.sun_path.iter_mut().zip(path).for_each(|(to, from)| *to = *from as c_char);
        run.variable.add(VARIABLE)?.add(path)?;
        run.preload.add(PRELOAD)?.add(own)?;
        Some(run)
    }
}

/// Where the loader has found us.
fn own_path() -> Option<&'static [u8]> {
    // SAFETY: numbers and pointers, for which zero is a value.
    let mut found: libc::Dl_info = unsafe { zeroed() };
    let somewhere_in_us = (own_path as fn() -> Option<&'static [u8]>) as *const libc::c_void;
    // SAFETY: it writes one structure.
    let known = unsafe { libc::dladdr(somewhere_in_us, &raw mut found) };
    if known == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's own string, which is there as long as we are.
    Some(unsafe { CStr::from_ptr(found.dli_fname) }.to_bytes())
}

/// A string that ends with a zero, in a place of its own.
struct Text<const SPACE: usize> {
    bytes: [u8; SPACE],
    used: usize,
}

impl<const SPACE: usize> Default for Text<SPACE> {
    fn default() -> Self {
        Text { bytes: [0; SPACE], used: 0 }
    }
}

impl<const SPACE: usize> Text<SPACE> {
    /// Nothing if it does not fit with a zero behind it.
    fn add(&mut self, more: &[u8]) -> Option<&mut Self> {
        let end = self.used + more.len();
        if end >= SPACE {
            return None;
        }
        self.bytes.get_mut(self.used..end)?.copy_from_slice(more);
        self.used = end;
        Some(self)
    }

    fn get(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(self.bytes.get(..=self.used)?).ok()
    }
}

/// Bytes of the program, from a pointer and a length that it gave.
///
/// # Safety
/// There are so many, and nobody changes them meanwhile.
pub(crate) unsafe fn bytes<'a>(from: *const libc::c_void, length: usize) -> &'a [u8] {
    if from.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: as said.
    unsafe { slice::from_raw_parts(from.cast(), length) }
}

const _: () = assert!(size_of::<sockaddr_un>() == 110);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_its_end_and_does_not_grow_beyond_its_space() {
        let mut text = Text::<8>::default();
        assert_eq!(text.add(b"abc").unwrap().add(b"defg").unwrap().get(), Some(c"abcdefg"));
        assert!(text.add(b"h").is_none());
        assert!(Text::<3>::default().add(b"abc").is_none());
    }

    #[test]
    fn an_answer_that_does_not_fit_the_question_is_no_network() {
        assert_eq!(refusal(Answer::Done), libc::ENETUNREACH);
        assert_eq!(refusal(Answer::Failed(phantom_policy::Errno::EPERM)), libc::EPERM);
        assert_eq!(understood(&[0; 8], 0), Err(libc::ENETUNREACH));
    }
}
