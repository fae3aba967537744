//! What a node gives to others: how its user writes that.

use phantom_protocol::node::Relay;

use crate::link::{LEAST_BURST, LEAST_RATE};

/// Units, and how many bytes each is.
const AMOUNTS: [(&str, u64); 8] = [
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
const RATES: [(&str, u64); 9] = [
    ("kB/s", 1_000),
    ("MB/s", 1_000_000),
    ("GB/s", 1_000_000_000),
    ("KiB/s", 1 << 10),
    ("MiB/s", 1 << 20),
    ("GiB/s", 1 << 30),
    ("kbit/s", 125),
    ("Mbit/s", 125_000),
    ("Gbit/s", 125_000_000),
];

/// The least quota: a node alone carries more in a day.
const LEAST_QUOTA: u64 = 1_000_000;

/// Whether it serves in the paths of others.
pub(super) fn relay(text: &str) -> Result<Relay, String> {
    match text {
        "auto" => Ok(Relay::Auto),
        "always" => Ok(Relay::Always),
        "never" => Ok(Relay::Never),
        _ => Err("it is auto, always or never".to_owned()),
    }
}

/// Bytes a second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    measure(text, "5 MB/s", &RATES, LEAST_RATE)
}

/// Bytes at once.
pub(super) fn burst(text: &str) -> Result<u64, String> {
    measure(text, "50 MB", &AMOUNTS, LEAST_BURST)
}

/// Bytes a month.
pub(super) fn quota(text: &str) -> Result<u64, String> {
    measure(text, "500 GB", &AMOUNTS, LEAST_QUOTA)
}

/// A number and a unit; the number may have a fraction.
fn measure(text: &str, example: &str, units: &[(&str, u64)], least: u64) -> Result<u64, String> {
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    let explained = || format!("it looks like {example}: a number and one of {}", names.join(", "));
    let end = text.find(|it: char| !(it.is_ascii_digit() || it == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let bytes = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, bytes)| *bytes);
    let amount = bytes.and_then(|bytes| times(number, bytes)).ok_or_else(explained)?;
    if amount < least {
        let (unit, bytes) = units.first().copied().unwrap_or(("B", 1));
        return Err(format!("it is {} {unit} at least", least / bytes));
    }
    Ok(amount)
}

/// A decimal number of units, in bytes; a part of a byte is none.
fn times(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let rest = fraction.parse::<u128>().ok()? * u128::from(unit) / scale;
    parts.checked_add(u64::try_from(rest).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_units_are_read_strictly() {
        for (text, bytes) in [
            ("5 MB/s", 5_000_000),
            ("5MB/s", 5_000_000),
            ("1.5 MiB/s", 1_572_864),
            ("100 Mbit/s", 12_500_000),
            ("100 kB/s", 100_000),
            ("0.0001 GB/s", 100_000),
        ] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        assert_eq!(burst("50 MB"), Ok(50_000_000));
        assert_eq!(quota("1.5 TB"), Ok(1_500_000_000_000));
        for wrong in [
            "",
            "5",
            "5 mb/s",
            "5 MB",
            "MB/s",
            "5,5 MB/s",
            "-5 MB/s",
            "+5 MB/s",
            "5 MB/s ",
            " 5 MB/s",
            "1e3 MB/s",
            "5. MB/s",
            ".5 MB/s",
            "1.2.3 MB/s",
            "5 B/s",
            "99999999999999999999 MB/s",
            "20000000000000 GB/s",
            "1.0000000001 MB/s",
            "٥ MB/s",
        ] {
            let error = rate(wrong).unwrap_err();
            assert!(error.contains("5 MB/s") && error.contains("Mbit/s"), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn what_would_be_too_little_is_refused_with_the_least() {
        assert_eq!(rate("99 kB/s"), Err("it is 100 kB/s at least".to_owned()));
        assert_eq!(rate("0 MB/s"), Err("it is 100 kB/s at least".to_owned()));
        assert_eq!(quota("999 kB"), Err("it is 1000 kB at least".to_owned()));
        assert_eq!(burst("1 kB"), Err("it is 100 kB at least".to_owned()));
    }
}
