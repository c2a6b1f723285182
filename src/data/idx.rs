//! The IDX format of MNIST and its kin: `[…]train-images-idx3-ubyte[.gz]`, `[…]train-labels-idx1-ubyte[.gz]`, and `t10k-…` for the test split.
//!
//! A file is a magic number (two zero bytes, the element type, the number of axes), each axis' size as a big-endian 32-bit number, and the elements.

use super::fingerprint::Listed;
use super::memory::{InMemory, numbered};
use super::{is_test, open_file};
use crate::error::{Context, Error, Result};
use crate::recipe::DataFormat;
use flate2::read::MultiGzDecoder;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Element type of unsigned bytes.
const UNSIGNED_BYTE: u8 = 8;
/// Most bytes of elements that are held in memory.
const MAX_BYTES: u64 = 2 << 30;
/// Most unpacked bytes that one gzip byte can stand for.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// Whether a folder holds IDX files.
pub(super) fn is_there(folder: &Path) -> Result<bool> {
    Ok(find(folder, false, "images")?.is_some() || find(folder, true, "images")?.is_some())
}

/// Reads a split.
pub(super) fn open(folder: &Path, split: &str) -> Result<InMemory> {
    let test = is_test(&folder.display().to_string(), split)?;
    let read = |kind: &str| {
        let path = find(folder, test, kind)?.ok_or_else(|| {
            let prefix = if test { "t10k" } else { "train" };
            Error::input(format!("data {}: expected {prefix}-{kind}-idx*-ubyte or the same with .gz, found none", folder.display()))
        })?;
        read_file(&path).map(|array| (path.display().to_string(), array))
    };
    let ((images_name, images), (labels_name, labels)) = (read("images")?, read("labels")?);
    join(DataFormat::Idx, (&images_name, images), (&labels_name, labels))
}

/// The elements of one file.
pub(super) struct Idx {
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Joins images and labels to a data set.
pub(super) fn join(format: DataFormat, images: (&str, Idx), labels: (&str, Idx)) -> Result<InMemory> {
    let ((images_name, images), (labels_name, labels)) = (images, labels);
    let &[count, height, width] = images.shape.as_slice() else {
        return Err(Error::input(format!("{images_name}: expected 3 axes [image, row, column], found {}", images.shape.len())));
    };
    if labels.shape != [count] {
        return Err(Error::input(format!("{labels_name}: expected one axis of {count} labels, found axes {:?}", labels.shape)));
    }
    let mut listed = Listed::new();
    listed.file(format!("{height}x{width}").as_bytes(), images.data.len() as u64);
    listed.bytes(&images.data);
    listed.bytes(&labels.data);
    Ok(InMemory {
        shape: [height, width, 1],
        planar: false,
        classes: numbered(labels.data.iter().max().map_or(0, |&top| usize::from(top) + 1)),
        fingerprint: listed.finish(format, count),
        pixels: images.data,
        labels: labels.data,
    })
}

/// The file of a split and kind, a plain one before a packed one. Families such as EMNIST put their name in front; some mirrors write `.idx` for `-idx`.
fn find(folder: &Path, test: bool, kind: &str) -> Result<Option<PathBuf>> {
    let message = || format!("data {}: cannot be read", folder.display());
    let prefixes: &[&str] = if test { &["t10k", "test"] } else { &["train"] };
    let axes = if kind == "images" { 3 } else { 1 };
    let endings: Vec<String> = prefixes
        .iter()
        .flat_map(|prefix| ["-", "."].map(|dash| format!("{prefix}-{kind}{dash}idx{axes}-ubyte")))
        .flat_map(|stem| [stem.clone(), stem + ".gz"])
        .collect();
    let mut names = Vec::new();
    for item in std::fs::read_dir(folder).context(message)? {
        names.push(item.context(message)?.file_name());
    }
    names.sort();
    let found = endings.iter().find_map(|end| names.iter().find(|name| name.to_string_lossy().ends_with(end.as_str())));
    Ok(found.map(|name| folder.join(name)))
}

fn read_file(path: &Path) -> Result<Idx> {
    let (mut file, length) = open_file(path)?;
    let name = path.display().to_string();
    let mut magic = [0; 2];
    let packed = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.seek(SeekFrom::Start(0)).context(|| format!("{name}: cannot be read"))?;
    if packed { read_gzip(BufReader::new(file), length, &name) } else { read(BufReader::new(file), length, &name) }
}

/// Reads a packed file of `length` bytes.
pub(super) fn read_gzip(source: impl Read, length: u64, name: &str) -> Result<Idx> {
    read(MultiGzDecoder::new(source), length.saturating_mul(MAX_DEFLATE_RATIO), name)
}

/// Reads one array from a source that cannot yield more than `most` bytes.
fn read(mut source: impl Read, most: u64, name: &str) -> Result<Idx> {
    let truncated = || format!("{name}: cannot be read as an IDX file");
    let mut magic = [0; 4];
    source.read_exact(&mut magic).context(truncated)?;
    let [0, 0, element, axes] = magic else {
        return Err(Error::input(format!("{name}: expected an IDX file, found another magic number {magic:02x?}")));
    };
    if element != UNSIGNED_BYTE || !matches!(axes, 1 | 3) {
        return Err(Error::input(format!(
            "{name}: expected unsigned bytes over 1 or 3 axes, found element type {element:#04x} over {axes}"
        )));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let mut size = [0; 4];
        source.read_exact(&mut size).context(truncated)?;
        shape.push(u32::from_be_bytes(size));
    }
    let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::from(d))).filter(|&n| n > 0 && n <= MAX_BYTES && n <= most);
    let Some(count) = count else {
        return Err(Error::input(format!("{name}: expected axes that fit the file, found {shape:?}")));
    };
    let mut data = Vec::new();
    source.take(count + 1).read_to_end(&mut data).context(truncated)?;
    if data.len() as u64 != count {
        let found = if data.len() as u64 > count { "more".into() } else { data.len().to_string() };
        return Err(Error::input(format!("{name}: expected {count} bytes for axes {shape:?}, found {found}")));
    }
    Ok(Idx { shape: shape.into_iter().map(|d| d as usize).collect(), data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Sample};

    fn file(axes: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, u8::try_from(axes.len()).unwrap()];
        for size in axes {
            bytes.extend(size.to_be_bytes());
        }
        bytes.extend(data);
        bytes
    }

    fn read_bytes(bytes: &[u8]) -> Result<Idx> {
        read(bytes, bytes.len() as u64, "x")
    }

    #[test]
    fn rows_are_images() {
        let images = read_bytes(&file(&[2, 1, 3], &[1, 2, 3, 4, 5, 6])).unwrap();
        let labels = read_bytes(&file(&[2], &[0, 2])).unwrap();
        let set = join(DataFormat::Idx, ("i", images), ("l", labels)).unwrap();
        let Sample::Image(image) = set.sample(1).unwrap() else { panic!("an image") };
        assert_eq!((image.height, image.width, image.channels, image.pixels), (1, 3, 1, vec![4, 5, 6]));
        assert_eq!((set.label(1), set.classes()), (2, ["0", "1", "2"].map(String::from).as_slice()));
        assert!(set.sample(2).is_err());
    }

    #[test]
    fn a_folder_is_read_packed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let images = file(&[1, 2, 2], &[9; 4]);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packed, &images).unwrap();
        write("t10k-images-idx3-ubyte.gz", &packed.finish().unwrap());
        write("t10k-labels.idx1-ubyte", &file(&[1], &[3]));
        assert!(is_there(folder.path()).unwrap());
        assert_eq!(open(folder.path(), "test").unwrap().label(0), 3);
        assert!(open(folder.path(), "train").err().unwrap().to_string().contains("expected train-images"));
        assert!(open(folder.path(), "val").is_err());
    }

    #[test]
    fn hostile_headers_are_refused_before_anything_is_allocated() {
        let fails = |bytes: &[u8], what: &str| {
            let error = read_bytes(bytes).err().unwrap();
            assert!(error.chain().contains(what), "{what}: {}", error.chain());
        };
        fails(b"", "cannot be read as an IDX file");
        fails(&[1, 2, 8, 1, 0, 0, 0, 1, 0], "magic number");
        fails(&[0, 0, 13, 1, 0, 0, 0, 1, 0], "element type 0x0d");
        fails(&[0, 0, 8, 2, 0, 0, 0, 1, 0], "over 2");
        fails(&[0, 0, 8, 3, 0, 0, 0, 1, 0], "cannot be read");
        fails(&file(&[u32::MAX, u32::MAX, u32::MAX], &[0]), "axes that fit the file");
        fails(&file(&[1000, 1000, 1000], &[0]), "axes that fit the file");
        fails(&file(&[u32::MAX, 0, 28], &[0]), "axes that fit the file");
        fails(&file(&[3], &[0, 1]), "expected 3 bytes for axes [3], found 2");
        fails(&file(&[1], &[0, 1]), "found more");
        let images = read_bytes(&file(&[2, 1, 1], &[1, 2])).unwrap();
        let labels = read_bytes(&file(&[1], &[0])).unwrap();
        let error = join(DataFormat::Idx, ("i", images), ("labels", labels)).err().unwrap();
        assert_eq!(error.to_string(), "labels: expected one axis of 2 labels, found axes [1]");
    }
}
