//! Why this system lets a user make no namespaces, and what to type so that it does.

use std::{env, fs};

/// A sentence for whoever may change it.
pub(super) fn advice() -> String {
    let program =
        env::current_exe().map_or_else(|_| "phantom".into(), |program| program.display().to_string());
    advice_by(|setting| fs::read_to_string(format!("/proc/sys/{setting}")).ok(), &program)
}

fn advice_by(read: impl Fn(&str) -> Option<String>, program: &str) -> String {
    let is = |setting: &str, value: &str| read(setting).is_some_and(|found| found.trim() == value);
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        return format!(
            "AppArmor lets only programs make them that have a profile (phantom's Debian package brings one). For this one, type: \
             echo 'abi <abi/4.0>, profile phantom-run {program} flags=(unconfined) {{ userns, }}' | sudo tee \
             /etc/apparmor.d/phantom-run && sudo apparmor_parser --replace /etc/apparmor.d/phantom-run"
        );
    }
    if is("kernel/unprivileged_userns_clone", "0") {
        return "To allow it, type: sudo sysctl kernel.unprivileged_userns_clone=1".into();
    }
    if is("user/max_user_namespaces", "0") {
        return "To allow it, type: sudo sysctl user.max_user_namespaces=10000".into();
    }
    "If this is a container, whoever starts it may allow it; for Docker: --security-opt seccomp=unconfined"
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_it_is_named() {
        for (setting, value, words) in [
            ("kernel/apparmor_restrict_unprivileged_userns", "1\n", "profile phantom-run /bin/x flags"),
            ("kernel/unprivileged_userns_clone", "0\n", "sysctl kernel.unprivileged_userns_clone=1"),
            ("user/max_user_namespaces", "0\n", "sysctl user.max_user_namespaces="),
            ("kernel/apparmor_restrict_unprivileged_userns", "0\n", "container"),
            ("user/max_user_namespaces", "31000\n", "container"),
        ] {
            let read = |asked: &str| (asked == setting).then(|| value.to_owned());
            let advice = advice_by(read, "/bin/x");
            assert!(advice.contains(words), "{setting}: {advice}");
        }
    }
}
