//! NumPy's `.npz`: arrays named like a model's inputs, rows on axis 0, and optionally `labels`. Rows are read in place; compressed arrays are
//! unpacked once to a temporary file.

use super::fingerprint::Listed;
use super::spool::Spool;
use super::{Dataset, Fingerprint, Sample, npy, open_file, split as parts};
use crate::array::{Array, Dtype, Values};
use crate::error::{Context, Error, Result};
use crate::recipe::DataFormat;
use half::f16;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// The array that holds labels.
const LABELS: &str = "labels";
/// Most arrays in a file.
const MAX_ARRAYS: usize = 1024;

pub(super) struct Npz {
    path: String,
    packed: File,
    unpacked: File,
    rows: usize,
    columns: Vec<Column>,
    labels: Vec<i64>,
    fingerprint: Fingerprint,
}

/// An array whose rows are samples.
struct Column {
    name: String,
    dtype: Dtype,
    big_endian: bool,
    row_shape: Vec<usize>,
    row_bytes: usize,
    region: Region,
}

/// Where bytes lie.
#[derive(Clone, Copy)]
struct Region {
    /// In the temporary file rather than in the original.
    unpacked: bool,
    offset: u64,
    length: u64,
}

/// Checks every array's header against the bytes that are there.
pub(super) fn open(path: &Path, split: &str) -> Result<Npz> {
    let name = path.display().to_string();
    parts::check(&name, split)?;
    let (packed, length) = open_file(path)?;
    let mut spool = Spool::new()?;
    let mut listed = Listed::new();
    let regions = regions(&packed, length, &mut spool, &mut listed, &name)?;
    let mut set = Npz {
        fingerprint: listed.finish(DataFormat::Npz, 0),
        path: name,
        packed,
        unpacked: spool.into_file(),
        rows: 0,
        columns: Vec::new(),
        labels: Vec::new(),
    };
    let mut rows: Option<(String, u64)> = None;
    for (array, region) in regions {
        let context = || format!("{}: array {array}", set.path);
        let header = set.header(region).context(context)?;
        let count = check(&header, region).context(context)?;
        match &rows {
            Some((first, expected)) if *expected != count => {
                return Err(Error::input(format!("{}: expected {expected} rows as in {first}, found {count} in {array}", set.path)));
            }
            Some(_) => {}
            None => rows = Some((array.clone(), count)),
        }
        if array == LABELS {
            set.labels = set.read_labels(&header, region).context(context)?;
        } else {
            let column = column(array.clone(), &header, region).context(context)?;
            set.columns.push(column);
        }
    }
    if set.columns.is_empty() {
        return Err(Error::input(format!("{}: expected arrays named like the model's inputs, found none", set.path)));
    }
    set.rows = rows.and_then(|(_, count)| usize::try_from(count).ok()).unwrap_or(0);
    set.fingerprint.samples = set.rows;
    Ok(set)
}

/// The bytes of each array, in byte order of names; packed ones are unpacked into `spool`.
fn regions(file: &File, length: u64, spool: &mut Spool, listed: &mut Listed, name: &str) -> Result<BTreeMap<String, Region>> {
    let message = || format!("{name}: cannot be read as an npz file");
    let mut archive = ZipArchive::new(BufReader::new(file)).context(message)?;
    if archive.len() > MAX_ARRAYS {
        return Err(Error::input(format!("{name}: expected at most {MAX_ARRAYS} arrays, found {}", archive.len())));
    }
    let mut contents = BTreeMap::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).context(message)?;
        let entry_name = entry.name().context(message)?.into_owned();
        let Some(array) = entry_name.strip_suffix(".npy") else { continue };
        let (size, packed_size) = (entry.size(), entry.compressed_size());
        let region = match entry.compression() {
            CompressionMethod::Stored => {
                let offset =
                    entry.data_start().ok_or_else(|| Error::input(format!("{name}: array {array}: expected a place in the file")))?;
                if size != packed_size || offset.checked_add(size).is_none_or(|end| end > length) {
                    return Err(Error::input(format!("{name}: array {array}: expected {size} bytes from byte {offset}, found fewer")));
                }
                Region { unpacked: false, offset, length: size }
            }
            CompressionMethod::Deflated => {
                let offset = spool.length();
                let found = spool.append(&mut entry, packed_size, &format!("{name}: array {array}"))?;
                if found != size {
                    return Err(Error::input(format!("{name}: array {array}: expected {size} bytes, found {found} on unpacking")));
                }
                Region { unpacked: true, offset, length: size }
            }
            other => return Err(Error::input(format!("{name}: array {array}: expected no compression or deflate, found {other}"))),
        };
        contents.insert(array.to_owned(), (region, entry.crc32()));
    }
    for (array, (region, crc)) in &contents {
        listed.file(array.as_bytes(), region.length);
        listed.bytes(&crc.to_le_bytes());
    }
    Ok(contents.into_iter().map(|(array, (region, _))| (array, region)).collect())
}

/// Holds a header against the bytes that are there; returns the rows.
fn check(header: &npy::Header, region: Region) -> Result<u64> {
    let Some(&rows) = header.shape.first() else {
        return Err(Error::input("expected rows on axis 0, found a single value"));
    };
    if header.fortran_order && header.shape.len() > 1 {
        return Err(Error::input("expected rows one after the other, found Fortran order").hint("save it through numpy.ascontiguousarray"));
    }
    let elements = header.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n > 0);
    let bytes = elements.and_then(|n| n.checked_mul(header.width as u64)).and_then(|n| n.checked_add(header.data_start as u64));
    if bytes != Some(region.length) {
        return Err(Error::input(format!(
            "expected {} bytes of elements for shape {:?}, found {}",
            elements.map_or_else(|| "a number of".into(), |n| (u128::from(n) * header.width as u128).to_string()),
            header.shape,
            region.length.saturating_sub(header.data_start as u64)
        )));
    }
    Ok(rows)
}

/// Where the rows of an array lie; its header was checked.
fn column(name: String, header: &npy::Header, region: Region) -> Result<Column> {
    let dtype = match (header.kind, header.width) {
        ('u' | 'b', 1) => Dtype::U8,
        ('i', 4) => Dtype::I32,
        ('i', 8) => Dtype::I64,
        ('f', 2) => Dtype::F16,
        ('f', 4) => Dtype::F32,
        ('f', 8) => Dtype::F64,
        (kind, width) => {
            return Err(Error::input(format!("expected uint8, int32, int64, float16, float32 or float64, found {kind}{width}"))
                .hint("convert it with numpy's astype to the type that the model takes"));
        }
    };
    let too_large = || "rows are too large".to_owned();
    let row_shape = header.shape.iter().skip(1).map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>().context(too_large)?;
    let row_bytes = row_shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d)).ok_or_else(|| Error::input(too_large()))?;
    let start = header.data_start as u64;
    let region = Region { offset: region.offset + start, length: region.length - start, ..region };
    Ok(Column { name, dtype, big_endian: header.big_endian, row_shape, row_bytes, region })
}

impl Npz {
    fn read_at(&self, region: Region, start: u64, length: usize) -> Result<Vec<u8>> {
        let file = if region.unpacked { &self.unpacked } else { &self.packed };
        let mut bytes = vec![0; length];
        let inside = start.checked_add(length as u64).is_some_and(|end| end <= region.length);
        let offset = region.offset.checked_add(start).filter(|_| inside);
        let offset = offset.ok_or_else(|| Error::input(format!("{length} bytes from byte {start}: beyond the array's end")))?;
        file.read_exact_at(&mut bytes, offset).context(|| "cannot be read".into())?;
        Ok(bytes)
    }

    fn header(&self, region: Region) -> Result<npy::Header> {
        let prefix = usize::try_from(region.length).unwrap_or(usize::MAX).min(npy::MAX_PREFIX);
        npy::parse(&self.read_at(region, 0, prefix)?)
    }

    /// Labels of any integer type, shape `[row]` or `[row, 1]`.
    fn read_labels(&self, header: &npy::Header, region: Region) -> Result<Vec<i64>> {
        if header.shape.iter().skip(1).any(|&d| d != 1) || !matches!((header.kind, header.width), ('i' | 'u', 1 | 2 | 4 | 8)) {
            return Err(Error::input(format!(
                "expected one integer a row, found {}{} of shape {:?}",
                header.kind, header.width, header.shape
            )));
        }
        let start = header.data_start as u64;
        let length = usize::try_from(region.length - start).context(|| "too many labels".into())?;
        let bytes = self.read_at(region, start, length)?;
        let label = |(row, element): (usize, &[u8])| {
            let value = integer(element, header.kind == 'i', header.big_endian);
            value.filter(|&v| v >= -1).ok_or_else(|| Error::input(format!("row {row}: expected a label from 0, or -1 for none")))
        };
        bytes.chunks_exact(header.width).enumerate().map(label).collect()
    }
}

/// An integer of 1 to 8 bytes; `None` when it does not fit.
fn integer(element: &[u8], signed: bool, big_endian: bool) -> Option<i64> {
    let mut bytes = element.to_vec();
    if big_endian {
        bytes.reverse();
    }
    let negative = signed && bytes.last().is_some_and(|b| b & 0x80 != 0);
    bytes.resize(8, if negative { 0xff } else { 0 });
    let value = i64::from_le_bytes(bytes.try_into().ok()?);
    (value >= 0 || negative).then_some(value)
}

impl Dataset for Npz {
    fn len(&self) -> usize {
        self.rows
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let read = |column: &Column| {
            let context = || format!("{}: array {}: row {index}", self.path, column.name);
            let bytes = self.read_at(column.region, index as u64 * column.row_bytes as u64, column.row_bytes).context(context)?;
            let values = values(column.dtype, &bytes, column.big_endian);
            Ok((column.name.clone(), Array::new(column.row_shape.clone(), values).context(context)?))
        };
        self.columns.iter().map(read).collect::<Result<_>>().map(Sample::Arrays)
    }

    fn label(&self, index: usize) -> i64 {
        self.labels.get(index).copied().unwrap_or(-1)
    }

    fn name(&self, index: usize) -> String {
        format!("row {index}")
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn image_size(&self, _: usize) -> Option<[usize; 2]> {
        None
    }
}

/// Elements from their bytes; an incomplete last one is left out.
fn values(dtype: Dtype, bytes: &[u8], big_endian: bool) -> Values {
    fn each<const N: usize, T>(bytes: &[u8], big_endian: bool, from_le: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (elements, _) = bytes.as_chunks::<N>();
        let ordered = |&(mut element): &[u8; N]| {
            if big_endian {
                element.reverse();
            }
            from_le(element)
        };
        elements.iter().map(ordered).collect()
    }
    match dtype {
        Dtype::U8 => Values::U8(bytes.to_vec()),
        Dtype::I32 => Values::I32(each(bytes, big_endian, i32::from_le_bytes)),
        Dtype::I64 => Values::I64(each(bytes, big_endian, i64::from_le_bytes)),
        Dtype::F16 => Values::F16(each(bytes, big_endian, f16::from_le_bytes)),
        Dtype::F32 => Values::F32(each(bytes, big_endian, f32::from_le_bytes)),
        Dtype::F64 => Values::F64(each(bytes, big_endian, f64::from_le_bytes)),
    }
}

#[cfg(test)]
mod tests;
