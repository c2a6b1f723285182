//! The cache on disk: a Zarr v3 group of sharded arrays over `[view, row, …]`, committed a segment at a time through one checksummed manifest.
//! docs/format.md is the specification. Knows neither candle nor ONNX Runtime; the only place for `memmap2` and `zstd`.

mod manifest;
mod read;
mod shard;
mod verify;
mod write;
mod zarr;

pub use manifest::{ArraySpec, Codec, DataRecord, Manifest, Segment, TapRecord, TeacherRecord};
pub use read::{ArrayReader, Cache, Decoder};
pub use verify::{Finding, VerifyReport, verify};
pub use write::{Plan, SegmentWriter, Writer};
