//! One Parquet file: its footer, and columns of its row groups.

use crate::data::folder::shown_path;
use crate::data::open_file;
use crate::data::section::Section;
use crate::error::{Context, Error, Result};
use bytes::Bytes;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::DataType;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length};
use parquet::file::serialized_reader::SerializedFileReader;
use std::cell::Cell;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// Bytes read at once where the length of what is read is not known: a page's header.
const HEAD: usize = 4096;
/// The footer's length and the magic number, at the end of a file.
const TAIL: u64 = 8;

thread_local! {
    /// Whether a panic of this thread is caught and told as an error.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs code of the `parquet` crate, which panics on some damaged files (60.1 where a page's values
/// end early); such a panic is an error, and prints nothing.
fn caught<T>(run: impl FnOnce() -> ParquetResult<T>) -> ParquetResult<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !IS_CAUGHT.get() {
                others(info);
            }
        }));
    });
    IS_CAUGHT.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    IS_CAUGHT.set(false);
    result.unwrap_or_else(|_| Err(ParquetError::General("the bytes are damaged".to_owned())))
}

/// A file that is opened anew for each read: there may be more than a process may hold open.
struct Source {
    path: PathBuf,
    length: u64,
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Source {
    type T = BufReader<Section<File>>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let left = self.length.saturating_sub(start);
        let section = Section::new(crate::storage::open(&self.path)?, start, left);
        Ok(BufReader::with_capacity(HEAD, section))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!(
                "{length} bytes from byte {start}: beyond the end of the file"
            )));
        }
        let mut bytes = vec![0; length];
        crate::storage::open(&self.path)?.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A file whose footer is read.
pub(super) struct ParquetFile {
    /// Its path in messages.
    pub name: String,
    pub path: PathBuf,
    /// Bytes.
    pub length: u64,
    /// The footer as it is stored.
    pub footer: Vec<u8>,
    reader: SerializedFileReader<Source>,
}

impl ParquetFile {
    /// Reads a file's footer.
    ///
    /// # Errors
    /// If it is no Parquet file, or its end is missing or damaged.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = shown_path(path);
        let message = || format!("{name}: cannot be read");
        let (file, length) = open_file(path)?;
        let mut ends = [[0; 4]; 2];
        if length > 2 * TAIL {
            file.read_exact_at(&mut ends[0], 0).context(message)?;
            file.read_exact_at(&mut ends[1], length - 4).context(message)?;
        }
        if ends != [*b"PAR1"; 2] {
            let what = match (&ends[0], &ends[1]) {
                (b"PAR1", _) => "another end",
                (_, b"PARE") => "an encrypted one",
                _ => "another file",
            };
            return Err(Error::input(format!(
                "data {name}: expected a Parquet file, found {what}"
            ))
            .hint("a truncated file is to be fetched again"));
        }
        let mut size = [0; 4];
        file.read_exact_at(&mut size, length - TAIL).context(message)?;
        let size = u64::from(u32::from_le_bytes(size));
        let start = (length - TAIL).checked_sub(size).ok_or_else(|| {
            Error::input(format!(
                "data {name}: expected a footer of {size} bytes, found a file of {length}"
            ))
        })?;
        let mut footer = vec![0; usize::try_from(size).context(message)?];
        file.read_exact_at(&mut footer, start).context(message)?;
        let source = Source { path: path.to_owned(), length };
        let reader = caught(|| SerializedFileReader::new(source))
            .context(|| format!("data {name}: the footer cannot be read"))?;
        Ok(Self { name, path: path.to_owned(), length, footer, reader })
    }

    pub(super) fn metadata(&self) -> &ParquetMetaData {
        self.reader.metadata()
    }

    /// Values of a column in a row group: `rows` of them behind the first `skip`; `None` where the
    /// definition level is below `defined`.
    ///
    /// # Errors
    /// If a page is damaged, or rows are missing.
    pub(super) fn values<T: DataType>(
        &self,
        group: usize,
        leaf: usize,
        defined: i16,
        (skip, rows): (usize, usize),
    ) -> Result<Vec<Option<T::T>>> {
        let read = || -> ParquetResult<_> {
            let group = self.reader.get_row_group(group)?;
            let mut column = get_typed_column_reader::<T>(group.get_column_reader(leaf)?);
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let mut count = 0;
            if column.skip_records(skip)? == skip {
                while count < rows {
                    let (records, ..) =
                        column.read_records(rows - count, Some(&mut levels), None, &mut values)?;
                    if records == 0 {
                        break;
                    }
                    count += records;
                }
            }
            Ok((count, levels, values))
        };
        let place = || format!("{}: row group {group}: cannot be read", self.name);
        let (count, levels, values) = caught(read).context(place)?;
        let mut values = values.into_iter();
        let all: Vec<Option<T::T>> = if defined == 0 {
            values.map(Some).collect()
        } else {
            levels
                .iter()
                .map(|&level| if level == defined { values.next() } else { None })
                .collect()
        };
        if count != rows || all.len() != rows {
            return Err(Error::input(format!(
                "{}: row group {group}: expected {rows} rows behind {skip}, found {count}",
                self.name
            )));
        }
        Ok(all)
    }
}
