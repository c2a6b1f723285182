//! The bytes of one shard (`sharding_indexed`, index at the end), encoded chunk by chunk and
//! decoded with every check.
//!
//! A shard consists of its used chunks without gaps, then the index (offset and length of every
//! chunk as little-endian `u64`, both 2⁶⁴−1 for a chunk past the data), then the index's
//! CRC-32C. So every byte is covered by a checksum.
//!
//! The manifest distinguishes one intact shard from another by a [`Digest`], a CRC over those
//! checksums. A CRC over the file would not work: bytes followed by their own CRC leave any CRC of
//! the same polynomial in a state that depends only on their length, so all shards of equal length
//! would share one.

use super::{ArraySpec, Codec};
use crate::array::Dtype;
use crate::error::Error;
use crate::storage;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

/// Bytes per CRC-32C.
const CHECKSUM: usize = 4;
/// Bytes per index entry.
const ENTRY: usize = 16;
/// Offset and length of an unused chunk.
const EMPTY: u64 = u64::MAX;
/// Bytes of an index that are read at a time, a multiple of `ENTRY`.
const PIECE: usize = 256 * ENTRY;
/// On activations, level 1 reaches nearly the ratio of 3 and 9 at several times their speed.
const LEVEL: i32 = 1;

/// Identifies a published shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sum {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its digest: the CRC-32C over the checksums of its chunks and index.
    pub crc32c: u32,
}

/// Why a file does not hold what the manifest promises.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is no such file.
    Missing,
    /// It holds something else; the problem in words.
    Damaged(String),
    /// The system cannot read it, so its state is unknown.
    Unreadable(io::Error),
}

impl From<String> for Fault {
    fn from(problem: String) -> Self {
        Self::Damaged(problem)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if error.raw_os_error().is_some() && error.kind() != ErrorKind::NotFound {
            return Self::Unreadable(error);
        }
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            // not from the system: `storage` determined what the file is
            ErrorKind::InvalidInput | ErrorKind::FileTooLarge => Self::Damaged(error.to_string()),
            ErrorKind::UnexpectedEof => Self::Damaged("truncated".to_owned()),
            _ => Self::Unreadable(error),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Damaged(problem) => f.write_str(problem),
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

impl Fault {
    /// Turns the fault into a reader's error. `place` is the file, followed by the rows if the
    /// fault concerns rows.
    pub fn error(self, place: &str) -> Error {
        match self {
            Self::Unreadable(error) => storage::failed(Path::new(place), "read", error),
            fault => Error::input(format!("{place}: {fault}"))
                .hint("`nst-cache cache verify` lists all that is wrong with the cache"),
        }
    }
}

/// The geometry of one shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShardLayout {
    dtype: Dtype,
    codec: Codec,
    row_bytes: usize,
    /// Rows per chunk.
    pub chunk_rows: usize,
    /// Chunks of the shard, used or unused.
    chunks: usize,
    /// Rows of data, without padding.
    pub rows: usize,
}

impl ShardLayout {
    /// The layout of a shard of `shard_rows` rows that holds `rows` rows of data. `spec` must be
    /// valid: `chunk_rows` divides `shard_rows`.
    pub fn new(spec: &ArraySpec, shard_rows: usize, rows: usize) -> Self {
        let chunk_rows = spec.chunk_rows;
        Self {
            dtype: spec.dtype,
            codec: spec.codec,
            row_bytes: spec.row_bytes(),
            chunk_rows,
            chunks: shard_rows / chunk_rows,
            rows,
        }
    }

    /// Number of chunks that hold data.
    pub fn used_chunks(&self) -> usize {
        self.rows.div_ceil(self.chunk_rows)
    }

    /// Bytes per decoded chunk, including padding.
    pub fn chunk_bytes(&self) -> usize {
        self.row_bytes * self.chunk_rows
    }

    /// Bytes of the index, including its checksum.
    pub fn index_bytes(&self) -> usize {
        self.chunks * ENTRY + CHECKSUM
    }

    /// The rows of data in a chunk, as (first, end) within the shard.
    pub fn rows_of(&self, chunk: usize) -> (usize, usize) {
        let first = chunk * self.chunk_rows;
        (first, self.rows.min(first + self.chunk_rows))
    }

    /// The largest length of an encoded chunk in bytes.
    fn longest_chunk(&self) -> usize {
        let payload = match self.codec {
            Codec::Raw => self.chunk_bytes(),
            Codec::Zstd => zstd::zstd_safe::compress_bound(self.chunk_bytes()),
        };
        payload + CHECKSUM
    }

    /// Pads `chunk` to a whole chunk with the fill value of its element type.
    fn pad(&self, chunk: &mut Vec<u8>) {
        let end = self.chunk_bytes();
        if matches!(self.dtype, Dtype::Bool | Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64) {
            chunk.resize(end, 0);
            return;
        }
        while chunk.len() < end {
            match self.dtype {
                Dtype::F16 => chunk.extend(f16::NAN.to_le_bytes()),
                Dtype::BF16 => chunk.extend(bf16::NAN.to_le_bytes()),
                Dtype::F32 => chunk.extend(f32::NAN.to_le_bytes()),
                Dtype::F64 => chunk.extend(f64::NAN.to_le_bytes()),
                Dtype::I32 => chunk.extend((-1i32).to_le_bytes()),
                Dtype::I8 => chunk.push(0xff),
                Dtype::I16 => chunk.extend((-1i16).to_le_bytes()),
                Dtype::I64 | Dtype::Bool | Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => {
                    chunk.extend((-1i64).to_le_bytes());
                }
            }
        }
    }

    /// Reads the index of a shard of `shard_bytes` bytes, from its last
    /// [`ShardLayout::index_bytes`]. Returns the offset of each used chunk followed by the end of
    /// the last one, and the index's checksum. Memory grows only with valid entries, whatever
    /// number of rows a manifest claims.
    ///
    /// # Errors
    /// The problem with the index.
    pub fn read_index(
        &self,
        mut index: impl Read,
        shard_bytes: u64,
    ) -> Result<(Vec<u64>, [u8; CHECKSUM]), Fault> {
        let longest = self.longest_chunk() as u64;
        let shortest = if self.codec == Codec::Raw { longest } else { CHECKSUM as u64 + 1 };
        let (mut bounds, mut end, mut sum) = (vec![0], 0u64, 0);
        let mut piece = [0; PIECE];
        for first in (0..self.chunks).step_by(PIECE / ENTRY) {
            let entries = &mut piece[..(self.chunks - first).min(PIECE / ENTRY) * ENTRY];
            index.read_exact(entries)?;
            sum = crc32c::crc32c_append(sum, entries);
            for (chunk, entry) in (first..).zip(entries.chunks_exact(ENTRY)) {
                let (offset, length) =
                    (read_u64(entry), read_u64(entry.get(8..).unwrap_or_default()));
                if chunk >= self.used_chunks() {
                    if (offset, length) != (EMPTY, EMPTY) {
                        return Err(format!("index: chunk {chunk} is past the data").into());
                    }
                    continue;
                }
                if offset != end || !(shortest..=longest).contains(&length) {
                    return Err(format!(
                        "index: chunk {chunk} at {offset}, {length} bytes: expected it at {end}, \
                         up to {longest} bytes"
                    )
                    .into());
                }
                end += length;
                if end > shard_bytes {
                    return Err(format!("index: chunk {chunk} ends past the shard").into());
                }
                bounds.push(end);
            }
        }
        let mut stored = [0; CHECKSUM];
        index.read_exact(&mut stored)?;
        if sum.to_le_bytes() != stored {
            return Err("index: checksum does not match".to_owned().into());
        }
        match shard_bytes.checked_sub(self.index_bytes() as u64) {
            Some(expected) if expected == end => Ok((bounds, stored)),
            _ => {
                Err(format!("index: chunks end at {end} in a shard of {shard_bytes} bytes").into())
            }
        }
    }

    /// Decodes one chunk into `out`, whose length must be that of a decoded chunk.
    ///
    /// # Errors
    /// The problem, in words.
    pub fn decode(
        &self,
        encoded: &[u8],
        zstd: &mut zstd::bulk::Decompressor<'static>,
        out: &mut [u8],
    ) -> Result<(), String> {
        let (payload, stored) = encoded
            .split_at_checked(encoded.len().wrapping_sub(CHECKSUM))
            .ok_or("chunk truncated")?;
        if crc32c::crc32c(payload).to_le_bytes() != stored {
            return Err("chunk checksum does not match".to_owned());
        }
        let length = match self.codec {
            Codec::Raw if payload.len() == out.len() => {
                out.copy_from_slice(payload);
                out.len()
            }
            Codec::Raw => payload.len(),
            Codec::Zstd => zstd
                .decompress_to_buffer(payload, out)
                .map_err(|e| format!("chunk does not decompress: {e}"))?,
        };
        if length != out.len() {
            return Err(format!("chunk: expected {} bytes, found {length}", out.len()));
        }
        Ok(())
    }
}

fn read_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(EMPTY, |b| u64::from_le_bytes(*b))
}

/// A shard's digest in the manifest: the CRC-32C over the checksums of its chunks, in order, and of
/// its index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest(u32);

impl Digest {
    /// Adds an encoded chunk or index, which ends with its checksum.
    pub fn add(&mut self, encoded: &[u8]) {
        let checksum = encoded.get(encoded.len().saturating_sub(CHECKSUM)..).unwrap_or_default();
        self.0 = crc32c::crc32c_append(self.0, checksum);
    }

    /// The value as stored in the manifest.
    pub fn value(self) -> u32 {
        self.0
    }
}

/// The zstd context and buffer of one encoding thread.
pub(super) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    encoded: Vec<u8>,
}

impl Encoder {
    /// Creates a zstd context.
    ///
    /// # Errors
    /// If zstd cannot allocate it.
    pub fn new() -> io::Result<Self> {
        let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
        zstd.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
        Ok(Self { zstd, encoded: Vec::new() })
    }

    /// Encodes one whole chunk and appends its checksum.
    ///
    /// # Errors
    /// If zstd fails, which happens only for lack of memory.
    pub fn encode(&mut self, layout: &ShardLayout, chunk: &[u8]) -> io::Result<&[u8]> {
        self.encoded.clear();
        match layout.codec {
            Codec::Raw => self.encoded.extend_from_slice(chunk),
            Codec::Zstd => {
                self.encoded.reserve(layout.longest_chunk());
                self.zstd.compress_to_buffer(chunk, &mut self.encoded)?;
            }
        }
        self.encoded.extend(crc32c::crc32c(&self.encoded).to_le_bytes());
        Ok(&self.encoded)
    }
}

/// Writes a shard: chunks are encoded and written as they fill, and the index after the last row.
#[derive(Debug)]
pub(super) struct ShardWriter<W> {
    layout: ShardLayout,
    out: W,
    pending: Vec<u8>,
    index: Vec<u8>,
    rows: usize,
    bytes: u64,
    digest: Digest,
}

impl<W: Write> ShardWriter<W> {
    /// Starts a shard without rows.
    pub fn new(layout: ShardLayout, out: W) -> Self {
        Self {
            layout,
            out,
            pending: Vec::new(),
            index: Vec::new(),
            rows: 0,
            bytes: 0,
            digest: Digest::default(),
        }
    }

    /// Number of rows still to be appended.
    pub fn missing_rows(&self) -> usize {
        self.layout.rows - self.rows
    }

    /// Length and digest of what has been written.
    pub fn sum(&self) -> Sum {
        Sum { bytes: self.bytes, crc32c: self.digest.value() }
    }

    /// The underlying writer.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// The underlying writer, mutably.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Returns the underlying writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Appends whole rows, at most [`ShardWriter::missing_rows`]. The last row completes the shard.
    ///
    /// # Errors
    /// If writing fails.
    pub fn append(&mut self, encoder: &mut Encoder, mut bytes: &[u8]) -> io::Result<()> {
        let chunk_bytes = self.layout.chunk_bytes();
        self.rows += bytes.len() / self.layout.row_bytes;
        if !self.pending.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(chunk_bytes - self.pending.len()));
            self.pending.extend_from_slice(head);
            bytes = rest;
            if self.pending.len() == chunk_bytes {
                self.write_pending(encoder)?;
            }
        }
        let whole = bytes.chunks_exact(chunk_bytes);
        self.pending.extend_from_slice(whole.remainder());
        for chunk in whole {
            self.write_chunk(encoder, chunk)?;
        }
        if self.missing_rows() == 0 { self.finish(encoder) } else { Ok(()) }
    }

    fn write_pending(&mut self, encoder: &mut Encoder) -> io::Result<()> {
        let mut chunk = std::mem::take(&mut self.pending);
        self.write_chunk(encoder, &chunk)?;
        chunk.clear();
        self.pending = chunk;
        Ok(())
    }

    fn write_chunk(&mut self, encoder: &mut Encoder, chunk: &[u8]) -> io::Result<()> {
        let bytes = encoder.encode(&self.layout, chunk)?;
        self.index.extend(self.bytes.to_le_bytes());
        self.index.extend((bytes.len() as u64).to_le_bytes());
        self.write(bytes)
    }

    fn finish(&mut self, encoder: &mut Encoder) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.layout.pad(&mut self.pending);
            self.write_pending(encoder)?;
        }
        let mut index = std::mem::take(&mut self.index);
        index.resize(self.layout.chunks * ENTRY, 0xff);
        index.extend(crc32c::crc32c(&index).to_le_bytes());
        self.write(&index)?;
        self.pending = Vec::new();
        self.out.flush()
    }

    /// Writes an encoded chunk or index.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        self.digest.add(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dtype: Dtype, codec: Codec) -> ArraySpec {
        ArraySpec {
            path: "x".into(),
            dtype,
            row_shape: vec![3],
            axes: vec!["c".into()],
            tensor: None,
            batch_axis: None,
            codec,
            chunk_rows: 4,
        }
    }

    /// Encodes a shard from `data`, `step` rows at a time.
    fn encode(layout: ShardLayout, data: &[u8], step: usize) -> Vec<u8> {
        let mut encoder = Encoder::new().unwrap();
        let mut writer = ShardWriter::new(layout, Vec::new());
        for rows in data.chunks(step * layout.row_bytes) {
            writer.append(&mut encoder, rows).unwrap();
        }
        assert_eq!(writer.missing_rows(), 0);
        assert_eq!(writer.sum().bytes, writer.out.len() as u64);
        writer.out
    }

    fn decode(layout: &ShardLayout, shard: &[u8]) -> Result<Vec<u8>, String> {
        let index = shard.len().checked_sub(layout.index_bytes()).ok_or("short")?;
        let bounds = layout.read_index(&shard[index..], shard.len() as u64);
        let (bounds, _) = bounds.map_err(|fault| format!("{fault:?}"))?;
        let mut zstd = zstd::bulk::Decompressor::new().unwrap();
        let mut all = Vec::new();
        for pair in bounds.windows(2) {
            let mut chunk = vec![0; layout.chunk_bytes()];
            layout.decode(
                &shard[usize::try_from(pair[0]).unwrap()..usize::try_from(pair[1]).unwrap()],
                &mut zstd,
                &mut chunk,
            )?;
            all.extend(chunk);
        }
        Ok(all)
    }

    #[test]
    fn rows_come_back_however_they_were_fed_and_a_short_chunk_is_padded() {
        for codec in [Codec::Zstd, Codec::Raw] {
            for (dtype, fill) in [
                (Dtype::F16, f16::NAN.to_le_bytes().to_vec()),
                (Dtype::F32, f32::NAN.to_le_bytes().to_vec()),
                (Dtype::F64, f64::NAN.to_le_bytes().to_vec()),
                (Dtype::I32, vec![0xff; 4]),
                (Dtype::I64, vec![0xff; 8]),
                (Dtype::U8, vec![0]),
            ] {
                for rows in [1, 4, 9, 16] {
                    let layout = ShardLayout::new(&spec(dtype, codec), 16, rows);
                    let data: Vec<u8> =
                        (0..rows * layout.row_bytes).map(|i| (i * 7).to_le_bytes()[0]).collect();
                    let shard = encode(layout, &data, 1);
                    for step in [2, 3, 5, 16] {
                        assert_eq!(encode(layout, &data, step), shard);
                    }
                    let back = decode(&layout, &shard).unwrap();
                    let (read, padding) = back.split_at(data.len());
                    assert_eq!(read, data);
                    assert!(padding.chunks(fill.len()).all(|p| p == fill));
                }
            }
        }
    }

    #[test]
    fn shards_of_equal_length_have_different_digests() {
        let layout = ShardLayout::new(&spec(Dtype::F32, Codec::Raw), 16, 9);
        let digest = |data: &[u8]| {
            let (mut writer, mut encoder) =
                (ShardWriter::new(layout, Vec::new()), Encoder::new().unwrap());
            writer.append(&mut encoder, data).unwrap();
            (crc32c::crc32c(&writer.out), writer.sum())
        };
        let (a, b) = (digest(&[3; 9 * 12]), digest(&[4; 9 * 12]));
        assert_eq!(a.0, b.0, "the reason for a digest: a CRC over the file sees no difference");
        assert_eq!(a.1.bytes, b.1.bytes);
        assert_ne!(a.1.crc32c, b.1.crc32c);
    }

    #[test]
    fn every_changed_byte_and_every_truncation_is_seen() {
        for codec in [Codec::Zstd, Codec::Raw] {
            let layout = ShardLayout::new(&spec(Dtype::F32, codec), 16, 9);
            let shard = encode(layout, &[3; 9 * 12], 9);
            for at in 0..shard.len() {
                let mut bad = shard.clone();
                bad[at] ^= 0x10;
                assert!(decode(&layout, &bad).is_err(), "byte {at}");
                assert!(decode(&layout, &shard[..at]).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn an_index_with_a_valid_checksum_is_not_trusted() {
        let layout = ShardLayout::new(&spec(Dtype::F32, Codec::Zstd), 16, 9);
        let shard = encode(layout, &[3; 9 * 12], 9);
        let index_start = shard.len() - layout.index_bytes();
        let forge = |entry: usize, value: u64| {
            let mut index = shard[index_start..].to_vec();
            index[entry * 8..entry * 8 + 8].copy_from_slice(&value.to_le_bytes());
            let sum = crc32c::crc32c(&index[..64]).to_le_bytes();
            index[64..].copy_from_slice(&sum);
            layout.read_index(&*index, shard.len() as u64)
        };
        assert!(forge(0, 0).is_ok());
        for (entry, value) in [
            (0, 1),
            (1, 0),
            (1, u64::MAX),
            (2, u64::MAX),
            (3, u64::MAX - 1),
            (4, 0),
            (5, 3),
            (6, 0),
            (7, 5),
        ] {
            assert!(forge(entry, value).is_err(), "entry {entry} = {value}");
        }
    }

    #[test]
    fn errors_of_the_system_are_not_damage() {
        use rustix::io::Errno;
        let fault = |error: Errno| Fault::from(io::Error::from(error));
        assert!(matches!(fault(Errno::NOENT), Fault::Missing));
        for error in [Errno::INVAL, Errno::FBIG, Errno::NOTDIR, Errno::IO, Errno::MFILE] {
            assert!(matches!(fault(error), Fault::Unreadable(_)), "{error}");
        }
        let ours = io::Error::new(ErrorKind::InvalidInput, "expected a regular file");
        assert!(matches!(Fault::from(ours), Fault::Damaged(_)));
    }
}
