//! `getifaddrs`, `if_nameindex`, `if_nametoindex`, `if_indextoname`: which devices there are, and which addresses they have.
//!
//! libc would ask by a socket of its own, and tell the program what this machine's addresses are. We ask by a socket of the run:
//! where it lives, there is nothing but the run's own address.

use core::{
    ffi::{CStr, c_char, c_int, c_uint},
    mem::{size_of, zeroed},
    ptr::null_mut,
};

use libc::{ifaddrs, ifreq, sockaddr};
use phantom_policy::socket::{INET, INET6, NETLINK};

use crate::{
    kernel::{self, returned_int, written},
    socket::make,
};

/// One device, as `if_nameindex` tells it.
#[repr(C)]
pub struct Named {
    number: c_uint,
    name: *mut c_char,
}

redhook::hook! {
    unsafe fn if_nametoindex(name: *const c_char) -> c_uint => number_of_device {
        // SAFETY: a string of the program.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        let mut request = empty_request();
        if name.len() >= request.ifr_name.len() {
            return failed(libc::ENODEV);
        }
        request.ifr_name.iter_mut().zip(name).for_each(|(to, from)| *to = *from as c_char);
        match ask(libc::SIOCGIFINDEX, &mut request) {
            // SAFETY: the kernel has written a number there.
            Ok(()) => (unsafe { request.ifr_ifru.ifru_ifindex }) as c_uint,
            Err(errno) => failed(errno),
        }
    }
}

redhook::hook! {
    unsafe fn if_indextoname(number: c_uint, name: *mut c_char) -> *mut c_char => name_of_device {
        let mut request = empty_request();
        request.ifr_ifru.ifru_ifindex = number as c_int;
        match ask(SIOCGIFNAME, &mut request) {
            Ok(()) => {
                // SAFETY: the program has room for the longest name (`IF_NAMESIZE`), which is what the kernel has written.
                unsafe { name.copy_from_nonoverlapping(request.ifr_name.as_ptr(), request.ifr_name.len()) };
                name
            }
            Err(errno) => {
                failed(if errno == libc::ENODEV { libc::ENXIO } else { errno });
                null_mut()
            }
        }
    }
}

redhook::hook! {
    unsafe fn if_nameindex() -> *mut Named => all_devices {
        match devices() {
            Ok(devices) => list_of_names(&devices),
            Err(errno) => {
                failed(errno);
                null_mut()
            }
        }
    }
}

redhook::hook! {
    unsafe fn getifaddrs(to: *mut *mut ifaddrs) -> c_int => addresses_of_devices {
        match devices().and_then(|devices| list_of_addresses(&devices)) {
            Ok(list) => {
                // SAFETY: the program's place for the answer.
                unsafe { *to = list };
                0
            }
            Err(errno) => returned_int(Err(errno)),
        }
    }
}

const SIOCGIFNAME: libc::Ioctl = 0x8910;

fn failed(errno: c_int) -> c_uint {
    returned_int(Err(errno));
    0
}

fn empty_request() -> ifreq {
    // SAFETY: numbers, for which zero is a value.
    unsafe { zeroed() }
}

/// Asks about one device by a socket that everybody gets.
fn ask(what: libc::Ioctl, request: &mut ifreq) -> Result<(), c_int> {
    let socket = make(INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
    let arguments = [socket, what as usize, &raw mut *request as usize, 0, 0, 0];
    // SAFETY: the kernel writes into the request.
    let asked = unsafe { kernel::call(libc::SYS_ioctl, arguments) };
    kernel::close(socket as c_int);
    asked.map(drop)
}

/// A device with its addresses.
struct Device {
    number: u32,
    flags: u32,
    name: Vec<u8>,
    /// Family, octets, and how many bits are the network's.
    addresses: Vec<(c_int, Vec<u8>, u8)>,
}

/// All of them, as the kernel tells them (`rtnetlink`).
fn devices() -> Result<Vec<Device>, c_int> {
    let mut devices = Vec::new();
    let socket = make(NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)? as c_int;
    let told = dump(socket, libc::RTM_GETLINK, |message| devices.extend(device(message)))
        .and_then(|()| dump(socket, libc::RTM_GETADDR, |message| add_address(&mut devices, message)));
    kernel::close(socket);
    told.map(|()| devices)
}

/// After the header of a message comes another one, then attributes.
const HEADER: usize = 16;
const OF_LINK: usize = 16;
const OF_ADDRESS: usize = 8;

/// Asks for all of a kind, and hands each message over.
fn dump(socket: c_int, what: u16, mut each: impl FnMut(&[u8])) -> Result<(), c_int> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut question = Vec::from(((HEADER + OF_LINK) as u32).to_ne_bytes());
    question.extend(what.to_ne_bytes());
    question.extend(flags.to_ne_bytes());
    question.resize(HEADER + OF_LINK, 0);
    kernel::say(socket, &mut [kernel::part(&question)], None)?;
    let mut space = vec![0; 1 << 15];
    loop {
        let length = match kernel::hear(socket, &mut space, true) {
            Err(libc::EINTR) => continue,
            heard => heard?.0,
        };
        let mut rest = space.get(..length).unwrap_or_default();
        while let Some((message, kind)) = next(&mut rest, 4, 4) {
            match c_int::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return Err(libc::EIO),
                _ => each(message),
            }
        }
        if length == 0 {
            return Err(libc::EIO);
        }
    }
}

/// The next message, or attribute, and its kind. Its length stands first, in as many bytes, then its kind.
fn next<'a>(rest: &mut &'a [u8], length_size: usize, kind_at: usize) -> Option<(&'a [u8], u16)> {
    let mut length = [0; 4];
    length.get_mut(..length_size)?.copy_from_slice(rest.get(..length_size)?);
    let length = u32::from_ne_bytes(length) as usize;
    let kind = u16::from_ne_bytes(*rest.get(kind_at..)?.first_chunk()?);
    let whole = rest.get(..length).filter(|whole| whole.len() >= kind_at + 2)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((whole, kind))
}

fn attributes(message: &[u8], at: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(at..).unwrap_or_default();
    core::iter::from_fn(move || {
        let (attribute, kind) = next(&mut rest, 2, 2)?;
        Some((kind, attribute.get(4..)?))
    })
}

fn number(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..)?.first_chunk().map(|number| u32::from_ne_bytes(*number))
}

fn device(message: &[u8]) -> Option<Device> {
    let (number, flags) = (number(message, HEADER + 4)?, number(message, HEADER + 8)?);
    let name = attributes(message, HEADER + OF_LINK).find(|(kind, _)| *kind == libc::IFLA_IFNAME)?.1;
    let name = name.split(|byte| *byte == 0).next()?.to_vec();
    Some(Device { number, flags, name, addresses: Vec::new() })
}

fn add_address(devices: &mut [Device], message: &[u8]) {
    let (Some(&family), Some(&bits), Some(of)) =
        (message.get(HEADER), message.get(HEADER + 1), number(message, HEADER + 4))
    else {
        return;
    };
    let found = |wanted: u16| {
        attributes(message, HEADER + OF_ADDRESS).find(|(kind, _)| *kind == wanted).map(|(_, octets)| octets)
    };
    // Where both are there, the first is the far end's.
    let octets = found(libc::IFA_LOCAL).or_else(|| found(libc::IFA_ADDRESS));
    let device = devices.iter_mut().find(|device| device.number == of);
    if let (Some(octets), Some(device)) = (octets, device) {
        device.addresses.push((family.into(), octets.to_vec(), bits));
    }
}

/// In one piece of memory each, and one for all, as `if_freenameindex` gives it back.
fn list_of_names(devices: &[Device]) -> *mut Named {
    // SAFETY: memory of libc, for each device and an end of zeros; names end with one.
    unsafe {
        let list: *mut Named = libc::calloc(devices.len() + 1, size_of::<Named>()).cast();
        for (place, device) in devices.iter().enumerate().take_while(|_| !list.is_null()) {
            let name: *mut u8 = libc::calloc(1, device.name.len() + 1).cast();
            if name.is_null() {
                break;
            }
            name.copy_from_nonoverlapping(device.name.as_ptr(), device.name.len());
            list.add(place).write(Named { number: device.number, name: name.cast() });
        }
        list
    }
}

/// One entry, with all that it leads to.
#[repr(C)]
struct Entry {
    told: ifaddrs,
    address: [u64; 4],
    mask: [u64; 4],
    name: [u8; libc::IFNAMSIZ],
}

/// In one piece of memory, which is all that `freeifaddrs` of libc gives back: it needs no hook.
fn list_of_addresses(devices: &[Device]) -> Result<*mut ifaddrs, c_int> {
    let entries: Vec<Entry> = devices.iter().flat_map(entries).collect();
    let count = entries.len();
    if count == 0 {
        return Ok(null_mut());
    }
    // SAFETY: memory of libc, for so many entries. Each is written, and then its pointers lead into it and to the next one.
    unsafe {
        let list: *mut Entry = libc::calloc(count, size_of::<Entry>()).cast();
        if list.is_null() {
            return Err(libc::ENOMEM);
        }
        for (place, entry) in entries.into_iter().enumerate() {
            let at = list.add(place);
            at.write(entry);
            let entry = &mut *at;
            entry.told.ifa_name = entry.name.as_mut_ptr().cast();
            let (address, mask): (*mut sockaddr, *mut sockaddr) =
                (entry.address.as_mut_ptr().cast(), entry.mask.as_mut_ptr().cast());
            if (*address).sa_family != 0 {
                (entry.told.ifa_addr, entry.told.ifa_netmask) = (address, mask);
            }
            if place + 1 < count {
                entry.told.ifa_next = list.add(place + 1).cast();
            }
        }
        Ok(list.cast())
    }
}

/// First the device itself, then each of its addresses.
fn entries(device: &Device) -> impl Iterator<Item = Entry> {
    let entry = |address: [u64; 4], mask: [u64; 4]| {
        let mut name = [0; libc::IFNAMSIZ];
        name.iter_mut().zip(&device.name).take(libc::IFNAMSIZ - 1).for_each(|(to, from)| *to = *from);
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut told: ifaddrs = unsafe { zeroed() };
        told.ifa_flags = device.flags;
        Entry { told, address, mask, name }
    };
    let addresses = device.addresses.iter().filter_map(move |(family, octets, bits)| {
        let mask = mask(octets.len(), *bits);
        Some(entry(place(*family, octets)?, place(*family, &mask)?))
    });
    [entry(of_device(device.number), [0; 4])].into_iter().chain(addresses)
}

/// An address of `AF_PACKET`, which has the number of a device and no more here.
fn of_device(number: u32) -> [u64; 4] {
    let family = u64::from(libc::AF_PACKET as u16);
    [family | u64::from(number) << 32, 0, 0, 0]
}

fn place(family: c_int, octets: &[u8]) -> Option<[u64; 4]> {
    let address = match family {
        INET => <[u8; 4]>::try_from(octets).ok()?.into(),
        INET6 => core::net::IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    let (bytes, _) = written(family, core::net::SocketAddr::new(address, 0));
    let mut words = [0; 4];
    for (word, part) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        *word = u64::from_ne_bytes(eight);
    }
    Some(words)
}

/// So many ones, then zeros.
fn mask(octets: usize, bits: u8) -> Vec<u8> {
    (0..octets)
        .map(|octet| (0xff00_u16 >> usize::from(bits).saturating_sub(8 * octet).min(8)) as u8)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_as_many_ones_as_are_said() {
        assert_eq!(mask(4, 8), [255, 0, 0, 0]);
        assert_eq!(mask(4, 12), [255, 240, 0, 0]);
        assert_eq!(mask(4, 32), [255; 4]);
        assert_eq!(mask(4, 0), [0; 4]);
        assert_eq!(mask(16, 128), [255; 16]);
        assert_eq!(mask(4, 255), [255; 4]);
    }

    #[test]
    fn a_list_is_one_that_libc_gives_back() {
        let lo = Device {
            number: 1,
            flags: 73,
            name: b"lo".to_vec(),
            addresses: vec![(INET, vec![127, 0, 0, 1], 8), (INET6, vec![0; 16], 128), (99, vec![1], 1)],
        };
        let list = list_of_addresses(&[lo]).unwrap();
        let mut seen = Vec::new();
        // SAFETY: a list of entries, each with its addresses.
        unsafe {
            let mut at = list;
            while let Some(entry) = at.as_ref() {
                assert_eq!((CStr::from_ptr(entry.ifa_name), entry.ifa_flags), (c"lo", 73));
                seen.push(c_int::from((*entry.ifa_addr).sa_family));
                assert!(!entry.ifa_netmask.is_null());
                at = entry.ifa_next;
            }
            libc::freeifaddrs(list);
        }
        assert_eq!(seen, [libc::AF_PACKET, INET, INET6]);
    }

    #[test]
    fn a_message_that_is_cut_off_is_none() {
        let message = [8, 0, 0, 0, 3, 0, 1, 2, 9, 0, 0, 0, 3, 0];
        let mut rest = &message[..];
        assert_eq!(next(&mut rest, 4, 4), Some((&message[..8], 3)));
        assert_eq!(next(&mut rest, 4, 4), None);
        assert_eq!(device(&[0; 20]).map(|device| device.number), None);
        add_address(&mut [], &message);
    }
}
