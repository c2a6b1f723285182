//! Decides the role of each array in a file: which belong to the split, which is the labels, which
//! are images, which feed a model's inputs.

use super::{NAMED, Region};
use crate::array::{Array, Dtype};
use crate::data::npy::Header;
use crate::data::{Image, UPRIGHT};
use crate::error::{Error, Result};
use crate::onnx::Value;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Names of labels, the surest first; case is ignored.
const LABELS: [&str; 9] =
    ["labels", "label", "y", "targets", "target", "class", "class_id", "class_ids", "y_true"];
/// Names of arrays to be classified, the surest first; case is ignored.
const SAMPLES: [&str; 12] = [
    "images", "image", "x", "data", "imgs", "img", "inputs", "input", "features", "samples",
    "arr_0", "",
];
/// Words for the parts of a data set.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("test", &["test", "testing"]),
    ("val", &["val", "valid", "validation", "validate", "dev", "eval"]),
];

/// An array of the file.
pub(super) struct NpzArray {
    pub(super) name: String,
    pub(super) region: Region,
    /// The parsed header, or why it cannot be used.
    pub(super) header: Result<Header, String>,
}

impl NpzArray {
    /// Its header and element type, if its rows can be samples.
    ///
    /// # Errors
    /// Says why they cannot.
    pub(super) fn rows(&self) -> Result<(&Header, Dtype)> {
        let header = self.header.as_ref().map_err(|why| Error::input(why.clone()))?;
        let dtype = header.dtype().map_err(Error::input)?;
        match header.shape.first() {
            None => Err(Error::input("expected rows on axis 0, found a single value")),
            Some(_) if header.elements() == Some(0) => {
                Err(Error::input(format!("expected rows, found shape {:?}", header.shape)))
            }
            Some(_) => Ok((header, dtype)),
        }
    }

    /// Its number of rows, if they can be samples.
    fn count(&self) -> Option<u64> {
        self.rows().ok().and_then(|(header, _)| header.shape.first().copied())
    }

    /// How its rows can be images.
    fn images(&self) -> Option<ImageShape> {
        let (header, dtype) = self.rows().ok()?;
        ImageShape::of(dtype, &header.shape)
    }

    /// Its type and shape, for messages.
    fn describe(&self) -> String {
        match &self.header {
            Ok(header) => {
                let kind = header
                    .dtype()
                    .map_or_else(|_| header.content(), |dtype| dtype.name().to_owned());
                format!("`{}` ({kind} {:?})", self.name, header.shape)
            }
            Err(_) => format!("`{}` (unreadable)", self.name),
        }
    }
}

/// How the bytes of a row form an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageShape {
    pub(super) height: usize,
    pub(super) width: usize,
    channels: usize,
    /// `[channel, row, column]` rather than `[row, column, channel]`.
    planar: bool,
}

impl ImageShape {
    /// For bytes of `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with 1 or 3 channels at exactly
    /// one end.
    fn of(dtype: Dtype, shape: &[u64]) -> Option<Self> {
        let size = |n: u64| usize::try_from(n).ok();
        let is_color = |n: u64| matches!(n, 1 | 3);
        let (height, width, channels, planar) = match *shape {
            [_, height, width] if height > 1 && width > 1 => (height, width, 1, false),
            [_, height, width, channels] if is_color(channels) && !is_color(height) => {
                (height, width, channels, false)
            }
            [_, channels, height, width] if is_color(channels) && !is_color(width) => {
                (height, width, channels, true)
            }
            _ => return None,
        };
        let shape =
            Self { height: size(height)?, width: size(width)?, channels: size(channels)?, planar };
        (dtype == Dtype::U8).then_some(shape)
    }

    /// The image of a row.
    pub(super) fn image(self, bytes: Vec<u8>) -> Image {
        let Self { height, width, channels, planar } = self;
        let pixels = if planar && channels > 1 {
            let plane = height * width;
            let pixel = |at: usize| {
                (0..channels).filter_map(move |channel| (channel * plane).checked_add(at))
            };
            (0..plane).flat_map(pixel).filter_map(|at| bytes.get(at).copied()).collect()
        } else {
            bytes
        };
        Image { height, width, channels, pixels, orientation: UPRIGHT }
    }
}

/// The role of each array.
pub(super) struct ArrayRoles<'a> {
    /// The split, if the file is divided into splits.
    pub(super) split: Option<&'static str>,
    /// The arrays to read, each with the name under which it is served.
    pub(super) columns: Vec<(String, &'a NpzArray)>,
    /// How the only column is images.
    pub(super) images: Option<ImageShape>,
    pub(super) labels: Option<&'a NpzArray>,
    pub(super) rows: u64,
    /// The other arrays, each with the reason.
    left_out: Vec<String>,
    /// Whether an array feeds an input of another name.
    renamed: bool,
}

impl<'a> ArrayRoles<'a> {
    /// Decides the roles. `inputs` are the model inputs to feed, if known.
    ///
    /// # Errors
    /// If the split is missing, or no array feeds an input.
    pub(super) fn of(
        path: &str,
        all: &'a [NpzArray],
        split: &str,
        inputs: Option<&[Value]>,
    ) -> Result<Self> {
        let (split, served) = of_split(path, all, split)?;
        let is_input =
            |name: &str| inputs.is_some_and(|inputs| inputs.iter().any(|input| input.name == name));
        let labels = LABELS.iter().find_map(|wanted| {
            let mut named = served.iter().filter(|(name, found)| {
                name.eq_ignore_ascii_case(wanted) && !is_input(name) && !is_input(&found.name)
            });
            named.clone().find(|(name, _)| name == wanted).or_else(|| named.next())
        });
        let labels = labels.map(|(_, found)| *found);
        let is_labels = |found: &NpzArray| labels.is_some_and(|labels| std::ptr::eq(labels, found));
        let samples: Vec<(String, &NpzArray)> =
            served.into_iter().filter(|(_, found)| !is_labels(found)).collect();
        let mut layout = ArrayRoles {
            split,
            columns: Vec::new(),
            images: None,
            labels,
            rows: 0,
            left_out: Vec::new(),
            renamed: false,
        };
        match inputs {
            Some(inputs) => layout.feed(path, &samples, inputs)?,
            None => layout.open(path, &samples)?,
        }
        layout.rows = layout.columns.first().and_then(|(_, found)| found.count()).unwrap_or(0);
        if let Some((_, other)) =
            layout.columns.iter().find(|(_, found)| found.count() != Some(layout.rows))
        {
            let first = layout.columns.first().map_or("", |(_, found)| found.name.as_str());
            let found = other.count().unwrap_or(0);
            return Err(Error::input(format!(
                "{path}: expected {} rows as in {first}, found {found} in {}",
                layout.rows, other.name
            )));
        }
        let is_read = |found: &NpzArray| {
            is_labels(found)
                || layout.columns.iter().any(|(_, column)| std::ptr::eq(*column, found))
        };
        // the other splits' arrays are not reported as unused
        let others = all.iter().filter(|found| {
            !is_read(found)
                && (split.is_none() || samples.iter().any(|(_, s)| std::ptr::eq(*s, *found)))
        });
        layout.left_out = others.map(NpzArray::describe).collect();
        Ok(layout)
    }

    /// Without a known model: images if there are any, else all arrays that have as many rows as
    /// the labels, or the most common number of rows.
    fn open(&mut self, path: &str, samples: &[(String, &'a NpzArray)]) -> Result<()> {
        if let Some((found, shape)) = images(samples) {
            self.columns = vec![found];
            self.images = Some(shape);
            return Ok(());
        }
        let mut counts: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
        for (_, found) in samples {
            if let Some(count) = found.count() {
                let of = counts.entry(count).or_default();
                *of = (of.0 + 1, of.1.saturating_add(found.region.length));
            }
        }
        let labeled =
            self.labels.and_then(|labels| labels.header.as_ref().ok()?.shape.first().copied());
        let most = counts.iter().max_by_key(|(_, size)| **size).map(|(count, _)| *count);
        let rows = labeled.filter(|count| counts.contains_key(count)).or(most);
        let Some(rows) = rows else {
            return Err(none_of(path, "arrays named like the model's inputs", samples));
        };
        self.columns =
            samples.iter().filter(|(_, found)| found.count() == Some(rows)).cloned().collect();
        Ok(())
    }

    /// For a model: arrays with its inputs' names; for a single input, images or the only array
    /// will do.
    fn feed(
        &mut self,
        path: &str,
        samples: &[(String, &'a NpzArray)],
        inputs: &[Value],
    ) -> Result<()> {
        let named = |input: &Value| {
            let exact = samples.iter().find(|(_, found)| found.name == input.name);
            exact
                .or_else(|| samples.iter().find(|(name, _)| *name == input.name))
                .map(|(_, found)| *found)
        };
        if let [input] = inputs {
            let takes = |found: &NpzArray| {
                found.rows().is_ok_and(|(_, dtype)| {
                    input.dtype.is_some_and(|to| Array::converts(dtype, to))
                })
            };
            let by_name = named(input);
            if !by_name.is_some_and(takes) {
                if let Some((found, shape)) = images(samples) {
                    self.columns = vec![found];
                    self.images = Some(shape);
                    return Ok(());
                }
                let mut others =
                    samples.iter().map(|(_, found)| *found).filter(|found| takes(found));
                if let (None, Some(only), None) = (by_name, others.next(), others.next()) {
                    self.columns = vec![(input.name.clone(), only)];
                    self.renamed = true;
                    return Ok(());
                }
            }
        }
        for input in inputs {
            let Some(found) = named(input) else {
                return Err(none_of(
                    path,
                    &format!("an array for input `{}`", input.name),
                    samples,
                )
                .hint(format!(
                    "name it so, or give the input one value for all samples: --input {}=VALUE",
                    input.name
                )));
            };
            if let Err(why) = found.rows() {
                return Err(Error::input(format!("{path}: array {}", found.name)).because(why));
            }
            self.columns.push((input.name.clone(), found));
        }
        Ok(())
    }

    /// What was decided, for the user.
    pub(super) fn lines(&self, classes: &[String]) -> Vec<String> {
        let mut lines = Vec::new();
        let labels = self.labels.map_or_else(
            || "no labels".to_owned(),
            |found| match classes.len() {
                0 => format!("labels from `{}`", found.name),
                count => format!("labels from `{}`, names of {count} classes", found.name),
            },
        );
        let split = self.split.map_or_else(String::new, |split| format!(", split {split}"));
        if let (Some(_), Some((_, found))) = (self.images, self.columns.first()) {
            lines.push(format!("images from {}, {labels}{split}", found.describe()));
        } else if self.renamed
            && let Some((name, found)) = self.columns.first()
        {
            lines.push(format!("input `{name}` is fed with {}, {labels}{split}", found.describe()));
        } else if self.split.is_some() || !classes.is_empty() {
            let names: Vec<String> =
                self.columns.iter().map(|(_, found)| found.describe()).collect();
            lines.push(format!("{}, {labels}{split}", listed(&names)));
        }
        if !self.left_out.is_empty() {
            lines.push(format!("arrays that are not used: {}", listed(&self.left_out)));
        }
        lines
    }
}

/// The first few names, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{shown} and {} more", names.len() - NAMED) } else { shown }
}

fn none_of(path: &str, what: &str, samples: &[(String, &NpzArray)]) -> Error {
    let found: Vec<String> = samples
        .iter()
        .map(|(_, found)| match found.rows() {
            Ok(_) => found.describe(),
            Err(why) => format!("`{}`: {}", found.name, why.chain()),
        })
        .collect();
    let found = if found.is_empty() { "none".to_owned() } else { listed(&found) };
    Error::input(format!("{path}: expected {what}, found {found}"))
}

/// The array that holds images: the only candidate, or the one with the surest name.
fn images<'a>(samples: &[(String, &'a NpzArray)]) -> Option<((String, &'a NpzArray), ImageShape)> {
    let held: Vec<_> = samples
        .iter()
        .filter_map(|(name, found)| Some(((name.clone(), *found), found.images()?)))
        .collect();
    if let [only] = held.as_slice() {
        return Some(only.clone());
    }
    let rank = |name: &str| SAMPLES.iter().position(|known| name.eq_ignore_ascii_case(known));
    let ranked = held.into_iter().filter_map(|one| Some((rank(&one.0.0)?, one)));
    ranked.min_by_key(|(rank, ((name, _), _))| (*rank, Reverse(name.clone()))).map(|(_, one)| one)
}

/// A split's name as the file spells it, and its arrays, each named without the split's word.
type Part<'a> = (Option<&'static str>, Vec<(String, &'a NpzArray)>);

/// The part of a file that is a split. A file is divided into splits if its samples' array is.
fn of_split<'a>(path: &str, all: &'a [NpzArray], split: &str) -> Result<Part<'a>> {
    let part = |word: &str| {
        SPLITS
            .iter()
            .find(|(_, words)| words.iter().any(|known| word.eq_ignore_ascii_case(known)))
            .map(|(name, _)| *name)
    };
    let parsed = |name: &str| {
        let words: Vec<&str> = name.split(['_', '.', '-', '/']).collect();
        let at = words.iter().position(|word| part(word).is_some())?;
        let rest = words
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != at)
            .map(|(_, word)| *word)
            .collect::<Vec<_>>()
            .join("_");
        Some((part(words[at])?, rest))
    };
    let known = |base: &str| SAMPLES.iter().any(|known| base.eq_ignore_ascii_case(known));
    let mut there: Vec<&'static str> = all
        .iter()
        .filter_map(|found| parsed(&found.name))
        .filter(|(_, base)| known(base))
        .map(|p| p.0)
        .collect();
    there.sort_unstable();
    there.dedup();
    let Some(wanted) = part(split) else {
        return Err(Error::input(format!(
            "data {path}: expected split train, test or val, found `{split}`"
        )));
    };
    if there.is_empty() {
        return Ok((None, all.iter().map(|found| (found.name.clone(), found)).collect()));
    }
    if !there.contains(&wanted) {
        return Err(Error::input(format!(
            "data {path}: no split `{split}`, found {}",
            there.join(", ")
        )));
    }
    let served = all.iter().filter_map(|found| match parsed(&found.name) {
        Some((part, _)) if part != wanted => None,
        Some((_, base)) => Some((base, found)),
        None => Some((found.name.clone(), found)),
    });
    Ok((Some(wanted), served.collect()))
}
