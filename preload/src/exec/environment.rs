//! What a program is started with, and ours in it.
//!
//! This happens between `fork` or even `vfork` and `exec`: nothing is allocated. A row that has ours already is handed on as
//! it is; another one is written again, on the stack, or, if it is long, into memory of its own, which the new program or
//! a failure does away with (after `vfork`, the parent keeps it).

use core::{
    ffi::{CStr, c_char},
    mem::size_of,
    ptr::null,
};

use super::{Row, strings};
use crate::{
    kernel,
    run::{Carried, carried},
};

/// Words that the stack has room for.
const ON_STACK: usize = 512;

/// Does something with this environment, and ours in it.
///
/// # Safety
/// The row ends with a null pointer, or is one.
pub(super) unsafe fn with_ours<T>(row: Row, what: impl FnOnce(Row) -> T) -> T {
    let Some(ours) = carried() else { return what(row) };
    // SAFETY: as said.
    if unsafe { has_ours(row, &ours) } {
        return what(row);
    }
    // SAFETY: as said.
    let words = unsafe { words_needed(row, &ours) };
    if words <= ON_STACK {
        let mut space = [0; ON_STACK];
        // SAFETY: as said; it is long enough.
        unsafe { write(row, &ours, space.as_mut_ptr()) };
        return what(space.as_ptr().cast());
    }
    let bytes = words * size_of::<usize>();
    let space = kernel::map(bytes);
    if space.is_null() {
        // Without memory nothing starts; with nothing in its environment it would start past us.
        return what([ours.preload.as_ptr(), ours.variable.as_ptr(), null()].as_ptr());
    }
    // SAFETY: as said; it is long enough, and as aligned as a page.
    unsafe { write(row, &ours, space.cast()) };
    let done = what(space.cast_const().cast());
    // SAFETY: we have made it, and whoever was handed it has come back.
    unsafe { kernel::unmap(space, bytes) };
    done
}

/// # Safety
/// As above.
pub(super) unsafe fn has_ours(row: Row, ours: &Carried) -> bool {
    let (mut variable, mut preload) = (false, false);
    // SAFETY: as said.
    for string in unsafe { strings(row) } {
        variable |= string == ours.variable;
        preload |= value_of(string, ours.preload).is_some_and(|value| names_us(value, ours));
    }
    variable && preload
}

/// # Safety
/// As above.
unsafe fn words_needed(row: Row, ours: &Carried) -> usize {
    // SAFETY: as said.
    let (count, longest) = unsafe { strings(row) }.fold((0, 0), |(count, longest), string| {
        let preload = value_of(string, ours.preload).map_or(0, <[u8]>::len);
        (count + 1, longest.max(preload))
    });
    let text = ours.preload.count_bytes() + 1 + longest + 1;
    count + 3 + text.div_ceil(size_of::<usize>())
}

/// The row, then the text of our variable for the loader, with what else is to be loaded.
///
/// # Safety
/// As above, and there are as many words as are needed.
unsafe fn write(row: Row, ours: &Carried, space: *mut usize) {
    // SAFETY: as said.
    let count = unsafe { strings(row) }.count();
    let place: *mut *const c_char = space.cast();
    // SAFETY: so many words of the space are for the row.
    let text: *mut u8 = unsafe { space.add(count + 3) }.cast();
    let mut others: &[u8] = &[];
    let mut at = 0;
    // SAFETY: as said.
    for string in unsafe { strings(row) } {
        if let Some(value) = value_of(string, ours.preload) {
            others = if others.is_empty() && !names_us(value, ours) { value } else { others };
        } else if value_of(string, ours.variable).is_none() {
            // SAFETY: no more than the row has.
            unsafe { place.add(at).write(string.as_ptr()) };
            at += 1;
        }
    }
    // SAFETY: there are three more places, and as much room for the text as was counted.
    unsafe {
        place.add(at).write(ours.variable.as_ptr());
        place.add(at + 1).write(text.cast());
        place.add(at + 2).write(null());
        let own = ours.preload.to_bytes();
        text.copy_from_nonoverlapping(own.as_ptr(), own.len());
        let mut end = own.len();
        if !others.is_empty() {
            text.add(end).write(b':');
            text.add(end + 1).copy_from_nonoverlapping(others.as_ptr(), others.len());
            end += 1 + others.len();
        }
        text.add(end).write(0);
    }
}

/// The value of a string that sets the same variable as this one.
fn value_of<'a>(string: &'a CStr, same: &CStr) -> Option<&'a [u8]> {
    let name = same.to_bytes().split_inclusive(|byte| *byte == b'=').next()?;
    string.to_bytes().strip_prefix(name)
}

/// Whether a list of libraries has ours.
fn names_us(list: &[u8], ours: &Carried) -> bool {
    let own = value_of(ours.preload, ours.preload);
    list.split(|byte| b": ".contains(byte)).any(|name| Some(name) == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Carried =
        Carried { variable: c"PHANTOM_RUN_SOCKET=/run/x", preload: c"LD_PRELOAD=/lib/us.so" };

    fn written(environment: &[&CStr]) -> Vec<String> {
        let row: Vec<_> = environment.iter().map(|string| string.as_ptr()).chain([null()]).collect();
        // SAFETY: a row of strings, and a space as long as is needed.
        unsafe {
            assert!(!has_ours(row.as_ptr(), &OURS));
            let mut space = vec![usize::MAX; words_needed(row.as_ptr(), &OURS)];
            write(row.as_ptr(), &OURS, space.as_mut_ptr());
            assert!(has_ours(space.as_ptr().cast(), &OURS));
            strings(space.as_ptr().cast()).map(|string| string.to_str().unwrap().to_owned()).collect()
        }
    }

    #[test]
    fn ours_comes_into_an_empty_environment() {
        assert_eq!(written(&[]), ["PHANTOM_RUN_SOCKET=/run/x", "LD_PRELOAD=/lib/us.so"]);
        // SAFETY: no row at all, which the kernel takes for an empty one.
        unsafe {
            assert!(!has_ours(null(), &OURS));
            let mut space = vec![0; words_needed(null(), &OURS)];
            write(null(), &OURS, space.as_mut_ptr());
            assert!(has_ours(space.as_ptr().cast(), &OURS));
        }
    }

    #[test]
    fn what_else_is_to_be_loaded_comes_after_us_and_all_else_stays() {
        let given = [c"A=1", c"LD_PRELOAD=/lib/other.so", c"PHANTOM_RUN_SOCKET=/run/elsewhere", c"B="];
        let expected = ["A=1", "B=", "PHANTOM_RUN_SOCKET=/run/x", "LD_PRELOAD=/lib/us.so:/lib/other.so"];
        assert_eq!(written(&given), expected);
    }

    #[test]
    fn a_path_that_begins_like_ours_is_not_ours() {
        let expected = ["PHANTOM_RUN_SOCKET=/run/x", "LD_PRELOAD=/lib/us.so:/lib/us.so.old"];
        assert_eq!(written(&[c"LD_PRELOAD=/lib/us.so.old", c"PHANTOM_RUN_SOCKET=/run/x2"]), expected);
    }
}
