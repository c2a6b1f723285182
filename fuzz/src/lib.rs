//! Everything that reads bytes from outside, behind one function a kind: it must refuse or read,
//! and never panic, fill the memory or meet a bug of ours.
//!
//! `seeds` has small valid files of each kind. The fuzz targets (CONTRIBUTING.md) and the smoke
//! test `tests/fuzz_smoke.rs` share both.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a target stops at what it did not expect"
)]

pub mod cache;
pub mod data;
pub mod onnx;
pub mod seeds;

use nst_cache::error::{Kind, Result};

/// What was read, if it was; a refusal blames the input, and never an invariant of ours.
pub fn read_or_refused<T>(result: Result<T>) -> Option<T> {
    if let Err(error) = &result {
        assert_ne!(error.kind(), Kind::Internal, "{}", error.chain());
    }
    result.ok()
}

/// A reader of hostile bytes: its name, what reads, and small valid inputs.
pub struct Target {
    /// The fuzz target of this name.
    pub name: &'static str,
    /// Reads an input in every way that a command does.
    pub read: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many changed inputs the smoke test reads: a cache is read from files, and takes its
    /// time.
    pub smoke: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "onnx", read: onnx::model, seeds: seeds::onnx, smoke: 4000 },
    Target { name: "zarr", read: cache::zarr_json, seeds: seeds::zarr_json, smoke: 30 },
    Target { name: "manifest", read: cache::manifest, seeds: seeds::manifest, smoke: 200 },
    Target { name: "shard", read: cache::shard, seeds: seeds::shard, smoke: 100 },
    Target { name: "npz", read: data::npz, seeds: seeds::npz, smoke: 300 },
    Target { name: "idx", read: data::idx, seeds: seeds::idx, smoke: 300 },
    Target { name: "tar", read: data::tar, seeds: seeds::tar, smoke: 300 },
    Target { name: "wds", read: data::wds, seeds: seeds::wds, smoke: 300 },
    Target { name: "parquet", read: data::parquet, seeds: seeds::parquet, smoke: 300 },
    Target { name: "csv", read: data::csv, seeds: seeds::csv, smoke: 300 },
    Target { name: "pickle", read: data::pickle, seeds: seeds::pickle, smoke: 300 },
    Target { name: "image", read: data::image, seeds: seeds::image, smoke: 300 },
    Target { name: "cifar", read: data::cifar, seeds: seeds::cifar, smoke: 100 },
];
