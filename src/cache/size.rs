//! Sizes of chunks and segments, and the choice of codec: decided once, before a cache is written,
//! and recorded in its manifest.

use super::shard::{Encoder, ShardLayout};
use super::{ArraySpec, Codec};
use crate::array::Dtype;

/// The uncompressed size in bytes that [`chunk_rows`] aims at for an inner chunk: 64–256 KiB on
/// disk at the usual ratios, where reading by chunk is cheapest and a chunk still decodes in well
/// under a millisecond.
const CHUNK_BYTES: usize = 256 << 10;

/// The bound on a shard's size in bytes: publishing one then takes about a second, and a segment
/// fits in the page cache.
const SHARD_BYTES: usize = 256 << 20;

const SEGMENT_ROWS_MIN: usize = 128;
const SEGMENT_ROWS_MAX: usize = 2048;

/// Rows per inner chunk: the largest divisor of `segment_rows` whose rows, of `row_bytes` each,
/// take at most 256 KiB; at least one.
#[must_use]
pub fn chunk_rows(row_bytes: usize, segment_rows: usize) -> usize {
    let most = (CHUNK_BYTES / row_bytes.max(1)).clamp(1, segment_rows.max(1));
    (1..=most).rev().find(|rows| segment_rows.is_multiple_of(*rows)).unwrap_or(1)
}

/// Rows per segment: the largest multiple of `batch` up to 2048 for which the largest array's
/// shard, with `row_bytes_of_largest_array` per row, stays under 256 MiB. Rows so large that 128 of
/// them exceed the bound still get 128, a batch beyond 2048 is one segment, and a segment always
/// holds at least one batch.
#[must_use]
pub fn segment_rows(row_bytes_of_largest_array: usize, batch: usize) -> usize {
    let batch = batch.max(1);
    let most = ((SHARD_BYTES - 1) / row_bytes_of_largest_array.max(1))
        .clamp(SEGMENT_ROWS_MIN, SEGMENT_ROWS_MAX);
    (most / batch * batch).max(batch)
}

/// The codec for chunks like `bytes`: [`Codec::Raw`] if zstd saves less than 10 %, which does not
/// repay the cost of decoding.
#[must_use]
pub fn probe_codec(bytes: &[u8]) -> Codec {
    if compressed_bytes(bytes).saturating_mul(10) > bytes.len().saturating_mul(9) {
        Codec::Raw
    } else {
        Codec::Zstd
    }
}

/// The size of `bytes` compressed with zstd as one chunk, for estimates.
#[must_use]
pub fn compressed_bytes(bytes: &[u8]) -> usize {
    let probe = ArraySpec {
        path: String::new(),
        dtype: Dtype::U8,
        row_shape: vec![bytes.len()],
        axes: Vec::new(),
        tensor: None,
        batch_axis: None,
        codec: Codec::Zstd,
        chunk_rows: 1,
    };
    // an encoder that cannot start reports its error when the cache is written
    let encoded = Encoder::new().and_then(|mut encoder| {
        encoder.encode(&ShardLayout::new(&probe, 1, 1), bytes).map(<[u8]>::len)
    });
    encoded.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_chunk_divides_the_segment_and_stays_near_256_kib() {
        for (row_bytes, segment, expected) in [
            (32_768, 512, 8),
            (200_704, 512, 1),
            (40, 512, 512),
            (0, 512, 512),
            (1 << 30, 384, 1),
            (1000, 300, 150),
            (10, 1, 1),
            (1, 0, 1),
        ] {
            assert_eq!(
                chunk_rows(row_bytes, segment),
                expected,
                "{row_bytes} bytes, {segment} rows"
            );
        }
    }

    #[test]
    fn a_segment_is_whole_batches_under_256_mib() {
        for (row_bytes, batch, expected) in [
            (100, 128, 2048),
            (100, 100, 2000),
            (401_408, 64, 640),
            (4 << 20, 32, 128),
            (4 << 20, 100, 100),
            (10, 4096, 4096),
            (10, 0, 2048),
        ] {
            assert_eq!(
                segment_rows(row_bytes, batch),
                expected,
                "{row_bytes} bytes, batch {batch}"
            );
        }
    }

    #[test]
    fn noise_is_stored_raw_and_zeros_are_not() {
        let mut state = 0;
        let noise: Vec<u8> =
            (0..8_192).flat_map(|_| testing::splitmix(&mut state).to_le_bytes()).collect();
        assert_eq!(probe_codec(&noise), Codec::Raw);
        assert_eq!(probe_codec(&vec![0; 65_536]), Codec::Zstd);
    }
}
