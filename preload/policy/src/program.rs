//! Whether a program would have the preload library loaded into it, by the beginning of its file.
//!
//! The loader of glibc loads it, and no other. A static program has none; nor can the library of one machine be loaded
//! into a program of another kind. A program in Go has it loaded, and makes its system calls past libc. Such programs would
//! do as they like, so they are not started.

/// So many bytes at the beginning of a file tell.
pub const BEGINNING: usize = 4_096;
/// Scripts whose interpreter is a script, and so on: the kernel follows so many.
pub const SCRIPTS: usize = 5;

/// glibc's loader for x86-64.
const LOADER: &[u8] = b"ld-linux-x86-64.so.2";

/// What the linker of Go writes into each program: the kind of a note, and whose kind it is.
const OF_GO: &[u8] = b"\x04\0\0\0Go\0\0";

/// What a file is, for the kernel that is to execute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program<'a> {
    /// The library is loaded into it.
    Held,
    /// It is not.
    NotHeld,
    /// A script, which this program executes.
    Script(&'a [u8]),
    /// The kernel does not execute it.
    Nothing,
}

/// By the first [`BEGINNING`] bytes of the file, or all of it.
pub fn program(file: &[u8]) -> Program<'_> {
    if let Some(line) = file.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| b" \t\0".contains(byte)).filter(|word| !word.is_empty());
        return words.next().map_or(Program::Nothing, Program::Script);
    }
    if !file.starts_with(b"\x7fELF") {
        return Program::Nothing;
    }
    let by_glibc = part(file, LOADED_BY)
        .and_then(|path| path.split(|byte| *byte == 0).next())
        .is_some_and(|path| path.ends_with(LOADER));
    if by_glibc && !is_of_go(file) { Program::Held } else { Program::NotHeld }
}

fn is_of_go(file: &[u8]) -> bool {
    parts(file, NOTES).any(|notes| notes.windows(OF_GO.len()).any(|here| here == OF_GO))
}

/// Kinds of parts: the path of a loader, and notes about the program.
const LOADED_BY: u32 = 3;
const NOTES: u32 = 4;

/// The first part of this kind.
fn part(file: &[u8], kind: u32) -> Option<&[u8]> {
    parts(file, kind).next()
}

/// The parts of this kind, if the program is of 64 bits, for x86-64.
fn parts(file: &[u8], kind: u32) -> impl Iterator<Item = &[u8]> {
    let table = table(file);
    let (at, size, count) = table.unwrap_or_default();
    let header = move |place: u64| {
        let at = usize::try_from(at.checked_add(size.checked_mul(place)?)?).ok()?;
        file.get(at..)
    };
    let headers =
        (0..count).map_while(header).filter(move |header| number::<4>(header, 0) == Some(kind.into()));
    headers.filter_map(|header| {
        let (start, length) = (number::<8>(header, 8)?, number::<8>(header, 32)?);
        let end = start.checked_add(length)?;
        file.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    })
}

/// Where the headers of parts begin, how long each is, and how many there are.
fn table(file: &[u8]) -> Option<(u64, u64, u64)> {
    const OF_64_BITS: u8 = 2;
    const X86_64: u16 = 62;
    let is_of_our_kind = *file.get(4)? == OF_64_BITS && number::<2>(file, 18)? == u64::from(X86_64);
    if !is_of_our_kind {
        return None;
    }
    Some((number::<8>(file, 32)?, number::<2>(file, 54)?, number::<2>(file, 56)?))
}

/// A number of so many bytes, the lowest first.
fn number<const BYTES: usize>(file: &[u8], at: usize) -> Option<u64> {
    let bytes = file.get(at..)?.first_chunk::<BYTES>()?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::{collection::vec, prelude::*};
    use std::vec::Vec;

    use super::*;

    /// A header, one part of this kind, and the path of a loader.
    fn elf(kind: u32, loader: &[u8]) -> Vec<u8> {
        let mut file = std::vec![0; 120];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        file[72] = 120;
        file[96] = loader.len() as u8 + 1;
        file.extend(loader);
        file.push(0);
        file
    }

    #[test]
    fn a_program_of_glibc_is_held() {
        assert_eq!(program(&elf(3, b"/lib64/ld-linux-x86-64.so.2")), Program::Held);
    }

    #[test]
    fn static_programs_and_those_of_others_are_not_held() {
        assert_eq!(program(&elf(1, b"/lib64/ld-linux-x86-64.so.2")), Program::NotHeld, "no loader");
        assert_eq!(program(&elf(3, b"/lib/ld-musl-x86_64.so.1")), Program::NotHeld);
        let mut of_32_bits = elf(3, b"/lib64/ld-linux-x86-64.so.2");
        of_32_bits[4] = 1;
        assert_eq!(program(&of_32_bits), Program::NotHeld);
        let mut of_arm = elf(3, b"/lib64/ld-linux-x86-64.so.2");
        of_arm[18] = 183;
        assert_eq!(program(&of_arm), Program::NotHeld);
        let whole = elf(3, b"/lib64/ld-linux-x86-64.so.2");
        for cut in 4..whole.len() - 1 {
            assert_eq!(program(&whole[..cut]), Program::NotHeld, "cut off at {cut}");
        }
    }

    #[test]
    fn a_program_of_go_is_not_held_though_it_has_the_loader() {
        let mut file = elf(3, b"/lib64/ld-linux-x86-64.so.2");
        let start = file.len() as u64;
        let notes = b"\x04\0\0\0\x02\0\0\0\x04\0\0\0Go\0\0id\0\0";
        file.extend(notes);
        assert_eq!(program(&file), Program::Held, "nothing leads there");
        // One more header, behind all.
        let mut header = [0; 56];
        header[..4].copy_from_slice(&NOTES.to_le_bytes());
        header[8..16].copy_from_slice(&start.to_le_bytes());
        header[32..40].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        let mut of_go = elf(3, b"/lib64/ld-linux-x86-64.so.2");
        of_go.splice(120..120, header);
        of_go[56] = 2;
        of_go[72] = 120 + 56;
        of_go[120 + 8..120 + 16].copy_from_slice(&(start + 56).to_le_bytes());
        of_go.extend(notes);
        assert_eq!(program(&of_go), Program::NotHeld);
        let at = of_go.len() - 8;
        assert_eq!(&of_go[at..][..2], b"Go");
        of_go[at] = b'g';
        assert_eq!(program(&of_go), Program::Held);
    }

    #[test]
    fn a_script_is_what_its_interpreter_is() {
        assert_eq!(program(b"#!/bin/sh\necho"), Program::Script(b"/bin/sh"));
        assert_eq!(program(b"#! /usr/bin/env  python3 -x"), Program::Script(b"/usr/bin/env"));
        for file in [&b"#!"[..], b"#!  \n/bin/sh", b"", b"echo", b"\x7fEL"] {
            assert_eq!(program(file), Program::Nothing, "{file:?}");
        }
    }

    proptest! {
        #[test]
        fn no_file_is_too_strange(at in vec((0..120_usize, any::<u8>()), 0..20)) {
            let mut file = elf(3, b"/lib64/ld-linux-x86-64.so.2");
            at.into_iter().for_each(|(at, byte)| file[at] = byte);
            let _no_panic = program(&file);
        }
    }
}
