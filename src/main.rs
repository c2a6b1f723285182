//! The `nst-cache` binary: everything is in the library.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::FromRawFd as _;

/// The system's allocator, but memory that is refused ends the program as any other resource does
/// that cannot be had: one line, exit status 2. What is on disk is whole at any moment.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: every call is passed on as it is, so the system's allocator keeps the contract; what it
// gives is handed on unless it is null, and then nothing is.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one that is asked for
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

/// What was given, if anything was.
fn given(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        refused(bytes);
    }
    block
}

/// Says so without memory or locks, and ends without what libraries do at an exit.
#[cold]
fn refused(bytes: usize) -> ! {
    unsafe extern "C" {
        safe fn _exit(status: i32) -> !;
    }
    let mut line = [0; 128];
    let room = line.len();
    let mut rest = &mut line[..];
    // what does not fit is left out
    let _ = writeln!(rest, "error: the system refuses {bytes} bytes of memory");
    let end = room - rest.len();
    // SAFETY: standard error stays open as long as the process lives, and is not closed here
    let mut stderr = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(2) });
    let _ = stderr.write_all(&line[..end]);
    _exit(2)
}

fn main() -> std::process::ExitCode {
    nst_cache::cli::main()
}
