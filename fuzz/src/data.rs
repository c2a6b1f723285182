//! Data sets: a folder or file of hostile bytes, opened and read as `extract` does.

use super::read_or_refused;
use nst_cache::data::{Columns, DataFormat, DataSpec, common_size, open};
use nst_cache::monitor::Silent;
use std::fs;
use std::path::Path;

/// Samples that are decoded of a data set.
const READ: usize = 4;

/// An `.npz` file.
pub fn npz(bytes: &[u8]) {
    file(bytes, "x.npz", DataFormat::Npz);
}

/// A `.tar` file, compressed if it says so.
pub fn tar(bytes: &[u8]) {
    file(bytes, "x.tar", DataFormat::Folder);
}

/// A shard of `WebDataset`, compressed if it says so; behind a `{` the rest is a name with braces.
pub fn wds(bytes: &[u8]) {
    match bytes.strip_prefix(b"{") {
        Some(_) => {
            let folder = tempfile::tempdir().unwrap();
            let name = String::from_utf8_lossy(bytes).replace('/', "");
            dataset(&folder.path().join(name), DataFormat::Wds);
        }
        None => file(bytes, "x.tar", DataFormat::Wds),
    }
}

/// A Parquet file.
pub fn parquet(bytes: &[u8]) {
    file(bytes, "x.parquet", DataFormat::Parquet);
}

/// A table of images, of which `0.png` and `1.png` are there.
pub fn csv(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["0.png", "1.png"] {
        fs::write(folder.path().join(name), b"no image").unwrap();
    }
    let path = folder.path().join("x.csv");
    fs::write(&path, bytes).unwrap();
    dataset(&path, DataFormat::Csv);
}

/// The Python version of CIFAR-100, with the names of its classes in the same bytes.
pub fn pickle(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["train", "meta"] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    dataset(folder.path(), DataFormat::Cifar100);
}

/// One image in a folder, its format told by its content.
pub fn image(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.png"), bytes).unwrap();
    dataset(folder.path(), DataFormat::Folder);
}

/// Two IDX files: two bytes of length, so much of images, the rest labels.
pub fn idx(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first_chunk() else { return };
    let (images, labels) =
        bytes.split_at(bytes.len().min(usize::from(u16::from_le_bytes(*length))));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("train-images-idx3-ubyte"), images).unwrap();
    fs::write(folder.path().join("train-labels-idx1-ubyte"), labels).unwrap();
    dataset(folder.path(), DataFormat::Idx);
}

/// A CIFAR file: 100 classes with a file of their names behind the two records if the first byte is
/// odd, 10 classes otherwise.
pub fn cifar(bytes: &[u8]) {
    let Some((version, bytes)) = bytes.split_first() else { return };
    let folder = tempfile::tempdir().unwrap();
    if version % 2 == 1 {
        let (records, names) = bytes.split_at(bytes.len().min(2 * 3074));
        fs::write(folder.path().join("train.bin"), records).unwrap();
        fs::write(folder.path().join("fine_label_names.txt"), names).unwrap();
        dataset(folder.path(), DataFormat::Cifar100);
    } else {
        for number in 1..=5 {
            fs::write(folder.path().join(format!("data_batch_{number}.bin")), bytes).unwrap();
        }
        dataset(folder.path(), DataFormat::Cifar10);
    }
}

fn file(bytes: &[u8], name: &str, format: DataFormat) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    dataset(&path, format);
}

fn dataset(path: &Path, format: DataFormat) {
    let spec =
        DataSpec { format: Some(format), path: path.to_owned(), columns: Columns::default() };
    let Some(set) = read_or_refused(open(&spec, "train", &Silent)) else { return };
    assert!(!set.is_empty());
    let _ = common_size(&*set);
    for index in (0..set.len()).take(READ).chain([set.len() - 1, set.len()]) {
        read_or_refused(set.sample(index));
        let _ = (set.label(index), set.name(index));
    }
    let _ = (set.classes().len(), set.fingerprint().samples);
}
