//! A panic ends the process.
//!
//! Else it would end in libc's own function, for that is where a hook leads that has failed (`redhook`), and so past the run.

use std::panic;

use crate::kernel;

/// What the process ends with: a fault of software, as the header `sysexits.h` has it.
const FAULT: i32 = 70;

/// From now on.
pub(crate) fn end_the_process() {
    panic::set_hook(Box::new(|_| {
        kernel::complain(b"phantom: a fault in libphantom_preload.so. The program is ended, so that nothing of it gets out.\n");
        kernel::end(FAULT);
    }));
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        process::{Command, exit},
    };

    use super::*;

    redhook::hook! {
        unsafe fn getsid(_process: libc::pid_t) -> libc::pid_t => a_hook_that_panics {
            panic!("a fault")
        }
    }

    const IN_A_CHILD: &str = "PHANTOM_TEST_PANIC";

    #[test]
    fn a_panic_in_a_hook_ends_the_process_and_never_comes_to_the_real_function() {
        if env::var_os(IN_A_CHILD).is_some() {
            end_the_process();
            // SAFETY: numbers only.
            unsafe { libc::getsid(0) };
            exit(0);
        }
        let name = "panics::tests::a_panic_in_a_hook_ends_the_process_and_never_comes_to_the_real_function";
        let mut again = Command::new(env::current_exe().unwrap());
        let ended = again.args(["--exact", name, "--nocapture"]).env(IN_A_CHILD, "1").output().unwrap();
        assert_eq!(ended.status.code(), Some(FAULT), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("phantom: a fault"), "{ended:?}");
    }
}
