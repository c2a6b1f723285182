//! The `nst-cache` binary: everything is in the library.

// glibc gives the memory of every step back to the system and faults it in anew: 9 % of a small student's distillation step
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    nst_cache::cli::main()
}
