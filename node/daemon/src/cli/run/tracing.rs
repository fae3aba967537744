//! Whether this system lets us look at the sockets of our own children, without which nothing can be done for them.

use std::fs;

use nix::unistd::geteuid;

/// Nobody but who may trace every process traces any (Yama).
const ADMINISTRATORS_ONLY: u8 = 2;

/// Refuses where every connection would fail without a word.
pub(super) fn check() -> anyhow::Result<()> {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    anyhow::ensure!(
        is_allowed(&scope, geteuid().is_root()),
        "This system lets nobody look at the sockets of other processes, not even of one's own children, which the seal needs \
         (kernel.yama.ptrace_scope is {}). To allow it for children, type: sudo sysctl kernel.yama.ptrace_scope=1",
        scope.trim()
    );
    Ok(())
}

fn is_allowed(scope: &str, is_root: bool) -> bool {
    match scope.trim().parse::<u8>() {
        Ok(ADMINISTRATORS_ONLY) => is_root,
        Ok(scope) => scope < ADMINISTRATORS_ONLY,
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_children_may_not_be_traced_nothing_is_started() {
        for (scope, as_user, as_root) in [
            ("", true, true),
            ("0\n", true, true),
            ("1\n", true, true),
            ("2\n", false, true),
            ("3\n", false, false),
        ] {
            assert_eq!((is_allowed(scope, false), is_allowed(scope, true)), (as_user, as_root), "{scope:?}");
        }
    }
}
