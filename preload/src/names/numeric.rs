//! Addresses that are written as such.

use core::{
    ffi::CStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An address, and the number of the interface that it says (of IPv6, behind a percent sign).
pub(super) fn parse(text: &CStr) -> Option<(IpAddr, u32)> {
    if let Some(address) = v4(text) {
        return Some((address.into(), 0));
    }
    let (address, scope) = match text.to_str().ok()?.split_once('%') {
        None => (text.to_str().ok()?, 0),
        Some((address, "lo")) => (address, 1),
        Some((address, scope)) => (address, scope.parse().ok()?),
    };
    Some((address.parse::<Ipv6Addr>().ok()?.into(), scope))
}

/// With fewer than four parts, octal and hexadecimal ones too, as it has always been.
fn v4(text: &CStr) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.to_str().ok()?.split('.').collect();
    let (last, first) = parts.split_last()?;
    if first.len() > 3 {
        return None;
    }
    let mut address = 0;
    for part in first {
        address = address << 8 | number(part).filter(|part| *part < 1 << 8)?;
    }
    let left = 8 * (4 - first.len());
    let last = number(last).filter(|last| *last < 1 << left)?;
    u32::try_from(address << left | last).ok().map(Ipv4Addr::from)
}

fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..)?, 16),
        [b'0', _, ..] => (text.get(1..)?, 8),
        _ => (text, 10),
    };
    let plain = digits.len() <= 11 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_the_ways_that_they_are_written() {
        for (text, address) in [
            (c"127.192.0.1", "127.192.0.1"),
            (c"127.1", "127.0.0.1"),
            (c"0x7f.0.0.010", "127.0.0.8"),
            (c"2130706433", "127.0.0.1"),
            (c"0", "0.0.0.0"),
            (c"::1", "::1"),
            (c"fc00::9", "fc00::9"),
            (c"::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ] {
            assert_eq!(parse(text), Some((address.parse().unwrap(), 0)), "{text:?}");
        }
        assert_eq!(parse(c"fe80::1%lo").unwrap().1, 1);
        assert_eq!(parse(c"fe80::1%7").unwrap().1, 7);
    }

    #[test]
    fn what_is_no_address_is_a_name() {
        for text in [
            c"",
            c".",
            c"1.2.3.4.5",
            c"256.1.1.1",
            c"1.2.3.",
            c"a.ap",
            c"1.2.3.x",
            c"08.1",
            c"+1.2.3.4",
            c"99999999999",
            c"fe80::1%eth9",
            c"1.2.3.4 ",
            c"0x",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
