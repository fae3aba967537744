//! The library that a program is started with under `phantom run --preload-only`.
//!
//! It stands before libc: what could lead out of the machine, or tell a name, comes here first, and is carried out by the run
//! (`phantom_policy::call`), which gives the program sockets that lead nowhere else. It is for places where the kernel's
//! own seal cannot be had, and holds what goes through libc: static programs and system calls of a program's own do not.
//!
//! - [`run`]: the run of this process, and how it is asked. [`kernel`]: system calls. [`panics`]: end the process.
//! - [`socket`], [`connect`], [`bind`], [`listen`], [`peer`], [`set_option`], [`send`]: what may be done with sockets.
//! - [`names`]: names and addresses. [`interfaces`]: which devices there are.
//! - [`exec`]: programs that are started come here, too.
//! - [`syscall`]: all of that by number. [`refused`]: what libc would do past us.
//!
//! In a hook: no allocation, no lock and nothing to be looked up, but for names, which libc's own are no better at.
//! `errno` is set by what fails and by nothing else.

mod bind;
mod connect;
mod exec;
mod interfaces;
mod kernel;
mod listen;
mod names;
mod panics;
mod peer;
mod refused;
mod run;
mod send;
mod set_option;
mod socket;
mod syscall;

/// When the program begins, before it has threads.
#[cfg_attr(not(test), used, unsafe(link_section = ".init_array"))]
#[cfg_attr(test, allow(dead_code))] // which is to tell of its own panics
static AT_THE_BEGINNING: extern "C" fn() = {
    extern "C" fn get_ready() {
        let _run = run::begin();
        send::find();
        exec::find();
    }
    get_ready
};
