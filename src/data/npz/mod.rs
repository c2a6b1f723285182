//! NumPy's `.npz` and `.npy`: arrays that feed a model's inputs, or images with labels. Rows are
//! read in place; compressed arrays and arrays in Fortran order are first laid out in a temporary
//! file.

mod fortran;
mod labels;
mod layout;

use super::fingerprint::Listed;
use super::spool::Spool;
use super::{Dataset, Fingerprint, Sample, npy, open_file, split as parts};
use crate::array::{Array, Dtype};
use crate::data::spec::DataFormat;
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use crate::onnx::Value;
use labels::Labels;
use layout::{ArrayRoles, ImageShape, NpzArray};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// Most arrays in a file.
const MAX_ARRAYS: usize = 1024;
/// Most arrays named in a message; the rest are counted.
const NAMED: usize = 6;

pub(super) struct Npz {
    path: String,
    files: NpzFiles,
    rows: usize,
    content: Content,
    labels: Labels,
    fingerprint: Fingerprint,
}

/// What a sample is.
enum Content {
    /// A row of each column, by the name of the input that it feeds.
    Arrays(Vec<Column>),
    /// A row of one column, which is an image.
    Images(Column, ImageShape),
}

/// The files that hold the bytes.
struct NpzFiles {
    packed: File,
    unpacked: Spool,
}

/// An array whose rows are samples.
struct Column {
    /// The name under which it is served.
    name: String,
    dtype: Dtype,
    big_endian: bool,
    row_shape: Vec<usize>,
    row_bytes: usize,
    region: Region,
}

/// A range of bytes.
#[derive(Clone, Copy)]
struct Region {
    /// Whether it is in the temporary file rather than in the original.
    unpacked: bool,
    offset: u64,
    length: u64,
}

/// Checks every array's header against the available bytes and decides what a sample is: what
/// `inputs` take, if known; otherwise images, if an array holds images; otherwise all arrays with
/// the same number of rows.
pub(super) fn open(
    path: &Path,
    split: &str,
    inputs: Option<&[Value]>,
    monitor: &dyn Monitor,
) -> Result<Npz> {
    let name = path.display().to_string();
    parts::check(&name, split)?;
    let (packed, length) = open_file(path)?;
    let mut files = NpzFiles { packed, unpacked: Spool::new()? };
    let mut listed = Listed::new();
    let regions = regions(path, &mut files, length, &mut listed)?;
    let found = regions
        .into_iter()
        .map(|(array, region)| found(&files, array, region))
        .collect::<Result<Vec<_>>>()?;
    let layout = ArrayRoles::of(&name, &found, split, inputs)?;
    if let Some(split) = layout.split {
        // splits with equal row counts hold different samples
        listed.bytes(split.as_bytes());
    }
    let labels = layout
        .labels
        .map(|found| {
            labels::read(&files, found).context(|| format!("{name}: array {}", found.name))
        })
        .transpose()?;
    let labels = labels.unwrap_or_default();
    let mut columns = Vec::with_capacity(layout.columns.len());
    for (served, found) in &layout.columns {
        columns.push(
            column(&mut files, served, found)
                .context(|| format!("{name}: array {}", found.name))?,
        );
    }
    let rows = usize::try_from(layout.rows)
        .context(|| format!("{name}: more rows than memory has addresses"))?;
    if let (Some(found), false) = (layout.labels, labels.values.len() == rows) {
        let first = layout.columns.first().map_or("", |(_, column)| column.name.as_str());
        return Err(Error::input(format!(
            "{name}: expected {rows} labels as rows in {first}, found {} in {}",
            labels.values.len(),
            found.name
        )));
    }
    for line in layout.lines(&labels.classes) {
        monitor.note(&format!("{name}: {line}"));
    }
    let content = match (layout.images, columns.pop()) {
        (Some(shape), Some(column)) => Content::Images(column, shape),
        (_, last) => Content::Arrays(columns.into_iter().chain(last).collect()),
    };
    let fingerprint = listed.finish(DataFormat::Npz, rows);
    Ok(Npz { path: name, files, rows, content, labels, fingerprint })
}

/// The byte range of each array, by name in byte order; packed ones are unpacked.
fn regions(
    path: &Path,
    files: &mut NpzFiles,
    length: u64,
    listed: &mut Listed,
) -> Result<BTreeMap<String, Region>> {
    let name = path.display().to_string();
    let mut magic = Vec::new();
    (&files.packed)
        .take(8)
        .read_to_end(&mut magic)
        .context(|| format!("{name}: cannot be read"))?;
    (&files.packed).rewind().context(|| format!("{name}: cannot be read"))?;
    if npy::is_npy(&magic) {
        listed.file(b"npy", length);
        listed.bytes(
            &checksum(&files.packed).context(|| format!("{name}: cannot be read"))?.to_le_bytes(),
        );
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(BTreeMap::from([(stem, Region { unpacked: false, offset: 0, length })]));
    }
    let message = || format!("{name}: cannot be read as an npz file");
    let mut archive = ZipArchive::new(BufReader::new(&files.packed)).context(message)?;
    if archive.len() > MAX_ARRAYS {
        return Err(Error::input(format!(
            "{name}: expected at most {MAX_ARRAYS} arrays, found {}",
            archive.len()
        )));
    }
    let mut contents = BTreeMap::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).context(message)?;
        let entry_name = entry.name().context(message)?.into_owned();
        let Some(array) = entry_name.strip_suffix(".npy") else { continue };
        let (size, packed_size) = (entry.size(), entry.compressed_size());
        let region = match entry.compression() {
            CompressionMethod::Stored => {
                let offset = entry.data_start().ok_or_else(|| {
                    Error::input(format!(
                        "{name}: array {array}: expected an offset within the file"
                    ))
                })?;
                if size != packed_size || offset.checked_add(size).is_none_or(|end| end > length) {
                    return Err(Error::input(format!(
                        "{name}: array {array}: expected {size} bytes from byte {offset}, found \
                         fewer"
                    )));
                }
                Region { unpacked: false, offset, length: size }
            }
            CompressionMethod::Deflated => {
                let offset = files.unpacked.length();
                let found = files.unpacked.append(
                    &mut entry,
                    packed_size,
                    &format!("{name}: array {array}"),
                )?;
                if found != size {
                    return Err(Error::input(format!(
                        "{name}: array {array}: expected {size} bytes, found {found} after \
                         unpacking"
                    )));
                }
                Region { unpacked: true, offset, length: size }
            }
            other => {
                return Err(Error::input(format!(
                    "{name}: array {array}: expected no compression or deflate, found {other}"
                )));
            }
        };
        contents.insert(array.to_owned(), (region, entry.crc32()));
    }
    for (array, (region, crc)) in &contents {
        listed.file(array.as_bytes(), region.length);
        listed.bytes(&crc.to_le_bytes());
    }
    Ok(contents.into_iter().map(|(array, (region, _))| (array, region)).collect())
}

/// The CRC-32C of a whole file.
fn checksum(mut file: &File) -> std::io::Result<u32> {
    let mut buffer = vec![0; 1 << 20];
    let mut sum = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum),
            count => sum = crc32c::crc32c_append(sum, buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// An array with its header checked against the available bytes. A reason why it cannot be used is
/// reported where the array is needed.
fn found(files: &NpzFiles, name: String, region: Region) -> Result<NpzArray> {
    let prefix = usize::try_from(region.length).unwrap_or(usize::MAX).min(npy::MAX_PREFIX);
    let bytes = files.read_at(region, 0, prefix)?;
    let header = npy::parse(&bytes)
        .map_err(|e| e.chain())
        .and_then(|header| check(&header, region).map(|()| header));
    Ok(NpzArray { name, region, header })
}

/// Checks a header against the available bytes.
fn check(header: &npy::Header, region: Region) -> Result<(), String> {
    let elements = header.elements();
    let start = header.data_start as u64;
    let bytes = elements.and_then(|n| n.checked_mul(header.element_bytes()));
    // objects are pickled, which takes any number of bytes
    if header.kind == 'O' || bytes.and_then(|n| n.checked_add(start)) == Some(region.length) {
        return Ok(());
    }
    let expected = elements.map_or_else(
        || "a number of".into(),
        |n| (u128::from(n) * u128::from(header.element_bytes())).to_string(),
    );
    let found = region.length.saturating_sub(start);
    Err(format!(
        "expected {expected} bytes of elements for shape {:?}, found {found}",
        header.shape
    ))
}

/// Locates the rows of an array.
fn column(files: &mut NpzFiles, served: &str, found: &NpzArray) -> Result<Column> {
    let (header, dtype) = found.rows()?;
    let too_large = || "rows are too large".to_owned();
    let row_shape = header
        .shape
        .iter()
        .skip(1)
        .map(|&d| usize::try_from(d))
        .collect::<Result<Vec<_>, _>>()
        .context(too_large)?;
    let row_bytes = row_shape
        .iter()
        .try_fold(dtype.size(), |n, &d| n.checked_mul(d))
        .ok_or_else(|| Error::input(too_large()))?;
    let start = header.data_start as u64;
    let mut region = Region {
        offset: found.region.offset + start,
        length: found.region.length - start,
        ..found.region
    };
    if header.fortran_order && header.shape.len() > 1 {
        region = fortran::lay_out(files, region, &header.shape, dtype.size(), &found.name)?;
    }
    Ok(Column {
        name: served.to_owned(),
        dtype,
        big_endian: header.big_endian,
        row_shape,
        row_bytes,
        region,
    })
}

impl NpzFiles {
    fn file(&self, region: Region) -> &File {
        if region.unpacked { self.unpacked.file() } else { &self.packed }
    }

    fn read_at(&self, region: Region, start: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let inside = start.checked_add(length as u64).is_some_and(|end| end <= region.length);
        let offset = region.offset.checked_add(start).filter(|_| inside);
        let offset = offset.ok_or_else(|| {
            Error::input(format!("{length} bytes from byte {start}: beyond the array's end"))
        })?;
        self.file(region).read_exact_at(&mut bytes, offset).context(|| "cannot be read".into())?;
        Ok(bytes)
    }

    /// The bytes of a row.
    fn row(&self, column: &Column, index: usize) -> Result<Vec<u8>> {
        let mut bytes = self.read_at(
            column.region,
            (index as u64).saturating_mul(column.row_bytes as u64),
            column.row_bytes,
        )?;
        if column.big_endian {
            bytes.chunks_exact_mut(column.dtype.size()).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }
}

impl Dataset for Npz {
    fn len(&self) -> usize {
        self.rows
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let bytes = |column: &Column| {
            let context = || format!("{}: array {}: row {index}", self.path, column.name);
            self.files.row(column, index).context(context)
        };
        let array = |column: &Column| {
            Ok((
                column.name.clone(),
                Array::from_bytes(column.dtype, column.row_shape.clone(), &bytes(column)?)?,
            ))
        };
        match &self.content {
            Content::Arrays(columns) => {
                columns.iter().map(array).collect::<Result<_>>().map(Sample::Arrays)
            }
            Content::Images(column, shape) => Ok(Sample::Image(shape.image(bytes(column)?))),
        }
    }

    fn label(&self, index: usize) -> i64 {
        self.labels.values.get(index).copied().unwrap_or(-1)
    }

    fn name(&self, index: usize) -> String {
        format!("row {index}")
    }

    fn classes(&self) -> &[String] {
        &self.labels.classes
    }

    fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn image_size(&self, index: usize) -> Option<[usize; 2]> {
        match &self.content {
            Content::Images(_, shape) if index < self.rows => Some([shape.height, shape.width]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
