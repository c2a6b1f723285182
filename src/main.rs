//! The `nst-cache` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    nst_cache::cli::main()
}
