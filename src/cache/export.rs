//! Exports a cache's arrays as one file for other tools: NumPy's `.npz` (stored, not compressed) or
//! `.safetensors`. The data is streamed, so memory does not grow with the cache.

use super::{ArrayReader, Cache, Decoder, manifest};
use crate::array::Dtype;
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use serde::Serialize;
use serde_json::json;
use std::io::{Seek, Write};
use std::ops::Range;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Bytes decoded and written at a time; at least one chunk.
const BLOCK_BYTES: usize = 8 << 20;
/// From this size on, a member needs zip64, which not every reader supports.
const ZIP64_BYTES: u64 = u32::MAX as u64;

/// The format of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// NumPy's archive format, for `numpy.load`.
    Npz,
    /// The safetensors format, for `safetensors.numpy.load_file` and similar loaders.
    Safetensors,
}

/// A summary of what was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// Rows of each view.
    pub rows: usize,
    /// Each array: its path in the cache, element type and shape.
    pub arrays: Vec<(String, &'static str, Vec<usize>)>,
    /// Bytes of all elements.
    pub bytes: u64,
}

/// Writes arrays of a cache to `out`, under their paths, rows in the cache's order: `sample_id` and
/// `label` `[row]`, the others `[view, row, …]`.
///
/// `names` selects view arrays, each by its path, by a parent folder (`taps`), or by the alias of a
/// tap; empty selects all. `rows` selects rows of each view; `None` selects all.
///
/// # Errors
/// If the cache cannot be read or is damaged, there is no such array or row, the user asks to stop,
/// or `out` cannot be written.
pub fn export(
    cache: &Cache,
    format: Format,
    names: &[String],
    rows: Option<Range<usize>>,
    out: &mut (impl Write + Seek),
    monitor: &dyn Monitor,
) -> Result<Export> {
    let members = members(cache, names, rows)?;
    let total: usize = members.iter().map(Member::rows_of_all_views).sum();
    monitor.begin("export", "rows", total as u64, 0);
    match format {
        Format::Npz => write_npz(&members, out, monitor),
        Format::Safetensors => write_safetensors(&members, out, monitor),
    }?;
    monitor.end();
    Ok(Export {
        rows: members.first().map_or(0, |member| member.rows.len()),
        bytes: members.iter().map(Member::bytes).sum(),
        arrays: members.into_iter().map(|m| (m.name.to_owned(), m.dtype.name(), m.shape)).collect(),
    })
}

/// An array in the exported file.
struct Member<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: Vec<usize>,
    rows: Range<usize>,
    data: MemberData<'a>,
}

#[derive(Clone, Copy)]
enum MemberData<'a> {
    /// A row array: one number per row.
    Row(&'a [i64]),
    /// A view array, and its number of views.
    View(ArrayReader<'a>, usize),
}

impl Member<'_> {
    fn bytes(&self) -> u64 {
        self.shape.iter().fold(self.dtype.size() as u64, |bytes, &n| bytes.saturating_mul(n as u64))
    }

    fn rows_of_all_views(&self) -> usize {
        match self.data {
            MemberData::Row(_) => self.rows.len(),
            MemberData::View(_, views) => self.rows.len() * views,
        }
    }

    /// Writes the elements, little-endian and row-major.
    fn stream(&self, out: &mut impl Write, monitor: &dyn Monitor) -> Result<()> {
        let write = |bytes: &[u8], rows: usize, out: &mut dyn Write| {
            out.write_all(bytes).context(|| format!("array `{}`: cannot be written", self.name))?;
            monitor.advance(rows as u64, bytes.len() as u64);
            if monitor.stop_requested() {
                Err(Error::interrupted("export: stopped before the end"))
            } else {
                Ok(())
            }
        };
        match self.data {
            MemberData::Row(values) => {
                let bytes: Vec<u8> = values
                    .get(self.rows.clone())
                    .unwrap_or_default()
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect();
                write(&bytes, self.rows.len(), out)
            }
            MemberData::View(array, views) => {
                let chunk = array.spec().chunk_rows;
                let block = (BLOCK_BYTES / array.spec().row_bytes().max(1))
                    .next_multiple_of(chunk)
                    .max(chunk);
                let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
                for view in 0..views {
                    let mut first = self.rows.start;
                    while first < self.rows.end {
                        // ends at a chunk's end, so that no chunk is decoded twice
                        let end = (first / chunk * chunk + block).min(self.rows.end);
                        array.read(&mut decoder, view, first, end - first, &mut bytes)?;
                        write(&bytes, end - first, out)?;
                        first = end;
                    }
                }
                Ok(())
            }
        }
    }
}

/// The arrays to write, in the cache's order.
fn members<'a>(
    cache: &'a Cache,
    names: &[String],
    rows: Option<Range<usize>>,
) -> Result<Vec<Member<'a>>> {
    let manifest = cache.manifest();
    let rows = rows.unwrap_or(0..manifest.rows);
    if rows.is_empty() || rows.end > manifest.rows {
        return Err(Error::input(format!(
            "rows {}..{}: expected some of 0..{}",
            rows.start, rows.end, manifest.rows
        )));
    }
    let is_named = |path: &str, name: &String| {
        let is_within = |folder: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        is_within(name) || is_within(&format!("taps/{name}"))
    };
    let row_arrays = [(manifest::SAMPLE_ID, cache.sample_ids()), (manifest::LABEL, cache.labels())];
    for name in names {
        if !manifest.view_arrays.iter().any(|spec| is_named(&spec.path, name)) {
            let known: Vec<&str> =
                manifest.view_arrays.iter().map(|spec| spec.path.as_str()).collect();
            return Err(Error::input(format!("there is no array `{name}`"))
                .hint(format!("the cache has {}", known.join(", "))));
        }
    }
    let mut members: Vec<Member<'a>> = row_arrays
        .into_iter()
        .map(|(name, values)| Member {
            name,
            dtype: Dtype::I64,
            shape: vec![rows.len()],
            rows: rows.clone(),
            data: MemberData::Row(values),
        })
        .collect();
    for spec in manifest
        .view_arrays
        .iter()
        .filter(|spec| names.is_empty() || names.iter().any(|name| is_named(&spec.path, name)))
    {
        members.push(Member {
            name: &spec.path,
            dtype: spec.dtype,
            shape: [&[manifest.views, rows.len()], spec.row_shape.as_slice()].concat(),
            rows: rows.clone(),
            data: MemberData::View(cache.array(&spec.path)?, manifest.views),
        });
    }
    Ok(members)
}

fn write_npz(
    members: &[Member<'_>],
    out: &mut (impl Write + Seek),
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut archive = ZipWriter::new(out);
    for member in members {
        let context = || format!("array `{}`: cannot be written", member.name);
        let header = npy_header(member.dtype, &member.shape);
        let large = member.bytes().saturating_add(header.len() as u64) >= ZIP64_BYTES;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(large);
        archive.start_file(format!("{}.npy", member.name), options).context(context)?;
        archive.write_all(&header).context(context)?;
        member.stream(&mut archive, monitor)?;
    }
    archive.finish().context(|| "the archive's directory: cannot be written".to_owned())?;
    Ok(())
}

/// The header of a `.npy` file, format 1.0, padded so that elements start at a multiple of 64
/// bytes.
fn npy_header(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
    let descr = match dtype {
        Dtype::Bool => "|b1",
        Dtype::U8 => "|u1",
        Dtype::U16 => "<u2",
        Dtype::U32 => "<u4",
        Dtype::U64 => "<u8",
        Dtype::I8 => "|i1",
        Dtype::I16 => "<i2",
        Dtype::I32 => "<i4",
        Dtype::I64 => "<i8",
        // as NumPy writes a type that it does not have
        Dtype::BF16 => "<V2",
        Dtype::F16 => "<f2",
        Dtype::F32 => "<f4",
        Dtype::F64 => "<f8",
    };
    let sizes = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes},), }}");
    // 10 bytes of magic, version and length precede the text, and a line feed ends it
    let padded = (text.len() + 11).next_multiple_of(64) - 11;
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    text.push('\n');
    // 64 axes of 20 digits stay below 2^16
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes()].concat()
}

fn write_safetensors(
    members: &[Member<'_>],
    out: &mut (impl Write + Seek),
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut header = serde_json::Map::new();
    let mut end = 0u64;
    for member in members {
        let begin = end;
        end = end.saturating_add(member.bytes());
        let dtype = match member.dtype {
            Dtype::Bool => "BOOL",
            Dtype::U8 => "U8",
            Dtype::U16 => "U16",
            Dtype::U32 => "U32",
            Dtype::U64 => "U64",
            Dtype::I8 => "I8",
            Dtype::I16 => "I16",
            Dtype::I32 => "I32",
            Dtype::I64 => "I64",
            Dtype::BF16 => "BF16",
            Dtype::F16 => "F16",
            Dtype::F32 => "F32",
            Dtype::F64 => "F64",
        };
        header.insert(
            member.name.to_owned(),
            json!({ "dtype": dtype, "shape": member.shape, "data_offsets": [begin, end] }),
        );
    }
    let mut header =
        serde_json::to_vec(&header).context(|| "header: cannot be written as JSON".to_owned())?;
    // elements start at a multiple of 8 bytes
    header.resize(header.len().next_multiple_of(8), b' ');
    let context = || "header: cannot be written".to_owned();
    out.write_all(&(header.len() as u64).to_le_bytes()).context(context)?;
    out.write_all(&header).context(context)?;
    for member in members {
        member.stream(out, monitor)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, testing};
    use super::*;
    use crate::monitor::Silent;
    use safetensors::SafeTensors;
    use std::io::Cursor;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(10, 2, Codec::Zstd)).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        (folder, cache)
    }

    fn exported(
        cache: &Cache,
        format: Format,
        names: &[&str],
        rows: Option<Range<usize>>,
    ) -> Result<(Export, Vec<u8>)> {
        let mut out = Cursor::new(Vec::new());
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        export(cache, format, &names, rows, &mut out, &Silent)
            .map(|export| (export, out.into_inner()))
    }

    /// The bytes of an array over both views.
    fn expected(cache: &Cache, path: &str, rows: Range<usize>) -> Vec<u8> {
        let spec = cache.array(path).unwrap().spec();
        (0..2).flat_map(|view| testing::rows(spec, view, rows.clone())).collect()
    }

    #[test]
    fn safetensors_reads_every_array() {
        let (_folder, cache) = cache();
        for rows in [0..10, 3..9] {
            let (export, bytes) =
                exported(&cache, Format::Safetensors, &[], Some(rows.clone())).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!((file.len(), export.arrays.len(), export.rows), (6, 6, rows.len()));
            for spec in &cache.manifest().view_arrays {
                let tensor = file.tensor(&spec.path).unwrap();
                assert_eq!(tensor.shape(), [&[2, rows.len()], spec.row_shape.as_slice()].concat());
                assert_eq!(
                    tensor.data(),
                    expected(&cache, &spec.path, rows.clone()),
                    "{}",
                    spec.path
                );
            }
            let labels: Vec<u8> =
                cache.labels()[rows].iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(file.tensor("label").unwrap().data(), labels);
        }
    }

    #[test]
    fn an_npz_holds_the_named_arrays_and_the_rows_of_each() {
        let (_folder, cache) = cache();
        let (export, bytes) = exported(&cache, Format::Npz, &["conv", "logits"], None).unwrap();
        let names: Vec<&str> = export.arrays.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["sample_id", "label", "logits", "taps/conv/features"]);
        let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
        for (name, dtype, shape) in &export.arrays {
            let mut member = archive.by_name(&format!("{name}.npy")).unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut member, &mut bytes).unwrap();
            let (header, elements) =
                bytes.split_at(bytes.iter().position(|&b| b == b'\n').unwrap() + 1);
            assert_eq!(header.len() % 64, 0);
            let text = String::from_utf8_lossy(&header[10..]).into_owned();
            assert!(text.contains("'fortran_order': False"), "{text}");
            if let Ok(array) = cache.array(name) {
                assert_eq!(elements, expected(&cache, name, 0..10), "{name}");
                assert!(
                    text.contains(if *dtype == "float16" { "'<f2'" } else { "'<f4'" })
                        && text.contains(&format!("(2, 10, {},", array.spec().row_shape[0])),
                    "{text} {shape:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let (_folder, cache) = cache();
        for rows in [0..0, 9..11, usize::MAX..usize::MAX] {
            assert!(exported(&cache, Format::Npz, &[], Some(rows)).is_err());
        }
        let error = exported(&cache, Format::Npz, &["conv2"], None).unwrap_err();
        assert!(
            error.find_hint().is_some_and(|hint| hint.contains("logits, taps/conv/features")),
            "{error}"
        );
        assert!(exported(&cache, Format::Npz, &["tap"], None).is_err());
        assert_eq!(exported(&cache, Format::Npz, &["taps"], None).unwrap().0.arrays.len(), 3);
    }
}
