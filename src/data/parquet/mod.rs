//! Parquet files of encoded images and labels, laid out as Hugging Face's data sets are. Blocks of
//! rows are decoded as samples are asked for.

mod blocks;
mod columns;
mod file;

use super::fingerprint::Listed;
use super::folder::shown_path;
use super::labels::{self, Labels};
use super::shards;
use super::{ContentHash, Dataset, Fingerprint, Sample, Stamp, image};
use crate::data::spec::{Columns, DataFormat};
use crate::error::{Context, Error, Result, shown};
use crate::monitor::Monitor;
use blocks::Blocks;
use columns::{Column, LabelType, Roles, roles};
use file::ParquetFile;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int32Type, Int64Type};
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Endings of files.
pub(super) const ENDINGS: [&str; 1] = [".parquet"];
/// Most rows of all files.
const MAX_ROWS: usize = 1 << 26;
/// Bytes of images in a block, about.
const BLOCK: usize = 16 << 20;
/// Longest class name, in bytes, and most of them.
const MAX_NAME: usize = 4096;
const MAX_NAMES: usize = 1 << 20;

/// A row group of one of the files.
struct Group {
    file: usize,
    /// Its number in the file.
    number: usize,
    /// Its first row in the file, and in the data set.
    in_file: usize,
    first: usize,
    rows: usize,
    /// Rows of a block.
    step: usize,
}

struct Parquet {
    files: Vec<ParquetFile>,
    groups: Vec<Group>,
    image: Column,
    /// The row of each sample if some rows have no image.
    kept: Option<Vec<usize>>,
    blocks: Blocks,
    labels: Labels,
    fingerprint: Fingerprint,
}

/// Reads the footers and labels of a file, a folder of files, or files named with braces.
pub(super) fn open(
    path: &Path,
    split: &str,
    asked: &Columns,
    monitor: &dyn Monitor,
) -> Result<Box<dyn Dataset>> {
    let name = shown_path(path);
    let (mut files, mut roles_of) = (Vec::new(), Vec::new());
    for path in shards::find(path, &ENDINGS, split, monitor)? {
        let file = ParquetFile::open(&path)?;
        roles_of.push(roles(file.metadata().file_metadata().schema_descr(), asked, &file.name)?);
        files.push(file);
    }
    let Some(first) = roles_of.first() else {
        return Err(Error::input(format!("data {name}: expected files, found none")));
    };
    let label_name = first.label.as_ref().map(|(column, _)| column.name.as_str());
    let classes = class_names(&files, label_name)?;
    for (file, roles) in files.iter().zip(&roles_of) {
        let same = roles.image.name == first.image.name
            && roles.label.as_ref().map(|(column, kind)| (&column.name, kind))
                == first.label.as_ref().map(|(column, kind)| (&column.name, kind));
        if !same {
            return Err(Error::input(format!(
                "{}: expected the columns of the first file, found others",
                file.name
            )));
        }
    }
    let groups = groups(&files, &roles_of)?;
    let (mut labels, mut kept, mut nulls) = (LabelValues::default(), Vec::new(), 0);
    for group in &groups {
        if monitor.stop_requested() {
            return Err(Error::interrupted("while labels were read; nothing was written"));
        }
        let (Some(file), Some(roles)) = (files.get(group.file), roles_of.get(group.file)) else {
            continue;
        };
        let missing = without_images(file, group, &roles.image)?;
        labels.read(file, group, roles.label.as_ref(), &missing)?;
        kept.extend(
            (0..group.rows).filter(|row| !missing.contains(row)).map(|row| group.first + row),
        );
        nulls += missing.len();
    }
    let labels = labels.finish(classes, &name)?;
    let rows = kept.len();
    if nulls > 0 {
        let path = if rows == 0 { ": their files are not in it" } else { "" };
        monitor.warn(&format!("data {name}: {nulls} rows without an image are left out{path}"));
    }
    report(&name, first, (files.len(), rows), &labels, monitor);

    let mut listed = Listed::new();
    for file in &files {
        listed.file(file.path.file_name().unwrap_or_default().as_bytes(), file.length);
        listed.bytes(&file.footer);
    }
    listed.bytes(first.image.name.as_bytes());
    for label in &labels.values {
        listed.bytes(&label.to_le_bytes());
    }
    for class in &labels.classes {
        listed.bytes(class.as_bytes());
    }
    let fingerprint = listed.finish(DataFormat::Parquet, rows);
    let image = first.image.clone();
    let kept = (nulls > 0).then_some(kept);
    Ok(Box::new(Parquet {
        files,
        groups,
        image,
        kept,
        blocks: Blocks::default(),
        labels,
        fingerprint,
    }))
}

/// All row groups, in order.
fn groups(files: &[ParquetFile], roles: &[Roles]) -> Result<Vec<Group>> {
    let (mut groups, mut first) = (Vec::new(), 0usize);
    for (number, (file, roles)) in files.iter().zip(roles).enumerate() {
        let mut in_file = 0;
        for (place, group) in file.metadata().row_groups().iter().enumerate() {
            let bad =
                |what: &str| Error::input(format!("{}: row group {place}: {what}", file.name));
            let rows = usize::try_from(group.num_rows())
                .ok()
                .filter(|&rows| rows <= MAX_ROWS && first + rows <= MAX_ROWS)
                .ok_or_else(|| {
                    bad(&format!("expected at most {MAX_ROWS} rows in all, found more"))
                })?;
            let column = group
                .columns()
                .get(roles.image.leaf)
                .ok_or_else(|| bad("expected every column of the schema, found fewer"))?;
            let bytes = usize::try_from(column.uncompressed_size()).unwrap_or(usize::MAX).max(1);
            let step = (rows as u128 * BLOCK as u128 / bytes as u128).clamp(1, MAX_ROWS as u128);
            let step = usize::try_from(step).unwrap_or(1);
            if rows > 0 {
                groups.push(Group { file: number, number: place, in_file, first, rows, step });
            }
            in_file += rows;
            first += rows;
        }
    }
    Ok(groups)
}

/// The rows of a group that have no image, by its statistics; where these are missing, reading such
/// a row is an error.
fn without_images(file: &ParquetFile, group: &Group, image: &Column) -> Result<HashSet<usize>> {
    let column = file.metadata().row_groups().get(group.number).map(|g| g.column(image.leaf));
    let nulls = column.and_then(|column| column.statistics()?.null_count_opt()).unwrap_or(0);
    let mut missing = HashSet::new();
    if nulls == 0 || image.defined == 0 {
        return Ok(missing);
    }
    for start in (0..group.rows).step_by(group.step) {
        let range = (start, group.step.min(group.rows - start));
        let values =
            file.values::<ByteArrayType>(group.number, image.leaf, image.defined, range)?;
        let rows = (start..).zip(&values).filter(|(_, value)| value.is_none());
        missing.extend(rows.map(|(row, _)| row));
    }
    Ok(missing)
}

/// Labels as they are read, row group by row group.
#[derive(Default)]
struct LabelValues {
    numbers: Vec<i64>,
    /// Where labels are names: each, and every row's place among them.
    names: Vec<String>,
    places: std::collections::HashMap<Vec<u8>, i64>,
    is_text: bool,
}

impl LabelValues {
    /// Appends the labels of a group's rows, except those that are `left_out`.
    fn read(
        &mut self,
        file: &ParquetFile,
        group: &Group,
        column: Option<&(Column, LabelType)>,
        left_out: &HashSet<usize>,
    ) -> Result<()> {
        let all = (0, group.rows);
        let Some((Column { leaf, defined, .. }, kind)) = column else {
            self.numbers.extend((0..group.rows - left_out.len()).map(|_| -1));
            return Ok(());
        };
        let (number, leaf, defined) = (group.number, *leaf, *defined);
        let values: Vec<Option<i64>> = match kind {
            LabelType::Bool => {
                let values = file.values::<BoolType>(number, leaf, defined, all)?;
                values.into_iter().map(|value| value.map(i64::from)).collect()
            }
            LabelType::Int32 => {
                let values = file.values::<Int32Type>(number, leaf, defined, all)?;
                values.into_iter().map(|value| value.map(i64::from)).collect()
            }
            LabelType::Int64 => file.values::<Int64Type>(number, leaf, defined, all)?,
            LabelType::Text => {
                self.is_text = true;
                let values = file.values::<ByteArrayType>(number, leaf, defined, all)?;
                let place =
                    |value: Option<ByteArray>| value.map(|name| self.place(&name)).transpose();
                values
                    .into_iter()
                    .map(place)
                    .collect::<Result<_>>()
                    .context(|| format!("{}: row group {number}", file.name))?
            }
        };
        for (row, value) in
            values.into_iter().enumerate().filter(|(row, _)| !left_out.contains(row))
        {
            let value = value.unwrap_or(-1);
            if value < -1 {
                return Err(labels::below(
                    &format!("{}: row {}", file.name, group.in_file + row),
                    value,
                ));
            }
            self.numbers.push(value);
        }
        Ok(())
    }

    /// The number of a class name, by first appearance.
    fn place(&mut self, name: &ByteArray) -> Result<i64> {
        if let Some(place) = self.places.get(name.data()) {
            return Ok(*place);
        }
        let text = std::str::from_utf8(name.data())
            .ok()
            .filter(|text| text.len() <= MAX_NAME && self.names.len() < MAX_NAMES)
            .ok_or_else(|| {
                Error::input(format!(
                    "expected at most {MAX_NAMES} class names of at most {MAX_NAME} bytes of text"
                ))
            })?;
        let place = i64::try_from(self.names.len()).unwrap_or(-1);
        self.names.push(text.to_owned());
        self.places.insert(name.data().to_vec(), place);
        Ok(place)
    }

    /// The labels; `classes` are the names that go with numbers.
    fn finish(self, classes: Vec<String>, name: &str) -> Result<Labels> {
        if self.is_text {
            let name = |place: &i64| {
                usize::try_from(*place)
                    .ok()
                    .and_then(|place| self.names.get(place))
                    .map(String::as_str)
            };
            return Ok(Labels::of_names(&self.numbers.iter().map(name).collect::<Vec<_>>()));
        }
        let most = self.numbers.iter().copied().max().and_then(|most| usize::try_from(most).ok());
        if let (false, Some(most)) = (classes.is_empty(), most)
            && most >= classes.len()
        {
            return Err(Error::input(format!(
                "data {name}: expected labels below {}, as there are class names, found {most}",
                classes.len()
            )));
        }
        Ok(Labels { values: self.numbers, classes })
    }
}

/// The names of a label's classes in the metadata that Hugging Face's library writes, the same in
/// every file.
fn class_names(files: &[ParquetFile], label: Option<&str>) -> Result<Vec<String>> {
    let Some(label) = label else { return Ok(Vec::new()) };
    let of = |file: &ParquetFile| -> Vec<String> {
        let metadata = file.metadata().file_metadata().key_value_metadata();
        let text = metadata
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_ref());
        let json = text.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        let names = json.as_ref().and_then(|json| {
            json.get("info")?.get("features")?.get(label)?.get("names")?.as_array()
        });
        let names = names.and_then(|names| {
            names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()
        });
        names.unwrap_or_default()
    };
    let names = files.first().map(of).unwrap_or_default();
    if let Some(other) = files.iter().find(|file| of(file) != names) {
        return Err(Error::input(format!(
            "{}: expected the class names of the first file, found others",
            other.name
        )));
    }
    let mut seen = HashSet::new();
    if let (Some(twice), Some(file)) =
        (names.iter().find(|name| !seen.insert(*name)), files.first())
    {
        return Err(Error::input(format!(
            "{}: expected different class names, found `{}` twice",
            file.name,
            shown(twice.as_bytes())
        )));
    }
    Ok(names)
}

/// Says what was read.
fn report(
    name: &str,
    roles: &Roles,
    (files, rows): (usize, usize),
    labels: &Labels,
    monitor: &dyn Monitor,
) {
    let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    let from = roles.label.as_ref().map_or_else(
        || "no labels".to_owned(),
        |(column, _)| labels.line(&format!("`{}`", shown(column.name.as_bytes()))),
    );
    let image = shown(roles.image.name.as_bytes());
    monitor.note(&format!("data {name}: {rows} rows of {files}, images from `{image}`, {from}"));
    if !roles.other_labels.is_empty() {
        monitor.warn(&format!(
            "data {name}: columns that may be labels and are not read: {}; name one with \
             'parquet:PATH#label=COLUMN'",
            super::tree::list(roles.other_labels.iter())
        ));
    }
}

impl Parquet {
    /// The group of a sample, and the row in it.
    fn place(&self, index: usize) -> Result<(usize, &Group, usize)> {
        let row = match &self.kept {
            Some(kept) => kept.get(index).copied(),
            None => (index < self.labels.values.len()).then_some(index),
        };
        let found = row.and_then(|row| {
            let number = self.groups.partition_point(|group| group.first <= row).checked_sub(1)?;
            let group = self.groups.get(number)?;
            Some((number, group, row - group.first))
        });
        found.ok_or_else(|| {
            Error::input(format!(
                "row {index}: expected an index below {}",
                self.labels.values.len()
            ))
        })
    }

    fn file(&self, group: &Group) -> Result<&ParquetFile> {
        let file = self.files.get(group.file);
        file.ok_or_else(|| Error::internal("a row group has a file"))
    }

    fn read(&self, index: usize) -> Result<ByteArray> {
        let (number, group, row) = self.place(index)?;
        let file = self.file(group)?;
        let start = row - row % group.step;
        let block = self.blocks.get((number, start), || {
            let range = (start, group.step.min(group.rows - start));
            file.values::<ByteArrayType>(group.number, self.image.leaf, self.image.defined, range)
        })?;
        block.get(row - start).cloned().flatten().ok_or_else(|| {
            Error::input(format!("image {}: expected bytes, found none", self.name(index)))
        })
    }

    fn decode(&self, index: usize, bytes: &[u8]) -> Result<Sample> {
        image::decode(bytes).map(Sample::Image).context(|| format!("image {}", self.name(index)))
    }
}

impl Dataset for Parquet {
    fn len(&self) -> usize {
        self.labels.values.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        self.decode(index, self.read(index)?.data())
    }

    fn stamp(&self, index: usize) -> Result<Option<Stamp>> {
        let file = self.file(self.place(index)?.1)?;
        let metadata =
            std::fs::metadata(&file.path).context(|| format!("{}: cannot be read", file.name))?;
        Ok(Some(Stamp::of(&metadata)))
    }

    fn content(&self, index: usize) -> Result<Option<ContentHash>> {
        Ok(Some(ContentHash::of(self.read(index)?.data())))
    }

    fn sample_and_content(&self, index: usize) -> Result<(Sample, Option<ContentHash>)> {
        let bytes = self.read(index)?;
        Ok((self.decode(index, bytes.data())?, Some(ContentHash::of(bytes.data()))))
    }

    fn label(&self, index: usize) -> i64 {
        self.labels.values.get(index).copied().unwrap_or(-1)
    }

    fn name(&self, index: usize) -> String {
        let Ok((_, group, row)) = self.place(index) else { return format!("row {index}") };
        let name = self.files.get(group.file).and_then(|file| file.path.file_name());
        format!("{} row {}", shown(name.unwrap_or_default().as_bytes()), group.in_file + row)
    }

    fn classes(&self) -> &[String] {
        &self.labels.classes
    }

    fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn image_size(&self, index: usize) -> Option<[usize; 2]> {
        image::size(self.read(index).ok()?.data()).ok()
    }
}

#[cfg(test)]
mod tests;
