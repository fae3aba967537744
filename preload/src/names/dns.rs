//! `res_query` and its kind: questions of DNS as they are. The run answers as its name server does.
//!
//! Each of these has two names, of which older programs know the second, and a form that takes a state of its own, which
//! says who is to be asked: nobody else is.

use core::ffi::{c_char, c_int, c_void};

use phantom_policy::call::{Answer, Call, LONGEST, NAME};

use super::{HOST_NOT_FOUND, NO_DATA, NO_RECOVERY, TRY_AGAIN, tell, text};
use crate::{
    kernel::returned_int,
    run::{self, bytes},
};

type Text = *const c_char;

macro_rules! by_both_names {
    ($($name:ident, $other:ident ($($given:ident: $kind:ty),*) => $hook:ident, $other_hook:ident $body:block)*) => { $(
        redhook::hook! { unsafe fn $name($($given: $kind),*) -> c_int => $hook $body }
        redhook::hook! { unsafe fn $other($($given: $kind),*) -> c_int => $other_hook $body }
    )* };
}

by_both_names! {
    res_query, __res_query(name: Text, class: c_int, kind: c_int, to: *mut u8, room: c_int) => query, query_2 {
        // SAFETY: as libc's.
        unsafe { ask(text(name), None, class, kind, to, room) }
    }
    res_nquery, __res_nquery(
        _state: *mut c_void, name: Text, class: c_int, kind: c_int, to: *mut u8, room: c_int
    ) => n_query, n_query_2 {
        // SAFETY: as libc's.
        unsafe { ask(text(name), None, class, kind, to, room) }
    }
    res_search, __res_search(name: Text, class: c_int, kind: c_int, to: *mut u8, room: c_int) => search, search_2 {
        // SAFETY: as libc's. No domain is put behind a name: what is none of the network's would not be found there, either.
        unsafe { ask(text(name), None, class, kind, to, room) }
    }
    res_nsearch, __res_nsearch(
        _state: *mut c_void, name: Text, class: c_int, kind: c_int, to: *mut u8, room: c_int
    ) => n_search, n_search_2 {
        // SAFETY: as libc's.
        unsafe { ask(text(name), None, class, kind, to, room) }
    }
    res_querydomain, __res_querydomain(
        name: Text, domain: Text, class: c_int, kind: c_int, to: *mut u8, room: c_int
    ) => query_domain, query_domain_2 {
        // SAFETY: as libc's.
        unsafe { ask(text(name), text(domain), class, kind, to, room) }
    }
    res_nquerydomain, __res_nquerydomain(
        _state: *mut c_void, name: Text, domain: Text, class: c_int, kind: c_int, to: *mut u8, room: c_int
    ) => n_query_domain, n_query_domain_2 {
        // SAFETY: as libc's.
        unsafe { ask(text(name), text(domain), class, kind, to, room) }
    }
    res_send, __res_send(message: *const u8, length: c_int, to: *mut u8, room: c_int) => send, send_2 {
        // SAFETY: as libc's.
        unsafe { send_message(message, length, to, room) }
    }
    res_nsend, __res_nsend(
        _state: *mut c_void, message: *const u8, length: c_int, to: *mut u8, room: c_int
    ) => n_send, n_send_2 {
        // SAFETY: as libc's.
        unsafe { send_message(message, length, to, room) }
    }
}

/// # Safety
/// There is so much room.
unsafe fn ask(
    name: Option<&[u8]>,
    domain: Option<&[u8]>,
    class: c_int,
    kind: c_int,
    to: *mut u8,
    room: c_int,
) -> c_int {
    let Some(question) = question(name.unwrap_or_default(), domain, class as u16, kind as u16) else {
        tell(NO_RECOVERY);
        return -1;
    };
    let mut space = [0; LONGEST];
    let Ok(answer) = answer(&question, &mut space) else {
        tell(TRY_AGAIN);
        return -1;
    };
    // SAFETY: as said.
    let length = unsafe { hand_over(answer, to, room) };
    match verdict(answer) {
        None => length,
        Some(error) => {
            tell(error);
            -1
        }
    }
}

/// # Safety
/// There is so much room, and the message is so long.
unsafe fn send_message(message: *const u8, length: c_int, to: *mut u8, room: c_int) -> c_int {
    // SAFETY: as said.
    let message = unsafe { bytes(message.cast(), usize::try_from(length).unwrap_or(0)) };
    match answer(message, &mut [0; LONGEST]) {
        // SAFETY: as said.
        Ok(answer) => unsafe { hand_over(answer, to, room) },
        Err(errno) => returned_int(Err(errno)),
    }
}

fn answer<'a>(question: &[u8], space: &'a mut [u8]) -> Result<&'a [u8], c_int> {
    match run::ask(&Call::Question(question), space)? {
        Answer::Message(message) => Ok(message),
        Answer::Failed(errno) => Err(errno.0.into()),
        _ => Err(libc::ETIMEDOUT),
    }
}

/// As much of it as there is room for; returned is how long it is.
///
/// # Safety
/// There is so much room.
unsafe fn hand_over(answer: &[u8], to: *mut u8, room: c_int) -> c_int {
    let fits = answer.len().min(usize::try_from(room).unwrap_or(0));
    // SAFETY: as said.
    unsafe { to.copy_from_nonoverlapping(answer.as_ptr(), fits) };
    answer.len() as c_int
}

/// What an answer says that has none, as `h_errno`.
fn verdict(answer: &[u8]) -> Option<c_int> {
    let [_, _, _, flags, _, _, records @ .., _, _, _, _] = answer.first_chunk::<12>()?;
    match (flags & 15, records) {
        (0, [0, 0]) => Some(NO_DATA),
        (0, _) => None,
        (2, _) => Some(TRY_AGAIN),
        (3, _) => Some(HOST_NOT_FOUND),
        _ => Some(NO_RECOVERY),
    }
}

/// The question for a name. Nothing if it is none.
fn question(name: &[u8], domain: Option<&[u8]>, class: u16, kind: u16) -> Option<Vec<u8>> {
    // One question, and recursion desired, which everybody says.
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let header = message.len();
    for part in [Some(name), domain].into_iter().flatten() {
        let part = part.strip_suffix(b".").unwrap_or(part);
        if part.is_empty() {
            continue;
        }
        for label in part.split(|byte| *byte == b'.') {
            if label.is_empty() || label.len() > 63 {
                return None;
            }
            message.push(label.len() as u8);
            message.extend(label);
        }
    }
    message.push(0);
    if message.len() - header > NAME {
        return None;
    }
    message.extend(kind.to_be_bytes());
    message.extend(class.to_be_bytes());
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_of_dns() {
        let expected = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\x02bc\x02ap\0\0\x1c\0\x01";
        assert_eq!(question(b"a.bc.ap", None, 1, 28).unwrap(), expected);
        assert_eq!(question(b"a.bc.ap.", None, 1, 28).unwrap(), expected);
        assert_eq!(question(b"a", Some(b"bc.ap"), 1, 28).unwrap(), expected);
        assert_eq!(question(b"", None, 1, 2).unwrap()[12..], [0, 0, 2, 0, 1], "the root");
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        assert_eq!(question(b"a..ap", None, 1, 1), None);
        assert_eq!(question(&[b'a'; 64], None, 1, 1), None);
        let long = [&[b'a'; 63][..]; 4].join(&b'.');
        assert_eq!(question(&long, None, 1, 1), None);
    }

    #[test]
    fn an_answer_without_records_says_why() {
        let answer = |code, records| verdict(&[0, 0, 0x84, code, 0, 1, 0, records, 0, 0, 0, 0]);
        assert_eq!(answer(0, 1), None);
        assert_eq!(answer(0, 0), Some(NO_DATA));
        assert_eq!(answer(2, 0), Some(TRY_AGAIN));
        assert_eq!(answer(3, 0), Some(HOST_NOT_FOUND));
        assert_eq!(answer(5, 0), Some(NO_RECOVERY));
    }
}
