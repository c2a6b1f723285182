//! `WebDataset` shards: `.tar` files of samples, each a run of members with one key
//! (<https://github.com/webdataset/webdataset>). Images are read in place; a compressed shard is
//! unpacked to a temporary file first.

mod group;

use super::archive::Node;
use super::content::{self, Content};
use super::fingerprint::Listed;
use super::folder::shown_path;
use super::labels::Labels;
use super::section::Section;
use super::shards;
use super::spool::{Spool, Watched};
use super::tar::members;
use super::{ContentHash, Dataset, Fingerprint, Sample, Stamp, image, open_file};
use crate::data::spec::DataFormat;
use crate::error::{Context, Error, Result, shown};
use crate::monitor::Monitor;
use flate2::read::MultiGzDecoder;
use group::{Group, Grouping, Ignored, Member};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Endings of shards.
pub(super) const ENDINGS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];
/// Longest `.cls` member, in bytes.
const MAX_CLS: u64 = 4096;
/// Longest `.json` member, in bytes.
const MAX_JSON: u64 = 1 << 20;
/// Names of labels in a `.json` member, the surest first.
const KEYS: [&str; 3] = ["label", "cls", "class"];
/// Fewer shards than this are indexed too quickly for a progress bar.
const SHOWN: usize = 16;

/// One archive.
struct Shard {
    path: PathBuf,
    /// Its path in messages.
    name: String,
    /// Its file name without the ending: a part of its samples' names.
    stem: Vec<u8>,
    /// For an unpacked shard the packed file's stamp: it is no longer read.
    unpacked: Option<Stamp>,
}

/// An image and where it is.
struct Place {
    shard: usize,
    member: Member,
    /// Its path in the shard.
    path: Vec<u8>,
}

/// The labels found so far.
#[derive(Default)]
struct Texts {
    cls: Vec<Option<String>>,
    json: Vec<Option<String>>,
    /// The name under which `.json` members have labels.
    key: Option<&'static str>,
    /// Whether any sample has a `.cls`.
    any: bool,
}

struct WebDataset {
    shards: Vec<Shard>,
    /// The unpacked shards, one after another.
    spool: Spool,
    places: Vec<Place>,
    labels: Labels,
    fingerprint: Fingerprint,
}

/// Indexes the samples of a file, a folder of files, or files named with braces.
pub(super) fn open(path: &Path, split: &str, monitor: &dyn Monitor) -> Result<Box<dyn Dataset>> {
    let name = shown_path(path);
    let files = shards::find(path, &ENDINGS, split, monitor)?;
    let (mut ignored, mut texts) = (Ignored::default(), Texts::default());
    let (mut shards, mut places) = (Vec::new(), Vec::new());
    let mut spool = Spool::new()?;
    if files.len() >= SHOWN {
        monitor.begin("index shards", "shards", files.len() as u64, 0);
    }
    for (number, path) in files.iter().enumerate() {
        if monitor.stop_requested() {
            return Err(Error::interrupted("while shards were indexed; nothing was written"));
        }
        let (shard, file, start, length) = unpack(path, &mut spool, monitor)?;
        let file = file.as_ref().unwrap_or(spool.file());
        let mut grouping = Grouping::new(&shard.name, &mut ignored);
        let mut take = |group: Option<Group>| {
            let Some(group) = group else { return Ok(()) };
            texts.read(&group, |member, most| bytes(file, member, most), &shard.name)?;
            let path = group.path();
            places.extend(group.image.map(|(_, member)| Place { shard: number, member, path }));
            Ok(())
        };
        members(Section::new(file, start, length), length, &shard.name, |path, node| {
            let member = match node {
                Node::File { size, offset } => Some(Member { offset: start + offset, size }),
                _ => None,
            };
            take(grouping.add(path, member)?)
        })?;
        take(grouping.end())?;
        shards.push(shard);
        if files.len() >= SHOWN {
            monitor.advance(1, 0);
        }
    }
    if files.len() >= SHOWN {
        monitor.end();
    }
    if places.is_empty() {
        let found = if ignored.kinds.is_empty() { "none".into() } else { ignored.kinds() };
        return Err(Error::input(format!(
            "data {name}: expected samples of one image each (KEY.jpg, KEY.png), found {found}"
        ))
        .hint("an archive of class folders is read as folder:FILE"));
    }
    let shard_and_path = |place: &Place| {
        let stem = shards.get(place.shard).map_or(b"".as_slice(), |shard| shard.stem.as_slice());
        shown(&[stem, &place.path].join(&b'/'))
    };
    let (labels, source) =
        texts.labels(|at| places.get(at).map_or_else(String::new, shard_and_path))?;
    let count = (shards.len(), places.len());
    report(&name, count, &labels, source.as_deref(), &ignored, monitor);

    let mut listed = Listed::new();
    for (number, shard) in shards.iter().enumerate() {
        listed.bytes(&shard.stem);
        let start = places.partition_point(|place| place.shard < number);
        for place in places.iter().skip(start).take_while(|place| place.shard == number) {
            listed.file(&place.path, place.member.size);
        }
    }
    for label in &labels.values {
        listed.bytes(&label.to_le_bytes());
    }
    for class in &labels.classes {
        listed.bytes(class.as_bytes());
    }
    let fingerprint = listed.finish(DataFormat::Wds, places.len());
    Ok(Box::new(WebDataset { shards, spool, places, labels, fingerprint }))
}

/// A shard, its file unless it was unpacked to the spool, and where it starts and how long it is.
fn unpack(
    path: &Path,
    spool: &mut Spool,
    monitor: &dyn Monitor,
) -> Result<(Shard, Option<File>, u64, u64)> {
    let name = shown_path(path);
    let file_name = path.file_name().unwrap_or_default().as_bytes();
    let stem = shards::stem(file_name, &ENDINGS).to_vec();
    let content = content::of(path)?;
    let (file, length) = open_file(path)?;
    let mut shard = Shard { path: path.to_owned(), name: name.clone(), stem, unpacked: None };
    match content {
        Content::Tar => Ok((shard, Some(file), 0, length)),
        Content::Gzip => {
            let metadata = file.metadata().context(|| format!("{name}: cannot be read"))?;
            shard.unpacked = Some(Stamp::of(&metadata));
            let start = spool.length();
            let packed = BufReader::with_capacity(1 << 18, Watched::new(file, length, monitor));
            let length = spool.append(MultiGzDecoder::new(packed), length, &name)?;
            Ok((shard, None, start, length))
        }
        other => Err(content::refusal(path, other)),
    }
}

/// Whether an archive is a shard: among its first members are a label and an image of one key.
pub(super) fn is_shard(path: &Path) -> bool {
    /// Members that are looked at, and bytes of an unpacked archive.
    const FIRST: (usize, u64) = (16, 64 << 20);
    let look = || -> Option<bool> {
        let (file, _) = open_file(path).ok()?;
        let mut file = BufReader::new(file);
        let packed = file.fill_buf().ok()?.starts_with(b"\x1f\x8b");
        let source: Box<dyn Read> =
            if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let mut archive = tar::Archive::new(source.take(FIRST.1));
        let (mut ignored, mut found) = (Ignored::default(), false);
        let mut grouping = Grouping::new("", &mut ignored);
        let mut see = |group: Option<Group>| {
            found |= group.is_some_and(|group| group.cls.is_some());
        };
        for entry in archive.entries().ok()?.take(FIRST.0) {
            let Ok(entry) = entry else { break };
            let member = Member { offset: 0, size: entry.size() };
            let file = entry.header().entry_type().is_file().then_some(member);
            see(grouping.add(&entry.path_bytes(), file).ok()?);
        }
        see(grouping.end());
        Some(found)
    };
    look().unwrap_or(false)
}

/// The bytes of a small member.
fn bytes(file: &File, member: Member, most: u64) -> Result<Vec<u8>> {
    if member.size > most {
        return Err(Error::input(format!("expected at most {most} bytes, found {}", member.size)));
    }
    let mut bytes = vec![0; usize::try_from(member.size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, member.offset).context(|| "cannot be read".into())?;
    Ok(bytes)
}

impl Texts {
    /// Adds the label of a sample.
    fn read(
        &mut self,
        group: &Group,
        bytes: impl Fn(Member, u64) -> Result<Vec<u8>>,
        shard: &str,
    ) -> Result<()> {
        let place = |end: &str| format!("{shard}: {}.{end}", shown(&group.key));
        let (mut cls, mut json) = (None, None);
        if let Some(member) = group.cls {
            let text = bytes(member, MAX_CLS)
                .and_then(|bytes| {
                    String::from_utf8(bytes).map_err(|_| {
                        Error::input("expected the number or the name of a class, found no text")
                    })
                })
                .context(|| place("cls"))?;
            cls = Some(text);
            self.any = true;
        } else if let (Some(member), false) = (group.json, self.any) {
            let bytes = bytes(member, MAX_JSON).context(|| place("json"))?;
            json = label_of_json(&bytes, &mut self.key).context(|| place("json"))?;
        }
        self.cls.push(cls);
        self.json.push(json);
        Ok(())
    }

    /// The labels, and where they are from; `name` is a sample's name.
    fn labels(self, name: impl Fn(usize) -> String) -> Result<(Labels, Option<String>)> {
        match self.key {
            _ if self.any => Ok((Labels::of_texts(&self.cls, name)?, Some(".cls".into()))),
            Some(key) => {
                Ok((Labels::of_texts(&self.json, name)?, Some(format!("`{key}` in .json"))))
            }
            None => Ok((Labels { values: vec![-1; self.cls.len()], classes: Vec::new() }, None)),
        }
    }
}

/// The label in a `.json` member, as text. The first member with a label decides on its key.
fn label_of_json(bytes: &[u8], key: &mut Option<&'static str>) -> Result<Option<String>> {
    let found: serde_json::Value =
        serde_json::from_slice(bytes).context(|| "expected JSON".into())?;
    if key.is_none() {
        *key = KEYS.into_iter().find(|key| found.get(key).is_some_and(|value| !value.is_null()));
    }
    let Some(key) = key else { return Ok(None) };
    match found.get(*key) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(name)) => Ok(Some(name.clone())),
        Some(serde_json::Value::Number(number)) if number.is_i64() => Ok(Some(number.to_string())),
        Some(_) => Err(Error::input(format!(
            "`{key}`: expected the number or the name of one class, found another value"
        ))),
    }
}

/// Says what was read and what was not.
fn report(
    name: &str,
    (shards, samples): (usize, usize),
    labels: &Labels,
    source: Option<&str>,
    ignored: &Ignored,
    monitor: &dyn Monitor,
) {
    let shards = if shards == 1 { "1 shard".to_owned() } else { format!("{shards} shards") };
    let from = source.map_or_else(
        || "no labels (no .cls, and no label, cls or class in .json)".to_owned(),
        |source| labels.line(source),
    );
    monitor.note(&format!("data {name}: {samples} samples of {shards}, {from}"));
    let unlabeled = labels.values.iter().filter(|label| **label < 0).count();
    if let (Some(source), true) = (source, unlabeled > 0) {
        monitor.warn(&format!(
            "data {name}: {unlabeled} of {samples} samples have no label in {source}"
        ));
    }
    let left_out = ignored.imageless + ignored.several;
    if left_out > 0 {
        monitor.warn(&format!(
            "data {name}: {left_out} samples are left out: {} without an image, {} with several",
            ignored.imageless, ignored.several
        ));
    }
    if !ignored.kinds.is_empty() {
        monitor.note(&format!("data {name}: members that are not read: {}", ignored.kinds()));
    }
}

impl WebDataset {
    fn place(&self, index: usize) -> Result<(&Place, &Shard)> {
        let place = self.places.get(index);
        place.and_then(|place| Some((place, self.shards.get(place.shard)?))).ok_or_else(|| {
            Error::input(format!("sample {index}: expected an index below {}", self.places.len()))
        })
    }

    fn read(&self, index: usize) -> Result<Vec<u8>> {
        let (place, shard) = self.place(index)?;
        let message = || format!("image {}: {}: cannot be read", shard.name, shown(&place.path));
        let size = place.member.size.min(image::MAX_FILE + 1);
        let mut bytes = vec![0; usize::try_from(size).context(message)?];
        // opened anew: there may be more shards than files that a process may hold open
        let file = if shard.unpacked.is_none() { Some(open_file(&shard.path)?.0) } else { None };
        let file = file.as_ref().unwrap_or(self.spool.file());
        file.read_exact_at(&mut bytes, place.member.offset).context(message)?;
        Ok(bytes)
    }

    fn decode(&self, index: usize, bytes: &[u8]) -> Result<Sample> {
        let (place, shard) = self.place(index)?;
        image::decode(bytes)
            .map(Sample::Image)
            .context(|| format!("image {}: {}", shard.name, shown(&place.path)))
    }
}

impl Dataset for WebDataset {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        self.decode(index, &self.read(index)?)
    }

    fn stamp(&self, index: usize) -> Result<Option<Stamp>> {
        let (_, shard) = self.place(index)?;
        if let Some(stamp) = shard.unpacked {
            return Ok(Some(stamp));
        }
        let metadata =
            std::fs::metadata(&shard.path).context(|| format!("{}: cannot be read", shard.name))?;
        Ok(Some(Stamp::of(&metadata)))
    }

    fn content(&self, index: usize) -> Result<Option<ContentHash>> {
        Ok(Some(ContentHash::of(&self.read(index)?)))
    }

    fn sample_and_content(&self, index: usize) -> Result<(Sample, Option<ContentHash>)> {
        let bytes = self.read(index)?;
        Ok((self.decode(index, &bytes)?, Some(ContentHash::of(&bytes))))
    }

    fn label(&self, index: usize) -> i64 {
        self.labels.values.get(index).copied().unwrap_or(-1)
    }

    fn name(&self, index: usize) -> String {
        match self.place(index) {
            Ok((place, shard)) => shown(&[&shard.stem[..], &place.path].join(&b'/')),
            Err(_) => format!("sample {index}"),
        }
    }

    fn classes(&self) -> &[String] {
        &self.labels.classes
    }

    fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn image_size(&self, index: usize) -> Option<[usize; 2]> {
        image::size(&self.read(index).ok()?).ok()
    }
}

#[cfg(test)]
mod tests;
