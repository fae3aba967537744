//! Which bytes of a resource a request wants (RFC 9110 §14).

use axum::http::{HeaderMap, header};

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it, with 200.
    Whole,
    /// From the first place up to, and without, the second, with 206.
    Part(u64, u64),
    /// Nothing of it exists: 416.
    OutOfBounds,
}

/// Reads `Range` and `If-Range`. What is not understood is ignored, as the standard says; so are several ranges at once.
pub fn wanted(headers: &HeaderMap, length: u64, tag: &str) -> Wanted {
    let same = headers.get(header::IF_RANGE).is_none_or(|condition| condition.as_bytes() == tag.as_bytes());
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    match range.and_then(parse) {
        Some(spec) if same => spec.within(length),
        _ => Wanted::Whole,
    }
}

enum Spec {
    From(u64),
    FromTo(u64, u64),
    Last(u64),
}

fn parse(value: &str) -> Option<Spec> {
    let (unit, spec) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    match (first, last) {
        ("", last) => number(last).map(Spec::Last),
        (first, "") => number(first).map(Spec::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::FromTo(first, last))
        }
    }
}

/// Digits only; more than fit mean "as far as there is".
fn number(digits: &str) -> Option<u64> {
    let well_formed = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| digits.parse().unwrap_or(u64::MAX))
}

impl Spec {
    fn within(self, length: u64) -> Wanted {
        let (start, end) = match self {
            Spec::From(first) => (first, length),
            Spec::FromTo(first, last) => (first, last.saturating_add(1).min(length)),
            Spec::Last(count) => (length - count.min(length), length),
        };
        if start < end { Wanted::Part(start, end) } else { Wanted::OutOfBounds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(range: &str) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        wanted(&headers, 100, "\"tag\"")
    }

    #[test]
    fn parts_are_cut_to_what_exists() {
        let huge = "bytes=5-99999999999999999999999999";
        let cases =
            [("bytes=0-0", 0, 1), ("bytes=5-", 5, 100), ("bytes=90-500", 90, 100), ("bytes=-7", 93, 100)];
        for (range, start, end) in cases.into_iter().chain([("bytes=-500", 0, 100), (huge, 5, 100)]) {
            assert_eq!(ask(range), Wanted::Part(start, end), "{range}");
        }
    }

    #[test]
    fn a_part_that_does_not_exist_is_out_of_bounds() {
        for range in ["bytes=100-", "bytes=100-100", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(ask(range), Wanted::OutOfBounds, "{range}");
        }
    }

    #[test]
    fn what_is_not_understood_is_ignored() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=9-3",
            "bytes=0-1,5-6",
            "lines=1-2",
            "bytes=+1-2",
        ] {
            assert_eq!(ask(range), Wanted::Whole, "{range}");
        }
    }

    #[test]
    fn a_part_of_another_version_is_not_sent() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-9".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"tag\"".parse().unwrap());
        assert_eq!(wanted(&headers, 100, "\"tag\""), Wanted::Part(0, 10));
        assert_eq!(wanted(&headers, 100, "\"other\""), Wanted::Whole);
    }
}
