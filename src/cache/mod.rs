//! The cache on disk: a Zarr v3 group of sharded arrays over `[view, row, …]`, committed a
//! segment at a time through one checksummed manifest. docs/format.md is the specification. This
//! module knows neither candle nor ONNX Runtime, and it is the only one that uses `memmap2` and
//! `zstd`.

mod document;
mod export;
mod extraction;
mod logits;
mod manifest;
mod originals;
mod plan;
mod read;
mod repair;
mod resume;
mod shard;
mod size;
mod stamps;
mod verify;
mod view_table;
mod write;
mod zarr;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use export::{Export, Format, export};
pub use extraction::seconds as extraction_seconds;
pub use logits::{LogitsRecord, TopRecord};
pub use manifest::{
    ArraySpec, Codec, DataRecord, Extent, Manifest, Segment, TapRecord, TeacherRecord,
};
pub use originals::Originals;
pub use plan::CachePlan;
pub use read::{ArrayReader, Cache, Decoder, published_rows, sample_ids};
pub use repair::{Dropped, RepairReport, Withdrawn, repair, withdraw};
pub use shard::Sum;
pub use size::{chunk_rows, compressed_bytes, probe_codec, segment_rows};
pub use stamps::{Compared, Moves, OTHERS, Stamps, changed};
pub use verify::{Finding, VerifyReport, verify};
pub use view_table::ViewTable;
pub use write::{SegmentWriter, Writer};
