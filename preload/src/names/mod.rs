//! Names and addresses: what libc would ask name servers, the run is asked.
//!
//! libc's own would go past all hooks, to whichever servers its configuration names, so each function that could is ours:
//! [`addrinfo`], [`later`] (the same, while the program goes on), [`nameinfo`], [`hostent`] (those of old) and [`dns`] (questions as
//! they are). What is an address already is read by [`numeric`]; what this machine declares, by [`hosts`] and [`services`].
//! These functions allocate, as libc's do, and are not for signal handlers.

mod addrinfo;
mod dns;
mod hostent;
mod hosts;
mod later;
mod nameinfo;
mod numeric;
mod services;

use core::{
    ffi::{CStr, c_char, c_int},
    net::IpAddr,
};

use phantom_policy::{
    call::{Answer, Call, LONGEST},
    connect::is_of_network,
};

use crate::{kernel, run};

pub(crate) const HOST_NOT_FOUND: c_int = 1;
const TRY_AGAIN: c_int = 2;
const NO_RECOVERY: c_int = 3;
const NO_DATA: c_int = 4;

unsafe extern "C" {
    fn __h_errno_location() -> *mut c_int;
}

/// Says in `h_errno` why there is no answer.
fn tell(error: c_int) {
    // SAFETY: it leads to this thread's own number.
    unsafe { *__h_errno_location() = error };
}

/// There is no such host.
pub(crate) fn not_found() {
    tell(HOST_NOT_FOUND);
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoAnswer {
    /// There is none.
    Unknown,
    /// Nobody can tell now.
    Again,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    name: String,
    /// Those of IPv4 first: any program can go there.
    addresses: Vec<IpAddr>,
}

/// Finds a host that is no address.
fn find(name: &[u8]) -> Result<Host, NoAnswer> {
    let name = name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase();
    let name = String::from_utf8(name).map_err(|_| NoAnswer::Unknown)?;
    if let Some(host) = hosts::find(&name) {
        return Ok(host);
    }
    if name.is_empty() || name.len() > phantom_policy::call::NAME {
        return Err(NoAnswer::Unknown);
    }
    match run::ask(&Call::Name(name.as_bytes()), &mut [0; 64]) {
        Ok(Answer::Addresses(address, alias)) => {
            let addresses = alias.map(IpAddr::V4).into_iter().chain([IpAddr::V6(address)]).collect();
            Ok(Host { name, addresses })
        }
        Ok(Answer::Unknown) => Err(NoAnswer::Unknown),
        _ => Err(NoAnswer::Again),
    }
}

/// The name of an address.
fn name_of(address: IpAddr) -> Result<String, NoAnswer> {
    let address = address.to_canonical();
    if let Some(name) = hosts::name_of(address) {
        return Ok(name);
    }
    if !is_of_network(address) {
        return Err(NoAnswer::Unknown);
    }
    match run::ask(&Call::Address(address), &mut [0; LONGEST]) {
        Ok(Answer::Name(name)) => String::from_utf8(name.to_vec()).map_err(|_| NoAnswer::Unknown),
        Ok(Answer::Unknown) => Err(NoAnswer::Unknown),
        _ => Err(NoAnswer::Again),
    }
}

/// A file of this machine, which says what its user declares. It is read again each time, as libc does.
fn declared(path: &CStr) -> Vec<u8> {
    const MOST: usize = 1 << 20;
    let mut space = vec![0; 1 << 14];
    loop {
        let read = kernel::read_file(path, &mut space);
        if read < space.len() || space.len() >= MOST {
            space.truncate(read);
            return space;
        }
        space.resize(2 * space.len(), 0);
    }
}

/// The fields of each line of such a file, without comments.
fn lines(file: &str) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    file.lines().map(|line| line.split('#').next().unwrap_or_default().split_ascii_whitespace())
}

/// A string of the program; nothing if it gave none.
///
/// # Safety
/// It has an end, and nobody changes it meanwhile.
unsafe fn text<'a>(from: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: as said.
    (!from.is_null()).then(|| unsafe { CStr::from_ptr(from) }.to_bytes())
}
