//! The `nst-cache` binary: everything else is in the library.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::FromRawFd as _;

/// The system's allocator, except that a failed allocation ends the program like any other missing
/// resource: one line, exit status 2. Files on disk are whole at any moment.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: every call is forwarded unchanged, so the system's allocator upholds the contract; its
// result is returned as it is unless it is null, in which case nothing is returned.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the same contract
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above
        given(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above
        unsafe { System.dealloc(block, layout) }
    }
}

/// The block, if the allocation succeeded; else ends the program.
fn given(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        refused(bytes);
    }
    block
}

/// Reports the failure without memory or locks, and exits without running exit handlers.
#[cold]
fn refused(bytes: usize) -> ! {
    unsafe extern "C" {
        safe fn _exit(status: i32) -> !;
    }
    let mut line = [0; 128];
    let room = line.len();
    let mut rest = &mut line[..];
    // text that does not fit is cut off
    let _ = writeln!(rest, "error: the system refuses {bytes} bytes of memory");
    let end = room - rest.len();
    // SAFETY: standard error stays open for the life of the process, and is not closed here
    let mut stderr = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(2) });
    let _ = stderr.write_all(&line[..end]);
    _exit(2)
}

fn main() -> std::process::ExitCode {
    nst_cache::cli::main()
}
