//! CIFAR-10 and CIFAR-100 in their binary versions: records of one (or two) label bytes and 3,072
//! bytes of red, green and blue planes.

use super::fingerprint::Listed;
use super::folder::shown_path;
use super::memory::{InMemory, numbered};
use super::{is_test, open_file};
use crate::data::spec::DataFormat;
use crate::error::{Context, Error, Result};
use std::io::{BufReader, Read};
use std::path::Path;

/// Bytes of one image, `[3, 32, 32]`.
const PIXELS: usize = 3 * 32 * 32;
/// Largest file, in bytes; the largest original file has 154 million.
const MAX_FILE: u64 = 1 << 30;

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

/// Refuses CIFAR's versions for other programs, which are not binary files.
///
/// # Errors
/// If a folder holds such a version and not the binary one.
pub(super) fn refuse_other_versions(folder: &Path) -> Result<()> {
    // a file `train` alone does not mean CIFAR-100
    const OTHERS: [(&str, [&str; 2], &str, Version); 4] = [
        ("cifar-10-batches-py", ["data_batch_1", "data_batch_1"], "Python", Version::Cifar10),
        ("cifar-100-python", ["train", "meta"], "Python", Version::Cifar100),
        (
            "cifar-10-batches-mat",
            ["data_batch_1.mat", "data_batch_1.mat"],
            "MATLAB",
            Version::Cifar10,
        ),
        ("cifar-100-matlab", ["train.mat", "meta.mat"], "MATLAB", Version::Cifar100),
    ];
    for (subfolder, files, program, version) in OTHERS {
        let is_it = |folder: &Path| {
            files.iter().all(|file| folder.join(file).is_file()) && !version.is_there(folder)
        };
        let Some(there) =
            [folder.join(subfolder), folder.to_owned()].into_iter().find(|folder| is_it(folder))
        else {
            continue;
        };
        let (archive, prefix) = match version {
            Version::Cifar10 => ("cifar-10-binary.tar.gz", "cifar10"),
            Version::Cifar100 => ("cifar-100-binary.tar.gz", "cifar100"),
        };
        return Err(Error::input(format!(
            "data {}: expected the binary version of CIFAR, found the one for {program}",
            shown_path(&there)
        ))
        .hint(format!("fetch and unpack {archive}, then --data {prefix}:DIR")));
    }
    Ok(())
}

/// Reads a split.
pub(super) fn open(version: Version, folder: &Path, split: &str) -> Result<InMemory> {
    let test = is_test(&shown_path(folder), split)?;
    let unpacked = folder.join(version.subfolder());
    let folder = if unpacked.is_dir() { unpacked.as_path() } else { folder };
    if !version.is_there(folder) {
        refuse_other_versions(folder)?;
    }
    let (mut pixels, mut labels, mut listed) = (Vec::new(), Vec::new(), Listed::new());
    for name in version.files(test) {
        let before = pixels.len();
        read(version, &folder.join(name), &mut pixels, &mut labels)?;
        listed.file(name.as_bytes(), (pixels.len() - before) as u64);
    }
    let classes = class_names(version, folder)?;
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
}
