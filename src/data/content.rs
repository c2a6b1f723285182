//! Recognizes a file by its first bytes, whatever its name says.

use super::folder::shown_path;
use super::open_file;
use crate::error::{Context, Error, Result};
use flate2::read::MultiGzDecoder;
use std::io::{BufReader, Read};
use std::path::Path;

/// Bytes that suffice to recognize a file: one block of a tar archive.
const HEAD: usize = 512;

/// Kinds of file that can be read, and kinds that are only recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Tar,
    /// A gzipped tar archive.
    Gzip,
    Zip,
    Parquet,
    Empty,
    /// What it is, and what to do with it.
    Other(&'static str, &'static str),
    Unknown,
}

const TO_TAR: &str = "unpack it to a plain .tar first";
const TO_IMAGES: &str =
    "write the images out as files, one folder per class, or as arrays in a .npz file";

const KNOWN: [(&[u8], &str, &str); 27] = [
    (b"BZh", "bzip2", "unpack it to a plain .tar first: bzip2 -dk FILE"),
    (b"\xfd7zXZ\0", "xz", "unpack it to a plain .tar first: xz -dk FILE"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unpack it to a plain .tar first: zstd -d FILE"),
    (b"\x04\x22\x4d\x18", "lz4", "unpack it to a plain .tar first: lz4 -d FILE"),
    (b"LZIP", "lzip", "unpack it to a plain .tar first: lzip -dk FILE"),
    (b"\x5d\0\0", "lzma", "unpack it to a plain .tar first: xz -dk FILE"),
    (b"\x1f\x9d", "compress (.Z)", TO_TAR),
    (b"7z\xbc\xaf\x27\x1c", "7-zip", "unpack it (7z x FILE) and name the folder"),
    (b"Rar!\x1a\x07", "RAR", "unpack it (unrar x FILE) and name the folder"),
    (
        b"\x93NUMPY",
        "a single NumPy array",
        "put it into a .npz file, under the input's name, with numpy.savez",
    ),
    (b"\x89HDF\r\n\x1a\n", "HDF5 or MATLAB 7.3", TO_IMAGES),
    (b"MATLAB 5.0", "MATLAB", TO_IMAGES),
    (b"ARROW1", "Arrow", TO_IMAGES),
    (b"SQLite format 3\0", "SQLite", TO_IMAGES),
    (b"\x80\x02", "a Python pickle", TO_IMAGES),
    (b"\x80\x03", "a Python pickle", TO_IMAGES),
    (b"\x80\x04", "a Python pickle", TO_IMAGES),
    (b"\x80\x05", "a Python pickle", TO_IMAGES),
    (b"\0\0\x08\x01", "an IDX file", "name its folder: --data idx:DIR"),
    (b"\0\0\x08\x03", "an IDX file", "name its folder: --data idx:DIR"),
    (b"\xff\xd8\xff", "an image", "name the folder that holds the images"),
    (b"\x89PNG\r\n", "an image", "name the folder that holds the images"),
    (b"GIF8", "an image", "name the folder that holds the images"),
    (b"BM", "an image", "name the folder that holds the images"),
    (b"II*\0", "an image", "name the folder that holds the images"),
    (b"MM\0*", "an image", "name the folder that holds the images"),
    (b"%PDF", "a PDF", TO_IMAGES),
];

/// What a file is; for a gzip file, what it contains.
///
/// # Errors
/// If it cannot be read.
pub(super) fn of(path: &Path) -> Result<Content> {
    let (file, _) = open_file(path)?;
    let mut source = BufReader::new(file);
    let bytes = head(&mut source).context(|| format!("{}: cannot be read", shown_path(path)))?;
    match judge(&bytes) {
        Content::Gzip => {
            // data that cannot be unpacked fails later, with all of it in view
            let inner =
                head(MultiGzDecoder::new(bytes.as_slice().chain(source))).unwrap_or_default();
            Ok(match judge(&inner) {
                Content::Other(what, advice) => Content::Other(what, advice),
                Content::Parquet => Content::Other("a gzipped Parquet file", "unpack it first"),
                Content::Unknown if inner.len() == HEAD => {
                    Content::Other("a gzip file of something else", TO_TAR)
                }
                _ => Content::Gzip,
            })
        }
        content => Ok(content),
    }
}

fn head(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEAD);
    source.take(HEAD as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn judge(head: &[u8]) -> Content {
    if head.is_empty() {
        return Content::Empty;
    }
    if is_tar_block(head) {
        return Content::Tar;
    }
    if head.starts_with(b"\x1f\x8b") {
        return Content::Gzip;
    }
    if [b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"].iter().any(|magic| head.starts_with(*magic)) {
        return Content::Zip;
    }
    if head.starts_with(b"PAR1") {
        return Content::Parquet;
    }
    let known = KNOWN.iter().find(|(magic, ..)| head.starts_with(magic));
    known.map_or(Content::Unknown, |&(_, what, advice)| Content::Other(what, advice))
}

/// Whether a block is a tar header, by its checksum: the sum of its bytes, with the checksum field
/// counted as spaces. An empty archive is all zeros.
fn is_tar_block(head: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(block) = head.get(..HEAD) else { return false };
    if block.iter().all(|&b| b == 0) {
        return true;
    }
    let digits: String =
        block[SUM].iter().map(|&b| char::from(b)).filter(char::is_ascii_digit).collect();
    let sum = |value: &dyn Fn(u8) -> i64| -> i64 {
        block
            .iter()
            .enumerate()
            .map(|(i, &b)| if SUM.contains(&i) { i64::from(b' ') } else { value(b) })
            .sum()
    };
    // old writers summed signed bytes
    i64::from_str_radix(&digits, 8).is_ok_and(|found| {
        found == sum(&|b| i64::from(b)) || found == sum(&|b| i64::from(b.cast_signed()))
    })
}

/// The error for a file that is not a readable archive.
pub(super) fn refusal(path: &Path, content: Content) -> Error {
    let expected = format!(
        "data {}: expected a folder, .tar, .tar.gz, .tgz, .zip, .npz, .parquet or .csv",
        shown_path(path)
    );
    match content {
        Content::Empty => Error::input(format!("{expected}, found an empty file")),
        Content::Parquet => Error::input(format!("{expected}, found Parquet"))
            .hint("name its format: --data parquet:FILE"),
        Content::Other(what, advice) => {
            Error::input(format!("{expected}, found {what}")).hint(advice)
        }
        _ => Error::input(format!("{expected}, found another file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_and_not_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let content_of = |bytes: &[u8]| {
            let path = folder.path().join("x.tar");
            std::fs::write(&path, bytes).unwrap();
            super::of(&path).unwrap()
        };
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut header = ::tar::Header::new_old();
        header.set_size(1);
        builder.append_data(&mut header, "a", b"a".as_slice()).unwrap();
        let tar = builder.into_inner().unwrap();
        let gzip = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut encoder, bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(content_of(&tar), Content::Tar);
        assert_eq!(content_of(&[0; 1024]), Content::Tar);
        assert_eq!(content_of(&gzip(&tar)), Content::Gzip);
        assert_eq!(content_of(&gzip(&tar)[..20]), Content::Gzip);
        assert_eq!(content_of(b""), Content::Empty);
        assert_eq!(content_of(b"PK\x03\x04rest"), Content::Zip);
        assert_eq!(content_of(&[7; 2000]), Content::Unknown);
        let what = |bytes: &[u8]| match content_of(bytes) {
            Content::Other(what, _) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(what(b"BZh91AY"), "bzip2");
        assert_eq!(what(b"\x80\x04\x95"), "a Python pickle");
        assert_eq!(what(&gzip(&[0, 0, 8, 3, 0, 0])), "an IDX file");
        assert_eq!(what(&gzip(&[9; 600])), "a gzip file of something else");
    }
}
