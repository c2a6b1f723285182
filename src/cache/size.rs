//! How large chunks and segments are, and which codec pays: decided once, before a cache is made, and kept in its manifest.

use super::shard::{Encoder, Layout};
use super::{ArraySpec, Codec};
use crate::array::Dtype;

/// Bytes of an inner chunk before compression that [`chunk_rows`] aims at: 64–256 KiB on disk at the usual ratios, where reading by chunk costs
/// least and a chunk still decodes in well under a millisecond.
const CHUNK_BYTES: usize = 256 << 10;

/// No shard is larger than this, so that publishing one stays a matter of a second and a segment fits the page cache.
const SHARD_BYTES: usize = 256 << 20;

/// Rows of a segment lie between these, the batch and the data set permitting.
const SEGMENT_ROWS: std::ops::RangeInclusive<usize> = 128..=2048;
/// Segments that a small data set is cut into, so that an interruption costs little of it.
const SEGMENTS: usize = 16;

/// Rows of an inner chunk: the largest divisor of `segment_rows` whose rows, of `row_bytes` each, hold at most 256 KiB; at least one.
#[must_use]
pub fn chunk_rows(row_bytes: usize, segment_rows: usize) -> usize {
    let most = (CHUNK_BYTES / row_bytes.max(1)).clamp(1, segment_rows.max(1));
    (1..=most).rev().find(|rows| segment_rows.is_multiple_of(*rows)).unwrap_or(1)
}

/// Rows of a segment for a view of `rows` rows: a multiple of `batch`, so that no inference spans two, 128 to 2048 where that allows it, and the
/// largest array's shard, of `largest_row_bytes` a row, under 256 MiB.
#[must_use]
pub fn segment_rows(rows: usize, batch: usize, largest_row_bytes: usize) -> usize {
    let batch = batch.max(1);
    let fitting = SHARD_BYTES / largest_row_bytes.max(1);
    let wanted = (rows / SEGMENTS).clamp(*SEGMENT_ROWS.start(), *SEGMENT_ROWS.end()).min(fitting);
    // no longer than the data set itself needs
    (wanted / batch).min(rows.div_ceil(batch)).max(1) * batch
}

/// The codec for chunks like `bytes` with their encoded length: [`Codec::Raw`] where zstd saves under 10 %, and decoding would be paid for nothing.
#[must_use]
pub fn probe_codec(bytes: &[u8]) -> (Codec, usize) {
    let probe = ArraySpec {
        path: String::new(),
        dtype: Dtype::U8,
        row_shape: vec![bytes.len()],
        axes: Vec::new(),
        tensor: None,
        codec: Codec::Zstd,
        chunk_rows: 1,
    };
    let encoded = Encoder::new().and_then(|mut encoder| encoder.encode(&Layout::new(&probe, 1, 1), bytes).map(<[u8]>::len));
    match encoded {
        Ok(length) if length.saturating_mul(10) <= bytes.len().saturating_mul(9) => (Codec::Zstd, length),
        _ => (Codec::Raw, bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_chunk_divides_the_segment_and_stays_near_256_kib() {
        for (row_bytes, segment, expected) in
            [(32_768, 512, 8), (200_704, 512, 1), (40, 512, 512), (0, 512, 512), (1 << 30, 384, 1), (1000, 300, 150), (10, 1, 1), (1, 0, 1)]
        {
            assert_eq!(chunk_rows(row_bytes, segment), expected, "{row_bytes} bytes, {segment} rows");
        }
    }

    #[test]
    fn segments_are_multiples_of_the_batch_within_bounds() {
        for (rows, batch, row_bytes) in [(50_000, 64, 57_344), (100, 64, 10), (1, 1, 1), (1_281_167, 48, 401_408), (12_000, 100, 9_000_000)] {
            let length = segment_rows(rows, batch, row_bytes);
            assert_eq!(length % batch, 0);
            assert!(length <= 2048 && (length == batch || length * row_bytes <= SHARD_BYTES), "{rows} {batch} {row_bytes}: {length}");
        }
        assert_eq!(segment_rows(12_000, 64, 1000), 704);
        assert_eq!(segment_rows(100, 64, 1000), 128);
        assert_eq!(segment_rows(0, 0, 0), 1);
    }

    #[test]
    fn noise_is_stored_raw_and_zeros_are_not() {
        let mut state = 0;
        let noise: Vec<u8> = (0..8_192).flat_map(|_| testing::splitmix(&mut state).to_le_bytes()).collect();
        assert_eq!(probe_codec(&noise), (Codec::Raw, 65_536));
        assert_eq!(probe_codec(&[0; 65_536]).0, Codec::Zstd);
    }
}
