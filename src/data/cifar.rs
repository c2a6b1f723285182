//! CIFAR-10 and CIFAR-100. The binary versions are records of one (or two) label bytes and 3,072
//! bytes of red, green and blue planes; the Python versions are pickles of the same planes, and
//! yield the same data set.

use super::fingerprint::Listed;
use super::folder::shown_path;
use super::memory::{InMemory, numbered};
use super::pickle::{self, Value};
use super::{is_test, open_file};
use crate::data::spec::DataFormat;
use crate::error::{Context, Error, Result, shown};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes of one image, `[3, 32, 32]`.
const PIXELS: usize = 3 * 32 * 32;
/// Largest file, in bytes; the largest original file has 154 million.
const MAX_FILE: u64 = 1 << 30;
/// Largest pickle, in bytes, which is held whole; the largest original one has 156 million.
const MAX_PICKLE: u64 = 1 << 29;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Cifar10,
    Cifar100,
}

impl Version {
    pub(super) fn format(self) -> DataFormat {
        match self {
            Self::Cifar10 => DataFormat::Cifar10,
            Self::Cifar100 => DataFormat::Cifar100,
        }
    }

    fn classes(self) -> usize {
        match self {
            Self::Cifar10 => 10,
            Self::Cifar100 => 100,
        }
    }

    /// Label bytes of a record; the last one counts, since CIFAR-100 has the coarse label before
    /// the fine one.
    fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }

    fn names_file(self) -> &'static str {
        match self {
            Self::Cifar10 => "batches.meta.txt",
            Self::Cifar100 => "fine_label_names.txt",
        }
    }

    /// The folder that the original archive unpacks to.
    fn subfolder(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-bin",
            Self::Cifar100 => "cifar-100-binary",
        }
    }

    /// The folder that the archive of the Python version unpacks to.
    fn python_subfolder(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-py",
            Self::Cifar100 => "cifar-100-python",
        }
    }

    /// The folder that has the files of the Python version, if one has.
    pub(super) fn python(self, folder: &Path) -> Option<PathBuf> {
        // a file `train` alone does not mean CIFAR-100
        let files = match self {
            Self::Cifar10 => ["data_batch_1", "data_batch_1"],
            Self::Cifar100 => ["train", "meta"],
        };
        [folder.join(self.python_subfolder()), folder.to_owned()]
            .into_iter()
            .find(|folder| files.iter().all(|file| folder.join(file).is_file()))
    }

    /// The files of the Python version, in the order of [`Self::files`].
    fn python_files(self, test: bool) -> &'static [&'static str] {
        match (self, test) {
            (Self::Cifar10, false) => {
                &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]
            }
            (Self::Cifar10, true) => &["test_batch"],
            (Self::Cifar100, false) => &["train"],
            (Self::Cifar100, true) => &["test"],
        }
    }

    /// The Python version's file of names, its key there, and the key of labels.
    fn python_keys(self) -> (&'static str, &'static [u8], &'static [u8]) {
        match self {
            Self::Cifar10 => ("batches.meta", b"label_names", b"labels"),
            Self::Cifar100 => ("meta", b"fine_label_names", b"fine_labels"),
        }
    }

    /// Whether its files are in a folder or in its subfolder.
    pub(super) fn is_there(self, folder: &Path) -> bool {
        let holds = |name: &str| folder.join(name).exists();
        let own = match self {
            Self::Cifar10 => holds("data_batch_1.bin"),
            Self::Cifar100 => holds("train.bin") && holds("fine_label_names.txt"),
        };
        own || holds(self.subfolder())
    }

    fn files(self, test: bool) -> &'static [&'static str] {
        match (self, test) {
            (Self::Cifar10, false) => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            (Self::Cifar10, true) => &["test_batch.bin"],
            (Self::Cifar100, false) => &["train.bin"],
            (Self::Cifar100, true) => &["test.bin"],
        }
    }

    /// Class names that are known without a file.
    fn known_names(self) -> Vec<String> {
        match self {
            Self::Cifar10 => [
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ]
            .map(String::from)
            .to_vec(),
            Self::Cifar100 => numbered(100),
        }
    }
}

/// Refuses CIFAR's versions that are not what is read as a folder of images.
///
/// # Errors
/// If a folder holds the MATLAB version, or the Python version, and not the binary one.
pub(super) fn refuse_other_versions(folder: &Path) -> Result<()> {
    const MATLAB: [(&str, [&str; 2], Version); 2] = [
        ("cifar-10-batches-mat", ["data_batch_1.mat", "data_batch_1.mat"], Version::Cifar10),
        ("cifar-100-matlab", ["train.mat", "meta.mat"], Version::Cifar100),
    ];
    for (subfolder, files, version) in MATLAB {
        let is_it = |folder: &Path| files.iter().all(|file| folder.join(file).is_file());
        let matlab = [folder.join(subfolder), folder.to_owned()].into_iter().find(|f| is_it(f));
        let (archive, prefix) = match version {
            Version::Cifar10 => ("cifar-10-binary.tar.gz", "cifar10"),
            Version::Cifar100 => ("cifar-100-binary.tar.gz", "cifar100"),
        };
        if version.is_there(folder) {
            continue;
        }
        if let Some(there) = version.python(folder) {
            let there = shown_path(&there);
            return Err(Error::input(format!(
                "data {there}: expected a folder of images, found CIFAR for Python"
            ))
            .hint(format!("name its format: --data {prefix}:{there}")));
        }
        if let Some(there) = matlab {
            return Err(Error::input(format!(
                "data {}: expected the binary version of CIFAR, found the one for MATLAB",
                shown_path(&there)
            ))
            .hint(format!("fetch and unpack {archive}, then --data {prefix}:DIR")));
        }
    }
    Ok(())
}

/// Reads a split.
pub(super) fn open(version: Version, folder: &Path, split: &str) -> Result<InMemory> {
    let test = is_test(&shown_path(folder), split)?;
    let unpacked = folder.join(version.subfolder());
    let folder = if unpacked.is_dir() { unpacked.as_path() } else { folder };
    let python = if version.is_there(folder) { None } else { version.python(folder) };
    if python.is_none() && !version.is_there(folder) {
        refuse_other_versions(folder)?;
    }
    let (mut pixels, mut labels, mut listed) = (Vec::new(), Vec::new(), Listed::new());
    for (name, python_name) in version.files(test).iter().zip(version.python_files(test)) {
        let before = pixels.len();
        match &python {
            Some(folder) => {
                read_python(version, &folder.join(python_name), &mut pixels, &mut labels)?;
            }
            None => read(version, &folder.join(name), &mut pixels, &mut labels)?,
        }
        listed.file(name.as_bytes(), (pixels.len() - before) as u64);
    }
    let classes = match &python {
        Some(folder) => python_class_names(version, folder)?,
        None => class_names(version, folder)?,
    };
    listed.bytes(&pixels);
    listed.bytes(&labels);
    listed.bytes(classes.join("\n").as_bytes());
    let fingerprint = listed.finish(version.format(), labels.len());
    Ok(InMemory { shape: [32, 32, 3], planar: true, pixels, labels, classes, fingerprint })
}

/// Appends the records of one file.
fn read(version: Version, path: &Path, pixels: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<()> {
    let (file, length) = open_file(path)?;
    let name = shown_path(path);
    let record = PIXELS + version.label_bytes();
    if length == 0 || length > MAX_FILE || length % record as u64 != 0 {
        return Err(Error::input(format!(
            "{name}: expected a whole number of records of {record} bytes, found {length} bytes"
        )));
    }
    let mut file = BufReader::with_capacity(1 << 18, file);
    let mut bytes = vec![0; record];
    for row in 0..length / record as u64 {
        file.read_exact(&mut bytes).context(|| format!("{name}: cannot be read"))?;
        let (head, image) = bytes.split_at(version.label_bytes());
        let label = head.last().copied().unwrap_or(u8::MAX);
        if usize::from(label) >= version.classes() {
            return Err(Error::input(format!(
                "{name}: row {row}: expected a label below {}, found {label}",
                version.classes()
            )));
        }
        labels.push(label);
        pixels.extend_from_slice(image);
    }
    Ok(())
}

/// The bytes of a pickle.
fn pickled(path: &Path) -> Result<Vec<u8>> {
    let (file, length) = open_file(path)?;
    let name = shown_path(path);
    if length > MAX_PICKLE {
        return Err(Error::input(format!(
            "{name}: expected at most {MAX_PICKLE} bytes, found {length}"
        )));
    }
    let mut bytes = Vec::new();
    file.take(MAX_PICKLE).read_to_end(&mut bytes).context(|| format!("{name}: cannot be read"))?;
    Ok(bytes)
}

/// Appends the rows of one pickle.
fn read_python(
    version: Version,
    path: &Path,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u8>,
) -> Result<()> {
    let (name, bytes) = (shown_path(path), pickled(path)?);
    let found = pickle::dictionary(&bytes).context(|| name.clone())?;
    let (_, _, key) = version.python_keys();
    let Some(Value::Array { shape, bytes }) = found.get(b"data".as_slice()) else {
        return Err(Error::input(format!("{name}: expected an array `data`, found none")));
    };
    let Some(Value::List(values)) = found.get(key) else {
        return Err(Error::input(format!("{name}: expected a list `{}`, found none", shown(key))));
    };
    let rows = bytes.len() / PIXELS;
    if rows == 0 || *shape != [rows as u64, PIXELS as u64].map(u64::cast_signed) {
        return Err(Error::input(format!(
            "{name}: expected `data` of shape [rows, {PIXELS}], found {shape:?}"
        )));
    }
    if values.len() != rows {
        return Err(Error::input(format!(
            "{name}: expected {rows} labels, found {}",
            values.len()
        )));
    }
    for (row, value) in values.iter().enumerate() {
        let label = match value {
            Value::Number(label) => u8::try_from(*label).ok(),
            _ => None,
        };
        let label = label.filter(|&label| usize::from(label) < version.classes());
        labels.push(label.ok_or_else(|| {
            Error::input(format!(
                "{name}: row {row}: expected a label below {}, found another",
                version.classes()
            ))
        })?);
    }
    pixels.extend_from_slice(bytes);
    Ok(())
}

/// The names in the Python version's own file.
fn python_class_names(version: Version, folder: &Path) -> Result<Vec<String>> {
    let (file, key, _) = version.python_keys();
    let path = folder.join(file);
    if !path.exists() {
        return Ok(version.known_names());
    }
    let (name, bytes) = (shown_path(&path), pickled(&path)?);
    let found = pickle::dictionary(&bytes).context(|| name.clone())?;
    let names = match found.get(key) {
        Some(Value::List(names)) => names.iter().map(text).collect::<Option<Vec<String>>>(),
        _ => None,
    };
    names.filter(|names| names.len() == version.classes()).ok_or_else(|| {
        Error::input(format!(
            "{name}: expected {} class names in `{}`, found another number",
            version.classes(),
            shown(key)
        ))
    })
}

fn text(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Text(text) => std::str::from_utf8(text).ok().map(str::to_owned),
        _ => None,
    }
}

fn class_names(version: Version, folder: &Path) -> Result<Vec<String>> {
    let path = folder.join(version.names_file());
    if !path.exists() {
        return Ok(version.known_names());
    }
    let (file, _) = open_file(&path)?;
    let mut text = String::new();
    file.take(1 << 16)
        .read_to_string(&mut text)
        .context(|| format!("{}: cannot be read", shown_path(&path)))?;
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if names.len() == version.classes() {
        return Ok(names);
    }
    Err(Error::input(format!(
        "{}: expected {} class names, found {}",
        shown_path(&path),
        version.classes(),
        names.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Sample};

    fn record(labels: &[u8]) -> Vec<u8> {
        let planes = [10, 20, 30].into_iter().flat_map(|p: u8| std::iter::repeat_n(p, 1024));
        let mut bytes: Vec<u8> = labels.iter().copied().chain(planes).collect();
        bytes[labels.len() + 1] = 99; // red, row 0, column 1
        bytes
    }

    #[test]
    fn planes_become_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let test = [record(&[3]), record(&[9])].concat();
        std::fs::write(folder.path().join("test_batch.bin"), test).unwrap();
        let set = open(Version::Cifar10, folder.path(), "test").unwrap();
        let Sample::Image(image) = set.sample(1).unwrap() else { panic!("an image") };
        assert_eq!(image.pixels[..9], [10, 20, 30, 99, 20, 30, 10, 20, 30]);
        assert_eq!(
            (set.len(), set.label(0), set.label(1), set.classes()[9].as_str()),
            (2, 3, 9, "truck")
        );
        assert!(
            open(Version::Cifar10, folder.path(), "train")
                .err()
                .unwrap()
                .to_string()
                .contains("data_batch_1.bin")
        );
    }

    #[test]
    fn the_fine_label_counts_and_names_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("cifar-100-binary");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("train.bin"), record(&[1, 42])).unwrap();
        let set = open(Version::Cifar100, folder.path(), "train").unwrap();
        assert_eq!((set.label(0), set.classes()[42].as_str()), (42, "42"));
        let names: Vec<String> = (0..100).map(|i| format!("name{i}")).collect();
        std::fs::write(inner.join("fine_label_names.txt"), names.join("\n")).unwrap();
        let renamed = open(Version::Cifar100, folder.path(), "train").unwrap();
        assert_eq!(renamed.classes()[42], "name42");
        assert_ne!(renamed.fingerprint(), set.fingerprint());
        std::fs::write(inner.join("fine_label_names.txt"), "one\ntwo\n").unwrap();
        assert!(
            open(Version::Cifar100, folder.path(), "train")
                .err()
                .unwrap()
                .to_string()
                .contains("expected 100 class names, found 2")
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fails = |bytes: &[u8], what: &str| {
            std::fs::write(folder.path().join("test_batch.bin"), bytes).unwrap();
            let error = open(Version::Cifar10, folder.path(), "test").err().unwrap();
            assert!(error.to_string().contains(what), "{}", error.chain());
        };
        fails(b"", "found 0 bytes");
        fails(&record(&[1])[..3000], "found 3000 bytes");
        fails(
            &[record(&[1]), record(&[10])].concat(),
            "row 1: expected a label below 10, found 10",
        );
    }
    /// A pickle as Python 2 writes it.
    fn python(key: &[u8], labels: &[u8], pixels: &[u8]) -> Vec<u8> {
        let short = |text: &[u8]| [&[b'U', u8::try_from(text.len()).unwrap()], text].concat();
        let rows = u8::try_from(labels.len()).unwrap();
        let array = [
            &b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06"[..],
            b"K\x00\x85U\x01b\x87R",
            &[b'(', b'K', 1, b'K', rows, b'M', 0, 12, 0x86],
            b"cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87Rq\x08",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T",
            &u32::try_from(pixels.len()).unwrap().to_le_bytes(),
            pixels,
            b"tb",
        ]
        .concat();
        let numbers: Vec<u8> = labels.iter().flat_map(|&label| [b'K', label]).collect();
        [
            &b"\x80\x02}q\x01("[..],
            &short(b"batch_label"),
            &short(b"training batch 1 of 5"),
            &short(key),
            b"]q\x02(",
            &numbers,
            b"e",
            &short(b"data"),
            &array,
            &short(b"filenames"),
            b"]q\x03(U\x05a.pngU\x05b.pngeu.",
        ]
        .concat()
    }

    #[test]
    fn the_python_version_is_the_same_data_set() {
        let (binary, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let records = [record(&[3]), record(&[9])];
        std::fs::write(binary.path().join("test_batch.bin"), records.concat()).unwrap();
        let pixels: Vec<u8> = records.iter().flat_map(|record| &record[1..]).copied().collect();
        let inner = folder.path().join("cifar-10-batches-py");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("data_batch_1"), b"").unwrap();
        std::fs::write(inner.join("test_batch"), python(b"labels", &[3, 9], &pixels)).unwrap();
        let expected = open(Version::Cifar10, binary.path(), "test").unwrap();
        for path in [folder.path(), inner.as_path()] {
            let set = open(Version::Cifar10, path, "test").unwrap();
            assert_eq!(set.fingerprint(), expected.fingerprint());
            assert_eq!(set.sample(1).unwrap(), expected.sample(1).unwrap());
        }
        let fails = |bytes: &[u8], what: &str| {
            std::fs::write(inner.join("test_batch"), bytes).unwrap();
            let error = open(Version::Cifar10, &inner, "test").err().unwrap().chain();
            assert!(error.contains(what), "{error}");
        };
        fails(&python(b"labels", &[3, 10], &pixels), "row 1: expected a label below 10");
        fails(&python(b"labels", &[3], &pixels), "expected as many bytes as in shape [1, 3072]");
        fails(&python(b"fine_labels", &[3, 9], &pixels), "expected a list `labels`, found none");
        let whole = python(b"labels", &[3, 9], &pixels);
        for cut in (0..whole.len()).step_by(7) {
            fails(&whole[..cut], "test_batch: ");
        }
    }

    #[test]
    fn the_fine_labels_and_names_of_the_python_version_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let pixels = record(&[])[..].to_vec();
        std::fs::write(folder.path().join("train"), python(b"fine_labels", &[42], &pixels))
            .unwrap();
        let names: Vec<u8> = (0..100)
            .flat_map(|n| [&b"U\x03"[..], format!("c{n:02}").as_bytes()].concat())
            .collect();
        let meta = [&b"\x80\x02}U\x10fine_label_names]("[..], &names, b"es."].concat();
        std::fs::write(folder.path().join("meta"), meta).unwrap();
        let set = open(Version::Cifar100, folder.path(), "train").unwrap();
        assert_eq!((set.label(0), set.classes()[42].as_str()), (42, "c42"));
        std::fs::write(folder.path().join("meta"), b"\x80\x02}U\x10fine_label_names]U\x01aas.")
            .unwrap();
        let error = open(Version::Cifar100, folder.path(), "train").err().unwrap().to_string();
        assert!(error.contains("expected 100 class names"), "{error}");
    }
}
