//! The tests of the whole, in one program: `cargo test --test it cache_trust` runs one file of
//! them.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod architecture;
mod benches;
mod cache_trust;
mod cache_zarr;
mod cli_contract;
mod cli_errors;
#[cfg(target_os = "linux")]
mod durability;
mod eval;
mod examples;
mod executors;
mod exported;
mod extract_changes;
mod extract_resume;
mod extract_values;
mod feeding;
mod inspect;
mod operators_onnx;
mod packages;
mod presets;
mod recipes;
mod snapshots;
mod sparse_logits;
mod statistics;
mod student_export;
mod support;
mod sweep;
mod tasks;
mod teachers;
mod train_criteria;
mod train_end;
mod train_exact;
mod train_objective;
mod train_resume;
mod views;
mod width;
