//! Weights in files beside the model. Their location is bytes from outside: it may name only a plain file inside the model's folder, reached
//! without a symbolic link, and only a range that the file has.

use super::check::subgraphs;
use super::proto::tensor_proto::DataLocation;
use super::proto::{GraphProto, TensorProto};
use super::tensor;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// A file of external data.
pub(super) struct ExternalFile {
    /// As the model names it.
    location: String,
    /// Where it is, checked.
    path: PathBuf,
    /// Its size in bytes.
    bytes: u64,
}

/// The part of a file that holds one tensor.
struct Range {
    location: String,
    offset: u64,
    length: Option<u64>,
}

/// Whether the tensor's bytes lie in another file.
pub(super) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location() == DataLocation::External
}

/// Checks every external tensor of a graph and of its subgraphs; gives the files in order of location.
///
/// # Errors
/// Names the tensor and what is wrong with its location or range.
pub(super) fn check(graph: &GraphProto, folder: Option<&Path>) -> Result<Vec<ExternalFile>> {
    let mut tensors = Vec::new();
    collect(graph, &mut tensors);
    let mut files: BTreeMap<String, ExternalFile> = BTreeMap::new();
    for tensor in tensors {
        let subject = |e: Error| Error::input(format!("external data of tensor `{}`", tensor.name())).because(e);
        let range = range(tensor).map_err(subject)?;
        if !files.contains_key(&range.location) {
            let file = locate(&range.location, folder).map_err(subject)?;
            files.insert(range.location.clone(), file);
        }
        if let Some(file) = files.get(&range.location) {
            span(tensor, &range, file).map_err(subject)?;
        }
    }
    Ok(files.into_values().collect())
}

/// Adds a file's location, size and content to a hash.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn hash(file: &ExternalFile, hash: &mut Sha256) -> Result<()> {
    let unreadable = |e: std::io::Error| Error::input(format!("{}: cannot be read", file.path.display())).because(e);
    hash.update((file.location.len() as u64).to_le_bytes());
    hash.update(file.location.as_bytes());
    hash.update(file.bytes.to_le_bytes());
    let mut source = File::open(&file.path).map_err(unreadable)?;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match source.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(()),
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

/// Reads one tensor's bytes.
///
/// # Errors
/// As [`check`], whose checks are made again: the file may have changed since.
pub(super) fn read(tensor: &TensorProto, folder: Option<&Path>) -> Result<Vec<u8>> {
    let range = range(tensor)?;
    let file = locate(&range.location, folder)?;
    let length = span(tensor, &range, &file)?;
    let unreadable = |e: std::io::Error| Error::input(format!("{}: cannot be read", file.path.display())).because(e);
    let mut source = File::open(&file.path).map_err(unreadable)?;
    source.seek(SeekFrom::Start(range.offset)).map_err(unreadable)?;
    let mut bytes = vec![0; length];
    source.read_exact(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn collect<'a>(graph: &'a GraphProto, tensors: &mut Vec<&'a TensorProto>) {
    let sparse = graph.sparse_initializer.iter().flat_map(|s| s.values.iter().chain(&s.indices));
    let attributes = graph.node.iter().flat_map(|n| &n.attribute).flat_map(|a| a.t.iter().chain(&a.tensors));
    tensors.extend(graph.initializer.iter().chain(sparse).chain(attributes).filter(|t| is_external(t)));
    for inner in graph.node.iter().flat_map(subgraphs) {
        collect(inner, tensors);
    }
}

fn range(tensor: &TensorProto) -> Result<Range> {
    let mut range = Range { location: String::new(), offset: 0, length: None };
    for entry in &tensor.external_data {
        let number = || {
            let bad = |e| Error::input(format!("{}: expected a number of bytes, found `{}`", entry.key(), entry.value())).because(e);
            entry.value().parse::<u64>().map_err(bad)
        };
        match entry.key() {
            "location" => entry.value().clone_into(&mut range.location),
            "offset" => range.offset = number()?,
            "length" => range.length = Some(number()?),
            _ => {}
        }
    }
    if range.location.is_empty() {
        return Err(Error::input("expected a location, found none"));
    }
    Ok(range)
}

/// Finds a location inside the folder.
fn locate(location: &str, folder: Option<&Path>) -> Result<ExternalFile> {
    let folder = folder.ok_or_else(|| Error::input(format!("`{location}`: the model was not read from a folder")))?;
    let relative = Path::new(location);
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::input(format!("`{location}`: expected a path inside the model's folder")));
    }
    let unreadable = |path: &Path, e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::input(format!("{}: no such file", path.display()))
            .hint("put the model's data file beside the model, under the name that it expects"),
        _ => Error::input(format!("{}: cannot be read", path.display())).because(e),
    };
    // each step below the folder, so that no link on the way leads out (ONNX Runtime refuses them too)
    let mut path = folder.to_path_buf();
    for part in relative.components() {
        path.push(part);
        let metadata = std::fs::symlink_metadata(&path).map_err(|e| unreadable(&path, e))?;
        if metadata.file_type().is_symlink() {
            return Err(Error::input(format!("{}: expected a plain file, found a symbolic link", path.display()))
                .hint("copy the file that the link points to into the model's folder"));
        }
    }
    let canonical = path.canonicalize().map_err(|e| unreadable(&path, e))?;
    let root = folder.canonicalize().map_err(|e| unreadable(folder, e))?;
    if !canonical.starts_with(&root) {
        return Err(Error::input(format!("`{location}`: expected a path inside the model's folder, found {}", canonical.display())));
    }
    let metadata = std::fs::metadata(&canonical).map_err(|e| unreadable(&path, e))?;
    if !metadata.is_file() {
        return Err(Error::input(format!("{}: expected a plain file", path.display())));
    }
    Ok(ExternalFile { location: location.to_owned(), path: canonical, bytes: metadata.len() })
}

/// The length of a tensor's range, checked against the file and, where we know its element type, against the tensor's shape.
fn span(tensor: &TensorProto, range: &Range, file: &ExternalFile) -> Result<usize> {
    let expected = tensor::byte_count(tensor)?;
    let rest = file.bytes.saturating_sub(range.offset);
    let length = range.length.unwrap_or(expected.map_or(rest, |n| n as u64));
    if expected.is_some_and(|n| n as u64 != length) {
        return Err(Error::input(format!(
            "{}: expected {} bytes, found a length of {length}",
            file.path.display(),
            expected.unwrap_or_default()
        )));
    }
    match (range.offset.checked_add(length), usize::try_from(length)) {
        (Some(end), Ok(length)) if end <= file.bytes => Ok(length),
        _ => Err(Error::input(format!(
            "{}: expected {length} bytes from {}, found a file of {} bytes",
            file.path.display(),
            range.offset,
            file.bytes
        ))),
    }
}
