//! `phantom`: see `phantom --help`.

fn main() -> std::process::ExitCode {
    phantom_node::cli::main()
}
