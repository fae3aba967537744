//! `execl`, `execlp`, `execle`: arguments in a row.
//!
//! In C, those that have no register lie on the stack in their order. We push the registers before them: then all lie in one
//! row, as `execv` wants them.

use core::{
    arch::naked_asm,
    ffi::{c_char, c_int},
};

use super::{Row, execute, own_environment, search};
use crate::kernel::returned_int;

macro_rules! takes_a_row {
    ($name:ident, $with:ident) => {
        /// # Safety
        /// As libc's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(_path: *const c_char, _first: *const c_char) -> c_int {
            naked_asm!(
                "pop rax",
                "push r9", "push r8", "push rcx", "push rdx", "push rsi",
                "mov rsi, rsp",
                // Where to return, and with it the stack is as aligned as C wants it.
                "push rax",
                "call {with}",
                "pop rcx",
                "add rsp, 40",
                "push rcx",
                "ret",
                with = sym $with
            )
        }
    };
}

takes_a_row!(execl, with_own_environment);
takes_a_row!(execlp, along_path);
takes_a_row!(execle, with_environment_behind);

unsafe extern "C" fn with_own_environment(path: *const c_char, arguments: Row) -> c_int {
    // SAFETY: as libc's.
    returned_int(unsafe { execute(path, arguments, own_environment()) })
}

unsafe extern "C" fn along_path(file: *const c_char, arguments: Row) -> c_int {
    // SAFETY: as libc's.
    unsafe { search(file, arguments, own_environment()) }
}

unsafe extern "C" fn with_environment_behind(path: *const c_char, arguments: Row) -> c_int {
    let mut end = arguments;
    // SAFETY: arguments end with a null pointer, and the environment comes behind it.
    unsafe {
        while !(*end).is_null() {
            end = end.add(1);
        }
        returned_int(execute(path, arguments, end.add(1).cast::<Row>().read()))
    }
}
