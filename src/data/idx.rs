//! The IDX format of MNIST and its relatives: `[…]train-images-idx3-ubyte[.gz]`,
//! `[…]train-labels-idx1-ubyte[.gz]`, and `t10k-…` for the test split. The files are in the
//! named folder, in its `raw`, or one folder below, where torchvision leaves them.
//!
//! A file is a magic number (two zero bytes, the element type, the number of axes), the size of
//! each axis as a big-endian 32-bit number, and the elements.

use super::fingerprint::Listed;
use super::folder::shown_path;
use super::memory::{InMemory, numbered};
use super::{is_test, open_file};
use crate::data::spec::DataFormat;
use crate::error::{Context, Error, Result, shown};
use flate2::read::MultiGzDecoder;
use std::collections::BTreeSet;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Element types of integers: the code, the width in bytes, and whether they are signed.
const INTEGERS: [(u8, usize, bool); 4] =
    [(0x08, 1, false), (0x09, 1, true), (0x0b, 2, true), (0x0c, 4, true)];
/// Most subfolders of the named folder that are searched for data sets.
const MAX_BELOW: usize = 32;
/// Most bytes of elements held in memory.
const MAX_BYTES: u64 = 2 << 30;
/// Most unpacked bytes per gzip byte.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// A data set of IDX files.
struct Set {
    folder: PathBuf,
    /// What precedes `train-images` in its file names: empty, or a family's name such as
    /// `emnist-letters-`.
    prefix: String,
}

impl Set {
    /// The path that names this set alone.
    fn path(&self) -> PathBuf {
        match self.prefix.trim_end_matches(['-', '_', '.']) {
            "" => self.folder.clone(),
            stem => self.folder.join(stem),
        }
    }

    /// The file of a split and kind, preferring plain to gzipped; some mirrors write `.idx` for
    /// `-idx`.
    fn find(&self, test: bool, kind: &str) -> Result<Option<PathBuf>> {
        let names = names(&self.folder)?;
        let endings = endings(test, kind).map(|end| format!("{}{end}", self.prefix));
        let found = endings.into_iter().find(|name| names.contains(name));
        Ok(found.map(|name| self.folder.join(name)))
    }
}

/// The paths of the data sets in or below a folder.
pub(super) fn sets(folder: &Path) -> Result<Vec<String>> {
    choices(&locate(folder)?)
}

/// How to name each of several data sets.
fn choices(sets: &[Set]) -> Result<Vec<String>> {
    let choice = |set: &Set| {
        let beside =
            sets.iter().any(|other| other.folder == set.folder && other.prefix != set.prefix);
        let images = if beside && set.path() == set.folder {
            set.find(false, "images")?.or(set.find(true, "images")?)
        } else {
            None
        };
        Ok(shown_path(&images.unwrap_or_else(|| set.path())))
    };
    sets.iter().map(choice).collect()
}

/// Whether a path names one of several data sets in a folder: `emnist/emnist-letters`, or the path
/// of its images.
pub(super) fn is_named(path: &Path) -> bool {
    !path.is_dir() && named(path).is_ok_and(|set| set.is_some())
}

fn named(path: &Path) -> Result<Option<Set>> {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if path.exists() {
        let endings = [endings(false, "images"), endings(true, "images")].concat();
        let prefix = stem
            .to_str()
            .and_then(|name| endings.iter().find_map(|end| name.strip_suffix(end.as_str())));
        return Ok(
            prefix.map(|prefix| Set { folder: folder.to_owned(), prefix: prefix.to_owned() })
        );
    }
    let is_it = |set: &Set| set.path().file_name() == Some(stem) && !set.prefix.is_empty();
    Ok(sets_in(folder)?.into_iter().find(is_it))
}

/// The data sets in the first place that has any: a folder, its `raw`, or its subfolders.
fn locate(folder: &Path) -> Result<Vec<Set>> {
    let mut found = sets_in(folder)?;
    if found.is_empty() && folder.join("raw").is_dir() {
        found = sets_in(&folder.join("raw"))?;
    }
    if found.is_empty() {
        let below: Vec<PathBuf> = names(folder)?
            .into_iter()
            .map(|name| folder.join(name))
            .filter(|below| below.is_dir())
            .collect();
        // more subfolders than this are classes of images
        for below in below.iter().filter(|_| below.len() <= MAX_BELOW) {
            // an unreadable folder is reported when it is named
            found.extend(sets_in(below).unwrap_or_default());
            found.extend(sets_in(&below.join("raw")).unwrap_or_default());
        }
    }
    Ok(found)
}

fn sets_in(folder: &Path) -> Result<Vec<Set>> {
    let endings: Vec<String> =
        [false, true].into_iter().flat_map(|test| endings(test, "images")).collect();
    let names = names(folder)?;
    let prefixes: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| endings.iter().find_map(|end| name.strip_suffix(end.as_str())))
        .collect();
    Ok(prefixes
        .into_iter()
        .map(|prefix| Set { folder: folder.to_owned(), prefix: prefix.to_owned() })
        .collect())
}

/// The file names in a folder that are UTF-8, sorted.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let message = || format!("data {}: cannot be read", shown_path(folder));
    let mut names = BTreeSet::new();
    for item in std::fs::read_dir(folder).context(message)? {
        names.extend(item.context(message)?.file_name().into_string());
    }
    Ok(names)
}

/// Endings of the names of a split's files of a kind, the likeliest first.
fn endings(test: bool, kind: &str) -> [String; 8] {
    let parts = if test { ["t10k", "test"] } else { ["train", "training"] };
    let axes = if kind == "images" { 3 } else { 1 };
    std::array::from_fn(|i| {
        let (part, dash, packed) = (parts[i / 4], ["-", "."][i / 2 % 2], ["", ".gz"][i % 2]);
        format!("{part}-{kind}{dash}idx{axes}-ubyte{packed}")
    })
}

/// Reads a split.
pub(super) fn open(path: &Path, split: &str) -> Result<InMemory> {
    let name = shown_path(path);
    let test = is_test(&name, split)?;
    let mut sets = if path.is_dir() { locate(path)? } else { named(path)?.into_iter().collect() };
    if sets.len() > 1 {
        let choices: Vec<_> =
            choices(&sets)?.into_iter().map(|path| format!("idx:{path}")).collect();
        return Err(Error::input(format!(
            "data {name}: expected one data set, found {}",
            choices.join(", ")
        ))
        .hint("name the one you mean"));
    }
    let set = sets.pop().unwrap_or_else(|| Set { folder: path.to_owned(), prefix: String::new() });
    let read = |kind: &str| {
        let found = set.find(test, kind)?.ok_or_else(|| {
            let prefix = if test { "t10k" } else { "train" };
            let others = names(&set.folder)
                .unwrap_or_default()
                .into_iter()
                .filter(|name| name.contains(kind))
                .take(4);
            let others: Vec<_> = others.map(|name| shown(name.as_bytes())).collect();
            let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            Error::input(format!(
                "data {}: expected {}{prefix}-{kind}-idx*-ubyte or the same with .gz, found \
                 {others}",
                shown_path(&set.folder),
                set.prefix
            ))
        })?;
        read_file(&found).map(|array| (shown_path(&found), array))
    };
    let ((images_name, images), (labels_name, labels)) = (read("images")?, read("labels")?);
    join(DataFormat::Idx, (&images_name, images), (&labels_name, labels))
}

/// The shape and elements of one file.
pub(super) struct Idx {
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Joins images and labels into a data set.
pub(super) fn join(
    format: DataFormat,
    images: (&str, Idx),
    labels: (&str, Idx),
) -> Result<InMemory> {
    let ((images_name, images), (labels_name, labels)) = (images, labels);
    let &[count, height, width] = images.shape.as_slice() else {
        return Err(Error::input(format!(
            "{images_name}: expected 3 axes [image, row, column], found {}",
            images.shape.len()
        )));
    };
    if labels.shape != [count] {
        return Err(Error::input(format!(
            "{labels_name}: expected one axis of {count} labels, found axes {:?}",
            labels.shape
        )));
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

fn read_file(path: &Path) -> Result<Idx> {
    let (mut file, length) = open_file(path)?;
    let name = shown_path(path);
    let mut magic = [0; 2];
    let packed = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.seek(SeekFrom::Start(0)).context(|| format!("{name}: cannot be read"))?;
    if packed {
        read_gzip(BufReader::new(file), length, &name)
    } else {
        read(BufReader::new(file), length, &name)
    }
}

/// Reads a gzipped file of `length` bytes.
pub(super) fn read_gzip(source: impl Read, length: u64, name: &str) -> Result<Idx> {
    read(MultiGzDecoder::new(source), length.saturating_mul(MAX_DEFLATE_RATIO), name)
}

/// Reads one array from a source that yields at most `most` bytes.
fn read(mut source: impl Read, most: u64, name: &str) -> Result<Idx> {
    let truncated = || format!("{name}: cannot be read as an IDX file");
    let mut magic = [0; 4];
    source.read_exact(&mut magic).context(truncated)?;
    let [0, 0, element, axes] = magic else {
        return Err(Error::input(format!(
            "{name}: expected an IDX file, found another magic number {magic:02x?}"
        )));
    };
    let Some(&(_, width, signed)) =
        INTEGERS.iter().find(|(kind, ..)| *kind == element && (*kind == 0x08 || axes == 1))
    else {
        return Err(Error::input(format!(
            "{name}: expected unsigned bytes over 1 or 3 axes, or integers over 1, found element \
             type {element:#04x} over {axes}"
        )));
    };
    if !matches!(axes, 1 | 3) {
        return Err(Error::input(format!("{name}: expected 1 or 3 axes, found {axes}")));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let mut size = [0; 4];
        source.read_exact(&mut size).context(truncated)?;
        shape.push(u32::from_be_bytes(size));
    }
    let count = shape
        .iter()
        .try_fold(width as u64, |n, &d| n.checked_mul(u64::from(d)))
        .filter(|&n| n > 0 && n <= MAX_BYTES && n <= most);
    let Some(count) = count else {
        return Err(Error::input(format!(
            "{name}: expected axes that fit the file, found {shape:?}"
        )));
    };
    let mut data = Vec::new();
    source.take(count + 1).read_to_end(&mut data).context(truncated)?;
    if data.len() as u64 != count {
        let found = if data.len() as u64 > count { "more".into() } else { data.len().to_string() };
        return Err(Error::input(format!(
            "{name}: expected {count} bytes for axes {shape:?}, found {found}"
        )));
    }
    if (width, signed) != (1, false) {
        data = data.chunks_exact(width).map(small).collect::<Option<_>>().ok_or_else(|| {
            Error::input(format!("{name}: expected labels from 0 to {}, found others", u8::MAX))
        })?;
    }
    Ok(Idx { shape: shape.into_iter().map(|d| d as usize).collect(), data })
}

/// A big-endian signed integer that fits a byte.
fn small(element: &[u8]) -> Option<u8> {
    let (last, high) = element.split_last()?;
    let fits = high.iter().all(|&b| b == 0) && (!high.is_empty() || last.is_ascii());
    fits.then_some(*last)
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
        assert_eq!(
            (image.height, image.width, image.channels, image.pixels),
            (1, 3, 1, vec![4, 5, 6])
        );
        assert_eq!(
            (set.label(1), set.classes()),
            (2, ["0", "1", "2"].map(String::from).as_slice())
        );
        assert!(set.sample(2).is_err());
    }

    #[test]
    fn a_folder_is_read_packed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let images = file(&[1, 2, 2], &[9; 4]);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packed, &images).unwrap();
        write("t10k-images-idx3-ubyte.gz", &packed.finish().unwrap());
        write("t10k-labels.idx1-ubyte", &file(&[1], &[3]));
        assert_eq!(sets(folder.path()).unwrap().len(), 1);
        assert_eq!(open(folder.path(), "test").unwrap().label(0), 3);
        assert!(
            open(folder.path(), "train")
                .err()
                .unwrap()
                .to_string()
                .contains("expected train-images")
        );
        assert!(open(folder.path(), "val").is_err());
    }

    #[test]
    fn labels_are_integers_of_any_width() {
        let bytes = |kind: u8, data: &[u8]| [&[0, 0, kind, 1, 0, 0, 0, 2][..], data].concat();
        assert_eq!(read_bytes(&bytes(12, &[0, 0, 0, 3, 0, 0, 0, 200])).unwrap().data, [3, 200]);
        assert_eq!(read_bytes(&bytes(11, &[0, 3, 0, 200])).unwrap().data, [3, 200]);
        assert_eq!(read_bytes(&bytes(9, &[3, 100])).unwrap().data, [3, 100]);
        for (kind, data) in
            [(12, &[0, 0, 1, 0, 0, 0, 0, 0][..]), (11, &[0xff, 0xff, 0, 0]), (9, &[0xff, 0])]
        {
            assert!(
                read_bytes(&bytes(kind, data))
                    .err()
                    .unwrap()
                    .to_string()
                    .contains("labels from 0 to 255")
            );
        }
    }

    #[test]
    fn sets_lie_where_other_tools_leave_them_and_one_of_several_is_named() {
        let root = tempfile::tempdir().unwrap();
        let write = |place: &str, family: &str, label: u8| {
            let folder = root.path().join(place);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(
                folder.join(format!("{family}train-images-idx3-ubyte")),
                file(&[1, 2, 2], &[9; 4]),
            )
            .unwrap();
            std::fs::write(
                folder.join(format!("{family}train-labels-idx1-ubyte")),
                file(&[1], &[label]),
            )
            .unwrap();
        };
        let label = |place: &str| open(&root.path().join(place), "train").map(|set| set.label(0));
        write("tv/MNIST/raw", "", 4);
        for place in ["tv", "tv/MNIST", "tv/MNIST/raw"] {
            assert_eq!(label(place).unwrap(), 4, "{place}");
        }
        write("two", "emnist-letters-", 1);
        write("two", "emnist-digits-", 2);
        let error = label("two").unwrap_err().to_string();
        assert!(
            error.contains("two/emnist-digits") && error.contains("two/emnist-letters"),
            "{error}"
        );
        assert_eq!(
            (label("two/emnist-letters").unwrap(), label("two/emnist-digits").unwrap()),
            (1, 2)
        );
        assert!(
            is_named(&root.path().join("two/emnist-letters"))
                && !is_named(&root.path().join("two/emnist"))
        );
        write("two", "", 3);
        let error = label("two").unwrap_err().to_string();
        assert!(error.contains("two/train-images-idx3-ubyte"), "{error}");
        assert_eq!(label("two/train-images-idx3-ubyte").unwrap(), 3);
        assert_eq!(label("two/emnist-letters-train-images-idx3-ubyte").unwrap(), 1);
        write("tv/FashionMNIST/raw", "", 5);
        assert!(label("tv").unwrap_err().to_string().contains("FashionMNIST"));
        std::fs::rename(
            root.path().join("two/emnist-digits-train-labels-idx1-ubyte"),
            root.path().join("two/emnist-digits-train-labels-idx2-int"),
        )
        .unwrap();
        assert!(
            label("two/emnist-digits")
                .unwrap_err()
                .to_string()
                .contains("found emnist-digits-train-labels-idx2-int")
        );
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
        fails(&[0, 0, 8, 2, 0, 0, 0, 1, 0], "found 2");
        fails(&[0, 0, 12, 3, 0, 0, 0, 1, 0], "element type 0x0c over 3");
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
