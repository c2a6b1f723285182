//! Rewrites arrays from Fortran order to row-major order.

use super::{NpzFiles, Region};
use crate::data::npy;
use crate::error::{Context, Error, Result};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// Bytes of rows gathered at once.
const BLOCK: usize = 64 << 20;
/// Most elements of a row, since a table holds the position of each.
const MAX_ROW: u64 = 1 << 26;

/// Writes an array's rows one after another to the temporary file; returns their region.
///
/// # Errors
/// If rows are too large, or the disk is too full.
pub(super) fn lay_out(
    files: &mut NpzFiles,
    region: Region,
    shape: &[u64],
    width: usize,
    name: &str,
) -> Result<Region> {
    let (Some(&rows), Some(row)) = (shape.first(), shape.get(1..)) else { return Ok(region) };
    let elements = row.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_ROW);
    if elements.is_none() {
        return Err(Error::input(format!(
            "expected rows of at most {MAX_ROW} elements in Fortran order"
        ))
        .hint("save it through numpy.ascontiguousarray"));
    }
    let offset = files.unpacked.length();
    let context = || "cannot be read".to_owned();
    let file = files.file(region).try_clone().context(context)?;
    let places = npy::c_order(row);
    let block = (BLOCK / (places.len() * width).max(1)).max(1) as u64;
    let gather = RowMajorReader {
        file,
        offset: region.offset,
        rows,
        width,
        places,
        block,
        next: 0,
        ready: Vec::new(),
        given: 0,
    };
    let found = files.unpacked.append(gather, region.length, name)?;
    if found != region.length {
        return Err(Error::input(format!("expected {} bytes, found {found}", region.length)));
    }
    Ok(Region { unpacked: true, offset, length: found })
}

/// Reads an array in Fortran order as if its rows were contiguous.
struct RowMajorReader {
    file: File,
    offset: u64,
    rows: u64,
    width: usize,
    /// For each element of a row, its column in the file; each column holds one element of every
    /// row.
    places: Vec<usize>,
    /// Rows of a block.
    block: u64,
    /// The first row of the next block.
    next: u64,
    ready: Vec<u8>,
    given: usize,
}

impl RowMajorReader {
    fn fill(&mut self) -> std::io::Result<()> {
        let rows = self.block.min(self.rows - self.next);
        let count = usize::try_from(rows).map_err(std::io::Error::other)?;
        let row = self.places.len() * self.width;
        self.ready.clear();
        self.ready.resize(count * row, 0);
        self.given = 0;
        let mut column = vec![0; count * self.width];
        for (at, &place) in self.places.iter().enumerate() {
            // the header was checked against the available bytes, so no product overflows
            let start = self.offset + (place as u64 * self.rows + self.next) * self.width as u64;
            self.file.read_exact_at(&mut column, start)?;
            for (row, element) in
                self.ready.chunks_exact_mut(row).zip(column.chunks_exact(self.width))
            {
                row[at * self.width..][..self.width].copy_from_slice(element);
            }
        }
        self.next += rows;
        Ok(())
    }
}

impl Read for RowMajorReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given == self.ready.len() && self.next < self.rows {
            self.fill()?;
        }
        let rest = self.ready.get(self.given..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.given += count;
        Ok(count)
    }
}
