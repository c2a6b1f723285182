//! What the tests share: a sandbox in which the program runs, models and data that are made here so
//! that no binary file stands in the repository, and caches to look into.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at what it did not expect; its numbers are small"
)]

mod cache;
mod data;
mod draws;
pub mod graph;
mod models;
mod monitor;
mod random;
mod sandbox;
mod snapshot;

pub use cache::{
    OPTIONS, array, assert_same, bytes, compare, contents, extract, fashion, floats, manifest,
    preprocess, recipe, tap_paths, try_extract, view_bytes,
};
pub use data::{
    noise, write_idx, write_idx_with_labels, write_images, write_images_of, write_noise, write_npz,
};
pub use graph::node;
pub use models::{
    Fault, ends, write_changed_teacher, write_convolutions, write_deep, write_faulty_teacher,
    write_teacher, write_teacher_of_batch,
};
pub use monitor::StopAfter;
pub use random::Random;
pub use sandbox::{PROGRAM, Ran, Sandbox, program};
pub use snapshot::{measured, snapshot};

use std::path::{Path, PathBuf};

/// Whether everything is to be done of which `make test` does a part: `make test-slow` asks for it.
pub fn is_slow() -> bool {
    std::env::var_os("NST_SLOW").is_some()
}

/// Fails a test that needs ONNX Runtime where it is not there: one that passed without running
/// would say nothing.
pub fn need_runtime() {
    let runtime = nst_cache::runtime::Runtime::load(None);
    assert!(
        runtime.is_ok(),
        "ONNX Runtime's library: run `make test`, or set ORT_DYLIB_PATH: {:?}",
        runtime.err()
    );
}

/// A file of the repository.
pub fn committed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}
