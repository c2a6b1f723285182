//! Weights in files: beside the model, or in the model's own file. A location is untrusted: even
//! through links it may only lead to a plain file inside the model's folder (in a hub's cache:
//! inside the repository's folder), and only to a range that the file has.

use super::check::subgraphs;
use super::nearest::nearest;
use super::proto::tensor_proto::DataLocation;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use super::tensor;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

/// A folder that a model's external data may be in.
#[derive(Debug, Clone)]
pub(super) struct DataFolder {
    /// The folder that locations are relative to.
    base: PathBuf,
    /// The folder that no location may leave, canonical.
    root: PathBuf,
}

/// The files that hold a model's weights, as they were when found.
#[derive(Debug, Clone)]
pub(super) struct WeightFiles {
    /// The folder that contains all of them, canonical.
    pub(super) root: PathBuf,
    /// Stamps by path below the root.
    found: BTreeMap<String, Stamp>,
    /// Paths of external data below the root, by the model's locations.
    locations: BTreeMap<String, String>,
}

/// File metadata that changes when the file is written again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// The part of a file that holds one tensor.
struct Range {
    location: String,
    offset: u64,
    length: Option<u64>,
}

/// Whether the tensor's bytes are in a file.
pub(super) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location() == DataLocation::External
}

impl DataFolder {
    /// A folder that is its own root.
    ///
    /// # Errors
    /// If it does not exist.
    pub(super) fn folder(folder: &Path) -> Result<Self> {
        // the parent of a bare file name is the empty path, which names no folder
        let base =
            if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_path_buf() };
        let unreadable = |e| Error::input(format!("{}: cannot be read", base.display())).because(e);
        let root = repository(base.canonicalize().map_err(unreadable)?);
        Ok(Self { base, root })
    }

    /// The folders where a model's data may be: the folder of the given path and, if it is a link,
    /// that of its target.
    ///
    /// # Errors
    /// If the file does not exist.
    pub(super) fn of_model(path: &Path) -> Result<Vec<Self>> {
        let given = Self::folder(path.parent().unwrap_or(Path::new(".")))?;
        let unreadable = |e| Error::input(format!("{}: cannot be read", path.display())).because(e);
        let target = path.canonicalize().map_err(unreadable)?;
        let own = target.parent().map(Self::folder).transpose()?;
        let linked = own.filter(|own| given.base.canonicalize().is_ok_and(|base| base != own.base));
        Ok([Some(given), linked].into_iter().flatten().collect())
    }

    /// Resolves a location; returns its path below the root.
    fn locate(&self, location: &str) -> Result<String> {
        let relative = Path::new(location);
        let outside =
            || Error::input(format!("`{location}`: expected a path inside the model's folder"));
        if relative.is_absolute() {
            return Err(outside()
                .because("the path is absolute")
                .hint("export the model again, with the data file beside it"));
        }
        let path = self.base.join(relative);
        // a path that leaves the root on its way is not even looked up
        let mut stated = self.base.canonicalize().map_err(|_| outside())?;
        for part in relative.components() {
            match part {
                Component::Normal(name) => stated.push(name),
                Component::CurDir => {}
                _ => drop(stated.pop()),
            }
        }
        if !stated.starts_with(&self.root) {
            return Err(outside());
        }
        let target = path.canonicalize().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => missing(location, &path),
            _ => Error::input(format!("{}: cannot be read", path.display())).because(e),
        })?;
        let Ok(below) = target.strip_prefix(&self.root) else {
            return Err(Error::input(format!(
                "{}: a link that leads out of {}, to {}",
                path.display(),
                self.root.display(),
                target.display()
            ))
            .hint("copy the file that the link points to into the model's folder"));
        };
        let metadata = std::fs::metadata(&target)
            .map_err(|e| Error::input(format!("{}: cannot be read", path.display())).because(e))?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{}: expected a plain file", path.display())));
        }
        let text =
            |e: &Path| Error::input(format!("{}: expected a path of Unicode text", e.display()));
        below.to_str().map(str::to_owned).ok_or_else(|| text(&target))
    }

    /// Whether this file is in the folder.
    fn has(&self, location: &str) -> bool {
        self.base.join(location).exists()
    }
}

/// Checks every external tensor of a model; `places` are in order of preference.
///
/// # Errors
/// Names the tensor and what is wrong with its location or range.
pub(super) fn survey(model: &ModelProto, places: &[DataFolder]) -> Result<Option<WeightFiles>> {
    let mut tensors = Vec::new();
    model.graph.iter().for_each(|graph| collect(graph, &mut tensors));
    model
        .functions
        .iter()
        .flat_map(|function| &function.node)
        .for_each(|node| collect_node(node, &mut tensors));
    let mut ranges = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        ranges.push((tensor, range(tensor).map_err(|e| of_tensor(tensor, e))?));
    }
    // all data is in one place: that of the first file
    let first = ranges.first().map(|(_, range)| range.location.as_str());
    let place =
        first.and_then(|first| places.iter().find(|place| place.has(first))).or(places.first());
    let Some(place) = place else {
        return match ranges.first() {
            Some((tensor, range)) => Err(of_tensor(
                tensor,
                Error::input(format!("`{}`: the model was not read from a folder", range.location)),
            )),
            None => Ok(None),
        };
    };
    let mut files = WeightFiles {
        root: place.root.clone(),
        found: BTreeMap::new(),
        locations: BTreeMap::new(),
    };
    for (tensor, range) in &ranges {
        if !files.locations.contains_key(&range.location) {
            let below = place.locate(&range.location).map_err(|e| of_tensor(tensor, e))?;
            files.add(&below).map_err(|e| of_tensor(tensor, e))?;
            files.locations.insert(range.location.clone(), below);
        }
        if let Some(below) = files.locations.get(&range.location) {
            files.span(tensor, range, below).map_err(|e| of_tensor(tensor, e))?;
        }
    }
    Ok(Some(files))
}

fn of_tensor(tensor: &TensorProto, e: Error) -> Error {
    Error::input(format!("external data of tensor `{}`", tensor.name())).because(e)
}

impl WeightFiles {
    /// Records a file below the root.
    fn add(&mut self, below: &str) -> Result<()> {
        let path = self.root.join(below);
        let metadata = std::fs::metadata(&path)
            .map_err(|e| Error::input(format!("{}: cannot be read", path.display())).because(e))?;
        self.found.insert(below.to_owned(), Stamp::new(&metadata));
        Ok(())
    }

    /// Records the model's own file, with its metadata from when it was read; returns its path
    /// below the root, if it is there and is UTF-8.
    pub(super) fn add_model(&mut self, path: &Path, metadata: &Metadata) -> Option<String> {
        let below = path.canonicalize().ok()?.strip_prefix(&self.root).ok()?.to_str()?.to_owned();
        self.found.insert(below.clone(), Stamp::new(metadata));
        Some(below)
    }

    /// New locations by old ones, for external data behind links, which ONNX Runtime refuses.
    pub(super) fn moved(&self) -> HashMap<String, String> {
        let links = self.locations.iter().filter(|(old, new)| plain(old) != Path::new(new));
        links.map(|(old, new)| (old.clone(), new.clone())).collect()
    }

    /// Checks that no file has changed since it was found.
    ///
    /// # Errors
    /// Names the file that has.
    pub(super) fn unchanged(&self) -> Result<()> {
        self.found.keys().try_for_each(|below| self.path(below).map(|_| ()))
    }

    /// The path of a file, if the file is unchanged.
    pub(super) fn path(&self, below: &str) -> Result<PathBuf> {
        let path = self.root.join(below);
        let stamp = self.found.get(below).ok_or_else(|| {
            Error::internal(format!("{}: not a file of this model", path.display()))
        })?;
        let now = std::fs::symlink_metadata(&path)
            .map_err(|e| Error::input(format!("{}: cannot be read", path.display())).because(e))?;
        if now.is_file() && Stamp::new(&now) == *stamp {
            return Ok(path);
        }
        Err(Error::input(format!("{}: has changed since it was read", path.display()))
            .hint("run again with the current file"))
    }

    /// Adds the files' locations, sizes and content to a hash, in order of location.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn hash(&self, hash: &mut Sha256) -> Result<()> {
        for (location, below) in &self.locations {
            let path = self.path(below)?;
            let unreadable = |e: std::io::Error| {
                Error::input(format!("{}: cannot be read", path.display())).because(e)
            };
            hash.update((location.len() as u64).to_le_bytes());
            hash.update(location.as_bytes());
            hash.update(self.found.get(below).map_or(0, |stamp| stamp.bytes).to_le_bytes());
            let mut source = File::open(&path).map_err(unreadable)?;
            let mut buffer = vec![0u8; 1 << 20];
            loop {
                match source.read(&mut buffer).map_err(unreadable)? {
                    0 => break,
                    n => hash.update(buffer.get(..n).unwrap_or_default()),
                }
            }
        }
        Ok(())
    }

    /// Reads one tensor's bytes.
    ///
    /// # Errors
    /// If its file has changed since it was found, or does not have the range.
    pub(super) fn read(&self, tensor: &TensorProto) -> Result<Vec<u8>> {
        let range = range(tensor)?;
        // by the model's location, or by its new one
        let below = plain(&range.location);
        let below = below.to_string_lossy();
        let length = self.span(tensor, &range, &below)?;
        let path = self.path(&below)?;
        let unreadable = |e: std::io::Error| {
            Error::input(format!("{}: cannot be read", path.display())).because(e)
        };
        let mut source = File::open(&path).map_err(unreadable)?;
        source.seek(SeekFrom::Start(range.offset)).map_err(unreadable)?;
        let mut bytes = vec![0; length];
        source.read_exact(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }

    /// The length of a tensor's range, checked against the file and, if the element type is known,
    /// against the tensor's shape.
    fn span(&self, tensor: &TensorProto, range: &Range, below: &str) -> Result<usize> {
        let path = self.root.join(below);
        let size = self.found.get(below).map_or(0, |stamp| stamp.bytes);
        let expected = tensor::byte_count(tensor)?;
        let rest = size.saturating_sub(range.offset);
        let length = range.length.unwrap_or(expected.map_or(rest, |n| n as u64));
        if let Some(expected) = expected.filter(|&n| n as u64 != length) {
            return Err(Error::input(format!(
                "{}: expected {expected} bytes, found a length of {length}",
                path.display()
            )));
        }
        match (range.offset.checked_add(length), usize::try_from(length)) {
            (Some(end), Ok(length)) if end <= size => Ok(length),
            _ => {
                let error = format!(
                    "{}: expected {length} bytes from {}, found a file of {size} bytes",
                    path.display(),
                    range.offset
                );
                Err(if is_pointer(&path) {
                    Error::input(format!("{error}, a Git LFS pointer"))
                        .hint("fetch the file itself with `git lfs pull`")
                } else {
                    Error::input(error)
                })
            }
        }
    }
}

/// A location without `.` components.
fn plain(location: &str) -> PathBuf {
    Path::new(location).components().filter(|part| *part != Component::CurDir).collect()
}

/// Replaces every tensor's external data with the bytes themselves.
///
/// # Errors
/// Names the tensor that cannot be read.
pub(super) fn embed(model: &mut ModelProto, files: &WeightFiles) -> Result<()> {
    let mut graphs: Vec<&mut GraphProto> = model.graph.iter_mut().collect();
    let mut nodes: Vec<&mut NodeProto> =
        model.functions.iter_mut().flat_map(|function| &mut function.node).collect();
    loop {
        let mut tensors: Vec<&mut TensorProto> = Vec::new();
        let mut sparse: Vec<&mut SparseTensorProto> = Vec::new();
        for graph in std::mem::take(&mut graphs) {
            tensors.extend(&mut graph.initializer);
            sparse.extend(&mut graph.sparse_initializer);
            nodes.extend(&mut graph.node);
        }
        for attribute in std::mem::take(&mut nodes).into_iter().flat_map(|node| &mut node.attribute)
        {
            tensors.extend(attribute.t.iter_mut().chain(&mut attribute.tensors));
            sparse.extend(attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors));
            graphs.extend(attribute.g.iter_mut().chain(&mut attribute.graphs));
        }
        tensors.extend(
            sparse
                .into_iter()
                .flat_map(|sparse| sparse.values.iter_mut().chain(&mut sparse.indices)),
        );
        for tensor in tensors.into_iter().filter(|tensor| is_external(tensor)) {
            tensor.raw_data = Some(files.read(tensor).map_err(|e| of_tensor(tensor, e))?.into());
            tensor.external_data.clear();
            tensor.data_location = None;
        }
        if graphs.is_empty() {
            return Ok(());
        }
    }
}

/// Whether a file is a Git LFS pointer.
fn is_pointer(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    read.is_ok() && super::is_pointer(&head)
}

/// A hub's cache has links in `snapshots/REVISION/` to files in `blobs/`: the repository is the
/// folder that holds both.
fn repository(folder: PathBuf) -> PathBuf {
    let snapshots = folder
        .ancestors()
        .find(|ancestor| ancestor.file_name().is_some_and(|name| name == "snapshots"));
    match snapshots.and_then(Path::parent) {
        Some(repository) if repository.join("blobs").is_dir() => repository.to_path_buf(),
        _ => folder,
    }
}

/// The error for missing data, with a suggestion.
fn missing(location: &str, path: &Path) -> Error {
    let error = Error::input(format!("{}: no such file", path.display()));
    if location.contains('\\') {
        return Error::input(format!(
            "`{location}`: expected a path with `/` between folders, found `\\`"
        ))
        .because(error)
        .hint("export the model again, with the data file beside it");
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let entries = path
        .parent()
        .and_then(|folder| std::fs::read_dir(folder).ok())
        .into_iter()
        .flatten()
        .flatten();
    let files = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok());
    // a model is not another model's data
    let files: Vec<String> = files
        .filter(|name| Path::new(name).extension().is_none_or(|end| end != "onnx"))
        .take(BESIDE)
        .collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let is_near = |near: &&&str| strsim::normalized_damerau_levenshtein(&name, near) >= NEAR;
    match nearest(&name, &files).first().filter(is_near) {
        Some(near) => error.hint(format!(
            "found `{near}` beside it: if that is the model's data, rename it to the name that the \
             model expects"
        )),
        None => {
            error.hint("put the model's data file beside the model, under the name that it expects")
        }
    }
}

/// How similar a suggested name must be, from 0 to 1.
const NEAR: f64 = 0.4;
/// Most files of a folder that are compared.
const BESIDE: usize = 1000;

fn collect<'a>(graph: &'a GraphProto, tensors: &mut Vec<&'a TensorProto>) {
    let sparse = graph.sparse_initializer.iter().flat_map(|s| s.values.iter().chain(&s.indices));
    tensors.extend(graph.initializer.iter().chain(sparse).filter(|t| is_external(t)));
    graph.node.iter().for_each(|node| collect_node(node, tensors));
}

fn collect_node<'a>(node: &'a NodeProto, tensors: &mut Vec<&'a TensorProto>) {
    let held = |a: &'a AttributeProto| {
        let sparse = a
            .sparse_tensor
            .iter()
            .chain(&a.sparse_tensors)
            .flat_map(|s| s.values.iter().chain(&s.indices));
        a.t.iter().chain(&a.tensors).chain(sparse)
    };
    tensors.extend(node.attribute.iter().flat_map(held).filter(|t| is_external(t)));
    subgraphs(node).for_each(|inner| collect(inner, tensors));
}

fn range(tensor: &TensorProto) -> Result<Range> {
    let mut range = Range { location: String::new(), offset: 0, length: None };
    for entry in &tensor.external_data {
        let number = || {
            let bad = |e| {
                Error::input(format!(
                    "{}: expected a number of bytes, found `{}`",
                    entry.key(),
                    entry.value()
                ))
                .because(e)
            };
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
