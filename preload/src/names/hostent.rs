//! `gethostbyname` and those of its kind, which programs of old use.
#![allow(clippy::too_many_arguments)] // as many as libc's have

use core::{
    cell::UnsafeCell,
    ffi::{CStr, c_char, c_int, c_void},
    mem::{align_of, size_of},
    net::IpAddr,
    ptr::null_mut,
};

use libc::{hostent, socklen_t};
use phantom_policy::socket::{INET, INET6};

use super::{HOST_NOT_FOUND, Host, NO_DATA, NO_RECOVERY, NoAnswer, TRY_AGAIN, find, name_of, numeric, tell};
use crate::run::bytes;

redhook::hook! {
    unsafe fn gethostbyname(name: *const c_char) -> *mut hostent => host_of_run {
        // SAFETY: as libc's.
        unsafe { kept(by_name(name, INET)) }
    }
}

redhook::hook! {
    unsafe fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent => host_of_family {
        // SAFETY: as libc's.
        unsafe { kept(by_name(name, family)) }
    }
}

redhook::hook! {
    unsafe fn gethostbyaddr(address: *const c_void, length: socklen_t, family: c_int) -> *mut hostent => host_of_address {
        // SAFETY: as libc's.
        unsafe { kept(by_address(address, length, family)) }
    }
}

redhook::hook! {
    unsafe fn gethostbyname_r(
        name: *const c_char, to: *mut hostent, space: *mut c_char, size: usize, found: *mut *mut hostent, error: *mut c_int
    ) -> c_int => host_told {
        // SAFETY: as libc's.
        unsafe { told(by_name(name, INET), to, space, size, found, error) }
    }
}

redhook::hook! {
    unsafe fn gethostbyname2_r(
        name: *const c_char, family: c_int, to: *mut hostent, space: *mut c_char, size: usize, found: *mut *mut hostent,
        error: *mut c_int
    ) -> c_int => host_of_family_told {
        // SAFETY: as libc's.
        unsafe { told(by_name(name, family), to, space, size, found, error) }
    }
}

redhook::hook! {
    unsafe fn gethostbyaddr_r(
        address: *const c_void, length: socklen_t, family: c_int, to: *mut hostent, space: *mut c_char, size: usize,
        found: *mut *mut hostent, error: *mut c_int
    ) -> c_int => host_of_address_told {
        // SAFETY: as libc's.
        unsafe { told(by_address(address, length, family), to, space, size, found, error) }
    }
}

/// What was found, of one family; or what `h_errno` says.
type Found = Result<(Host, c_int), c_int>;

/// # Safety
/// It is a string.
unsafe fn by_name(name: *const c_char, family: c_int) -> Found {
    if ![INET, INET6].contains(&family) {
        return Err(NO_RECOVERY);
    }
    // SAFETY: as said.
    let name = unsafe { CStr::from_ptr(name) };
    let fits = |address: &IpAddr| (family == INET6) == address.is_ipv6();
    if let Some((address, _)) = numeric::parse(name) {
        let host = Host { name: name.to_string_lossy().into_owned(), addresses: vec![address] };
        return if fits(&address) { Ok((host, family)) } else { Err(HOST_NOT_FOUND) };
    }
    let Host { name, addresses } = find(name.to_bytes()).map_err(number)?;
    let addresses: Vec<IpAddr> = addresses.into_iter().filter(fits).collect();
    if addresses.is_empty() { Err(NO_DATA) } else { Ok((Host { name, addresses }, family)) }
}

/// # Safety
/// There are so many bytes.
unsafe fn by_address(address: *const c_void, length: socklen_t, family: c_int) -> Found {
    // SAFETY: as said.
    let octets = unsafe { bytes(address, length as usize) };
    let address = match (family, octets.first_chunk::<4>(), octets.first_chunk::<16>()) {
        (INET, Some(v4), None) if octets.len() == 4 => IpAddr::from(*v4),
        (INET6, _, Some(v6)) if octets.len() == 16 => IpAddr::from(*v6),
        _ => return Err(NO_RECOVERY),
    };
    let name = name_of(address).map_err(number)?;
    Ok((Host { name, addresses: vec![address] }, family))
}

fn number(no: NoAnswer) -> c_int {
    match no {
        NoAnswer::Unknown => HOST_NOT_FOUND,
        NoAnswer::Again => TRY_AGAIN,
    }
}

/// Room for one answer.
const ROOM: usize = 4_096;

/// What a thread was answered last, until it asks again.
struct Kept(UnsafeCell<(hostent, [u64; ROOM / 8])>);

const NOBODY: hostent = hostent {
    h_name: null_mut(),
    h_aliases: null_mut(),
    h_addrtype: 0,
    h_length: 0,
    h_addr_list: null_mut(),
};

thread_local! {
    static LAST: Kept = const { Kept(UnsafeCell::new((NOBODY, [0; ROOM / 8]))) };
}

/// # Safety
/// The thread does not use its last answer any more.
unsafe fn kept(found: Found) -> *mut hostent {
    let (host, family) = match found {
        Ok(found) => found,
        Err(error) => {
            tell(error);
            return null_mut();
        }
    };
    LAST.with(|last| {
        let last = last.0.get();
        // SAFETY: it is this thread's own, and nobody else has it but the program, as said.
        unsafe {
            let (to, space) = (&raw mut (*last).0, &raw mut (*last).1);
            if write(&host, family, to, space.cast(), ROOM) {
                return to;
            }
        }
        tell(NO_RECOVERY);
        null_mut()
    })
}

/// # Safety
/// Places of the program, as libc wants them.
unsafe fn told(
    answer: Found,
    to: *mut hostent,
    space: *mut c_char,
    size: usize,
    found: *mut *mut hostent,
    error: *mut c_int,
) -> c_int {
    // SAFETY: as said.
    unsafe {
        *found = null_mut();
        match answer {
            Ok((host, family)) if write(&host, family, to, space, size) => {
                *found = to;
                0
            }
            Ok(_) => {
                *error = -1; // NETDB_INTERNAL: see what is returned
                libc::ERANGE
            }
            Err(why) => {
                *error = why;
                tell(why);
                if why == TRY_AGAIN { libc::EAGAIN } else { 0 }
            }
        }
    }
}

/// Writes pointers first, for they want to be aligned, then what they lead to. Says whether there was room.
///
/// # Safety
/// There is so much room.
unsafe fn write(host: &Host, family: c_int, to: *mut hostent, space: *mut c_char, size: usize) -> bool {
    let each = if family == INET { 4 } else { 16 };
    let count = host.addresses.len();
    let skipped = space.align_offset(align_of::<*mut c_char>());
    let pointers = (count + 2) * size_of::<*mut c_char>();
    if skipped + pointers + count * each + host.name.len() + 1 > size {
        return false;
    }
    // SAFETY: that is how much room there is.
    unsafe {
        let list: *mut *mut c_char = space.add(skipped).cast();
        let mut at = space.add(skipped + pointers);
        for (place, address) in host.addresses.iter().enumerate() {
            list.add(place).write(at);
            match address {
                IpAddr::V4(v4) => at.cast::<u8>().copy_from_nonoverlapping(v4.octets().as_ptr(), each),
                IpAddr::V6(v6) => at.cast::<u8>().copy_from_nonoverlapping(v6.octets().as_ptr(), each),
            }
            at = at.add(each);
        }
        list.add(count).write(null_mut());
        // No other names: a list that ends at once.
        list.add(count + 1).write(null_mut());
        at.cast::<u8>().copy_from_nonoverlapping(host.name.as_ptr(), host.name.len());
        at.add(host.name.len()).write(0);
        to.write(hostent {
            h_name: at,
            h_aliases: list.add(count + 1),
            h_addrtype: family,
            h_length: each as c_int,
            h_addr_list: list,
        });
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        let addresses = vec!["127.0.0.1".parse().unwrap(), "127.192.0.7".parse().unwrap()];
        Host { name: "a.ap".to_owned(), addresses }
    }

    #[test]
    fn an_answer_lies_in_the_programs_own_room_whatever_its_place() {
        for place in 0..9 {
            let mut space = [0_u8; 64];
            let mut to = NOBODY;
            // SAFETY: a room of so many bytes.
            unsafe {
                let room: *mut c_char = space.as_mut_ptr().add(place).cast();
                assert!(write(&host(), INET, &raw mut to, room, 64 - place), "{place}");
                assert_eq!(CStr::from_ptr(to.h_name), c"a.ap");
                assert_eq!((*to.h_addr_list).cast::<[u8; 4]>().read(), [127, 0, 0, 1]);
                assert_eq!((*to.h_addr_list.add(1)).cast::<[u8; 4]>().read(), [127, 192, 0, 7]);
                assert!((*to.h_addr_list.add(2)).is_null() && (*to.h_aliases).is_null());
            }
        }
    }

    #[test]
    fn a_room_that_is_too_small_is_left_alone() {
        let needed = 4 * 8 + 2 * 4 + 5;
        for size in 0..=needed {
            let mut space = [7_u64; 8];
            let (mut to, mut found, mut error) = (NOBODY, null_mut(), 0);
            // SAFETY: there is more room than we say.
            let returned = unsafe {
                let room = space.as_mut_ptr().cast();
                told(Ok((host(), INET)), &raw mut to, room, size, &raw mut found, &raw mut error)
            };
            if size < needed {
                assert_eq!((returned, found.is_null(), error), (libc::ERANGE, true, -1), "{size}");
                assert_eq!(space, [7; 8]);
            } else {
                assert_eq!((returned, found), (0, &raw mut to));
            }
        }
    }

    #[test]
    fn numbers_are_answered_in_their_own_family() {
        // SAFETY: strings.
        unsafe {
            assert!(by_name(c"127.1".as_ptr(), INET).is_ok());
            assert_eq!(by_name(c"::1".as_ptr(), INET).err(), Some(HOST_NOT_FOUND));
            assert_eq!(by_name(c"::1".as_ptr(), libc::AF_UNIX).err(), Some(NO_RECOVERY));
            assert_eq!(by_address([8_u8; 4].as_ptr().cast(), 4, INET).err(), Some(HOST_NOT_FOUND));
            assert_eq!(by_address([8_u8; 4].as_ptr().cast(), 4, INET6).err(), Some(NO_RECOVERY));
        }
    }
}
