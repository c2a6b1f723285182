//! The command line: one file a command, arguments → validated recipe → the flow. The only place for clap, indicatif and printing.

/// Runs the program and gives its exit status.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
